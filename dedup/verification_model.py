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


@dataclass(frozen=True)
class OperatingPoint:
    """Pairs of at least `min_probability` are accepted. `measured` says what `dedup calibrate` found there, on what
    data, and when."""

    min_probability: float
    measured: str


MODELS = {
    "thumbnails": Logistic(
        -9.235,
        (
            3.143,  # best
            0.0,  # whole
            -3.076,  # share
        ),
    ),
    "pixels": Logistic(
        -6.279,
        (
            1.776,  # matches
            1.992,  # correlation
            1.037,  # pixels
            -2.782,  # crowding
        ),
    ),
    "small": Logistic(
        -5.471,
        (
            5.573,  # directions
            1.153,  # centre
            1.16,  # outline
            0.027,  # colour
            2.247,  # tiles
            1.868,  # chroma
        ),
    ),
}

OPERATING_POINTS = {
    "copies": OperatingPoint(
        0.9,
        "99.3 % of 1,200 copies planted of 300 photographs, none of their 44,850 pairs; dedup calibrate, 2026-12-01",
    ),
    "near": OperatingPoint(
        0.3,
        "99.4 % of 1,200 copies planted of 300 photographs, none of their 44,850 pairs; dedup calibrate, 2026-12-01",
    ),
    "exact": OperatingPoint(2.0, "no probability reaches it: the same bytes, which needs no measuring"),
}
