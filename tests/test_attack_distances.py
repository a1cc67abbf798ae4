"""Distances against hand-computed values, and blocked search against all pairs at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.attack import distances
from dedup.attack.distances import contrast, l2, nearest_groups, pairwise_l2, pairwise_tiled_l2, tile_l2, tiles
from dedup.errors import ConfigError
from tests.attack_makers import noise


def flat(level: float, side: int = 4, channels: int = 1) -> torch.Tensor:
    return torch.full((1, channels, side, side), float(level))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [4, 12])
def test_l2_of_flat_images_is_the_difference_of_their_levels(side: int, channels: int) -> None:
    a, b = flat(0.25, side, channels), flat(0.75, side, channels)
    assert l2(a, b).tolist() == [0.5]
    assert tile_l2(a, b).tolist() == [[0.5] * 16]


def test_by_hand() -> None:
    a, b = flat(0), flat(0)
    b[0, 0, 0, 0], b[0, 0, 2, 3] = 0.8, 0.4
    assert l2(a, b).item() == pytest.approx(((0.64 + 0.16) / 16) ** 0.5)
    by_tile = tile_l2(a, b)[0]  # tiles of one pixel
    assert by_tile.tolist() == pytest.approx([0.8] + [0] * 10 + [0.4] + [0] * 4)
    assert pairwise_tiled_l2(a, b).item() == pytest.approx(0.8)


def test_the_contrast_does_not_ask_for_the_colour() -> None:
    image = torch.tensor([0.2, 0.5, 0.8]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4).clone()
    assert contrast(image).item() == pytest.approx(0, abs=1e-7)
    image[0, :, :2] += 0.2
    assert contrast(image).item() == pytest.approx(0.1)


@pytest.mark.parametrize("side", [4, 5, 6, 7, 8, 13])
def test_tiles_cover_the_image_once(side: int) -> None:
    image = torch.arange(side * side, dtype=torch.float32).reshape(1, 1, side, side)
    cut = tiles(image)
    assert len(cut) == 16
    assert sorted(value for tile in cut for value in tile.flatten().tolist()) == list(range(side * side))
    assert {length - side // 4 for tile in cut for length in tile.shape[2:]} <= {0, 1}


def test_images_too_small_for_tiles_are_refused() -> None:
    with pytest.raises(ConfigError, match="3, 3"):
        tiles(flat(0, side=3))


@pytest.mark.parametrize(("side", "channels"), [(4, 1), (9, 3)])
def test_all_pairs_as_one_by_one(side: int, channels: int) -> None:
    a = torch.from_numpy(noise(5, 0, side, channels))
    b = torch.cat([torch.from_numpy(noise(6, 1, side, channels)), a[:1]])
    for row in range(5):
        alone = a[row : row + 1].expand_as(b)
        np.testing.assert_allclose(pairwise_l2(a, b)[row], l2(alone, b), atol=1e-7)
        np.testing.assert_allclose(pairwise_tiled_l2(a, b)[row], tile_l2(alone, b).max(1).values, atol=1e-7)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), groups=st.integers(1, 9), rows=st.integers(1, 12), count=st.integers(1, 6))
def test_nearest_groups_as_by_brute_force(seed: int, groups: int, rows: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.concatenate([np.arange(groups), rng.integers(0, groups, 20)]))
    images, queries = noise(len(group), seed), noise(7, seed + 100)
    every = np.sqrt(((queries[:, None].astype(np.float64) - images[None]) ** 2).mean((2, 3, 4)))
    to_group = np.stack([every[:, group == number].min(1) for number in range(groups)], 1)
    order = np.argsort(to_group, 1)[:, :count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distances, "ROWS", rows)  # blocks smaller than some groups
        distance, number = nearest_groups(*map(torch.from_numpy, (queries, images, group)), count)
    np.testing.assert_array_equal(number, order)
    np.testing.assert_allclose(distance, np.take_along_axis(to_group, order, 1), atol=1e-7)
