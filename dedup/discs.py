"""Pictures that were cut to a disc, as portraits are: what lies within it, up to a rectangle, is the picture.

    image ──disc_in──▶ the box of the greatest rectangle in a disc or an ellipse on plain ground

The ground is of one colour, and ends in an ellipse all around, or in a polygon of many sides: of a ball or a fruit it
ends elsewhere. A plate or a round logo that fills its image before a plain ground is cut to its middle, too.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from dedup.rotation import has_equal_corners

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels

LOOK_SIDE = 256  # discs are looked for at so many pixels of the longer side
LEAST_SIDE = 96  # pixels: the soft rims of smaller discs are too wide for what is measured along them

_TOLERANCE = 20  # levels of a channel that the ground may vary, after JPEG
_FILLS = 0.96  # of the image's width or height: smaller discs are things on a ground, as clocks are
_ROUND = 1.45  # times as wide as high, or as high as wide, as if squeezed
_ANGLES, _SECTORS = 144, 24
_RIM = np.array([0.96, 0.973, 0.985])  # in radii: so far the picture reaches
_BEYOND = np.array([1.02, 1.05, 1.1, 1.17, 1.25, 1.33, 1.4])  # ... and here is ground
_PICTURE, _REACHED = 0.7, 0.9  # share of a sector's rim that shows the picture, and of such sectors: skies may be plain
_PLAIN = 0.985  # share of what lies beyond
_INSIDE = 2**-0.5  # of a radius


def disc_in(image: Image.Image) -> Box | None:
    """The box of the rectangle within the disc that an RGB image shows; None where it shows none."""
    scale = min(1.0, LOOK_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    if min(size) < LEAST_SIDE or not has_equal_corners(image):
        return None
    found = _ellipse(cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA))
    if found is None:
        return None
    middle, radii = (np.array(each) * np.array(image.size) / size for each in found)
    (left, top), (right, bottom) = np.ceil(middle - _INSIDE * radii), np.floor(middle + _INSIDE * radii)
    return int(left), int(top), int(right), int(bottom)


def _ellipse(rgb: UInt8Array) -> tuple[tuple[float, float], tuple[float, float]] | None:
    """(H, W, 3) -> the middle (x, y) and the radii (across, down), in pixels, of the disc; None where there is none."""
    height, width = rgb.shape[:2]
    ground = np.median(rgb[:: height - 1, :: width - 1].reshape(-1, 3), axis=0)
    shown = 255 - cv2.inRange(rgb, ground - _TOLERANCE, ground + _TOLERANCE)
    # JPEG leaves specks on the ground.
    left, top, wide, high = cv2.boundingRect(cv2.morphologyEx(shown, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    if max(wide / width, high / height) < _FILLS or max(wide, high) > _ROUND * min(wide, high):
        return None
    middle, radii = (left + wide / 2, top + high / 2), (wide / 2, high / 2)
    beyond = _along(shown, middle, radii, _BEYOND)
    if (beyond > 0).sum() > (1 - _PLAIN) * np.isfinite(beyond).sum():
        return None
    reached = np.nanmean(_along(shown, middle, radii, _RIM).reshape(len(_RIM), _SECTORS, -1) > 0, axis=(0, 2))
    return (middle, radii) if (reached >= _PICTURE).mean() >= _REACHED else None


def _along(shown: UInt8Array, middle: tuple[float, float], radii: tuple[float, float], at: Floats) -> Floats:
    """(len(at), _ANGLES): the pixels at so many radii from the middle; NaN beyond the image."""
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    x, y = (
        np.floor(centre + np.outer(radius * at, turn)).astype(int)
        for centre, radius, turn in zip(middle, radii, (np.cos(angle), np.sin(angle)), strict=True)
    )
    inside = (x >= 0) & (x < shown.shape[1]) & (y >= 0) & (y < shown.shape[0])
    found = np.full(x.shape, np.nan)
    found[inside] = shown[y[inside], x[inside]]
    return found
