"""A small GAN on the same images: "diffusion models leak more than twice as much" (Carlini et al. 2023, section 5.4).

Non-saturating loss (Goodfellow et al. 2014) with the R1 penalty on real images (Mescheder et al. 2018, arXiv
1801.04406), which keeps training stable on sets as small as these. Two MLPs: small images need no more.
"""

from __future__ import annotations

import copy
import math
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from dedup.attack import checkpoints
from dedup.attack.edm import Images, Labels, sample_in_batches
from dedup.attack.training import digest, one_thread
from dedup.errors import ConfigError
from dedup.run_folder import fingerprint

_LATENT = 64
_SLOPE = 0.2
_DECAY = 0.995  # of the average of the generator's weights, which is what generates


@dataclass(frozen=True)
class GanSettings:
    """How the GAN is built and trained. Raises ConfigError for values that cannot be."""

    gan_steps: int = 4000
    """Steps of discriminator and generator."""

    gan_width: int = 256
    """Hidden units of both."""

    gan_batch: int = 64
    """Images a step."""

    gan_rate: float = 2e-3
    """Learning rate of Adam."""

    gan_penalty: float = 1.0
    """Weight of the R1 penalty."""

    def __post_init__(self) -> None:
        for name in ("gan_steps", "gan_width", "gan_batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        for name in ("gan_rate", "gan_penalty"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: must be above 0")


class Gan:
    """`edm.Generator`: what a trained generator network draws."""

    def __init__(self, network: nn.Module, shape: tuple[int, int, int], batch: int, device: torch.device) -> None:
        self._network, self._shape, self._batch, self._device = network, shape, batch, device

    @torch.no_grad()
    def sample(self, count: int, seed: int, labels: Labels | None = None) -> Images:  # noqa: ARG002 (unconditional)
        def draw(latent: Tensor, given: Tensor | None) -> Tensor:  # noqa: ARG001
            return as_images(self._network(latent), self._shape)

        return sample_in_batches(draw, (_LATENT,), count, seed, None, self._batch, self._device)


class GanTraining:
    """A GAN under training on `images` (N, C, S, S) in [0, 1]. Equal arguments give equal weights."""

    def __init__(self, images: Images, settings: GanSettings, seed: int, device: str = "cpu") -> None:
        self.settings = settings
        self.step = 0
        self.device = torch.device(device)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self._images = torch.from_numpy(images * 2 - 1).flatten(1).to(self.device)
        pixels, width = math.prod(self.shape), settings.gan_width
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._generator = _mlp(_LATENT, width, pixels).to(self.device)
            self._judge = _mlp(pixels, width, 1).to(self.device)
        self._average = copy.deepcopy(self._generator).requires_grad_(False).eval()
        self._optimizers = [
            torch.optim.Adam(network.parameters(), lr=settings.gan_rate, betas=(0.0, 0.99))
            for network in (self._judge, self._generator)
        ]
        self._draws = torch.Generator().manual_seed(seed)
        self._parts: dict[str, checkpoints.Stateful] = {
            "generator": self._generator, "judge": self._judge, "average": self._average,
            "judge_optimizer": self._optimizers[0], "generator_optimizer": self._optimizers[1],
        }  # fmt: skip
        self.fingerprint = fingerprint("gan", asdict(settings), seed, digest(images))

    def run_to(self, step: int) -> None:
        """Train until `step` steps are done."""
        with one_thread(self.device):
            while self.step < step:
                self._one_step()

    def generator(self, sample_batch: int) -> Gan:
        """What the averaged weights generate, as they stand now."""
        return Gan(self._average, self.shape, sample_batch, self.device)

    def checkpoint(self) -> bytes:
        """All that `resume` needs."""
        return checkpoints.pack(self.fingerprint, self.step, self._parts, self._draws)

    def resume(self, checkpoint: bytes, name: str) -> None:
        """Go on from `checkpoint`. Raises ConfigError, with `name`, where it is damaged or of another training."""
        self.step, _ = checkpoints.unpack(checkpoint, name, self.fingerprint, self._parts, self._draws)

    def _one_step(self) -> None:
        settings = self.settings
        rows = (torch.rand(settings.gan_batch, generator=self._draws) * len(self._images)).long()
        latents = torch.randn((2, settings.gan_batch, _LATENT), generator=self._draws).to(self.device)
        real = self._images[rows.to(self.device)].requires_grad_()
        fake = as_flat(self._generator(latents[0])).detach()
        _step(self._optimizers[0], _judge_loss(self._judge, real, fake, settings.gan_penalty))
        _step(
            self._optimizers[1],
            nn.functional.softplus(-self._judge(as_flat(self._generator(latents[1])))).mean(),
        )
        self.step += 1
        _follow(self._average, self._generator)


def train_gan(images: Images, settings: GanSettings, seed: int, device: str = "cpu", sample_batch: int = 500) -> Gan:
    """Train on `images` (N, C, S, S) in [0, 1] to the end."""
    training = GanTraining(images, settings, seed, device)
    training.run_to(settings.gan_steps)
    return training.generator(sample_batch)


def _judge_loss(judge: nn.Module, real: Tensor, fake: Tensor, penalty: float) -> Tensor:
    verdict = judge(real)
    (slope,) = torch.autograd.grad(verdict.sum(), real, create_graph=True)
    loss = nn.functional.softplus(-verdict).mean() + nn.functional.softplus(judge(fake)).mean()
    return loss + penalty / 2 * slope.square().sum(1).mean()


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@torch.no_grad()
def _follow(average: nn.Module, network: nn.Module) -> None:
    for kept, weight in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(weight, 1 - _DECAY)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.LeakyReLU(_SLOPE),
        nn.Linear(width, width), nn.LeakyReLU(_SLOPE),
        nn.Linear(width, width), nn.LeakyReLU(_SLOPE),
        nn.Linear(width, outputs),
    )  # fmt: skip


def as_flat(outputs: Tensor) -> Tensor:
    """(B, pixels) of the generator's last layer, in [-1, 1]."""
    return outputs.tanh()


def as_images(outputs: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """(B, C, S, S) in [-1, 1]."""
    return as_flat(outputs).view(-1, *shape)
