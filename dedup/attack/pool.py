"""The pictures that an experiment draws from: informative, and no two alike.

Everything that is planted (singles, canaries, held-out twins, refill) comes from one pool of distinct pictures, so that
the only copies in a set are those that were put there.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dedup.attack.distances import contrast, pairwise_l2
from dedup.errors import ConfigError, ImageError
from dedup.images import decode
from dedup.transforms import Encoded

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]

_BLOCK = 512
_LARGEST_SIDE = 64
_SMALLEST_SIDE = 8


@dataclass(frozen=True)
class Picture:
    """One picture at its source resolution: `key` names it, `caption` may be empty."""

    key: str
    image: Encoded
    caption: str = ""


@dataclass(frozen=True)
class ViewSettings:
    """How models see pictures. Raises ConfigError for values out of range."""

    side: int = 12
    """Pixels a side, 8 to 64: pictures are scaled down to it."""

    colour: bool = False
    """In colour; else grey."""

    min_distance: float = 0.1
    """Pictures that are nearer to another one (root mean square of pixels in [0, 1], mirrored ones too) are left out,
    so that no two of the set are natural copies."""

    min_contrast: float = 0.06
    """Flatter pictures (standard deviation of the pixels) are left out: they look like each other."""

    def __post_init__(self) -> None:
        if not _SMALLEST_SIDE <= self.side <= _LARGEST_SIDE:
            raise ConfigError(f"side={self.side}: must be {_SMALLEST_SIDE} to {_LARGEST_SIDE}")
        for name in ("min_distance", "min_contrast"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least 0 and below 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, S, S)."""
        return (3 if self.colour else 1, self.side, self.side)


def view(picture: Image.Image, settings: ViewSettings) -> Pixels:
    """(C, S, S) uint8: the whole picture, squashed to a square, as a model sees it.

    Raises ConfigError for a picture that is smaller than that.
    """
    side = settings.side
    if min(picture.size) < side:
        raise ConfigError(f"a picture of {picture.width}x{picture.height} cannot be scaled down to {side}x{side}")
    seen = picture.convert("RGB" if settings.colour else "L").resize((side, side), Image.Resampling.BOX)
    return np.ascontiguousarray(np.atleast_3d(np.asarray(seen)).transpose(2, 0, 1))


def as_floats(pixels: Pixels) -> npt.NDArray[np.float32]:
    """uint8 to float32 in [0, 1]."""
    scaled: npt.NDArray[np.float32] = np.divide(pixels, 255, dtype=np.float32)
    return scaled


def encode_png(picture: Image.Image) -> Encoded:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return Encoded(buffer.getvalue(), "png")


@dataclass(frozen=True)
class Pool:
    """Distinct pictures, and in a few words why others were left out."""

    pictures: tuple[Picture, ...]
    left_out: dict[str, int]

    def __len__(self) -> int:
        return len(self.pictures)

    def why(self) -> str:
        """For messages: how many were left out for which reason."""
        return ", ".join(f"{count:,} {reason}" for reason, count in self.left_out.items() if count) or "none left out"


def distinct(pictures: Iterable[Picture], settings: ViewSettings, enough: int | None = None) -> Pool:
    """Those of `pictures` that are informative and no copy of an earlier one, in their order, at most `enough`.

    Compares at the models' size, with the mirrored picture too. Memory grows with what is kept.
    """
    kept: list[Picture] = []
    seen: list[Pixels] = []
    left_out = dict.fromkeys(("undecodable", f"smaller than {settings.side} pixels", "flat", "like another one"), 0)
    undecodable, small, flat, alike = left_out
    block: list[tuple[Picture, Pixels]] = []

    def settle() -> None:
        pixels = np.stack([pixels for _, pixels in block])
        chosen = _distinct_rows(pixels, np.stack(seen) if seen else pixels[:0], settings.min_distance)
        left_out[alike] += len(block) - len(chosen)
        for row in chosen:
            kept.append(block[row][0])
            seen.append(block[row][1])
        block.clear()

    for picture in pictures:
        try:
            decoded = decode(picture.image.data, min_side=0).rgb
        except ImageError:
            left_out[undecodable] += 1
            continue
        if min(decoded.size) < settings.side:
            left_out[small] += 1
            continue
        pixels = view(decoded, settings)
        if float(contrast(torch.from_numpy(as_floats(pixels[None])))[0]) < settings.min_contrast:
            left_out[flat] += 1
            continue
        block.append((picture, pixels))
        if len(block) == _BLOCK:
            settle()
            if enough is not None and len(kept) >= enough:
                break
    if block:
        settle()
    return Pool(tuple(kept[:enough]), left_out)


def _distinct_rows(block: Pixels, before: Pixels, min_distance: float) -> list[int]:
    """Rows of `block` (N, C, S, S) that keep `min_distance` from all of `before` and from the rows chosen earlier."""
    rows, earlier = (torch.from_numpy(as_floats(pixels)) for pixels in (block, before))
    mirrored = rows.flip(-1)
    free = torch.ones(len(rows), dtype=torch.bool)
    if len(earlier):
        nearest = torch.minimum(pairwise_l2(rows, earlier), pairwise_l2(mirrored, earlier)).min(1).values
        free = nearest >= min_distance
    within = torch.minimum(pairwise_l2(rows, rows), pairwise_l2(mirrored, rows)) < min_distance
    chosen: list[int] = []
    for row in torch.nonzero(free)[:, 0].tolist():
        if not within[row, chosen].any():
            chosen.append(row)
    return chosen
