"""The networks that are trained, behind one signature; DENOISERS.

A network takes (B, C, S, S) scaled noisy images, (B,) log-noise and (B,) int64 labels (None where it is
unconditional) and gives (B, C, S, S). `edm.Preconditioned` makes it a denoiser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dedup.attack.edm import Preconditioned
from dedup.errors import ConfigError


@dataclass(frozen=True)
class NetworkSettings:
    """Which network, how large. Raises ConfigError for what cannot be built."""

    model: str = "mlp"
    """mlp (residual MLP, for up to about 16 pixels a side) or unet (diffusers' UNet2DModel, for 32 and more)."""

    width: int = 512
    """Hidden units of the MLP; channels of the U-Net's first level."""

    depth: int = 4
    """Residual blocks of the MLP; levels of the U-Net, each half the side of the one before."""

    def __post_init__(self) -> None:
        if self.model not in DENOISERS:
            raise ConfigError(f"model={self.model}: known are {', '.join(DENOISERS)}")
        if self.width < 32 or self.width % 32:
            raise ConfigError(f"width={self.width}: must be a multiple of 32")
        if self.depth < 1:
            raise ConfigError(f"depth={self.depth}: must be at least 1")


def fourier(values: Tensor, size: int) -> Tensor:
    """(B,) -> (B, size): sines and cosines of `values` at frequencies from 1 to 100."""
    frequencies = torch.logspace(0, 2, size // 2, device=values.device)
    angles = values[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.condition = nn.Linear(width, width)
        self.first = nn.Linear(width, width)
        self.second = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)  # a block begins as the identity

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.first(self.norm(x)) + self.condition(condition)
        shown: Tensor = x + self.second(nn.functional.silu(hidden))
        return shown


class ResidualMLP(nn.Module):
    """Residual blocks over the flattened image; noise level and label enter each block."""

    def __init__(self, shape: tuple[int, int, int], labels: int, settings: NetworkSettings) -> None:
        super().__init__()
        pixels, width = math.prod(shape), settings.width
        self.width = width
        self.enter = nn.Linear(pixels, width)
        self.noise = nn.Sequential(nn.Linear(64, width), nn.SiLU())
        self.label = nn.Embedding(labels, width) if labels else None
        self.blocks = nn.ModuleList(_Block(width) for _ in range(settings.depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, pixels))

    def forward(self, x: Tensor, log_noise: Tensor, labels: Tensor | None) -> Tensor:
        condition = self.noise(fourier(log_noise, 64))
        if self.label is not None:
            condition = condition + self.label(labels)
        hidden = self.enter(x.flatten(1))
        for block in self.blocks:
            hidden = block(hidden, condition)
        shown: Tensor = self.leave(hidden).view_as(x)
        return shown


class _UNet(nn.Module):
    def __init__(self, shape: tuple[int, int, int], labels: int, settings: NetworkSettings) -> None:
        super().__init__()
        from diffusers import UNet2DModel  # here, because it takes seconds that the MLP need not spend

        channels, side, _ = shape
        # Attention where the feature maps are 16 pixels or smaller, as in DDPM (Ho et al. 2020).
        attends = [side // 2**level <= 16 and level > 0 for level in range(settings.depth)]
        self.unet = UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=2,
            block_out_channels=tuple(settings.width * min(2**level, 2) for level in range(settings.depth)),
            down_block_types=tuple("AttnDownBlock2D" if attend else "DownBlock2D" for attend in attends),
            up_block_types=tuple("AttnUpBlock2D" if attend else "UpBlock2D" for attend in reversed(attends)),
            num_class_embeds=labels or None,
        )

    def forward(self, x: Tensor, log_noise: Tensor, labels: Tensor | None) -> Tensor:
        # Its embedding is made for time steps of up to a thousand.
        estimate: Tensor = self.unet(x, 1000 * log_noise, class_labels=labels).sample
        return estimate


DENOISERS: dict[str, Callable[[tuple[int, int, int], int, NetworkSettings], nn.Module]] = {
    "mlp": ResidualMLP,
    "unet": _UNet,
}
"""(shape (C, S, S), number of labels or 0, settings) -> the network, with weights drawn from torch's generator."""


def check_shape(shape: tuple[int, int, int], settings: NetworkSettings) -> None:
    """Raises ConfigError for images that the network cannot take."""
    divisor = 2 ** (settings.depth - 1)
    if settings.model == "unet" and shape[1] % divisor:
        raise ConfigError(f"side={shape[1]}: a U-Net of depth {settings.depth} needs a multiple of {divisor}")


def preconditioned(shape: tuple[int, int, int], labels: int, settings: NetworkSettings, seed: int) -> Preconditioned:
    """The untrained denoiser; equal seeds give equal weights, whatever was drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Preconditioned(DENOISERS[settings.model](shape, labels, settings))
