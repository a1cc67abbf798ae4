"""The coefficients that turn evidence into a probability, and the probabilities at which pairs are accepted.

Written by `pipelines/fit_verification.py`; do not edit by hand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Logistic:
    """A logistic model: 1 / (1 + exp(-(intercept + features @ coefficients)))."""

    intercept: float
    coefficients: tuple[float, ...]

    def __call__(self, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
        """(N, F) features -> (N,) float32 probabilities."""
        # Summed one feature after the other, so that a row's result depends on that row alone.
        score = np.full(len(features), self.intercept)
        for column, coefficient in zip(features.T, self.coefficients, strict=True):
            score += column * coefficient
        return np.asarray(1 / (1 + np.exp(-np.clip(score, -50, 50))), np.float32)


MODELS = {
    "thumbnails": Logistic(
        -7.3190,
        (
            2.4976,  # best
            0.0000,  # whole
            -2.4920,  # share
        ),
    ),
    "pixels": Logistic(
        -7.6469,
        (
            2.5327,  # inliers
            5.9273,  # agreeing
            11.2541,  # correlation
            6.0856,  # pixels
            -3.4830,  # tiles
            0.0000,  # covered
            1.0235,  # best
            -2.0730,  # share
            -33.3562,  # crowding
        ),
    ),
    "small": Logistic(
        -24.8896,
        (
            0.0000,  # inliers
            4.6946,  # agreeing
            3.4974,  # correlation
            0.0000,  # pixels
            2.4743,  # tiles
            9.0461,  # covered
            2.4912,  # best
            1.8515,  # share
            -26.6665,  # crowding
        ),
    ),
}

OPERATING_POINTS = {
    "copies": 0.5,
    "near": 0.1,
    "exact": 2.0,  # no probability reaches it
}
