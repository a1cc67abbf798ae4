"""What the noise of a picture is taken for, and quantiles of its levels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dedup.geometry import noise, quantile, quantile_of_levels
from dedup.local_features import SIDE, grey_at
from tests.verification import PHOTOGRAPHS, photograph


def _grey(name: str) -> np.ndarray:
    return grey_at(np.asarray(photograph(name)), SIDE)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_noise_is_measured_whatever_the_picture_shows(name: str) -> None:
    grey = _grey(name)
    normal = np.random.default_rng(0).normal(size=grey.shape)
    for sigma in (4.0, 10.0):
        noisy = np.clip(grey + sigma * normal, 0, 255).astype(np.uint8)
        # What the picture shows passes in part, and where it is black or white noise is cut off.
        assert 0.6 * sigma < noise(noisy) < 1.5 * sigma
    assert noise(cv2.GaussianBlur(grey, (0, 0), 1.0)) < 1.2


def test_flat_and_tiny_pictures_hold_none() -> None:
    assert noise(np.full((40, 60), 128, np.uint8)) == 0
    assert noise(np.full((2, 60), 128, np.uint8)) == 0


@pytest.mark.parametrize("share", [0.0, 0.01, 0.25, 0.99, 1.0])
def test_quantiles_of_levels_are_those_of_numpy(share: float) -> None:
    rng = np.random.default_rng(0)
    for most, dtype in ((1, np.uint8), (7, np.uint8), (255, np.uint8), (2040, np.int16)):
        for shape in ((1, 1), (3, 5), (40, 60)):
            levels = rng.integers(0, most, shape, endpoint=True).astype(dtype)
            assert quantile_of_levels(levels, share) == pytest.approx(np.quantile(levels, share))


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1001])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_quantiles_are_those_of_numpy(count: int, share: float) -> None:
    values = np.random.default_rng(count).gamma(1, 3, count).astype(np.float32)
    before = values.copy()
    assert quantile(values.reshape(1, -1), share) == pytest.approx(float(np.quantile(values, share)), rel=1e-6)
    assert np.array_equal(values, before)
