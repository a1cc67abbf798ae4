"""Where two aligned pictures differ: was one of them covered there, or is it another thing in the same place?

    covering   by words, stripes, stickers, plain patches: what lies over one of the two
    replaced   two prints on one shirt, two covers in one frame: whether both show something there, and not the same
    thin       how much of a picture is lines and fine strokes, as of an agency's watermark; `without_thin` takes it off

What is put over a picture is mostly plainer than the picture: flat, or of few grey levels. And it ends in an edge that
the other picture does not have, for there the picture goes on. Of two prints in one frame both have that edge; of a
thing that moved, neither picture is the plainer where it was and is.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dedup.geometry import gradients, quantile

UInt8Array = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

_MOST = 0.25  # of the area: what covers more is a picture of its own, but for rectangles
_MOST_WITH_EDGES = 0.5  # ... with what belongs to it around it
# ... but one upright rectangle, whatever it shows: things have other shapes. So much of it is other, and of what is
# other so much lies in it.
_MOST_OF_A_BOX, _FILLED = 0.36, 0.85
# Times the edges near it that the one has where the box ends, at most, and the other, at least: the rim of an inset may
# be like what is around it, and two insets may both have soft edges.
_SURELY_GOES_ON, _EDGE_OF_A_BOX = 1.05, 1.25
_LEAST_PIXELS = 30  # of fewer nothing is said
_FIT_STEPS, _ONE_OF = 5, 4  # of brightness and contrast, to one pixel of so many
_OTHER = (12.0, 3.0)  # grey levels, and times the median difference: pixels that differ more are others
_MOVED = np.ones((3, 3), np.uint8)  # within this reach a pixel may lie elsewhere
# What is plain has 3 grey levels, 6 wide each, in at least such a share of it; and it is plainer than what lies under
# it by such a share of these levels, or of what is flat. Of 28 pairs of photographs and their copies under words,
# stripes, stickers or patches that are lost without this it finds 22.
_LEVELS, _LEVEL, _OF_LEVELS = 3, 6, 0.4
_MOSTLY_FLAT, _PLAINER = 0.5, 0.3
# Words need not be plainer: letters of two colours are not, nor are they once they are reduced. They are thin: of what
# is thin there are so many grey levels, and so many times those of the other picture. So it is in 39 of 43 photographs
# and their copies under words at top and bottom that come so far, of which 34 are found. Of 4,400 other pairs
# of photographs, clothes and drawings none is accepted by it.
_WRITTEN, _MORE_WRITTEN = 80.0, 2.5
_FLAT, _AROUND = 5.0, (5, 5)  # standard deviation up to this, in grey levels, within so many pixels
# Times the edges near it that a picture may have where a thing over it ends: of 280 pictures that are covered in their
# copies 255 have no more; of 55 pairs of other prints and drawings on one scene none, nor of 16 of things before one
# background.
_GOES_ON = 1.1
_CLOSED, _NEAR = np.ones((5, 5), np.uint8), np.ones((25, 25), np.uint8)
_SMOOTH, _LEAST_EDGE = 1.0, 0.5  # sigma, in pixels; grey levels per pixel
THIN, THIN_AT_A_GLANCE = 7, 5  # pixels, of 256 and of 128: an ellipse of that side fits into nothing thin
_SEEN, _KEPT = 8.0, 0.35  # grey levels from which what is thin is seen, and the share of them that is left of it
_EDGE = np.ones((11, 11), np.uint8)  # soft edges, shadows and outlines belong to what lies over the picture
_EDGE_OF_WORDS = np.ones((7, 7), np.uint8)  # will do for those of words, if too little is left


class Replaced(NamedTuple):
    """What is asked of what was replaced: `area`, its share of the picture; `ending`, the edges where it ends, times
    those near it, in both; `parallel`, how parallel these are; and `same`, the correlation of gradients within it, at
    most."""

    area: float
    ending: float
    parallel: float
    same: float


# So are 47 of 60 pairs of different prints on one scene, and none of 964 pairs of photographs and their copies by all
# kinds of retouching.
SURELY = Replaced(area=0.04, ending=1.3, parallel=0.6, same=0.2)
# At half the size so are 129 of 131 such pairs of prints, and 257 of 4,043 pairs of photographs and their copies.
PERHAPS = Replaced(area=0.03, ending=1.1, parallel=0.5, same=0.4)


def covering(first: Any, second: Any, mask: UInt8Array) -> UInt8Array | None:
    """`first`, `second` (H, W) float32, grey levels, one laid onto the other; `mask` (H, W) uint8, 1 where both are ->
    (H, W) uint8, 1 where words, something plain, or one upright rectangle, was put over one of them; None where nothing
    like that was. Whether what is left is one picture is for the caller to ask."""
    if not mask.any():
        return None
    other = _other(first, second, mask)
    box = _box(other, mask)
    other = other if box is None else box
    if not _LEAST_PIXELS <= other.sum() <= (_MOST if box is None else _MOST_OF_A_BOX) * mask.sum():
        return None
    plain = [(_flat(grey, other), _in_levels(grey[other])) for grey in (first, second)]
    plainer = _plainer(*plain) or _plainer(*plain[::-1])
    written = box is None and _written(first, second, other)
    goes_on = (plainer or written) and _goes_on(first, second, other, mask)
    if not (goes_on if box is None else _pasted(first, second, box, mask)):
        return None
    for edge in (_EDGE, _EDGE_OF_WORDS) if written else (_EDGE,):
        covered = np.asarray(cv2.dilate(other.astype(np.uint8), edge)) * mask
        if covered.sum() <= _MOST_WITH_EDGES * mask.sum():
            return covered
    return None


def _box(other: Bools, mask: UInt8Array) -> Bools | None:
    """The upright rectangle that nearly all of what is `other` fills; None where that has another shape."""
    _, things, stats, _ = cv2.connectedComponentsWithStats(_closed(other))
    thing = int(stats[1:, cv2.CC_STAT_AREA].argmax()) + 1 if len(stats) > 1 else 0
    left, top, width, height, area = stats[thing]
    held = float((other & (things == thing)).sum())
    if not thing or area < _FILLED * width * height or held < _FILLED * float(other.sum()):
        return None
    box = np.zeros_like(other)
    box[top : top + height, left : left + width] = True
    return box & (mask > 0)


def thin(grey: UInt8Array) -> tuple[float, float]:
    """(H, W) uint8, a picture -> how much of it is thin and brighter than what is around it, and how much is thin and
    darker: mean grey levels (top-hat transforms: Meyer 1979)."""
    brighter, darker = _thin_parts(grey)
    return float(brighter.mean()), float(darker.mean())


def thin_kept(first: Any, second: Any, mask: UInt8Array, brighter: bool) -> float:
    """`first`, `second` and `mask` as of `covering` -> of what is thin in the picture that has less of that, the share
    that the other has, too, in the same place, 0..1. Of two cards with other words it is little."""
    inside = mask > 0
    thin_parts = [grey - without_thin(grey, brighter) for grey in (first, second)]
    less, more = sorted(thin_parts, key=lambda part: float(np.abs(part[inside]).sum()))
    size = np.abs(less) * (inside & (np.abs(less) > _SEEN))
    near = np.where(less > 0, cv2.dilate(more, _MOVED), -cv2.erode(more, _MOVED))
    return float(size[near >= _KEPT * size].sum()) / max(float(size.sum()), 1.0) if size.any() else 1.0


def without_thin(grey: Any, brighter: bool, side: int = THIN) -> Any:
    """(H, W) uint8 or float32 -> the same without what is thin, first what is brighter than what is around it, then
    what is darker, or the reverse; thin is into what no ellipse of `side` pixels fits."""
    first, second = (cv2.MORPH_OPEN, cv2.MORPH_CLOSE) if brighter else (cv2.MORPH_CLOSE, cv2.MORPH_OPEN)
    ellipse = _ellipse(side)
    return cv2.morphologyEx(cv2.morphologyEx(grey, first, ellipse), second, ellipse)


@cache
def _ellipse(side: int) -> UInt8Array:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))


def _plainer(this: tuple[float, float], other: tuple[float, float]) -> bool:
    flat, in_levels = this
    flatter = flat >= _MOSTLY_FLAT and flat >= other[0] + _PLAINER
    return in_levels >= _OF_LEVELS and (flatter or in_levels >= other[1] + _PLAINER)


def _written(first: Any, second: Any, other: Bools) -> bool:
    """Whether one of the two has far more of what is thin there."""
    less, more = sorted(float(sum(_thin_parts(grey))[other].mean()) for grey in (first, second))
    return more >= _WRITTEN and more >= _MORE_WRITTEN * less


def _thin_parts(grey: Any) -> tuple[Any, Any]:
    """What is thin and brighter than what is around it, and what is thin and darker."""
    brighter, darker = (cv2.morphologyEx(grey, how, _ellipse(THIN)) for how in (cv2.MORPH_TOPHAT, cv2.MORPH_BLACKHAT))
    return brighter, darker


def replaced(first: Any, second: Any, mask: UInt8Array, least: Replaced = SURELY) -> bool:
    """Arguments as of `covering` -> whether the two differ in a place that ends in one edge of both, and nothing that
    one shows there is seen in the other; `least` is asked of it."""
    if not mask.any():
        return False
    other = _other(first, second, mask)
    if other.sum() < least.area * mask.sum():
        return False
    area = cv2.morphologyEx(_closed(other), cv2.MORPH_OPEN, _CLOSED)
    ends, beside = _ends_and_beside(area, mask)
    inner = cv2.erode(area, _CLOSED) > 0
    if not (ends.any() and beside.any() and inner.any()):
        return False
    slopes = [np.stack(gradients(grey, _SMOOTH)) for grey in (first, second)]
    edges = [np.sqrt(np.square(slope).sum(0)) for slope in slopes]
    ending = min(float(edge[ends].mean() / (edge[beside].mean() + _LEAST_EDGE)) for edge in edges)
    both = (slopes[0] * slopes[1]).sum(0)
    parallel, same = (_normed(each, where, edges) for each, where in ((np.abs(both), ends), (both, inner)))
    return ending >= least.ending and parallel >= least.parallel and same <= least.same


def _normed(products: Any, where: Bools, edges: list[Any]) -> float:
    first, second = (float(np.square(edge[where]).sum()) for edge in edges)
    return float(products[where].sum()) / float((first * second + 1) ** 0.5)


def _closed(other: Bools) -> Any:
    return cv2.morphologyEx(other.astype(np.uint8), cv2.MORPH_CLOSE, _CLOSED)


def _ends_and_beside(area: Any, mask: UInt8Array) -> tuple[Bools, Bools]:
    """(H, W) each: where the area ends, and what is near that."""
    ends = (cv2.dilate(area, _CLOSED) > cv2.erode(area, _MOVED)) & (mask > 0)
    return ends, (cv2.dilate(area, _NEAR) > 0) & ~ends & (mask > 0)


def _goes_on(first: Any, second: Any, other: Bools, mask: UInt8Array) -> bool:
    """Whether, where what is `other` ends, one of the two has hardly more edges than near it: thing by thing, as some
    may lie over the one and some over the other."""
    area = _closed(other)
    ends, beside = _ends_and_beside(area, mask)
    if not (ends.any() and beside.any()):
        return False
    _, things = cv2.connectedComponents(cv2.dilate(area, _CLOSED))
    of_things = []
    for grey in (first, second):
        edges = cv2.magnitude(*gradients(grey, _SMOOTH))
        of_things.append(np.bincount(things[ends], edges[ends]) / (float(edges[beside].mean()) + _LEAST_EDGE))
    return float(np.minimum(*of_things).sum()) <= _GOES_ON * float(ends.sum())


def _pasted(first: Any, second: Any, box: Bools, mask: UInt8Array) -> bool:
    """Whether one of the two has an edge where the box ends, and the other surely goes on."""
    ends, beside = _ends_and_beside(box.astype(np.uint8), mask)
    beside &= ~box  # noise within has edges everywhere
    if not (ends.any() and beside.any()):
        return False
    edges = [cv2.magnitude(*gradients(grey, _SMOOTH)) for grey in (first, second)]
    least, most = sorted(float(edge[ends].mean() / (edge[beside].mean() + _LEAST_EDGE)) for edge in edges)
    return least <= _SURELY_GOES_ON and most >= _EDGE_OF_A_BOX


def _other(first: Any, second: Any, mask: UInt8Array) -> Bools:
    """(H, W): where the two differ, whatever their brightness and contrast, by more than a shift of a pixel makes."""
    inside = mask > 0
    gain, offset = _light(first[inside][::_ONE_OF], second[inside][::_ONE_OF])
    first = gain * first + offset
    usual = quantile(np.abs(first - second)[inside], 0.5)
    beyond = np.maximum(_beyond(first, second), _beyond(second, first))
    return np.asarray(inside & (beyond > max(_OTHER[0], _OTHER[1] * usual)))


def _light(first: Any, second: Any) -> tuple[float, float]:
    """(N,), (N,) -> the gain and offset that make most of the first the second; what differs has no say in them."""
    gain = float(second.std()) / max(float(first.std()), 1.0)
    offset = float(second.mean()) - gain * float(first.mean())
    before = None
    for _ in range(_FIT_STEPS):
        left = np.abs(second - gain * first - offset)
        alike = left < max(4.0, 2.5 * quantile(left, 0.5))
        if before is not None and np.array_equal(alike, before):
            break  # no step would change anything any more
        before = alike
        x, y = first[alike], second[alike]
        variance = x.var()
        if variance < 1:
            break
        gain = min(max(float(((x - x.mean()) * (y - y.mean())).mean() / variance), 1 / 3), 3.0)
        offset = float(y.mean()) - gain * float(x.mean())
    return gain, offset


def _beyond(grey: Any, other: Any) -> Any:
    """By how much each pixel is brighter or darker than all near its place in the other."""
    return np.maximum(grey - cv2.dilate(other, _MOVED), cv2.erode(other, _MOVED) - grey)


def _flat(grey: Any, where: Bools) -> float:
    """The share of these pixels around which it hardly varies; those elsewhere do not count."""
    weight = where.astype(np.float32)
    count = cv2.blur(weight, _AROUND) + 1e-6
    mean = cv2.blur(grey * weight, _AROUND) / count
    variance = cv2.blur(grey * grey * weight, _AROUND) / count - mean * mean
    return float((variance[where] < _FLAT**2).mean())


def _in_levels(values: Any) -> float:
    """(N,) -> the share of the pixels that have one of the few most frequent grey levels."""
    counts = np.bincount(np.clip(values, 0, 255).astype(np.intp), minlength=256)
    share = 0
    for _ in range(_LEVELS):
        at = max(0, int(np.convolve(counts, np.ones(_LEVEL), "same").argmax()) - _LEVEL // 2)
        share += int(counts[at : at + _LEVEL].sum())
        counts[at : at + _LEVEL] = 0
    return share / max(len(values), 1)
