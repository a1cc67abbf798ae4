"""A picture that lies on a page: a post, a story, a screenshot, a slide, another picture behind it.

    image ──picture_on_page──▶ the picture inside

Unlike the edges that `borders` takes off, what is around the picture may be anything: words, a gradient, the picture
itself, blurred. What gives the picture away is the seam all around it: a step in colour, on a straight line, along most
of each side. Windows, doors and books have such seams, too, so what is found only proposes: its hash is looked for
among those of all pictures, and verification decides.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dedup.borders import picture_box, without_edges

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.intp]
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

LOOK_SIDE = 256  # seams are looked for at so many pixels of the longer side
MIN_SIDE = 64  # smaller pictures have none
_NARROW = 32  # pixels of LOOK_SIDE: of narrower images seams are too short, and of narrower pictures hashes say nothing
_STEP = 7  # levels of one channel, from pixel to pixel
_RIDGE = 5  # pixels across a seam, of which its step is the greatest
_BESIDE, _NEAR = 17, 7  # pixels across it: seams are rarer there, but for the nearest
_TEXTURE = 0.5  # times their share there is taken off that of the seam, as steps are everywhere in grass
_RUN = 0.6  # of a quarter of a side, how much a line has to have of a seam to count as one
_LINES = 8  # of each direction, the best
_APART = 5  # pixels
# The share of each side that is a seam, at least. Of 300 photographs 46 have a picture inside by this, and 108 by 0.45;
# of 165 stories, screenshots and photographs that lie on other ones the hash of 141 is that of the picture itself,
# within 6 of 64 bits, and of 135 by 0.6.
_LEAST = 0.55
_SIDES = 0.08  # of that share, by which a seam on one more side is worth more
_NARROWEST, _LOWEST = 0.3, 0.2  # shares of the width and of the height
_SMALLEST, _LARGEST = 0.1, 0.92  # shares of the area
_WITHIN = 0.9  # share of the smaller of two boxes in the other; a picture of another shape may have bars at its sides


def picture_on_page(image: Image.Image) -> Image.Image | None:
    """The picture that an RGB image shows on a page, without the page's margin; None where it shows none."""
    if min(image.size) < MIN_SIDE:
        return None
    scale = min(1.0, LOOK_SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    box = find_box(np.asarray(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)))
    if box is None:
        return None
    inside = without_edges(image.crop(_exactly(image, box, size)))
    return inside if min(inside.size) >= _NARROW else None


def _exactly(image: Image.Image, box: Box, size: tuple[int, int]) -> Box:
    """The box in an image in which it was found at `size` (width, height): where, within a pixel of that size, the
    steps along each side are greatest."""
    across, down = image.width / size[0], image.height / size[1]
    left, right = round(box[0] * across), round(box[2] * across)
    top, bottom = round(box[1] * down), round(box[3] * down)

    def upright(first: int, last: int) -> UInt8Array:
        return np.asarray(image.crop((first, top, last, bottom)))

    def level(first: int, last: int) -> UInt8Array:
        return np.asarray(image.crop((left, first, right, last)).transpose(Image.Transpose.TRANSPOSE))

    exactly = (
        _seam_near(left, across, image.width, upright),
        _seam_near(top, down, image.height, level),
        _seam_near(right, across, image.width, upright),
        _seam_near(bottom, down, image.height, level),
    )
    # Of strips whose short side is a few pixels of that size two seams may be one.
    shrunk = 2 * (exactly[2] - exactly[0]) < right - left or 2 * (exactly[3] - exactly[1]) < bottom - top
    return (left, top, right, bottom) if shrunk else exactly


def _seam_near(place: int, reach: float, length: int, strip: Callable[[int, int], UInt8Array]) -> int:
    """Before which of `length` lines, at most `reach` from `place`, the steps are greatest on average; the ends stay
    where they are. `strip(first, last)` gives lines (N, last - first, 3)."""
    if place in (0, length):
        return place
    first, last = max(1, place - math.ceil(reach)), min(length - 1, place + math.ceil(reach))
    near = strip(first - 1, last + 1).astype(np.int16)
    return first + int(np.abs(np.diff(near, axis=1)).max(2).mean(0).argmax())


def find_box(pixels: UInt8Array) -> Box | None:
    """(H, W, 3) or (H, W) uint8, at most `LOOK_SIDE` pixels -> what lies between seams on at least two sides that face
    each other, and is likeliest to be a picture; None where nothing is."""
    if min(pixels.shape[:2]) < _NARROW:
        return None
    channels = cv2.split(pixels)
    x, y = _Lines.of(_steps(channels)), _Lines.of(_steps([channel.T for channel in channels]))
    if len(x.at) < 4 and len(y.at) < 4:  # the outermost two are the image's own
        return None
    width, height = x.at[-1], y.at[-1]
    across, down = _spans(x.at, _NARROWEST), _spans(y.at, _LOWEST)
    column, row = (each.ravel() for each in np.mgrid[: len(across), : len(down)])
    (left, right), (top, bottom) = across[column].T, down[row].T
    area = (x.at[right] - x.at[left]) * (y.at[bottom] - y.at[top]) / (width * height)
    inner = np.stack([left > 0, right < len(x.at) - 1, top > 0, bottom < len(y.at) - 1])
    possible = ((inner[0] & inner[1]) | (inner[2] & inner[3])) & (area >= _SMALLEST) & (area <= _LARGEST)
    share = np.stack(
        [
            x.share(left, y.at[top], y.at[bottom]),
            x.share(right, y.at[top], y.at[bottom]),
            y.share(top, x.at[left], x.at[right]),
            y.share(bottom, x.at[left], x.at[right]),
        ]
    )
    possible &= (share >= _LEAST).all(0)
    if not possible.any():
        return None
    sides = inner.sum(0)
    worth = (share * inner).sum(0) / np.maximum(sides, 1) + _SIDES * sides
    best = int(np.where(possible, worth, -1).argmax())
    return int(x.at[left[best]]), int(y.at[top[best]]), int(x.at[right[best]]), int(y.at[bottom[best]])


def boxes_on_one_page(ours: UInt8Array, theirs: UInt8Array) -> list[Box]:
    """Of two images, (H, W) uint8 as `find_box` takes them, that are laid on each other: the boxes of the picture on
    either, with its margin and without, if both have one, in the same place; else none."""
    first, second = find_box(ours), find_box(theirs)
    if first is None or second is None:
        return []
    shared = max(0, min(first[2], second[2]) - max(first[0], second[0]))
    shared *= max(0, min(first[3], second[3]) - max(first[1], second[1]))
    if shared < _WITHIN * min((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)):
        return []
    return sorted({first, second, _without_margin(ours, first), _without_margin(theirs, second)})


def _without_margin(grey: UInt8Array, box: Box) -> Box:
    left, top, right, bottom = box
    inner = picture_box(cv2.cvtColor(grey[top:bottom, left:right], cv2.COLOR_GRAY2RGB))
    return left + inner[0], top + inner[1], left + inner[2], top + inner[3]


def _steps(channels: Any) -> UInt8Array:
    """Of (H, W) channels the greatest step from each pixel to the next of its line, (H, W - 1)."""
    steps = [np.ascontiguousarray(cv2.absdiff(channel[:, 1:], channel[:, :-1])) for channel in channels]
    return np.asarray(functools.reduce(cv2.max, steps))


def seams(channels: Any) -> Any:
    """Of (H, W) channels how much each step from a pixel to the next of its line looks like one of an upright seam,
    (H, W - 1) float32, at most 1."""
    return _seams(_steps(channels))


def _seams(step: UInt8Array) -> Any:
    """How much each of these steps looks like one of an upright seam, (H, W - 1) float32, at most 1."""
    ridge = cv2.compare(step, cv2.dilate(step, np.ones((1, _RIDGE), np.uint8)), cv2.CMP_EQ)
    ridge = cv2.bitwise_and(ridge, cv2.compare(step, _STEP, cv2.CMP_GE))
    ridge = cv2.dilate(ridge, np.ones((1, 3), np.uint8))  # where an image was reduced, a seam may lie on either side
    beside, near = (
        cv2.boxFilter(ridge, cv2.CV_32F, (across, 1), normalize=False, borderType=cv2.BORDER_REFLECT)
        for across in (_BESIDE, _NEAR)
    )
    texture = cv2.subtract(beside, near)
    return cv2.addWeighted(ridge.astype(np.float32), 1 / 255, texture, -_TEXTURE / (255 * (_BESIDE - _NEAR)), 0)


class _Lines(NamedTuple):
    """Upright lines in an image, from left to right: `at` (N,), how many pixels lie left of each, the image's own edges
    included; `summed` (H + 1, N), how much of a seam each has down to a row."""

    at: Ints
    summed: Floats

    @classmethod
    def of(cls, step: UInt8Array) -> _Lines:
        seams = _seams(step)
        height, places = seams.shape
        length = height // 4 | 1
        run = cv2.boxFilter(seams, -1, (1, length), borderType=cv2.BORDER_CONSTANT).max(0)
        highest = cv2.dilate(run[None], np.ones((1, _APART), np.uint8))[0]
        found = np.flatnonzero((run >= _RUN) & (run == highest))
        found = np.sort(found[np.argsort(-run[found], kind="stable")[:_LINES]])
        summed = np.zeros((height + 1, len(found) + 2))
        summed[:, [0, -1]] = np.arange(height + 1)[:, None]  # the edges of the image need no seam
        np.cumsum(seams[:, found], axis=0, out=summed[1:, 1:-1])
        return cls(np.concatenate([[0], found + 1, [places + 1]]), summed)

    def share(self, line: Ints, begin: Ints, end: Ints) -> Floats:
        """(N,): of each line, from its pixel `begin` to `end`, the share that is a seam."""
        return np.asarray((self.summed[end, line] - self.summed[begin, line]) / (end - begin))


def _spans(at: Ints, least: float) -> Ints:
    """(N, 2): the pairs of lines that lie so much of the whole apart."""
    return np.argwhere(at[None] - at[:, None] >= least * at[-1])
