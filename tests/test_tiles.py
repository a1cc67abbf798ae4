"""Tiles of two aligned pictures: how each is summed, against OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from dedup.tiles import TILES, _sums, compared, fixed_part


@pytest.mark.parametrize("shape", [(8, 8), (16, 24), (17, 128), (101, 127), (128, 96), (250, 187), (256, 256)])
def test_the_mean_of_a_tile_is_that_of_opencv(shape: tuple[int, int]) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    means = cv2.resize(values, (TILES, TILES), interpolation=cv2.INTER_AREA)
    np.testing.assert_allclose(_sums(values), means, atol=1e-5)
    np.testing.assert_allclose(_sums(np.ones(shape, np.float32)), 1, atol=1e-6)


@pytest.mark.parametrize("side", [100, 128])
def test_a_picture_agrees_with_itself_in_all_tiles_and_with_noise_in_none(side: int) -> None:
    rng = np.random.default_rng(0)
    first, second = (rng.normal(128, 40, (side, side)).astype(np.float32) for _ in range(2))
    fixed = fixed_part(first, np.ones((side, side), np.uint8))
    same, other = compared(first, fixed), compared(second, fixed)
    assert (same.agreeing, same.textured, same.fits) == (1, TILES**2, True)
    assert same.correlation == pytest.approx(1, abs=1e-4)
    assert (other.agreeing, other.fits) == (0, False)
