"""Forms, pages, charts, screenshots, logos: one template makes many, and what differs is small beside what is shared.

    grey levels ──is_drawn──▶ whether a picture is of few grey levels, as what was drawn, printed or typed is
    two such pictures, laid on each other ──contradiction──▶ how much of the one is crossed out by the other

Two forms that different people filled in agree in lines, boxes and labels: in nearly all that tiles of an eighth of the
side can measure. But where the one says Berg and the other says Ito, both hold strokes, and other ones. In photographs
that says little, as people write words over them. In a drawing it is what it says.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

UInt8Array = npt.NDArray[np.uint8]

# Share of the pixels that the three most frequent grey levels have, and that the most frequent one has where a picture
# is as fine as print. 4 of 100 photographs are so plain, and none of potatoes before black.
THREE_LEVELS, ONE_LEVEL = 0.85, 0.45
THREE_LEVELS_OF_THUMBNAILS = 0.75  # which mix ink and paper; 8 of 100 photographs
_LEVEL = 8  # levels of 0..255 to either side count as the same

# Areas are counted in squares of 16 by 16 pixels. Pictures of 16 templates differ by 3.1 squares and more, forms in
# which one entry of ten differs by 1 to 2.7; copies by 0.5, but for words and stickers put over them, and for noise.
CONTRADICTED = 0.9
_SQUARE = 16 * 16
_SMOOTH = 0.8  # sigma before gradients are taken, in pixels,
_NEAR = 3.5  # and of the surroundings of a pixel within which they are compared
_STROKE = 2.0  # grey levels per pixel, root mean square over these surroundings
_ANOTHER = 0.4  # correlation of gradients below which two strokes are not the same
_BARE = 6.0  # so many times more energy than the other's: one has strokes where the other has none
_NOISE = 8.0  # so many times the contradicted area holds strokes in one picture alone: these are noise


def is_drawn(grey: UInt8Array, fine: bool) -> bool:
    """`grey` (H, W) uint8, without borders; `fine`: whether the picture loses much when reduced, as print does."""
    one, three = plainness(grey[None])[0]
    return bool(three >= THREE_LEVELS or (fine and one >= ONE_LEVEL))


def plainness(greys: UInt8Array) -> npt.NDArray[np.float64]:
    """(N, H, W) uint8 -> (N, 2): the shares of pixels, 0..1, that the most frequent grey level of each picture has, and
    that the three most frequent have together."""
    window = np.ones(2 * _LEVEL + 1)
    found = np.empty((len(greys), 2))
    for row, grey in enumerate(greys):
        counts = np.bincount(grey.ravel(), minlength=256).astype(np.float64)
        shares = []
        for _ in range(3):
            around = np.convolve(counts, window, "same")
            level = int(around.argmax())
            shares.append(around[level] / grey.size)
            counts[max(0, level - _LEVEL) : level + _LEVEL + 1] = 0
        found[row] = shares[0], sum(shares)
    return found


def contradiction(first: Any, second: Any, mask: UInt8Array) -> float:
    """`first`, `second` (H, W) float32, one laid onto the other; `mask` (H, W) uint8, 1 where both are -> the area, in
    squares of 16 by 16 pixels, in which both hold strokes, but not the same; 0 where one is noisy all over."""
    inside = cv2.erode(mask, np.ones((7, 7), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1).astype(
        np.float32
    )
    contradicted = bare = 0.0
    for axis in ((1, 0), (0, 1)):
        a, b = (
            cv2.Sobel(cv2.GaussianBlur(grey, (0, 0), _SMOOTH), cv2.CV_32F, *axis, scale=1 / 8) * inside
            for grey in (first, second)
        )
        energy_a, energy_b, both = (cv2.GaussianBlur(each, (0, 0), _NEAR) for each in (a * a, b * b, a * b))
        strokes_a, strokes_b = energy_a > _STROKE**2, energy_b > _STROKE**2
        another = both < _ANOTHER * np.sqrt(energy_a * energy_b)
        contradicted = max(contradicted, float((strokes_a & strokes_b & another).sum()))
        alone = strokes_a & (energy_a > _BARE * energy_b), strokes_b & (energy_b > _BARE * energy_a)
        bare = max(bare, *(float(each.sum()) for each in alone))
    return 0.0 if bare >= _NOISE * contradicted else contradicted / _SQUARE
