"""Two thumbnails laid onto each other to a fraction of a pixel: the last of the cheap evidence.

    aligned_likeness(greys, i, j, maps) -> how well the details agree where the two pictures overlap

`thumbnails.likeness` says where one picture lies in the other, to the nearest of some 200 windows, and correlates both
at 16x16. Copies agree far better than that once they are laid on each other exactly (ECC, Evangelidis and Psarakis
2008); other pictures that look alike from afar do not. It costs a fiftieth of reading both images and comparing them.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dedup.records import THUMBNAIL_SIDE

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.integer[Any]]

_DETAILS = (0.6, 2.5)  # sigmas of the difference of Gaussians that is correlated, in pixels of a thumbnail,
_OUTLINES = (1.0, 4.0)  # and of the one by which the place is found: details fit nowhere but at the place itself
_SMOOTHED = 3  # pixels
_STEPS, _GAIN = 8, 1e-3
_LEAST_OVERLAP = 60  # pixels
_SQUEEZED = 2.2  # retouching stretches one side by less,
_RESCALED = (0.3, 2.0)  # and what is moved further than this from the first place is not found but lost


def aligned_likeness(greys: UInt8Array, i: Ints, j: Ints, maps: Floats) -> Singles:
    """`greys` (M, 32, 32) uint8; `i`, `j` (N,) rows of it; `maps` (N, 2, 3): where the point (x, y) of picture i, in
    0..1, lies in picture j, about -> (N,) float32, -1..1, higher is closer: the correlation of the details of both over
    their overlap, by the given map or the best one near it; -1 where they hardly overlap.

    A pair's likeness depends on its two thumbnails and its map alone.
    """
    used, place = np.unique(np.concatenate([i, j]), return_inverse=True)
    pictures = [grey.astype(np.float32) for grey in greys[used]]
    found = np.empty(len(i), np.float32)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pairs are what is shared out among cores, by the caller
    try:
        for row, (a, b) in enumerate(zip(place[: len(i)], place[len(i) :], strict=True)):
            affine = _in_pixels(maps[row])
            if abs(np.linalg.det(affine[:, :2])) > 1:  # the finer picture is reduced to the coarser one
                a, b, affine = b, a, cv2.invertAffineTransform(affine)
            found[row] = _best_likeness(pictures[a], pictures[b], affine)
    finally:
        cv2.setNumThreads(threads)
    return found


def _in_pixels(relative: Floats) -> Floats:
    affine = np.array(relative, np.float64)
    affine[:, 2] = relative[:, :2] @ [0.5, 0.5] + relative[:, 2] * THUMBNAIL_SIDE - 0.5  # pixel centres lie inside
    return affine


def _band(grey: Any, sigmas: tuple[float, float]) -> Any:
    return cv2.GaussianBlur(grey, (0, 0), sigmas[0]) - cv2.GaussianBlur(grey, (0, 0), sigmas[1])


def _best_likeness(finer: Any, coarser: Any, affine: Floats) -> float:
    """`affine`: from the finer picture to the coarser one."""
    scale = abs(float(np.linalg.det(affine[:, :2]))) ** 0.5
    if scale < 0.8:
        finer = cv2.GaussianBlur(finer, (0, 0), 0.5 * (1 / scale**2 - 1) ** 0.5)
    first, second = _band(finer, _DETAILS), _band(coarser, _DETAILS)
    start = cv2.invertAffineTransform(affine)  # from the coarser picture, on whose grid they are compared
    likeness = _likeness(first, second, start)
    better = _nearby(_band(finer, _OUTLINES), _band(coarser, _OUTLINES), start)
    return likeness if better is None else max(likeness, _likeness(first, second, better))


def _nearby(finer: Any, coarser: Any, start: Floats) -> Floats | None:
    """The map near `start` by which the outlines correlate most; None where there is none that retouching makes."""
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _STEPS, _GAIN)
    try:
        _, found = cv2.findTransformECC(
            coarser, finer, start.astype(np.float32), cv2.MOTION_AFFINE, stop, None, _SMOOTHED
        )
    except cv2.error:  # it does not converge where nothing agrees
        return None
    before, after = (np.linalg.svd(affine[:, :2], compute_uv=False) for affine in (start, found))
    least, most = _RESCALED[0] * before[1], _RESCALED[1] * before[0]
    plausible = after[1] > least and after[0] < most and after[0] < _SQUEEZED * after[1]
    return np.asarray(found, np.float64) if plausible else None


def _likeness(details: Any, coarser: Any, affine: Floats) -> float:
    size, back = coarser.shape[::-1], cv2.WARP_INVERSE_MAP
    mask = cv2.warpAffine(np.ones(details.shape, np.uint8), affine, size, flags=cv2.INTER_NEAREST | back)
    inside = cv2.erode(mask, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    if inside.sum() < _LEAST_OVERLAP:
        return -1.0
    first = cv2.warpAffine(details, affine, size, flags=cv2.INTER_LINEAR | back)[inside].astype(np.float64)
    second = coarser[inside].astype(np.float64)
    return float((first * second).sum() / np.sqrt((first**2).sum() * (second**2).sum() + 1))
