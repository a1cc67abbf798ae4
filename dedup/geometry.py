"""What every comparison of two aligned pictures needs: affine maps (2, 3) and the band that is compared."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt


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
