"""Do two pictures show the same pixels? The costly evidence: local features, then the pixels after alignment.

    Picture ─┐
             ├─compare─▶ Evidence
    Picture ─┘

`compare` looks for an affine map (mirrored or not) that lays one picture onto the other, then asks the pixels: both are
band-passed, so that light, contrast and colour drop out, and correlated in 8x8 tiles over the part that they share. A
copy agrees in nearly all tiles that hold texture; pictures that share a logo, a frame or an outline in a few.

The map is found by local features (`local_features`); ECC (Evangelidis and Psarakis 2008) then moves it to subpixel
accuracy, outside of crowds by a homography.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dedup.disagreement import UNCONTESTED, but_for_noise, contested, contradiction, equally_sharp, unshared
from dedup.geometry import band_pass, determinant
from dedup.local_features import Picture, align
from dedup.overlays import Replaced, covering, replaced, thin_kept, without_thin
from dedup.pages import boxes_on_one_page
from dedup.tiles import BAND, Fixed, Tiles, compared, fixed_part, lopsided
from dedup.tones import Curve, curve

Floats = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]


ENOUGH_INLIERS = 20  # with so many, an alignment needs no rival
_FEWEST_INLIERS = 3
_MIN_COVERED = 0.35  # of either picture: an overlap of less is a part that two pictures share, a bar or a logo
_NO_LIGHTER = 0.9  # times the weight of another alignment that contests more
# A homography lays two moments of a thing that turns onto each other, too: of 110 pairs of potatoes that only it lets
# agree none has so many inliers at SIDE, and 24 of 25 pairs of copies of photographs that were seen from the side have.
_FLAT = 50
_STILL_COUNTED = 40  # of matches without what is thin: more may be those of words and lines
_NEARBY = {False: 0.08, True: 0.15}  # of the side: so far at most ECC moves a corner, seen from in front or not
_ALIKE = 0.2  # mean correlation of tiles below which nothing more is asked
_FEW_ON_PAGE = 4  # tiles
_SEAM = 3  # pixels along the seams of a picture on a page that are those of the page


class Laid(NamedTuple):
    """One picture laid onto the other, the other, both (H, W) float32, and where both are, (H, W) uint8; what the
    tiles of the other are compared by; whether nearly all tiles agree as they are; whether it is the second of the
    two that is laid onto the first; the map of the first onto the second, (2, 3), in units of their sides; and that of
    pixels here onto the picture that stays, in units of its sides."""

    ours: Any
    theirs: Any
    mask: UInt8Array
    fixed: Fixed
    fits: bool
    reversed: bool
    onto: Floats
    place: Floats

    def moved(self, ours: Any, better: Floats) -> Laid:
        """With the picture laid anew, `ours`, by a map (3, 3) of pixels here onto those that were laid."""
        if np.any(better[2, :2]):
            return self._replace(ours=ours)  # of what is seen from the side no affine map says more
        place = _square(self.place)
        step = place @ np.linalg.inv(better) @ np.linalg.inv(place)
        onto = _square(self.onto) @ np.linalg.inv(step) if self.reversed else step @ _square(self.onto)
        return self._replace(ours=ours, onto=onto[:2])


@dataclass(frozen=True)
class Evidence:
    """How well two pictures agree once one is laid onto the other; higher is closer in every field.

    `inliers`: feature matches at distinct places that one affine map explains. `agreeing`: share of the textured tiles
    whose correlation exceeds 0.6; `correlation`: mean over the textured tiles, -1..1. `tiles`: textured tiles, 0..64.
    `pixels`: correlation over the whole overlap, -1..1. `covered`: share of the picture of which more lies in
    the overlap; `covered_other`: that of the other. What is asked of pictures whose tiles agree, and else 0, lower is
    closer: `contested` and `contested_faint`, as `disagreement` says them; `grain`: whether more would be contested,
    but for what is gone at half the size.
    """

    inliers: int
    agreeing: float
    correlation: float
    pixels: float
    tiles: int
    covered: float
    covered_other: float
    contested: float = 0.0
    contested_faint: float = 0.0
    grain: bool = False
    laid: Laid | None = field(default=None, repr=False, compare=False)

    @cached_property
    def contradiction(self) -> tuple[float, float]:
        """`disagreement.contradiction` of the two as they are laid; 0 where hardly a tile agrees."""
        return contradiction(*self.laid[:3]) if self.laid and self.correlation >= _ALIKE else (0.0, 0.0)

    def unshared(self) -> float:
        """`disagreement.unshared`, the same way."""
        return unshared(*self.laid[:3]) if self.laid and self.correlation >= _ALIKE else 0.0

    def replaced(self, least: Replaced) -> bool:
        """`overlays.replaced`, the same way."""
        return self.laid is not None and self.correlation >= _ALIKE and replaced(*self.laid[:3], least)

    def agreeing_on_page(self) -> float:
        """Of two pages, as they are laid, on which a picture lies in one place, `agreeing` of that picture: the lesser
        one of the two pictures found; 1 where they are no such pages, or too few tiles have texture."""
        if self.laid is None:
            return 1.0
        ours, theirs = (np.clip(grey, 0, 255).astype(np.uint8) for grey in self.laid[:2])
        least = 1.0
        for left, top, right, bottom in boxes_on_one_page(ours, theirs):
            mask = np.zeros_like(self.laid.mask)
            inside = (slice(top + _SEAM, bottom - _SEAM), slice(left + _SEAM, right - _SEAM))
            mask[inside] = self.laid.mask[inside]
            tiles = compared(self.laid.ours, fixed_part(self.laid.theirs, mask))
            if tiles.textured >= _FEW_ON_PAGE:
                least = min(least, tiles.agreeing)
        return least

    def lopsided(self) -> float:
        """`tiles.lopsided` of the two as they are laid; 0 where they are not."""
        return lopsided(self.laid.ours, self.laid.theirs, self.laid.fixed) if self.laid else 0.0

    def thin_kept(self, brighter: bool) -> float:
        """`overlays.thin_kept` of the two as they are laid; 0 where they are not."""
        return thin_kept(*self.laid[:3], brighter) if self.laid else 0.0

    def without_thin(self, brighter: bool, side: int, blurred: bool) -> Evidence:
        """The same of what is left of both, as they are laid, by `overlays.without_thin`; if one is `blurred`, of both
        equally sharp."""
        if self.laid is None:
            return self
        both = self.laid[:2]
        if blurred:
            both = equally_sharp(*self.laid[:2], self.laid.mask > 0)
        ours, theirs = (without_thin(grey, brighter, side) for grey in both)
        counted = replace(self, inliers=min(self.inliers, _STILL_COUNTED))
        return _with_tiles(counted, compared(ours, fixed_part(theirs, self.laid.mask)))

    def tones(self) -> tuple[Curve, bool] | None:
        """The curve that brings the grey levels of one of the two, as they are laid, to those of the other, and
        whether it is of the second; the one that explains more. None where they are not laid."""
        if self.laid is None:
            return None
        ours, theirs, mask = self.laid[:3]
        forth, back = curve(ours, theirs, mask), curve(theirs, ours, mask)
        if forth.explained >= back.explained:
            return forth, self.laid.reversed
        return back, not self.laid.reversed

    def uncovered(self) -> Evidence | None:
        """The same of what is left once what was put over one of the two is taken off; None where nothing was."""
        over = covering(*self.laid[:3]) if self.laid and self.correlation >= _ALIKE else None
        if self.laid is None or over is None:
            return None
        mask = self.laid.mask * (1 - over)
        left = float(mask.sum()) / float(self.laid.mask.sum())
        fixed = fixed_part(self.laid.theirs, mask)
        found = _with_tiles(self, compared(self.laid.ours, fixed))
        laid = self.laid._replace(mask=mask, fixed=fixed)
        covered, covered_other = self.covered * left, self.covered_other * left
        return _contested(replace(found, laid=laid, covered=covered, covered_other=covered_other), noise=False)


NO_EVIDENCE = Evidence(0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)


def _never(evidence: Evidence) -> bool:  # noqa: ARG001
    return False


class Doubts(NamedTuple):
    """What is too little: of an alignment, to be moved to subpixel accuracy; of the best one, to be asked what is
    contested. Where nothing is left, `compare` stops."""

    roughly: Callable[[Evidence], bool] = _never
    exactly: Callable[[Evidence], bool] = _never


NO_DOUBTS = Doubts()


def compare(
    a: Picture, b: Picture, guess: Floats | None = None, doubts: Doubts = NO_DOUBTS, alone: bool = False
) -> Evidence:
    """The evidence of the best alignment found. Of pictures that are `alone`, where no crowd is known around either,
    noise contests nothing, and they may be seen from the side, if so many local features say so that it is no thing
    that was turned a little.

    `guess` (2, 3): a map from a to b in units of their width and height, (x, y) in 0..1, as the thumbnails suggest it;
    without one the whole pictures are laid on each other. It matters where local features are few. Where `doubts` stop
    it, the evidence is that of the moment, with nothing contested.
    """
    alignments = [align(a, b, mirror=False)]
    if alignments[0][0] < ENOUGH_INLIERS:
        alignments.append(align(a, b, mirror=True, more_than=alignments[0][0]))
    inliers, affine = max(alignments, key=lambda found: found[0])
    found = [_laid(a, b, affine, inliers)] if affine is not None and inliers >= _FEWEST_INLIERS else []
    if inliers < ENOUGH_INLIERS:
        found.append(_laid(a, b, _in_pixels(guess, a, b), inliers))
    unmirrored = len(alignments) == 1
    if unmirrored and all(map(doubts.roughly, found)):
        found, unmirrored = [*found, *_mirrored(a, b)], False
    hopeful = [each for each in found if not doubts.roughly(each)]
    if not hopeful:
        return max(found, key=_weight)
    found = [_refined(each, alone) for each in hopeful]
    if unmirrored and all(map(doubts.exactly, found)):
        found, unmirrored = [*found, *(_refined(each, alone) for each in _mirrored(a, b))], False
    best = max(found, key=_weight)
    if doubts.exactly(best):
        return best
    best = _contested(best, noise=alone)
    if unmirrored and best.contested_faint > UNCONTESTED:
        best = _or_mirrored(best, a, b, alone)
    return best


def compare_as_laid(
    a: Picture, b: Picture, guess: Floats | None, doubts: Doubts = NO_DOUBTS, inliers: int = 0, alone: bool = True
) -> Evidence:
    """`compare` without local features: of one alignment alone, that which `guess` says, as if `inliers` said so. If
    some did, of the same pictures at another size, it is nearly exact, and strokes are compared by what it lacks: so it
    is moved to where pixels agree most, however well they do."""
    found = _refined(_laid(a, b, _in_pixels(guess, a, b), inliers), alone, always=inliers > 0)
    return found if doubts.exactly(found) else _contested(found, noise=alone)


def whole_on_whole(a: Picture, b: Picture) -> Evidence:
    """`compare_as_laid` of the whole pictures, without moving them to where they agree most, or what is contested."""
    return _laid(a, b, _in_pixels(None, a, b), 0)


def _or_mirrored(best: Evidence, a: Picture, b: Picture, alone: bool) -> Evidence:
    """A thing that is nearly its own mirror image, as a telephone is, fits its mirrored copy unmirrored, too."""
    for each in _mirrored(a, b):
        mirrored = _contested(_refined(each, alone), noise=alone)
        less_contested = mirrored.contested_faint < best.contested_faint
        if less_contested and _weight(mirrored) > _NO_LIGHTER * _weight(best):
            return mirrored
    return best


def _mirrored(a: Picture, b: Picture) -> list[Evidence]:
    """What the pixels say if one is laid onto the other mirrored; nothing where hardly a feature says so."""
    inliers, affine = align(a, b, mirror=True)
    return [_laid(a, b, affine, inliers)] if affine is not None and inliers >= _FEWEST_INLIERS else []


def _contested(found: Evidence, noise: bool) -> Evidence:
    if found.laid is None or found.correlation < _ALIKE:
        return found
    as_they_are = contested(*found.laid[:3])
    whole, faint = but_for_noise(as_they_are, *found.laid[:3]) if noise else as_they_are
    return replace(found, contested=whole, contested_faint=faint, grain=(whole, faint) != as_they_are)


def _weight(found: Evidence) -> float:
    return found.correlation * min(1.0, found.tiles / 16) * found.covered


def _in_pixels(guess: Floats | None, a: Picture, b: Picture) -> Floats:
    (ha, wa), (hb, wb) = a.grey.shape, b.grey.shape
    pixels = np.diag([wb, hb]) @ (np.eye(2, 3) if guess is None else guess) @ np.diag([1 / wa, 1 / ha, 1])
    pixels[:, 2] += pixels[:, :2] @ [0.5, 0.5] - 0.5  # pixel centres lie half a pixel inside
    return np.asarray(pixels, np.float64)


def _square(affine: Floats) -> Floats:
    return np.vstack([affine, [0.0, 0.0, 1.0]])


def _in_shares(affine: Floats, a: Picture, b: Picture) -> Floats:
    """The reverse of `_in_pixels`."""
    (ha, wa), (hb, wb) = a.grey.shape, b.grey.shape
    shares = np.array(affine, np.float64)
    shares[:, 2] += 0.5 - shares[:, :2] @ [0.5, 0.5]
    return np.asarray(np.diag([1 / wb, 1 / hb]) @ shares @ np.diag([wa, ha, 1]), np.float64)


def _laid(a: Picture, b: Picture, affine: Floats, inliers: int) -> Evidence:
    """What the pixels say of an alignment (a to b, in pixels) as it is."""
    onto = _in_shares(affine, a, b)
    scale = abs(determinant(affine)) ** 0.5
    if scale < 0.05 or scale > 20:
        return NO_EVIDENCE
    reversed_ = scale > 1  # the finer picture is reduced to the coarser one, never the reverse
    if reversed_:
        a, b, affine, scale = b, a, cv2.invertAffineTransform(affine), 1 / scale
    height, width = b.grey.shape
    mask = cv2.warpAffine(np.ones_like(a.grey), affine, (width, height), flags=cv2.INTER_NEAREST)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if mask.sum() < 400 or len(rows) < 16 or len(columns) < 16:
        return NO_EVIDENCE
    top, left = rows[0], columns[0]
    inside = (slice(top, rows[-1] + 1), slice(left, columns[-1] + 1))
    overlap, mask = int(mask.sum()), mask[inside]
    shares = sorted((min(1.0, overlap / b.grey.size), min(1.0, overlap / (a.grey.size * scale**2))))
    if shares[1] < _MIN_COVERED:
        return NO_EVIDENCE
    source = a.grey.astype(np.float32)
    if scale < 0.75:
        source = cv2.GaussianBlur(source, (0, 0), 0.5 * (1 / scale**2 - 1) ** 0.5)
    affine = affine - np.array([[0, 0, left], [0, 0, top]])
    ours, theirs = _warp(source, affine, mask), b.grey[inside].astype(np.float32)
    fixed = fixed_part(theirs, mask)
    tiles = compared(ours, fixed)
    place = np.array([[1 / width, 0, (left + 0.5) / width], [0, 1 / height, (top + 0.5) / height]])
    return Evidence(
        inliers=inliers,
        agreeing=tiles.agreeing,
        correlation=tiles.correlation,
        pixels=tiles.pixels,
        tiles=tiles.textured,
        covered=shares[1],
        covered_other=shares[0],
        laid=Laid(ours, theirs, mask, fixed, tiles.fits, reversed_, onto, place),
    )


def _refined(found: Evidence, perspective: bool, always: bool = False) -> Evidence:
    """The same once the alignment is moved to where the pixels agree most, if that is nearby, and `always` or where
    there is much to gain; with `perspective` by a homography, if so many local features agree."""
    laid = found.laid
    if laid is None or (laid.fits and not always):
        return found
    better = _ecc(laid.ours, laid.theirs, laid.mask, perspective and found.inliers >= _FLAT)
    if better is None:
        return found
    moved = cv2.warpPerspective(
        laid.ours,
        better,
        laid.mask.shape[::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    tiles = compared(moved, laid.fixed)
    if tiles.pixels <= found.pixels:
        return found
    return replace(_with_tiles(found, tiles), laid=laid.moved(moved, better))


def _with_tiles(found: Evidence, tiles: Tiles) -> Evidence:
    return replace(
        found,
        agreeing=tiles.agreeing,
        correlation=tiles.correlation,
        pixels=tiles.pixels,
        tiles=tiles.textured,
    )


def _warp(source: Any, affine: Floats, mask: UInt8Array) -> Any:
    size = (mask.shape[1], mask.shape[0])
    return cv2.warpAffine(source, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _ecc(ours: Any, theirs: Any, mask: UInt8Array, perspective: bool) -> Floats | None:
    """The map (3, 3) that moves `ours` onto `theirs` exactly, found at half the size; None where there is none
    nearby."""
    half = (max(8, mask.shape[1] // 2), max(8, mask.shape[0] // 2))
    moving, fixed = (band_pass(cv2.resize(grey, half, interpolation=cv2.INTER_AREA), BAND) for grey in (ours, theirs))
    valid = cv2.resize(mask, half, interpolation=cv2.INTER_NEAREST)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 1e-3)
    motion, rows = (cv2.MOTION_HOMOGRAPHY, 3) if perspective else (cv2.MOTION_AFFINE, 2)
    better = np.eye(3)
    try:
        _, better[:rows] = cv2.findTransformECC(
            fixed, moving, np.eye(rows, 3, dtype=np.float32), motion, stop, valid, 1
        )
    except cv2.error:  # it does not converge where nothing agrees
        return None
    scale = np.array([mask.shape[1] / half[0], mask.shape[0] / half[1], 1.0])
    better = np.diag(scale) @ better @ np.diag(1 / scale)
    corners = np.array([[0, 0], [mask.shape[1], 0], [0, mask.shape[0]], [mask.shape[1], mask.shape[0]]], np.float64)
    moved = np.abs(cv2.perspectiveTransform(corners[None], better)[0] - corners).max()
    return better if moved < _NEARBY[perspective] * max(mask.shape) + 2 else None
