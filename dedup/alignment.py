"""Two thumbnails laid onto each other to a fraction of a pixel: the last of the cheap evidence.

    aligned_likeness(greys, i, j, maps, least) -> how well the details agree where the two pictures overlap, and where
                                                  one lies in the other by that

`thumbnails.likeness` says where one picture lies in the other, to the nearest of some 200 windows, and correlates both
at 16x16. Copies agree far better than that once they are laid on each other exactly (ECC, Evangelidis and Psarakis
2008); other pictures that look alike from afar do not. It costs a fiftieth of reading both images and comparing them.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dedup.geometry import band_pass, determinant, stretches
from dedup.records import THUMBNAIL_SIDE

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.integer[Any]]

_DETAILS = (0.6, 2.5)  # sigmas of the difference of Gaussians that is correlated, in pixels of a thumbnail,
_OUTLINES = (1.0, 4.0)  # and of the one by which the place is found: details fit nowhere but at the place itself
_SMOOTHED = 3  # pixels
_BANDS_HELD = 4096  # pictures, as they are or reduced, at 8 kB each
_REDUCED = 0.8  # times as large: a picture that is brought to less is smoothed before
_STEPS, _GAIN = (3, 5), 1e-3
# Of what is needed: below the first no step is taken, below the second no more than the first ones. Of 18,800 pairs of
# CIFAR-10, of which 1,800 get there, 3,800 take no step, and 2,600 more than the first ones. Of 3,175 pairs of copies
# of photographs, potatoes and clothes that are accepted none is lost, of 509 of CIFAR-10 one.
_HOPELESS, _FAR = 0.3, 0.9
# A place is left for one where details agree by so much more: of little detail another is no better. Of 50 crops to
# half of 64 pixels, looked for by `thumbnails.WINDOWS`, 32 were found so, and 30 by any better place.
_WORTH_MOVING = 0.1
_LEAST_OVERLAP = 60  # pixels
_EVERYWHERE = np.ones((THUMBNAIL_SIDE, THUMBNAIL_SIDE), np.uint8)
_NEIGHBORS = np.ones((3, 3), np.uint8)
_SQUEEZED = 2.2  # retouching stretches one side by less,
_RESCALED = (0.3, 2.0)  # and what is moved further than this from the first place is not found but lost


def aligned_likeness(greys: UInt8Array, i: Ints, j: Ints, maps: Floats, least: Floats) -> tuple[Singles, Floats]:
    """`greys` (M, 32, 32) uint8; `i`, `j` (N,) rows of it; `maps` (N, 2, 3): where the point (x, y) of picture i, in
    0..1, lies in picture j, about -> (N,) float32, -1..1, higher is closer: the correlation of the details of both over
    their overlap, by the given map or the best one near it; -1 where they hardly overlap; and (N, 2, 3): the given map,
    or the better one where details agree far more by it. It is looked for as far as the `least` (N,) likeness that is
    needed may be reached.

    What is found of a pair depends on its two thumbnails, its map and its `least` alone.
    """
    used, place = np.unique(np.concatenate([i, j]), return_inverse=True)

    @functools.lru_cache(maxsize=_BANDS_HELD)
    def bands(picture: int, reduced: float) -> tuple[Any, Any]:
        grey = greys[used[picture]].astype(np.float32)
        return _bands(cv2.GaussianBlur(grey, (0, 0), reduced) if reduced else grey)

    found, best = np.empty(len(i), np.float32), np.empty((len(i), 2, 3))
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pairs are what is shared out among cores, by the caller
    try:
        for row, (a, b) in enumerate(zip(place[: len(i)].tolist(), place[len(i) :].tolist(), strict=True)):
            affine = _in_pixels(maps[row])
            enlarges = abs(determinant(affine)) > 1
            if enlarges:  # the finer picture is reduced to the coarser one
                a, b, affine = b, a, _inverse(affine)
            scale = abs(determinant(affine)) ** 0.5
            # Rounded, so that what is held is the same for all maps of one scale.
            reduced = round(0.5 * (1 / scale**2 - 1) ** 0.5, 2) if scale < _REDUCED else 0.0
            found[row], back = _best_likeness(bands(a, reduced), bands(b, 0.0), affine, least[row])
            best[row] = _relative(back if enlarges else _inverse(back))
    finally:
        cv2.setNumThreads(threads)
    return found, best


def _in_pixels(relative: Floats) -> Floats:
    affine = np.array(relative, np.float64)
    affine[:, 2] = relative[:, :2] @ [0.5, 0.5] + relative[:, 2] * THUMBNAIL_SIDE - 0.5  # pixel centres lie inside
    return affine


def _inverse(affine: Floats) -> Floats:
    return np.asarray(cv2.invertAffineTransform(affine), np.float64)


def _relative(affine: Floats) -> Floats:
    """What `_in_pixels` makes such a map of."""
    relative = np.array(affine, np.float64)
    relative[:, 2] = (affine[:, 2] + 0.5 - affine[:, :2] @ [0.5, 0.5]) / THUMBNAIL_SIDE
    return relative


def _bands(grey: Any) -> tuple[Any, Any]:
    """Details and outlines of a picture."""
    return band_pass(grey, _DETAILS), band_pass(grey, _OUTLINES)


def _best_likeness(
    finer: tuple[Any, Any], coarser: tuple[Any, Any], affine: Floats, least: float
) -> tuple[float, Floats]:
    """Of two pictures' bands, and the map from the coarser picture, on whose grid they are compared, to the finer one:
    `affine`, which leads from the finer to the coarser, turned around, or a far better one; `least` is what is
    needed."""
    start = _inverse(affine)
    first = best = _likeness(finer[0], coarser[0], start)
    where = place = start
    for steps, enough in zip(_STEPS, (_HOPELESS, _FAR), strict=True):
        if best < enough * least:
            break
        better = _nearby(finer[1], coarser[1], place, start, steps)
        if better is None:
            break
        found, place = _likeness(finer[0], coarser[0], better), better
        if found > best:
            best, where = found, better if found >= first + _WORTH_MOVING else start
    return best, where


def _nearby(finer: Any, coarser: Any, place: Floats, start: Floats, steps: int) -> Floats | None:
    """The map that so many steps from `place` lead to, by which the outlines correlate best; None where it is none that
    retouching makes of `start`."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, steps, _GAIN)
    try:
        _, found = cv2.findTransformECC(
            coarser, finer, place.astype(np.float32), cv2.MOTION_AFFINE, stop, None, _SMOOTHED
        )
    except cv2.error:  # it does not converge where nothing agrees
        return None
    before, after = stretches(start), stretches(found)
    plausible = (
        _RESCALED[0] * before[1] < after[1] and after[0] < _RESCALED[1] * before[0] and after[0] < _SQUEEZED * after[1]
    )
    return np.asarray(found, np.float64) if plausible else None


def _likeness(details: Any, coarser: Any, affine: Floats) -> float:
    size, back = coarser.shape[::-1], cv2.WARP_INVERSE_MAP
    mask = cv2.warpAffine(_EVERYWHERE, affine, size, flags=cv2.INTER_NEAREST | back)
    inside = cv2.erode(mask, _NEIGHBORS, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    if cv2.countNonZero(inside) < _LEAST_OVERLAP:
        return -1.0
    moved = cv2.warpAffine(details, affine, size, flags=cv2.INTER_LINEAR | back)
    # Sums of squares, which OpenCV takes in float64: a third of the time of sums over masked arrays.
    first, second = (cv2.norm(each, cv2.NORM_L2SQR, inside) for each in (moved, coarser))
    apart = cv2.norm(moved, coarser, cv2.NORM_L2SQR, inside)
    return float((first + second - apart) / (2 * (first * second + 1) ** 0.5))
