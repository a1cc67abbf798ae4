"""One picture's grey levels brought to those of another: solarized, false colours, blown-out lights, two tones.

    first, second, aligned ──curve──▶ what each level of the first became in the second, and how much that explains

Any function of the levels will do, whether it rises or not. How much of the second picture it explains is the
correlation ratio (Roche, Malandain, Pennec and Ayache 1998), by which medical images of several kinds are aligned.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]

_BINS, _SMOOTH = 64, 1.0  # of levels; sigma, in bins
_FEW_BINS = 16  # of small pictures
_PAIRS_PER_BLOCK = 1 << 11
_LEVELS = np.arange(256.0)
_LEAST = 4.0  # pixels of a bin that count as much as no pixel at all: the curve goes through the middle there


class Curve(NamedTuple):
    """`levels` (256,) uint8, what each grey level becomes; `explained`, 0..1, the share of the variance of the target
    that they explain; `linear`, that which brightness and contrast alone explain."""

    levels: UInt8Array
    explained: float
    linear: float


def curve(source: Any, target: Any, mask: UInt8Array) -> Curve:
    """`source`, `target` (H, W) float32, grey levels, one laid onto the other; `mask` (H, W) uint8, 1 where both
    are."""
    inside = mask > 0
    x, y = np.clip(np.rint(source[inside]), 0, 255).astype(np.intp), target[inside].astype(np.float64)
    variance = float(y.var()) if len(y) else 0.0
    if variance < 1:
        return Curve(np.arange(256, dtype=np.uint8), 0.0, 0.0)
    # All that follows is of the levels: how many pixels of the first have each, and what they are in the second.
    middle, spread = float(y.mean()), variance * len(y)
    count, total = np.bincount(x, minlength=256).astype(np.float64), np.bincount(x, y - middle, 256)
    in_bins = (each.reshape(_BINS, -1).sum(1) for each in (count, total))
    pixels, sums = (cv2.GaussianBlur(each[None], (0, 0), _SMOOTH)[0] for each in in_bins)
    bins = (np.arange(_BINS) + 0.5) * (256 / _BINS) - 0.5
    became = np.interp(_LEVELS, bins, sums / (pixels + _LEAST))
    explained = float(2 * became @ total - became**2 @ count) / spread
    first = _LEVELS - _LEVELS @ count / len(x)
    linear = float(first @ total) ** 2 / max(float(first**2 @ count) * spread, 1e-9)
    return Curve(np.clip(np.rint(middle + became), 0, 255).astype(np.uint8), max(explained, 0.0), linear)


def explained(first: UInt8Array, second: UInt8Array) -> npt.NDArray[np.float32]:
    """(N, S, S) uint8 each, small grey pictures -> (N,) float32, 0..1: the share of the variance of one that the levels
    of the other explain, whichever explains more, of pairs that lie on each other as they are."""
    found = np.zeros(len(first), np.float32)
    for start in range(0, len(first), _PAIRS_PER_BLOCK):
        block = slice(start, start + _PAIRS_PER_BLOCK)
        x, y = (each[block].reshape(len(each[block]), -1) for each in (first, second))
        found[block] = np.maximum(_correlation_ratio(x, y), _correlation_ratio(y, x))
    return found


def _correlation_ratio(x: UInt8Array, y: UInt8Array) -> npt.NDArray[np.float64]:
    rows, pixels = x.shape
    place = (x // (256 // _FEW_BINS) + np.arange(rows)[:, None] * _FEW_BINS).ravel()
    count = np.bincount(place, minlength=rows * _FEW_BINS).reshape(rows, _FEW_BINS)
    total = np.bincount(place, y.ravel(), rows * _FEW_BINS).reshape(rows, _FEW_BINS)
    values = y.astype(np.float64)
    mean, square = values.mean(1), np.square(values).mean(1)
    between = (total**2 / np.maximum(count, 1)).sum(1) / pixels - mean**2
    return np.asarray(between / np.maximum(square - mean**2, 1.0))
