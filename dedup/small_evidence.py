"""Do two pictures show the same pixels, where at least one is too small for local features? The costly evidence.

    image ──small_view──▶ SmallView ─┐
                                     ├─compare_small─▶ SmallEvidence
    image ──small_view──▶ SmallView ─┘

One picture is laid onto the other as the thumbnails suggest, then to a fraction of a pixel by maximising the
correlation of their details (ECC, Evangelidis and Psarakis 2008). What tells the same photograph from one that looks
like it - another aeroplane of that make, in the next sky - is mostly what nobody looks at: whether the faint gradients
of the whole picture, background included, run in the same directions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from dedup.disagreement import contested
from dedup.geometry import band_pass, gradients, stretches

Floats = npt.NDArray[np.float64]
UInt8Array = npt.NDArray[np.uint8]

SMALL_SIDE = 64  # pictures of up to this size, in pixels, hold too little for local features
VIEW_SIDE = 96  # the longer side, in pixels, at which pictures are compared: finer than they are, to be aligned finely
_TILES = 8
_ENOUGH = 0.4  # of a tile is covered
_HALF = 2  # pictures are aligned at half the size
_THIRD = 3  # colours are compared at a third of the size
_SMOOTH = 1.0  # sigma of the Gaussian before gradients are taken, in pixels,
_OUTLINE = 1.5  # and at a third of the size
_TEXTURE = (1.2, 4.8)  # two, whose difference keeps texture
_FAINT = 0.5  # grey levels per pixel: the directions of gradients below count less and less, they are noise
_MIN_TEXTURE = 1.5  # grey levels, standard deviation within a tile
_MIN_COVERED = 0.13  # of the view: of less, nothing is said
_ECC_STEPS, _ECC_GAIN = 12, 1e-3
_SQUEEZED = 1.6  # retouching stretches one side by less
_SCALED = (0.4, 2.5)
_EVENLY = np.full((1, 3), 1 / 3, np.float32)  # of three channels the mean
_OPPOSED = np.array([[1, -1, 0], [0.5, 0.5, -1]], np.float32)  # colours apart from their brightness
_CONTRAST = 2.5  # so many times the contrasts of two copies may differ


@dataclass(frozen=True)
class SmallView:
    """What is kept of one image while its pairs are compared, about 0.1 MB; the longer side is VIEW_SIDE pixels.

    `grey` (H, W) float32, 0..255, and what is made of it: `halved` (H/2, W/2), its texture at half the size, and
    `gradient` (2, H, W), across and down, grey levels per pixel; `texture` (8, 8), its variance within tiles. `colour`
    (H/3, W/3, 3) float32, RGB.
    """

    grey: Any
    halved: Any
    gradient: Any
    texture: Any
    colour: Any


@dataclass(frozen=True)
class SmallEvidence:
    """How well two pictures agree where one is laid onto the other.

    `directions`: mean cosine of the angle between their gradients, -1..1, higher is closer; faint ones count less, so
    that of a picture with itself is 0.9 where it is busy and 0.5 where much of it is flat.
    The others are differences, lower is closer, root mean squares in levels of 0..255. `centre` and `outline` are taken
    in the inner quarter, where no frame can help, once one brightness and contrast is fitted to all of the overlap:
    of colours, and of coarse gradients per pixel; `colour` of all the overlap with nothing fitted.
    `chroma`: correlation of the colours apart from their brightness, -1..1, higher is closer, 0 where either is grey.
    `tiles`: of the picture's 64, those that hold texture in both: how much there is that could have differed.
    `contested`: the greater of `disagreement.contested`, 0..1, lower is closer; 0 where that is not asked.
    """

    directions: float
    centre: float
    outline: float
    colour: float
    chroma: float
    tiles: int
    contested: float = 0.0


NO_SMALL_EVIDENCE = SmallEvidence(0.0, 255.0, 255.0, 255.0, 0.0, 0)


def small_view(rgb: UInt8Array) -> SmallView:
    """(H, W, 3) uint8, the picture in any size -> what `compare_small` needs of it."""
    rgb = resized(rgb)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(np.float32)
    halved, colour = (_reduced(pixels, by) for pixels, by in ((grey, _HALF), (rgb, _THIRD)))
    across_and_down = np.stack(gradients(grey, _SMOOTH))
    return SmallView(grey, band_pass(halved, _TEXTURE), across_and_down, _texture(grey), colour.astype(np.float32))


def resized(rgb: UInt8Array) -> UInt8Array:
    """(H, W, 3) uint8 -> the same picture with a longer side of VIEW_SIDE, and a shorter one of 16 at least: all that
    `small_view` uses of it."""
    scale = VIEW_SIDE / max(rgb.shape[:2])
    size = (max(16, round(rgb.shape[1] * scale)), max(16, round(rgb.shape[0] * scale)))
    if size == rgb.shape[1::-1]:
        return rgb
    return np.asarray(cv2.resize(rgb, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))


def _reduced(pixels: Any, by: int) -> Any:
    size = (pixels.shape[1] // by, pixels.shape[0] // by)
    return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def compare_small(
    a: SmallView, b: SmallView, guess: Floats, contest: Callable[[SmallEvidence], bool] | None = None
) -> SmallEvidence:
    """The evidence where b is laid onto a as `guess` says, or better where a better place is nearby; what is contested
    is asked where `contest` says so of the rest.

    `guess` (2, 3): a map from a to b in units of their width and height, (x, y) in 0..1, as thumbnails suggest it.
    """
    laid = [_lay(a, b, _in_pixels(guess, a, b))]
    nearby = _ecc(a, b, laid[0].affine) if laid[0].covered >= _MIN_COVERED else None
    if nearby is not None:
        laid.append(_lay(a, b, nearby))
    best = max(laid, key=lambda each: each.directions * each.covered)
    if best.covered < _MIN_COVERED:
        return NO_SMALL_EVIDENCE
    evidence = _measured(a, b, best)
    if contest is None or not contest(evidence):
        return evidence
    return replace(evidence, contested=max(contested(a.grey, best.grey, best.inside.astype(np.uint8))))


@dataclass(frozen=True)
class _Laid:
    """b on the grid of a by the map `affine` from a to b, in pixels; `inside` (H, W): where there is something of b."""

    affine: Floats
    grey: Any
    inside: npt.NDArray[np.bool_]
    covered: float
    directions: float


def _lay(a: SmallView, b: SmallView, affine: Floats) -> _Laid:
    mask = _warp(np.ones(b.grey.shape, np.uint8), affine, a.grey.shape, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT)
    inside = cv2.erode(mask, np.ones((5, 5), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1) > 0
    grey = _warp(b.grey, affine, a.grey.shape)
    across, down = gradients(grey, _SMOOTH)
    dot = a.gradient[0] * across + a.gradient[1] * down
    cosine = dot / ((cv2.magnitude(*a.gradient) + _FAINT) * (cv2.magnitude(across, down) + _FAINT))
    directions = float(cosine[inside].mean()) if inside.any() else 0.0
    return _Laid(affine, grey, inside, float(inside.mean()), directions)


def _measured(a: SmallView, b: SmallView, laid: _Laid) -> SmallEvidence:
    second = _warp(b.colour, _resized(laid.affine, 1 / _THIRD), a.colour.shape)
    inside = cv2.resize(laid.inside.astype(np.uint8), second.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
    first_inside, second_inside = a.colour[inside], second[inside]
    contrast = _contrast(first_inside, second_inside)
    height, width = inside.shape
    inner = np.zeros_like(inside)
    inner[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    centre = inside & inner
    if centre.sum() < 0.4 * inner.sum():  # one is a crop of the other's side
        centre = inside
    left = (second - second_inside.mean()) - contrast * (a.colour - first_inside.mean())
    left /= contrast**0.5  # in levels of the geometric mean of both, whichever is the fainter
    outlines = gradients(cv2.transform(left, _EVENLY), _OUTLINE)
    return SmallEvidence(
        directions=laid.directions,
        centre=_rms(left[centre]),
        outline=_rms(np.stack([along[centre] for along in outlines])),
        colour=_rms(first_inside - second_inside),
        chroma=_chroma(first_inside, second_inside),
        tiles=_textured(a, laid),
    )


def _rms(values: Any) -> float:
    flat = values.ravel()
    return float(np.sqrt(flat @ flat / flat.size))


def _chroma(first: Any, second: Any) -> float:
    """(N, 3) and (N, 3) RGB: correlation of red against green and of yellow against blue, both together; a level of
    noise makes no colour."""
    a, b = (pixels @ _OPPOSED.T for pixels in (first, second))
    a, b = ((each - each.mean(0)).ravel() for each in (a, b))
    return float((a @ b) / (np.sqrt((a @ a) * (b @ b)) + len(first)))


def _contrast(first: Any, second: Any) -> float:
    """How many times as much contrast the second has, within what two copies may differ."""
    ratio = float(second.std() + 0.1) / float(first.std() + 0.1)
    return min(max(ratio, 1 / _CONTRAST), _CONTRAST)


def _textured(a: SmallView, laid: _Laid) -> int:
    covered = _tile_means(laid.inside) > _ENOUGH
    return int((covered & (np.minimum(a.texture, _texture(laid.grey)) > _MIN_TEXTURE**2)).sum())


def _tile_means(values: Any) -> Any:
    """(H, W) -> (_TILES, _TILES) float32."""
    return cv2.resize(values.astype(np.float32), (_TILES, _TILES), interpolation=cv2.INTER_AREA)


def _texture(grey: Any) -> Any:
    """(_TILES, _TILES): the variance of the texture within tiles."""
    return _tile_means(np.square(band_pass(grey, _TEXTURE)))


def _ecc(a: SmallView, b: SmallView, affine: Floats) -> Floats | None:
    """The map near `affine` by which the textures correlate most; None where there is none that retouching makes."""
    start = _resized(affine, 1 / _HALF).astype(np.float32)
    stop = (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, _ECC_STEPS, _ECC_GAIN)
    try:
        _, found = cv2.findTransformECC(a.halved, b.halved, start, cv2.MOTION_AFFINE, stop, None, 1)
    except cv2.error:  # it does not converge where nothing agrees
        return None
    large, little = stretches(found)
    plausible = little > _SCALED[0] and large < _SCALED[1] and large < _SQUEEZED * little
    return _resized(np.asarray(found, np.float64), _HALF) if plausible else None


def _in_pixels(relative: Floats, a: SmallView, b: SmallView) -> Floats:
    (ha, wa), (hb, wb) = a.grey.shape, b.grey.shape
    return _centred(np.diag([wb, hb]) @ relative @ np.diag([1 / wa, 1 / ha, 1]))


def _resized(affine: Floats, scale: float) -> Floats:
    """The map between the same two pictures when both are `scale` times as large."""
    cornered = affine.copy()
    cornered[:, 2] -= affine[:, :2] @ [0.5, 0.5] - 0.5
    cornered[:, 2] *= scale
    return _centred(cornered)


def _centred(cornered: Floats) -> Floats:
    """From coordinates whose origin is the picture's corner to those whose origin is the first pixel's centre."""
    centred = np.array(cornered, np.float64)
    centred[:, 2] += cornered[:, :2] @ [0.5, 0.5] - 0.5
    return centred


def _warp(
    pixels: Any,
    affine: Floats,
    onto: tuple[int, ...],
    flags: int = cv2.INTER_LINEAR,
    border: int = cv2.BORDER_REPLICATE,
) -> Any:
    """`onto`: the shape of the other picture, of which `affine` is a map to these pixels."""
    return cv2.warpAffine(pixels, affine, onto[1::-1], flags=flags | cv2.WARP_INVERSE_MAP, borderMode=border)
