"""The images nearest by tiles against hand-computed values and against brute force over all pairs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dedup.attack import tile_search
from dedup.attack.distances import contrast, tile_l2, tiles
from dedup.attack.tile_search import nearest_by_tiles
from dedup.errors import ConfigError
from tests.attack_makers import Images, near_to, noise

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]

Floats = npt.NDArray[np.float64]


def found(
    queries: Images, images: Images, share: float = 0.75, min_contrast: float = 0.05, device: str = "cpu"
) -> list[tuple[list[float], list[int]]]:
    """Distances and rows by the tiled and by the template distance, searched from the first image on."""
    made, reference = (torch.from_numpy(some).to(device) for some in (queries, images))
    guess = torch.zeros(len(made), dtype=torch.int64, device=device)
    nearest = nearest_by_tiles(made, reference, guess, share, min_contrast)
    return [(one.distance.tolist(), one.row.tolist()) for one in nearest]


def by_brute_force(queries: Images, images: Images, share: float, min_contrast: float) -> tuple[Floats, Floats]:
    """(N, V) tiled and template distances, pair by pair."""
    telling = torch.stack([contrast(tile) for tile in tiles(torch.from_numpy(images))], 1) >= min_contrast
    tiled, template = np.full((2, len(queries), len(images)), np.inf)
    for row, query in enumerate(queries):
        by_tile = tile_l2(torch.from_numpy(query).expand(images.shape), torch.from_numpy(images)).numpy()
        tiled[row] = by_tile.max(1)
        for column, counted in enumerate(telling.numpy()):
            if counted.sum() >= 4:
                needed = max(int(np.ceil(share * counted.sum() - 1e-9)), 1)
                template[row, column] = np.sort(by_tile[column][counted])[needed - 1]
    return tiled, template


def striped(levels: list[float]) -> Images:
    """An 8 x 8 picture whose 16 tiles, row by row, are stripes of 0.5 -+ 0.1, raised by these levels."""
    stripes = np.where(np.arange(8) % 2, 0.6, 0.4)
    raised = np.repeat(np.repeat(np.reshape(levels, (4, 4)), 2, 0), 2, 1)
    return (stripes + raised).astype(np.float32)[None, None]


def test_by_hand() -> None:
    """One picture is 0.1 away in each tile; another is the same but for four tiles, 0.3 away in one of them."""
    made = striped([0] * 16)
    images = np.concatenate([striped([0.2] * 16), striped([0.1] * 16), striped([0] * 12 + [0.2, 0.2, 0.2, 0.3])])
    (tiled, by_tiles), (template, by_template) = found(made, images)
    assert (tiled, by_tiles) == ([pytest.approx(0.1)], [1])
    assert (template, by_template) == ([pytest.approx(0)], [2])
    (_, _), (stricter, row) = found(made, images, share=13 / 16)  # 13 tiles must agree, and the 13th is 0.2 away
    assert (stricter, row) == ([pytest.approx(0.1)], [1])


def test_flat_tiles_of_the_image_do_not_count_and_too_few_tell_nothing() -> None:
    made = noise(1, 0, side=8)
    image = np.full((1, 1, 8, 8), 0.5, np.float32)
    image[:, :, :2] = made[:, :, :2]  # four tiles of it
    assert found(made, image)[1][0] == [pytest.approx(0)]
    image[:, :, :2, :2] = 0.5
    assert found(made, image)[1] == ([np.inf], [0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("side", "channels"), [(4, 1), (8, 3), (13, 1)])
@pytest.mark.parametrize("block", [(1, 1), (7, 5), (128, 512)])
@pytest.mark.parametrize("share", [0.1, 0.75, 1.0])
def test_as_by_brute_force(
    share: float, block: tuple[int, int], side: int, channels: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tile_search, "QUERIES", block[0])
    monkeypatch.setattr(tile_search, "IMAGES", block[1])
    images = noise(23, 1, side, channels)
    for number in range(20):  # from none to all tiles flat
        images[number, :, : side * number // 19] = 0.5
    made = np.concatenate([noise(20, 2, side, channels), near_to(images, 0.05, 3), images[-1:]])
    min_contrast = 0.0 if side == 4 else 0.05  # a tile of one pixel is always flat
    every = by_brute_force(made, images, share, min_contrast)
    for (distance, row), expected in zip(found(made, images, share, min_contrast, device), every, strict=True):
        np.testing.assert_allclose(distance, expected.min(1), atol=2e-7)
        np.testing.assert_allclose(expected[np.arange(len(made)), row], expected.min(1), atol=2e-7)


def test_of_equal_images_the_guess_stays() -> None:
    images = np.repeat(noise(1, 0), 600, 0)  # of more than one block
    guess = torch.arange(0, 600, 60)
    made, reference = torch.from_numpy(near_to(images[:10], 0.03, 1)), torch.from_numpy(images)
    for nearest in nearest_by_tiles(made, reference, guess, 0.75, 0.05):
        assert nearest.row.tolist() == guess.tolist()


def test_nothing_of_nothing_and_no_tiles_of_what_is_too_small() -> None:
    assert found(noise(0, 0), noise(3, 1)) == [([], []), ([], [])]
    with pytest.raises(ConfigError, match="cannot be cut"):
        found(noise(1, 0, side=3), noise(1, 1, side=3))
