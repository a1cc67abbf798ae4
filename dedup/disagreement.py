"""Two pictures, one laid onto the other: where both show something, and not the same.

    contested      in photographs: the share of what both show, and of what is faint in both, that runs in other
                   directions
    contradiction  in drawings and uniform sets: the area where both hold strokes, but not the same
    unshared       in drawings: the area where one has a stroke, as strong as its others, and the other has nothing

Two quotations printed over two photographs, or two posters of one layout, agree in all strong contrasts; what lies
between the words is faint, and not the same. A copy with words written over it disagrees where the words are, and these
are strong; all around it agrees. So what is faint is also asked by itself. Of a drawing that cannot be said: where one
form says Berg and the other says Ito, nothing else differs, and it is what the form says.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dedup.geometry import gradients, quantile, softened

UInt8Array = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

# Of what both show, the share that may run in other directions; and of what is faint in both, if it is not only what is
# faint that is lost, as in poor JPEGs and posterized pictures. Of pairs that tiles find alike more is contested in 6 of
# 2,347 of copies of photographs by `transforms`, and in 171 of 2,540 of copies under stickers, stripes, patches or
# large words, or seen from the side; in 275 of 281 of photographs and products with the same words, badge or layout
# over them. Of 60 pairs of one photograph with different things before it none is accepted where these cover 31 % of
# the area, and 21 where they cover 24 %.
CONTESTED, CONTESTED_FAINT, _NOT_ONLY_FAINT = 0.19, 0.2, 0.11
# Where no more than this is contested of what is faint, nothing speaks against a pair.
UNCONTESTED = 0.1
# ... and of all, at half the size: of 22 pairs of photographs and their copies that are contested 7 are not there, of
# 1,125 of different photographs with the same words, badge or layout, or things before one background, none.
_HARDLY = 0.05
# Of drawings, in squares of 16 by 16 pixels. Pictures of 16 templates differ by 3.1 squares and more, forms in which
# one entry of ten differs by 1 to 2.7; copies by 0.5, but for words and stickers put over them.
CONTRADICTED = 0.9
UNSHARED = 0.5
_SQUARE = 16 * 16

_CONTESTED_SIDE = 128  # pixels: details finer than that differ where the two do not lie on each other exactly
_SMOOTH, _NEAR = 1.0, 2.0  # sigmas, at that side: before gradients are taken, and of their surroundings
_LIGHT = 6.0  # sigma of what is taken away first: copies may be darker towards their edges
_FAINT = 0.7  # grey levels per pixel: gradients below count less and less, they are noise
_SHOWN = 0.15  # mean square of what is left of gradients where something is shown
_OTHER, _SAME = 0.3, 0.5  # correlations of directions
_LEAST = 0.8  # grey levels per pixel, root mean square, of what is faint: below, noise takes over
_LITTLE = 0.02  # share of the area that is always taken to agree

_SMOOTH_STROKES = 0.8  # sigma before gradients are taken, in pixels,
_NEAR_STROKES, _AT_STROKES = 3.5, 1.5  # and of the surroundings within which strokes are compared, or looked for
_STROKE = 2.0  # grey levels per pixel, root mean square over these surroundings
_ANOTHER = 0.4  # correlation of gradients below which two strokes are not the same
_BARE = 6.0  # so many times more energy than the other's: one has strokes where the other has none
_NOISE = 8.0  # so many times the contradicted area holds strokes in one picture alone: these are noise
_AS_STRONG = 0.8  # of the median of its picture's strokes: watermarks are fainter
_STROKES = 4.0  # grey levels per pixel, of strokes that both have
_NOTHING = 1.4  # grey levels per pixel
_EDGE = 0.08  # of the side: what is left of a border is no stroke


def contested(first: Any, second: Any, mask: UInt8Array, noise: bool = False) -> tuple[float, float]:
    """`first`, `second` (H, W) float32, one laid onto the other; `mask` (H, W) uint8, 1 where both are -> twice 0..1:
    the share of the area in which both show something, and their gradients run in other directions: of all of it, and
    where both are fainter than half of their picture; 0 where there is no such area.

    With `noise`, of pictures that hardly contest each other once they are half as large it is what they contest then:
    noise, and what poor JPEGs make of what is faint, is gone there. Other pictures are as other as before, but in
    uniform sets."""
    found = _contested_at(_CONTESTED_SIDE, first, second, mask)
    return but_for_noise(found, first, second, mask) if noise else found


def but_for_noise(found: tuple[float, float], first: Any, second: Any, mask: UInt8Array) -> tuple[float, float]:
    """What is left of `found`, which `contested` found of the same arguments, without what is gone at half the size."""
    if not is_contested(*found):
        return found
    coarser = _contested_at(_CONTESTED_SIDE // 2, first, second, mask)
    return coarser if coarser[0] <= _HARDLY and coarser[1] <= UNCONTESTED else found


def _contested_at(side: int, first: Any, second: Any, mask: UInt8Array) -> tuple[float, float]:
    scale = side / max(mask.shape)
    if scale < 1:
        size = (max(8, round(mask.shape[1] * scale)), max(8, round(mask.shape[0] * scale)))
        first, second = (cv2.resize(grey, size, interpolation=cv2.INTER_AREA) for grey in (first, second))
        mask = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST))
    inside = _within(mask, 3)
    area = float(inside.sum())
    if not area:
        return 0.0, 0.0
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), _NEAR), 1e-3)
    (across_a, down_a, square_a, strength_a), (across_b, down_b, square_b, strength_b) = (
        _directions(grey, inside, weight) for grey in (first, second)
    )
    both = cv2.GaussianBlur(across_a * across_b + down_a * down_b, (0, 0), _NEAR) / weight
    correlation = both / np.sqrt(square_a * square_b + 1e-6)
    shown = (inside > 0) & (np.minimum(square_a, square_b) > _SHOWN)
    faint = shown & (np.minimum(strength_a, strength_b) > _LEAST**2)
    for strength in (strength_a, strength_b):
        faint &= strength <= quantile(strength[inside > 0], 0.5)
    shares = []
    for part in (shown, faint):
        other, same = (float((part & where).sum()) / area for where in (correlation < _OTHER, correlation >= _SAME))
        shares.append(other / (other + same + _LITTLE))
    return shares[0], shares[1]


def is_contested(whole: float, faint: float, allowed: float = 0.0) -> bool:
    """Whether what `contested` says is too much for a copy, by so much more as is `allowed`."""
    return whole > CONTESTED + allowed or (faint > CONTESTED_FAINT + allowed and whole > _NOT_ONLY_FAINT)


def _directions(grey: Any, inside: Any, weight: Any) -> tuple[Any, Any, Any, Any]:
    """Gradients across and down, of length one but where there is hardly more than noise; the mean square of these
    around each pixel, and that of the gradients as they are."""
    across, down = gradients(grey - cv2.GaussianBlur(grey, (0, 0), _LIGHT), _SMOOTH)
    size = cv2.magnitude(across, down) * inside
    across, down = (along * (inside / (size + _FAINT)) for along in (across, down))
    square, strength = (
        cv2.GaussianBlur(energy, (0, 0), _NEAR) / weight for energy in (across * across + down * down, size * size)
    )
    return across, down, square, strength


def contradiction(first: Any, second: Any, mask: UInt8Array) -> tuple[float, float]:
    """Arguments as of `contested` -> the area, in squares of 16 by 16 pixels, in which both hold strokes, but not the
    same, once both are equally sharp, 0 where one is noisy all over; and how mutual it is: that area, and the strokes
    of the one that has fewer where the other has none, as a share of those of the one that has more. Of a copy with
    words over it the words are strokes that only the copy has, so that share is small."""
    # At the edge lies what is left of a border, of which more was cut off in one of the two.
    inside = _within(mask, 7) * _within(mask, 5, outside=0)
    first, second = equally_sharp(first, second, inside > 0)
    contradicted = least = most = 0.0
    for along_a, along_b in zip(*(gradients(grey, _SMOOTH_STROKES) for grey in (first, second)), strict=True):
        a, b = along_a * inside, along_b * inside
        energy_a, energy_b, both = (cv2.GaussianBlur(each, (0, 0), _NEAR_STROKES) for each in (a * a, b * b, a * b))
        strokes_a, strokes_b = energy_a > _STROKE**2, energy_b > _STROKE**2
        another = both < _ANOTHER * np.sqrt(energy_a * energy_b)
        contradicted = max(contradicted, float((strokes_a & strokes_b & another).sum()))
        alone = strokes_a & (energy_a > _BARE * energy_b), strokes_b & (energy_b > _BARE * energy_a)
        fewer, more = sorted(float(each.sum()) for each in alone)
        least, most = max(least, fewer), max(most, more)
    noisy = most >= _NOISE * contradicted
    return 0.0 if noisy else contradicted / _SQUARE, (contradicted + least) / max(most, 1.0)


def unshared(first: Any, second: Any, mask: UInt8Array) -> float:
    """Arguments as of `contested` -> the area, in squares of 16 by 16 pixels, in which one has strokes as strong as
    most that both have, and the other has nothing at all; not counted near the edge of the overlap."""
    inside = _within(mask, 7)
    first, second = equally_sharp(first, second, inside > 0)
    sizes = []
    weight = np.maximum(cv2.GaussianBlur(inside, (0, 0), _AT_STROKES), 1e-3)
    for grey in (first, second):
        across, down = (along * inside for along in gradients(grey, _SMOOTH_STROKES))
        sizes.append(np.sqrt(cv2.GaussianBlur(across * across + down * down, (0, 0), _AT_STROKES) / weight))
    shared = (sizes[0] > _STROKES) & (sizes[1] > _STROKES)
    if not shared.any():
        return 0.0
    inner = _within(mask, int(_EDGE * max(mask.shape)) | 1, outside=0) > 0
    areas = []
    for size, other in (sizes, sizes[::-1]):
        least = max(_STROKES, _AS_STRONG * quantile(size[shared], 0.5))
        areas.append(float(((size > least) & (other < _NOTHING) & inner).sum()))
    return max(areas) / _SQUARE


def equally_sharp(first: Any, second: Any, inside: Bools) -> tuple[Any, Any]:
    """Two pictures (H, W), one laid onto the other, the sharper one blurred until it holds about as much fine detail as
    the other."""
    if not inside.any():
        return first, second
    details = [_detail(grey, inside) for grey in (first, second)]
    if max(details) < 1.15 * min(details):
        return first, second
    if details[0] > details[1]:
        return softened(first, lambda grey: _detail(grey, inside), details[1]), second
    return first, softened(second, lambda grey: _detail(grey, inside), details[0])


def _detail(grey: Any, inside: Bools) -> float:
    """The share of the contrast that half the size would lose."""
    height, width = grey.shape
    half = cv2.resize(grey, (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
    lost = grey - cv2.resize(half, (width, height), interpolation=cv2.INTER_CUBIC)
    return float(np.sqrt(np.square(lost[inside]).mean())) / max(float(grey[inside].std()), 1.0)


def _within(mask: UInt8Array, size: int, outside: int = 1) -> Any:
    """The mask without what lies within half of `size` of its edge; `outside` says what lies around it."""
    kernel = np.ones((size, size), np.uint8)
    return cv2.erode(mask, kernel, borderType=cv2.BORDER_CONSTANT, borderValue=outside).astype(np.float32)
