"""Training a denoiser: seeded, resumable, the same for every arm.

Arms of one seed share initial weights, the noise of every step and the draws of every batch: draws are numbers in
[0, 1) that each arm scales to the size of its own set.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import io
import math
import pickle
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dedup.attack.denoisers import NetworkSettings, preconditioned
from dedup.attack.edm import Images, Labels, Preconditioned, SamplerSettings, denoising_loss, heun, sample_in_batches
from dedup.errors import ConfigError
from dedup.run_folder import fingerprint

_EMA_RAMP = 10  # the average follows the weights closely at first: at step t it keeps at most (1 + t) / (10 + t)
_LAST_RATE = 0.05  # of the learning rate, where the cosine ends
_WARM_UP = 0.05  # of the steps


@dataclass(frozen=True)
class TrainSettings:
    """How long and how a model is trained. Raises ConfigError for values that cannot be."""

    steps: int = 1200
    """Optimizer steps, the same for every arm."""

    batch: int = 128
    """Images a step."""

    learning_rate: float = 2e-3
    """Of Adam; warmed up, then falling along a cosine."""

    ema: float = 0.998
    """Decay of the average of the weights, which is what generates."""

    noise_mean: float = -0.4
    """Mean of the logarithm of sigma in training. The paper's -1.2 is for images of 32 pixels and more: what small
    ones look like is decided at higher noise."""

    noise_spread: float = 1.2
    """Its standard deviation."""

    checkpoints: int = 4
    """At so many evenly spaced steps the model is attacked and kept; the last one is the end."""

    flips: bool = False
    """Train on mirrored images too, at random."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.steps < self.checkpoints:
            raise ConfigError(f"checkpoints={self.checkpoints}: cannot be more than the steps, {self.steps}")
        for name in ("learning_rate", "noise_spread"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: must be above 0")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema:g}: must be at least 0 and below 1")

    def milestones(self) -> list[int]:
        """The steps after which a model is attacked, rising, `steps` the last."""
        return [round(self.steps * part / self.checkpoints) for part in range(1, self.checkpoints + 1)]


class DiffusionGenerator:
    """A denoiser with its sampler: `edm.Generator`."""

    def __init__(
        self, denoiser: Preconditioned, shape: tuple[int, int, int], settings: SamplerSettings, device: torch.device
    ) -> None:
        self.denoiser = denoiser
        self._shape, self._settings, self._device = shape, settings, device

    def sample(self, count: int, seed: int, labels: Labels | None = None) -> Images:
        def draw(noise: Tensor, given: Tensor | None) -> Tensor:
            return heun(self.denoiser, noise, given, self._settings)

        size = self._settings.sample_batch
        return sample_in_batches(draw, self._shape, count, seed, labels, size, self._device)


class Training:
    """A denoiser under training on `images` (N, C, S, S) in [0, 1], with `labels` (N,) where it is conditional.

    `label_count` 0 makes an unconditional one. Equal arguments give equal weights on one kind of device.
    """

    def __init__(
        self,
        images: Images,
        labels: Labels,
        label_count: int,
        network: NetworkSettings,
        settings: TrainSettings,
        seed: int,
        device: str = "cpu",
    ) -> None:
        if not len(images):
            raise ConfigError("no images to train on")
        self.settings = settings
        self.step = 0
        self.device = torch.device(device)
        self.shape = (images.shape[1], images.shape[2], images.shape[3])
        self._images = torch.from_numpy(images * 2 - 1).to(self.device)
        self._labels = torch.from_numpy(labels).to(self.device) if label_count else None
        self._model = preconditioned(self.shape, label_count, network, seed).to(self.device)
        self._average = copy.deepcopy(self._model).requires_grad_(False).eval()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=settings.learning_rate)
        self._draws = torch.Generator().manual_seed(seed)
        self.fingerprint = fingerprint(
            asdict(network), asdict(settings), seed, label_count, _digest(images), _digest(labels)
        )

    def run_to(self, step: int) -> None:
        """Train until `step` steps are done."""
        with one_thread(self.device):
            while self.step < step:
                self._one_step()

    def generator(self, sampler: SamplerSettings) -> DiffusionGenerator:
        """What the averaged weights generate, as they stand now."""
        return DiffusionGenerator(self._average, self.shape, sampler, self.device)

    def checkpoint(self, note: Any = None) -> bytes:
        """All that `resume` needs, with `note` (plain values) beside it."""
        buffer = io.BytesIO()
        state = {
            "fingerprint": self.fingerprint,
            "step": self.step,
            "model": self._model.state_dict(),
            "average": self._average.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "draws": self._draws.get_state(),
            "note": note,
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def resume(self, checkpoint: bytes, name: str) -> Any:
        """Go on from `checkpoint`; returns its note.

        Raises ConfigError, with `name`, where it is damaged or of other settings, images or seed.
        """
        try:
            state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
            raise ConfigError(f"{name} is no whole checkpoint ({type(error).__name__}): delete it") from error
        if not isinstance(state, dict) or state.get("fingerprint") != self.fingerprint:
            raise ConfigError(
                f"{name} is a checkpoint of other settings, images or another seed: delete it, or choose another OUT"
            )
        self._model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._draws.set_state(state["draws"])
        self.step = int(state["step"])
        return state["note"]

    def _one_step(self) -> None:
        settings = self.settings
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(self.step / settings.steps)
        places = torch.rand(settings.batch, generator=self._draws, dtype=torch.float64)
        sigma = torch.randn(settings.batch, generator=self._draws) * settings.noise_spread + settings.noise_mean
        noise = torch.randn((settings.batch, *self.shape), generator=self._draws)
        mirror = torch.rand(settings.batch, generator=self._draws) < 0.5
        rows = (places * len(self._images)).long().to(self.device)
        clean = self._images[rows]
        if settings.flips:
            clean = torch.where(mirror.to(self.device).view(-1, 1, 1, 1), clean.flip(-1), clean)
        labels = None if self._labels is None else self._labels[rows]
        loss = denoising_loss(self._model, clean, sigma.exp().to(self.device), noise.to(self.device), labels).mean()
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self.step += 1
        keep = min(settings.ema, (1 + self.step) / (_EMA_RAMP + self.step))
        with torch.no_grad():
            for average, weight in zip(self._average.parameters(), self._model.parameters(), strict=True):
                average.lerp_(weight, 1 - keep)


def _rate(share: float) -> float:
    """The factor of the learning rate where `share` of the steps are done."""
    if share < _WARM_UP:
        return (share + 1e-3) / (_WARM_UP + 1e-3)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * share))


def _digest(values: npt.NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


@contextlib.contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """On CPUs sums depend on how many threads share them: with one, weights are the same on every machine."""
    before = torch.get_num_threads()
    try:
        if device.type == "cpu":
            torch.set_num_threads(1)
        yield
    finally:
        torch.set_num_threads(before)
