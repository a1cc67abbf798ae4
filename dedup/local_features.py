"""A picture's local features, and the affine map by which most of two pictures' features agree.

    image ──picture──▶ Picture ─┐
                                ├─align─▶ how many matches one map explains, and the map
    image ──picture──▶ Picture ─┘

Features: SIFT (Lowe 2004) as RootSIFT (Arandjelovic and Zisserman 2012). Alignment: every single match proposes a
similarity, the best are refined to an affine map by least squares (Philbin et al. 2007); nothing is drawn at random.
Each result is a function of the two pictures and their order alone: descriptors are whole numbers, so that their
products are exact in any order of summing.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dedup.geometry import quantile_of_levels, stretches

Floats = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

SIDE = 256  # the longer side, in pixels, at which pictures are compared
GLANCE_SIDE = 128  # that of a first look, which costs a third and settles most pairs

_FEATURES = 400
_RATIO = 0.8  # Lowe's: best against second-best distance
_FITTED = 4  # matches from which an affine map is fitted by least squares
_TOLERANCES = (0.035, 0.02, 0.012, 0.012)  # of inliers, as shares of the side, one round of fitting after the other


class Features(NamedTuple):
    """The local features of a picture, the strongest first: of K features `place` (K, 2) x and y in the picture,
    `size` (K,), `angle` (K,) in radians, `descriptor` (K, 128) uint8, each of length about 255."""

    place: Floats
    size: Floats
    angle: Floats
    descriptor: UInt8Array


class Picture:
    """What is kept of one image while its pairs are compared, about 0.1 MB at SIDE: `grey` (H, W) uint8, its longer
    side that which `picture` was asked for, and its local features, looked for when first asked for."""

    def __init__(self, grey: UInt8Array) -> None:
        self.grey = grey
        self._features: Features | None = None

    @property
    def side(self) -> int:
        """The longer side, in pixels."""
        return int(max(self.grey.shape))

    @property
    def features(self) -> Features:
        if self._features is None:  # no cached_property: up to Python 3.11 that makes threads wait for each other
            self._features = _features(self.grey)
        return self._features


def picture(rgb: UInt8Array, side: int = SIDE) -> Picture:
    """(H, W, 3) or (H, W) uint8, the picture in any size -> what `compare` needs of it, at `side` pixels (SIDE or
    GLANCE_SIDE). Two pictures that are compared must have been made for one side."""
    return Picture(grey_at(rgb, side))


def grey_at(rgb: UInt8Array, side: int) -> UInt8Array:
    """(H, W, 3) or (H, W) uint8 -> (H', W') uint8 grey levels, the longer side `side` pixels."""
    height, width = rgb.shape[:2]
    scale = side / max(height, width)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) if rgb.ndim == 3 else rgb
    target = (max(16, round(width * scale)), max(16, round(height * scale)))
    return np.asarray(cv2.resize(grey, target, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))


def lost_at_a_glance(grey: UInt8Array) -> float:
    """Which share of the contrast of a picture, (H, W) at SIDE, is gone at GLANCE_SIDE, 0..1: of printed words more
    than half, of most photographs less than a third."""
    height, width = grey.shape
    scale = GLANCE_SIDE / SIDE
    reduced = cv2.resize(grey, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    left = cv2.resize(reduced, (width, height), interpolation=cv2.INTER_CUBIC)
    lost = cv2.subtract(grey, left, dtype=cv2.CV_32F)
    return _contrast(lost) / max(_contrast(grey), 1.0)


def _contrast(pixels: npt.NDArray[Any]) -> float:
    return float(cv2.meanStdDev(pixels)[1][0, 0])


def _features(grey: UInt8Array) -> Features:
    low, high = (quantile_of_levels(grey, share) for share in (0.01, 0.99))
    if high - low < 120:  # a faded copy keeps its features
        grey = np.clip((grey - low) * (120 / max(high - low, 8.0)), 0, 255).astype(np.uint8)
    # The detector is made anew each time, a matter of microseconds: one shared by several threads is not safe.
    detector = cv2.SIFT.create(nfeatures=_FEATURES, contrastThreshold=0.02, edgeThreshold=12)
    points, raw = detector.detectAndCompute(grey, None)
    if raw is None or len(points) == 0:
        return Features(np.zeros((0, 2)), np.zeros(0), np.zeros(0), np.zeros((0, 128), np.uint8))
    keep = np.argsort([-point.response for point in points], kind="stable")[:_FEATURES]
    points, raw = [points[index] for index in keep], raw[keep]
    root = np.sqrt(raw / np.maximum(raw.sum(1, keepdims=True), 1e-6))
    return Features(
        np.array([point.pt for point in points], np.float64),
        np.array([point.size for point in points], np.float64),
        np.deg2rad(np.array([point.angle for point in points], np.float64)),
        np.rint(root * 255).astype(np.uint8),
    )


def _mirrored_bins() -> npt.NDArray[np.intp]:
    """Where each of the 128 bins of a SIFT descriptor goes when the picture is mirrored: rows of cells change places
    across the feature's own axis, and so do the eight directions."""
    bins = np.arange(128).reshape(4, 4, 8)
    return np.stack([bins[::-1, :, -direction % 8] for direction in range(8)], axis=2).ravel()


MIRRORED = _mirrored_bins()


def _matches(a: UInt8Array, b: UInt8Array) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Mutual nearest neighbours that pass the ratio test, as indices into a and b."""
    none = np.zeros(0, np.intp)
    if len(a) < 2 or len(b) < 2:
        return none, none
    likeness = a.astype(np.float32) @ b.T.astype(np.float32)  # whole numbers below 2**24: exact
    rows = np.arange(len(a))
    nearest = likeness.argmax(1)
    backward = likeness.argmax(0)
    best = likeness[rows, nearest] / 255.0**2
    likeness[rows, nearest] = -1
    second = likeness.max(1) / 255.0**2
    near = np.sqrt(np.maximum(2 - 2 * best, 0))
    next_near = np.sqrt(np.maximum(2 - 2 * second, 1e-9))
    keep = (near < _RATIO * next_near) & (backward[nearest] == rows) & (near < 0.75)
    return rows[keep], nearest[keep]


def align(a: Picture, b: Picture, mirror: bool, more_than: int = 0) -> tuple[int, Floats | None]:
    """The affine map (2, 3) from a to b that explains most matches, and how many; (0, None) without any, or if no more
    match."""
    ours, theirs = a.features, b.features
    i, j = _matches(ours.descriptor[:, MIRRORED] if mirror else ours.descriptor, theirs.descriptor)
    if len(i) <= more_than:
        return 0, None
    flip = np.diag([-1.0, 1.0]) if mirror else np.eye(2)
    source, target = ours.place[i] @ flip, theirs.place[j]
    turn = theirs.angle[j] - (np.pi - ours.angle[i] if mirror else ours.angle[i])
    scale = theirs.size[j] / ours.size[i]
    linear = np.empty((len(i), 2, 2))
    linear[:, 0, 0] = linear[:, 1, 1] = scale * np.cos(turn)
    linear[:, 1, 0] = scale * np.sin(turn)
    linear[:, 0, 1] = -linear[:, 1, 0]
    shift = target - np.einsum("hij,hj->hi", linear, source)
    off = linear @ source.T + (shift[:, :, None] - target.T)  # (proposals, 2, matches)
    distance = np.sqrt(off[:, 0] ** 2 + off[:, 1] ** 2)
    near = distance < 0.05 * b.side
    best: tuple[int, Floats | None] = (0, None)
    tried: set[bytes] = set()
    for proposal in np.argsort(-near.sum(1), kind="stable")[:6]:
        if near[proposal].tobytes() in tried:
            continue
        tried.add(near[proposal].tobytes())
        affine = _affine(linear[proposal], shift[proposal])
        if near[proposal].sum() >= _FITTED:
            affine, inlier = _refine(affine, near[proposal], source, target, b.side)
        else:
            inlier = distance[proposal] < _TOLERANCES[-1] * b.side
        if inlier.sum() <= best[0]:
            continue
        count = min(_distinct(source[inlier]), _distinct(target[inlier])) if _plausible(affine) else 0
        if count > best[0]:
            best = (count, _affine(affine[:, :2] @ flip, affine[:, 2]))
    return best


def _affine(linear: Floats, shift: Floats) -> Floats:
    affine = np.empty((2, 3))
    affine[:, :2], affine[:, 2] = linear, shift
    return affine


def _refine(
    affine: Floats, inlier: npt.NDArray[np.bool_], source: Floats, target: Floats, side: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Least squares over the inliers, again and again while the tolerance shrinks to 1.2 % of `side`."""
    for tolerance in _TOLERANCES:
        if inlier.sum() >= _FITTED:
            fitted = _least_squares(source[inlier], target[inlier])
            affine = fitted if fitted is not None and _plausible(fitted) else affine
        off = source @ affine[:, :2].T + affine[:, 2] - target
        inlier = off[:, 0] ** 2 + off[:, 1] ** 2 < (tolerance * side) ** 2
    return affine, inlier


def _least_squares(source: Floats, target: Floats) -> Floats | None:
    """The affine map (2, 3) that takes (N, 2) points nearest to (N, 2) others; None where they lie on one line. In
    closed form, as it is asked for dozens of times for each pair."""
    middle, onto = source.mean(0), target.mean(0)
    points = source - middle
    (xx, xy), (_, yy) = (points.T @ points).tolist()
    determinant = xx * yy - xy * xy
    if determinant <= 1e-9 * (xx + yy) ** 2:
        return None
    affine = np.empty((2, 3))
    affine[:, :2] = (target - onto).T @ points @ np.array([[yy, -xy], [-xy, xx]]) / determinant
    affine[:, 2] = onto - affine[:, :2] @ middle
    return affine


def _plausible(affine: Floats) -> bool:
    """Retouching scales by less than 8 and squeezes by less than 2.2."""
    large, little = stretches(affine)
    return little > 0.12 and large < 8 and large < 2.2 * little


def _distinct(places: Floats) -> int:
    """Features on one spot, at several scales or angles, are one piece of evidence."""
    cells = np.rint(places / 3).astype(np.int64)
    return len(np.unique(cells[:, 0] * (1 << 20) + cells[:, 1]))
