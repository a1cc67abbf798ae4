"""What the noise of a picture is taken for."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dedup.geometry import noise
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
