"""EDM: how a network becomes a denoiser, what it is trained to do, and how images are drawn from it.

Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models" (arXiv 2206.00364): the
preconditioning and loss of its table 1 and the deterministic sampler of its algorithm 1. Inside, images are scaled to
[-1, 1]; `sigma` is the standard deviation of the added noise on that scale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dedup.errors import ConfigError

Images = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]

SIGMA_DATA = 0.5  # of images in [-1, 1], as in the paper


class Denoiser(Protocol):
    """(B, C, S, S) noisy images, (B,) sigma, (B,) int64 labels or None -> (B, C, S, S) estimates of the clean ones."""

    def __call__(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor: ...


class Generator(Protocol):
    """What images can be drawn from: diffusion models, the closed form and GANs alike."""

    def sample(self, count: int, seed: int, labels: Labels | None = None) -> Images:
        """(count, C, S, S) float32 in [0, 1]; the i-th depends on `seed`, i and its label alone, not on `count`."""


@dataclass(frozen=True)
class SamplerSettings:
    """How images are drawn. Raises ConfigError for values that make no schedule."""

    sampler_steps: int = 18
    """Noise levels on the way down; each costs two evaluations of the network (Heun), the last one."""

    sigma_min: float = 0.002
    """The last noise level before 0."""

    sigma_max: float = 80.0
    """The first noise level."""

    rho: float = 7.0
    """How much of the schedule lies at small noise."""

    sample_batch: int = 500
    """Images drawn at once."""

    def __post_init__(self) -> None:
        if self.sampler_steps < 2:
            raise ConfigError(f"sampler_steps={self.sampler_steps}: must be at least 2")
        if not 0 < self.sigma_min < self.sigma_max:
            raise ConfigError(f"sigma_min={self.sigma_min:g}, sigma_max={self.sigma_max:g}: must be 0 < min < max")
        if self.sample_batch < 1:
            raise ConfigError(f"sample_batch={self.sample_batch}: must be at least 1")

    def sigmas(self) -> list[float]:
        """The falling noise levels, with 0 as the last (equation 5)."""
        share = np.linspace(0, 1, self.sampler_steps)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        return [*((high + share * (low - high)) ** self.rho).tolist(), 0.0]


class Preconditioned(nn.Module):
    """`network`(scaled images, log-noise, labels) as a denoiser: table 1, column "Ours"."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        s = sigma.view(-1, 1, 1, 1)
        scale = (s**2 + SIGMA_DATA**2).sqrt()
        estimate: Tensor = self.network(noisy / scale, sigma.log() / 4, labels)
        return (SIGMA_DATA / scale) ** 2 * noisy + s * SIGMA_DATA / scale * estimate


def loss_weight(sigma: Tensor) -> Tensor:
    """lambda(sigma), which makes the expected loss of an untrained network 1 at every noise level."""
    return (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2


def noise_like(shape: tuple[int, ...], seeds: range | list[int], seed: int) -> Tensor:
    """(len(seeds), *shape) of standard normal noise; row i depends on `seed` and seeds[i] alone."""
    rows = [np.random.default_rng((seed, row)).standard_normal(shape, dtype=np.float32) for row in seeds]
    return torch.from_numpy(np.stack(rows))


def batches(count: int, size: int) -> Iterator[range]:
    """Ranges of `size` that cover 0..count, the last one as long as the others: a row is computed in a batch of one
    size whatever `count` is, so that it has the same bits."""
    for first in range(0, count, size):
        yield range(first, first + size)


def denoising_loss(denoise: Denoiser, clean: Tensor, sigma: Tensor, noise: Tensor, labels: Tensor | None) -> Tensor:
    """(B,) weighted mean squared error of the estimates of `clean` (B, C, S, S) under `sigma` * `noise`; equation 8."""
    estimate = denoise(clean + sigma.view(-1, 1, 1, 1) * noise, sigma, labels)
    return loss_weight(sigma) * (estimate - clean).square().flatten(1).mean(1)


@torch.no_grad()
def heun(denoise: Denoiser, noise: Tensor, labels: Tensor | None, settings: SamplerSettings) -> Tensor:
    """From (B, C, S, S) standard normal noise to images in [-1, 1] or nearly: algorithm 1 without added noise."""
    sigmas = settings.sigmas()
    x = noise * sigmas[0]
    for now, after in pairwise(sigmas):
        slope = (x - denoise(x, x.new_full((len(x),), now), labels)) / now
        ahead = x + (after - now) * slope
        if after > 0:
            second = (ahead - denoise(ahead, x.new_full((len(x),), after), labels)) / after
            ahead = x + (after - now) * (slope + second) / 2
        x = ahead
    return x


def sample_in_batches(
    draw: Callable[[Tensor, Tensor | None], Tensor],
    shape: tuple[int, ...],
    count: int,
    seed: int,
    labels: Labels | None,
    size: int,
    device: torch.device,
) -> Images:
    """`draw` images in [-1, 1] from noise, `size` at a time; gives them in [0, 1] as `Generator.sample` says."""
    parts = []
    for rows in batches(count, size):
        given = None
        if labels is not None:
            padded = np.resize(labels[rows.start : rows.stop], len(rows))
            given = torch.from_numpy(padded).to(device)
        drawn = draw(noise_like(shape, rows, seed).to(device), given)
        parts.append(((drawn.clamp(-1, 1) + 1) / 2).float().cpu().numpy())
    shown: Images = np.concatenate(parts)[:count] if parts else np.zeros((0, *shape), np.float32)
    return shown
