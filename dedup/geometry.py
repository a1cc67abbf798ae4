"""What every comparison of two aligned pictures needs: affine maps (2, 3), the band that is compared, gradients, noise,
and equal sharpness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

_SECOND_DIFFERENCES = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
_QUARTER_OF_NORMAL = 0.3186  # a quarter of all normally distributed errors are less, in standard deviations
_SOFTER = (0.7, 1.0, 1.4, 2.0, 2.8)  # sigmas, in pixels, of `softened`


def determinant(affine: npt.NDArray[Any]) -> float:
    """How many times as large the map makes an area; negative where it mirrors."""
    (a, b), (c, d) = affine[:, :2].tolist()
    return float(a * d - b * c)


def stretches(affine: npt.NDArray[Any]) -> tuple[float, float]:
    """How many times as long the map makes lengths, at most and at least: the singular values of its linear part, in
    closed form, as they are asked for by the million."""
    (a, b), (c, d) = affine[:, :2].tolist()
    squares, product = a * a + b * b + c * c + d * d, abs(a * d - b * c)
    root = math.sqrt(max(squares * squares - 4 * product * product, 0.0))
    return math.sqrt((squares + root) / 2), math.sqrt(max(squares - root, 0.0) / 2)


def band_pass(grey: Any, sigmas: tuple[float, float]) -> Any:
    """(H, W) float32 -> (H, W) float32, a difference of Gaussians: what is finer than the first sigma, in pixels, is
    noise; what is coarser than the second is light and contrast."""
    fine, coarse = sigmas
    return np.subtract(cv2.GaussianBlur(grey, (0, 0), fine), cv2.GaussianBlur(grey, (0, 0), coarse))


def gradients(grey: Any, sigma: float) -> tuple[Any, Any]:
    """(H, W) -> across and down, each (H, W) float32, in levels per pixel, once it is smoothed by `sigma` pixels."""
    smooth = cv2.GaussianBlur(grey, (0, 0), sigma)
    across, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1)))
    return across, down


def softened(grey: Any, detail: Callable[[Any], float], goal: float) -> Any:
    """(H, W) -> (H, W), blurred until it holds no more than about `goal` of what `detail` measures, or by 2.8 pixels
    at most: as sharp as another picture, to be compared with it."""
    soft = grey
    for sigma in _SOFTER:
        soft = cv2.GaussianBlur(grey, (0, 0), sigma)
        if detail(soft) <= 1.1 * goal:
            break
    return soft


def noise(grey: Any) -> float:
    """The standard deviation of the noise all over (H, W) uint8, in grey levels, by the filter of Immerkaer (1996),
    which edges hardly pass, where that is quietest: texture on most of a picture is none."""
    left = np.abs(cv2.filter2D(grey, cv2.CV_16S, _SECOND_DIFFERENCES)[1:-1, 1:-1])
    gain = float(np.sqrt(np.square(_SECOND_DIFFERENCES).sum()))
    return quantile_of_levels(left, 0.25) / (_QUARTER_OF_NORMAL * gain) if left.size else 0.0


def quantile(values: Any, share: float) -> float:
    """`numpy.quantile` of float32, at least one and none NaN, in a tenth of the time."""
    flat = values.ravel()
    place: float = share * (flat.size - 1)
    below = int(place)
    ordered = np.partition(flat, below)
    if place == below:
        return float(ordered[below])
    low, high = float(ordered[below]), float(ordered[below + 1 :].min())
    return low + (high - low) * (place - below)


def quantile_of_levels(levels: Any, share: float) -> float:
    """`numpy.quantile` of small whole numbers, none negative: by how often each occurs, in a fraction of the time."""
    up_to = np.cumsum(np.bincount(levels.ravel()))
    place = share * (levels.size - 1)
    first, after = (int(np.searchsorted(up_to, int(place) + more, "right")) for more in (0, 1))
    return float(first + (after - first) * (place - int(place)))
