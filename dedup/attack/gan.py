"""A small GAN on the same images: "diffusion models leak more than twice as much" (Carlini et al. 2023, section 5.4).

Non-saturating loss (Goodfellow et al. 2014) with the R1 penalty on real images (Mescheder et al. 2018, arXiv
1801.04406), which keeps training stable on sets as small as these. Two MLPs: small images need no more.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dedup.attack.edm import Images, Labels, sample_in_batches
from dedup.attack.training import one_thread
from dedup.errors import ConfigError

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


def train_gan(images: Images, settings: GanSettings, seed: int, device: str = "cpu", sample_batch: int = 500) -> Gan:
    """Train on `images` (N, C, S, S) in [0, 1]. Equal arguments give equal weights."""
    place = torch.device(device)
    shape = (images.shape[1], images.shape[2], images.shape[3])
    real_images = torch.from_numpy(images * 2 - 1).flatten(1).to(place)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = _mlp(_LATENT, settings.gan_width, math.prod(shape)).to(place)
        judge = _mlp(math.prod(shape), settings.gan_width, 1).to(place)
    average = copy.deepcopy(generator)
    optimizers = [
        torch.optim.Adam(network.parameters(), lr=settings.gan_rate, betas=(0.0, 0.99))
        for network in (judge, generator)
    ]
    draws = torch.Generator().manual_seed(seed)
    with one_thread(place):
        for _ in range(settings.gan_steps):
            rows = (torch.rand(settings.gan_batch, generator=draws) * len(real_images)).long()
            latents = torch.randn((2, settings.gan_batch, _LATENT), generator=draws).to(place)
            real = real_images[rows.to(place)].requires_grad_()
            fake = as_flat(generator(latents[0])).detach()
            _step(optimizers[0], _judge_loss(judge, real, fake, settings.gan_penalty))
            _step(optimizers[1], nn.functional.softplus(-judge(as_flat(generator(latents[1])))).mean())
            _follow(average, generator)
    return Gan(average.requires_grad_(False).eval(), shape, sample_batch, place)


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
