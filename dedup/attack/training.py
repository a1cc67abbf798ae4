"""Training a denoiser: seeded, resumable, the same for every arm.

Arms of one seed share initial weights, the noise of every step and the draws of every batch: draws are numbers in
[0, 1) that each arm scales to the size of its own set.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dedup.attack import checkpoints
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

    drop_labels: float = 0.1
    """Of conditional models: the share of images whose label is replaced by the null label, under which a model learns
    what all images have in common (Ho and Salimans 2022, arXiv 2207.12598)."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "checkpoints"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.steps < self.checkpoints:
            raise ConfigError(f"checkpoints={self.checkpoints}: cannot be more than the steps, {self.steps}")
        for name in ("learning_rate", "noise_spread"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name):g}: must be above 0")
        if not 0 < self.drop_labels < 1:
            raise ConfigError(f"drop_labels={self.drop_labels:g}: must be above 0 and below 1")
        if not 0 <= self.ema < 1:
            raise ConfigError(f"ema={self.ema:g}: must be at least 0 and below 1")

    def milestones(self) -> list[int]:
        """The steps after which a model is attacked, rising, `steps` the last."""
        return milestones(self.steps, self.checkpoints)


def milestones(steps: int, parts: int) -> list[int]:
    """`parts` evenly spaced steps, or as many as there are steps, rising, `steps` the last."""
    return sorted({round(steps * part / parts) for part in range(1, parts + 1)} - {0})


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

    `label_count` 0 makes an unconditional one; else labels are 0 to `label_count` - 1, and `null_label`, which is none
    of these, stands for no label. Equal arguments give equal weights on one kind of device.
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
        self.null_label = label_count
        labels_known = label_count + 1 if label_count else 0
        self._model = preconditioned(self.shape, labels_known, network, seed).to(self.device)
        self._average = copy.deepcopy(self._model).requires_grad_(False).eval()
        self._optimizer = torch.optim.Adam(self._model.parameters(), lr=settings.learning_rate)
        self._draws = torch.Generator().manual_seed(seed)
        self._parts: dict[str, checkpoints.Stateful] = {
            "model": self._model, "average": self._average, "optimizer": self._optimizer
        }  # fmt: skip
        self.fingerprint = fingerprint(
            asdict(network), asdict(settings), seed, label_count, digest(images), digest(labels)
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
        return checkpoints.pack(self.fingerprint, self.step, self._parts, self._draws, note)

    def resume(self, checkpoint: bytes, name: str) -> Any:
        """Go on from `checkpoint`; returns its note.

        Raises ConfigError, with `name`, where it is damaged or of other settings, images or seed.
        """
        self.step, note = checkpoints.unpack(checkpoint, name, self.fingerprint, self._parts, self._draws)
        return note

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
        labels = None
        if self._labels is not None:
            dropped = torch.rand(settings.batch, generator=self._draws) < settings.drop_labels
            labels = torch.where(dropped.to(self.device), self.null_label, self._labels[rows])
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


def digest(values: npt.NDArray[Any]) -> str:
    """The SHA-256 of an array's bytes, for fingerprints."""
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
