"""Forms, pages, charts, screenshots, logos: one template makes many, and what differs is small beside what is shared.

    grey levels ──is_drawn──▶ whether a picture is of few grey levels, as what was drawn, printed or typed is

Two forms that different people filled in agree in lines, boxes and labels: in nearly all that tiles of an eighth of the
side can measure. So of drawings more is asked: `disagreement.contradiction`, `disagreement.unshared`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dedup.geometry import gradients, quantile

UInt8Array = npt.NDArray[np.uint8]

# Share of the pixels that the three most frequent grey levels have, and that the most frequent one has where a picture
# is as fine as print. 4 of 100 photographs are so plain, and none of potatoes before black.
THREE_LEVELS, ONE_LEVEL = 0.85, 0.45
# ... and what the second and third have of that which the first, the ground, has not, if strokes are not STRONG, and it
# is not as fine as print: shaded things before white are plain for the white alone, so 5 of 13 product shots have less.
# Charts, icons, dials, screenshots, flags and cards of 100 pixels and more have more.
INKS = 0.5
THREE_LEVELS_OF_THUMBNAILS = 0.75  # which mix ink and paper; 8 of 100 photographs
_LEVEL = 8  # levels of 0..255 to either side count as the same
# Paper that was photographed or scanned is darker on one side. So grey levels count in shares of the median around
# them, too, but only in pictures whose strokes are strong: skies and potatoes are as plain, and soft.
_AROUND = 0.32  # of the longer side
_DARK = 8  # grey levels, added to both
STRONG = 10.0  # grey levels per pixel, at 256 pixels: the median of gradients that stand out


def is_drawn(grey: UInt8Array, fine: bool) -> bool:
    """`grey` (H, W) uint8, without borders; `fine`: whether the picture loses much when reduced, as print does."""
    one, three = plainness(grey[None])[0]
    inked = (fine and one >= ONE_LEVEL) or three - one >= INKS * (1 - one)
    if inked and _is_plain(one, three, fine):
        return True
    if not _is_plain(one, three, fine):
        one, three = plainness(_evenly_lit(grey)[None])[0]
    return _is_plain(one, three, fine) and strength(grey) >= STRONG


def _is_plain(one: float, three: float, fine: bool) -> bool:
    return bool(three >= THREE_LEVELS or (fine and one >= ONE_LEVEL))


def _evenly_lit(grey: UInt8Array) -> UInt8Array:
    """The picture in shares of the median around each pixel, of which 128 stands for one."""
    height, width = grey.shape
    half = cv2.resize(grey, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    around = cv2.medianBlur(half, int(_AROUND * max(half.shape)) | 1)
    light = cv2.resize(around, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    return np.asarray(np.clip(128 * (grey.astype(np.float32) + _DARK) / (light + _DARK), 0, 255), np.uint8)


def strength(grey: UInt8Array) -> float:
    """`grey` (H, W) uint8 -> how strong its strokes are: the median of those gradients that stand out of the picture's
    flattest third, in levels per pixel; of forms and pages 10 and more, of photographs as plain as these less."""
    across, down = gradients(grey.astype(np.float32), 0.8)
    size = np.sqrt(cv2.GaussianBlur(across * across + down * down, (0, 0), 1.5))
    outstanding = size[size > max(1.0, 2 * quantile(size, 0.3))]
    return quantile(outstanding, 0.5) if outstanding.size else 0.0


def plainness(greys: UInt8Array) -> npt.NDArray[np.float64]:
    """(N, H, W) uint8 -> (N, 2): the shares of pixels, 0..1, that the most frequent grey level of each picture has, and
    that the three most frequent have together."""
    window = np.ones(2 * _LEVEL + 1)
    found = np.empty((len(greys), 2))
    for row, grey in enumerate(greys):
        counts = cv2.calcHist([grey], [0], None, [256], [0, 256])[:, 0].astype(np.float64)
        shares = []
        for _ in range(3):
            around = np.convolve(counts, window, "same")
            level = int(around.argmax())
            shares.append(around[level] / grey.size)
            counts[max(0, level - _LEVEL) : level + _LEVEL + 1] = 0
        found[row] = shares[0], sum(shares)
    return found
