"""How two pictures, one laid onto the other, agree tile by tile: correlations of their bands in 8x8 tiles.

    the one that stays ──fixed_part──▶ Fixed ─┐
                                              ├─compared─▶ Tiles
    the one laid onto it ─────────────────────┘

What stays is prepared once for all that is laid onto it.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dedup.geometry import band_pass

Floats = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

TILES = 8
BAND = (1.2, 4.8)  # sigmas of the difference of Gaussians, in pixels at SIDE
_FILLED = 0.4  # of a tile, at least, or it is not asked
_TILE_AGREES = 0.6  # correlation
_TILE_FITS = 0.9  # ... above which that share of the tiles leaves nothing to gain by a better alignment
_MIN_TEXTURE = 1.5  # grey levels, standard deviation within a tile after the band-pass
_DETAIL = (0.8, 2.4)  # sigmas of a finer band,
_FAR_MORE, _MORE = 3.0, 3.0  # ... of which one of two has so many times as much in a tile, and so many levels more


class Fixed(NamedTuple):
    """Of the picture onto which the other is laid: its band and where both are, (H, W) float32, and of each tile (8, 8)
    how much of it both fill, the mean of the band and its variance."""

    band: Any
    inside: Any
    filled: Floats
    mean: Floats
    variance: Floats


class Tiles(NamedTuple):
    """Of the textured tiles: the share that agrees, the mean correlation, how many; the correlation of the whole; and
    whether nearly all agree as well as they can."""

    agreeing: float
    correlation: float
    textured: int
    pixels: float
    fits: bool


def lopsided(ours: Any, theirs: Any, fixed: Fixed) -> float:
    """Of what `compared` compares, `theirs` as `fixed_part` took it: the share of the tiles, 0..1, in which one of the
    two holds detail, finer than what is compared, and the other hardly any: two skirts of one outline, of which one is
    checked."""
    used = fixed.filled > _FILLED
    bands = [band_pass(grey, _DETAIL) for grey in (ours, theirs)]
    detail = [np.sqrt(_moments(band, fixed.inside, fixed.filled)[1][used]) for band in bands]
    less, more = np.minimum(*detail), np.maximum(*detail)
    return float(((more > _FAR_MORE * less) & (more - less > _MORE)).mean()) if used.any() else 0.0


def fixed_part(theirs: Any, mask: UInt8Array) -> Fixed:
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    inside = inside.astype(np.float32)
    band = band_pass(theirs, BAND)
    filled = _sums(inside)
    return Fixed(band, inside, filled, *_moments(band, inside, filled))


def _sums(values: Any) -> Floats:
    """(H, W) -> its mean over each tile (8, 8): where no pixel lies in two tiles by cv2.resize, else by products of
    matrices, which take a third of the time that it takes there, or less."""
    height, width = values.shape
    if height % TILES == 0 == width % TILES:
        means = cv2.resize(values, (TILES, TILES), interpolation=cv2.INTER_AREA)
    else:
        means = _shares(height) @ values @ _shares(width).T
    return np.asarray(means, np.float64)


@functools.lru_cache(maxsize=512)
def _shares(length: int) -> Any:
    """(8, length) float32: of each tile the weight of each pixel along one side, their sum 1."""
    edges = np.linspace(0, length, TILES + 1)
    pixels = np.arange(length)
    overlap = np.minimum(pixels + 1, edges[1:, None]) - np.maximum(pixels, edges[:-1, None])
    return (np.maximum(overlap, 0) * (TILES / length)).astype(np.float32)


def _moments(band: Any, inside: Any, filled: Floats) -> tuple[Floats, Floats]:
    weight = np.maximum(filled, 1e-6)
    there = band * inside
    mean = _sums(there) / weight
    return mean, np.maximum(_sums(band * there) / weight - mean**2, 0)


def compared(ours: Any, fixed: Fixed) -> Tiles:
    """How the tiles correlate; textured are those that hold texture in either picture."""
    band = band_pass(ours, BAND)
    m1, v1 = _moments(band, fixed.inside, fixed.filled)
    m2, v2 = fixed.mean, fixed.variance
    product = _sums(band * fixed.band * fixed.inside) / np.maximum(fixed.filled, 1e-6) - m1 * m2
    correlation = product / np.maximum(np.sqrt(v1 * v2), 1e-3)
    used = fixed.filled > _FILLED
    least1, least2 = (max(_MIN_TEXTURE, 0.2 * float((v[used].mean() if used.any() else 0.0) ** 0.5)) for v in (v1, v2))
    d1, d2 = np.sqrt(v1) / least1, np.sqrt(v2) / least2
    textured = used & (((d1 > 1) & (d2 > 1)) | (d1 > 3) | (d2 > 3))
    energy = float(np.sqrt(v1[used].sum() * v2[used].sum()))
    pixels = float(product[used].sum()) / max(energy, 1e-6)
    each = correlation[textured]
    if not len(each):
        return Tiles(0.0, 0.0, 0, pixels, True)
    fits = float((each > _TILE_FITS).mean()) >= _TILE_FITS
    return Tiles(float((each > _TILE_AGREES).mean()), float(each.mean()), len(each), pixels, fits)
