"""Do two pictures show the same pixels? The costly evidence: local features, then the pixels after alignment.

    Picture ─┐
             ├─compare─▶ Evidence
    Picture ─┘

`compare` looks for an affine map (mirrored or not) that lays one picture onto the other, then asks the pixels: both are
band-passed, so that light, contrast and colour drop out, and correlated in 8x8 tiles over the part that they share. A
copy agrees in nearly all tiles that hold texture; pictures that share a logo, a frame or an outline in a few.

The map is found by local features (`local_features`); ECC (Evangelidis and Psarakis 2008) then moves it to subpixel
accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dedup.disagreement import UNCONTESTED, contested, contradiction, unshared
from dedup.geometry import band_pass, determinant
from dedup.local_features import Picture, align

Floats = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

TILES = 8

_FEWEST_INLIERS, _ENOUGH_INLIERS = 3, 20  # with so many, an alignment needs no rival
_BAND = (1.2, 4.8)  # sigmas of the difference of Gaussians, in pixels at SIDE
_TILE_AGREES = 0.6  # correlation
_MIN_COVERED = 0.35  # of either picture: an overlap of less is a part that two pictures share, a bar or a logo
_MIN_TEXTURE = 1.5  # grey levels, standard deviation within a tile after the band-pass
_NO_LIGHTER = 0.9  # times the weight of another alignment that contests more
_ALIKE = 0.2  # mean correlation of tiles below which nothing more is asked


@dataclass(frozen=True)
class Evidence:
    """How well two pictures agree once one is laid onto the other; higher is closer in every field.

    `inliers`: feature matches at distinct places that one affine map explains. `agreeing`: share of the textured tiles
    whose correlation exceeds 0.6; `correlation`: mean over the textured tiles, -1..1. `tiles`: textured tiles, 0..64.
    `pixels`: correlation over the whole overlap, -1..1. `covered`: share of the picture of which more lies in
    the overlap; `covered_other`: that of the other. What is asked of pictures whose tiles agree, and else 0, lower is
    closer: `contested` and `contested_faint`, and where it is asked `contradicted`, `mutual` and `unshared`, as
    `disagreement` says them.
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
    contradicted: float = 0.0
    mutual: float = 0.0
    unshared: float = 0.0


NO_EVIDENCE = Evidence(0, 0.0, 0.0, 0.0, 0, 0.0, 0.0)


def compare(a: Picture, b: Picture, guess: Floats | None = None, strokes: bool = False) -> Evidence:
    """The evidence of the best alignment found; `strokes` asks whether strokes differ, too.

    `guess` (2, 3): a map from a to b in units of their width and height, (x, y) in 0..1, as the thumbnails suggest it;
    without one the whole pictures are laid on each other. It matters where local features are few.
    """
    alignments = [align(a, b, mirror=False)]
    if alignments[0][0] < _ENOUGH_INLIERS:
        alignments.append(align(a, b, mirror=True))
    inliers, affine = max(alignments, key=lambda found: found[0])
    found = [_agreement(a, b, affine, inliers)] if affine is not None and inliers >= _FEWEST_INLIERS else []
    if inliers < _ENOUGH_INLIERS:
        whole = _in_pixels(np.eye(2, 3) if guess is None else guess, a, b)
        found.append(_agreement(a, b, whole, inliers))
    best = _contested(max(found, key=_weight))
    if len(alignments) == 1 and best[0].contested_faint > UNCONTESTED:
        best = _or_mirrored(best, a, b)
    evidence, laid = best
    if not strokes or laid is None or evidence.correlation < _ALIKE:
        return evidence
    contradicted, mutual = contradiction(*laid)
    return replace(evidence, contradicted=contradicted, mutual=mutual, unshared=unshared(*laid))


# One picture laid onto the other, the other, both (H, W) float32, and where both are, (H, W) uint8.
_Laid = tuple[Any, Any, UInt8Array]
_Found = tuple[Evidence, _Laid | None]


def _or_mirrored(best: _Found, a: Picture, b: Picture) -> _Found:
    """A thing that is nearly its own mirror image, as a telephone is, fits its mirrored copy unmirrored, too."""
    inliers, affine = align(a, b, mirror=True)
    if affine is None or inliers < _FEWEST_INLIERS:
        return best
    mirrored = _contested(_agreement(a, b, affine, inliers))
    less_contested = mirrored[0].contested_faint < best[0].contested_faint
    return mirrored if less_contested and _weight(mirrored) > _NO_LIGHTER * _weight(best) else best


def _contested(found: _Found) -> _Found:
    evidence, laid = found
    if laid is None or evidence.correlation < _ALIKE:
        return found
    whole, faint = contested(*laid)
    return replace(evidence, contested=whole, contested_faint=faint), laid


def _weight(found: _Found) -> float:
    evidence, _ = found
    return evidence.correlation * min(1.0, evidence.tiles / 16) * evidence.covered


def _in_pixels(relative: Floats, a: Picture, b: Picture) -> Floats:
    (ha, wa), (hb, wb) = a.grey.shape, b.grey.shape
    pixels = np.diag([wb, hb]) @ relative @ np.diag([1 / wa, 1 / ha, 1])
    pixels[:, 2] += pixels[:, :2] @ [0.5, 0.5] - 0.5  # pixel centres lie half a pixel inside
    return np.asarray(pixels, np.float64)


def _agreement(a: Picture, b: Picture, affine: Floats, inliers: int) -> _Found:
    """What the pixels say of an alignment (a to b, in pixels)."""
    scale = abs(determinant(affine)) ** 0.5
    if scale < 0.05 or scale > 20:
        return NO_EVIDENCE, None
    if scale > 1:  # the finer picture is reduced to the coarser one, never the reverse
        a, b, affine, scale = b, a, cv2.invertAffineTransform(affine), 1 / scale
    height, width = b.grey.shape
    mask = cv2.warpAffine(np.ones_like(a.grey), affine, (width, height), flags=cv2.INTER_NEAREST)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if mask.sum() < 400 or len(rows) < 16 or len(columns) < 16:
        return NO_EVIDENCE, None
    top, left = rows[0], columns[0]
    inside = (slice(top, rows[-1] + 1), slice(left, columns[-1] + 1))
    overlap, mask = int(mask.sum()), mask[inside]
    shares = sorted((min(1.0, overlap / b.grey.size), min(1.0, overlap / (a.grey.size * scale**2))))
    if shares[1] < _MIN_COVERED:
        return NO_EVIDENCE, None
    source = a.grey.astype(np.float32)
    if scale < 0.75:
        source = cv2.GaussianBlur(source, (0, 0), 0.5 * (1 / scale**2 - 1) ** 0.5)
    affine = affine - np.array([[0, 0, left], [0, 0, top]])
    ours, theirs = _warp(source, affine, mask), b.grey[inside].astype(np.float32)
    correlation, textured, pixels = _tiles(ours, theirs, mask)
    if textured.any() and (correlation[textured] > 0.9).mean() < 0.9:  # it may be the alignment that is not good enough
        better = _ecc(ours, theirs, mask)
        if better is not None:
            moved = cv2.warpAffine(
                ours,
                better,
                mask.shape[::-1],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,
            )
            refined = _tiles(moved, theirs, mask)
            if refined[2] > pixels:
                ours, (correlation, textured, pixels) = moved, refined
    count = int(textured.sum())
    evidence = Evidence(
        inliers=inliers,
        agreeing=float((correlation[textured] > _TILE_AGREES).mean()) if count else 0.0,
        correlation=float(correlation[textured].mean()) if count else 0.0,
        pixels=pixels,
        tiles=count,
        covered=shares[1],
        covered_other=shares[0],
    )
    return evidence, (ours, theirs, mask)


def _warp(source: Any, affine: Floats, mask: UInt8Array) -> Any:
    size = (mask.shape[1], mask.shape[0])
    return cv2.warpAffine(source, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _tiles(ours: Any, theirs: Any, mask: UInt8Array) -> tuple[Floats, npt.NDArray[np.bool_], float]:
    """Correlation of each tile (8, 8), which tiles hold texture in either picture, and the correlation of the whole."""
    first, second = band_pass(ours, _BAND), band_pass(theirs, _BAND)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    inside = inside.astype(np.float32)

    def mean(values: Any) -> Floats:
        return np.asarray(cv2.resize(values * inside, (TILES, TILES), interpolation=cv2.INTER_AREA), np.float64)

    filled = mean(np.ones_like(inside))
    weight = np.maximum(filled, 1e-6)
    m1, m2 = mean(first) / weight, mean(second) / weight
    v1 = np.maximum(mean(first * first) / weight - m1**2, 0)
    v2 = np.maximum(mean(second * second) / weight - m2**2, 0)
    product = mean(first * second) / weight - m1 * m2
    correlation = product / np.maximum(np.sqrt(v1 * v2), 1e-3)
    used = filled > 0.4
    least1, least2 = (max(_MIN_TEXTURE, 0.2 * float((v[used].mean() if used.any() else 0.0) ** 0.5)) for v in (v1, v2))
    d1, d2 = np.sqrt(v1) / least1, np.sqrt(v2) / least2
    textured = used & (((d1 > 1) & (d2 > 1)) | (d1 > 3) | (d2 > 3))
    energy = float(np.sqrt(v1[used].sum() * v2[used].sum()))
    return correlation, textured, float(product[used].sum()) / max(energy, 1e-6)


def _ecc(ours: Any, theirs: Any, mask: UInt8Array) -> Floats | None:
    """The map that moves `ours` onto `theirs` exactly, found at half the size; None where there is none nearby."""
    half = (max(8, mask.shape[1] // 2), max(8, mask.shape[0] // 2))
    moving, fixed = (band_pass(cv2.resize(grey, half, interpolation=cv2.INTER_AREA), _BAND) for grey in (ours, theirs))
    valid = cv2.resize(mask, half, interpolation=cv2.INTER_NEAREST)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 12, 1e-3)
    try:
        _, found = cv2.findTransformECC(
            fixed, moving, np.eye(2, 3, dtype=np.float32), cv2.MOTION_AFFINE, stop, valid, 1
        )
    except cv2.error:  # it does not converge where nothing agrees
        return None
    better = np.asarray(found, np.float64)
    scale = np.array([mask.shape[1] / half[0], mask.shape[0] / half[1]])
    better = np.c_[np.diag(scale) @ better[:, :2] @ np.diag(1 / scale), scale * better[:, 2]]
    corners = np.array([[0, 0], [mask.shape[1], 0], [0, mask.shape[0]], [mask.shape[1], mask.shape[0]]], np.float64)
    moved = np.abs(corners @ better[:, :2].T + better[:, 2] - corners).max()
    return better if moved < 0.08 * max(mask.shape) + 2 else None
