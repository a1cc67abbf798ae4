"""Candidates of a cell: the nearest embeddings, and in crowded neighbourhoods those whose thumbnails fit best."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dedup import crowded
from dedup.crowded import CROWDED, NOTED, candidates_in_cell, packed, score_at
from dedup.images import thumbnail
from dedup.looks import ALIKE
from dedup.neighbors import CosinePairs, SearchSettings, cosine, cosine_pairs_in_cell, limit_candidates
from dedup.pair_features import CROWD
from dedup.thumbnails import luma, part_likeness
from dedup.transforms import TRANSFORMS
from pipelines.lookalikes import LOOKALIKES
from tests.verification import PHOTOGRAPHS, photograph

Halves = npt.NDArray[np.float16]
SETTINGS = SearchSettings(candidate_cosine=0.5, candidates_per_image=2)


def embeddings(rows: int, alike: float, seed: int) -> Halves:
    """Rows around one centre: the cosine of two is about `alike`."""
    rng = np.random.default_rng(seed)
    own = rng.standard_normal((rows, 64))
    own -= own[:, :1] * np.eye(64)[0]
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    return np.asarray(np.sqrt(alike) * np.eye(64)[0] + np.sqrt(1 - alike) * own, np.float16)


def noise(rows: int, seed: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (rows, 32, 32)).astype(np.uint8)


def listed(pairs: CosinePairs) -> list[tuple[int, int]]:
    return list(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))


def expected_of_crowded(x: Halves, greys: npt.NDArray[np.uint8], row: int, per_image: int) -> set[tuple[int, int]]:
    """The definition in `candidates_in_cell`'s docstring for one row, where no more than DEPTH others are near."""
    others = np.array([other for other in range(len(x)) if other != row])
    here = np.full(len(others), row)
    score = cosine(x, here, others)
    fit = np.maximum(part_likeness(greys, here, others), part_likeness(greys, others, here))
    fitting = others[np.lexsort((others, -(fit + np.float32(0.3) * score)))][: 3 * per_image]
    nearest = others[np.lexsort((others, -score))][:per_image]
    return {(min(row, other), max(row, other)) for other in (*nearest.tolist(), *fitting.tolist())}


@pytest.mark.parametrize("per_image", [0, 1, 2])
def test_crowded_rows_name_the_nearest_and_those_that_fit_best(per_image: int) -> None:
    x, greys = embeddings(24, 0.9, seed=1), noise(24, seed=2)
    everything = np.ones(len(x), bool)
    pairs, crowds = candidates_in_cell(x, greys, everything, replace(SETTINGS, candidates_per_image=per_image))
    assert crowds.crowding.min() > CROWDED
    expected = set().union(*(expected_of_crowded(x, greys, row, per_image) for row in range(len(x))))
    assert listed(pairs) == sorted(expected)
    assert np.array_equal(pairs.score, cosine(x, pairs.i, pairs.j))


def test_other_rows_name_the_nearest_whatever_their_thumbnails() -> None:
    x, everything = embeddings(40, 0.7, seed=3), np.ones(40, bool)
    pairs, crowds = candidates_in_cell(x, noise(40, seed=4), everything, SETTINGS)
    assert 0 < crowds.crowding.min() <= crowds.crowding.max() < CROWDED
    assert not crowds.alike.any()
    deep = cosine_pairs_in_cell(x, everything, replace(SETTINGS, candidates_per_image=5))
    assert listed(pairs) == listed(limit_candidates(deep, np.inf, 2))


def test_pairs_that_must_be_complete_are_all_there() -> None:
    x, everything = embeddings(30, 0.9, seed=5), np.ones(30, bool)
    pairs, _ = candidates_in_cell(x, noise(30, seed=6), everything, replace(SETTINGS, min_cosine=0.85))
    assert len(pairs.i) == 30 * 29 // 2


def test_only_primary_rows_name_others() -> None:
    x = embeddings(30, 0.9, seed=7)
    pairs, _ = candidates_in_cell(x, noise(30, seed=8), np.arange(30) == 4, SETTINGS)
    assert {4} == set.intersection(*({i, j} for i, j in listed(pairs)))
    assert len(pairs.i) <= 8


def test_a_cell_without_pairs_has_no_candidates() -> None:
    x = np.eye(3, 64).astype(np.float16)
    pairs, crowds = candidates_in_cell(x, noise(3, seed=9), np.ones(3, bool), SETTINGS)
    assert listed(pairs) == []
    assert crowds.crowding.tolist() == crowds.alike.tolist() == [0, 0, 0]


def test_of_crowded_rows_the_nearest_are_noted_and_of_others_five() -> None:
    for alike in (0.9, 0.8, 0.7):
        x, everything = embeddings(40, alike, seed=19), np.ones(40, bool)
        _, crowds = candidates_in_cell(x, noise(40, seed=20), everything, SETTINGS)
        for row in range(40):
            others = np.array([other for other in range(40) if other != row])
            nearest = np.sort(cosine(x, np.full(39, row), others))[::-1]
            noted = 39 if nearest[4] > CROWD else 5
            assert crowds.cosines[row, :noted].tolist() == nearest[:noted].tolist()
            assert not crowds.cosines[row, noted:].any()
            assert crowds.crowding[row] == nearest[4]


def test_the_score_at_a_place_of_what_is_noted() -> None:
    scores = np.zeros((3, NOTED), np.float32)
    scores[0, :3] = (0.9, 0.8, 0.75)
    scores[2] = np.linspace(0.99, 0.7, NOTED)
    lists = packed(scores)
    assert [len(each) for each in lists] == [12, 0, 4 * NOTED]
    found = [score_at(lists, np.full(4, row), np.array([1, 3, 4, NOTED + 9])) for row in range(3)]
    assert all(each.dtype == np.float32 for each in found)
    assert found[0].tolist() == [np.float32(0.9), np.float32(0.75), 0, 0]
    assert found[1].tolist() == [0, 0, 0, 0]
    assert found[2].tolist() == [scores[2, 0], scores[2, 2], scores[2, 3], scores[2, -1]]
    mixed = score_at(lists, np.array([2, -1, 0, 2]), np.array([2, 1, 2, 1]))
    assert mixed.tolist() == [scores[2, 1], 0, np.float32(0.8), scores[2, 0]]
    assert score_at([], np.array([-1, -1]), np.array([1, 2])).tolist() == [0, 0]


def test_how_alike_thumbnails_are_is_the_fit_of_the_eighth_best() -> None:
    x, greys = embeddings(20, 0.9, seed=16), noise(20, seed=17)
    _, crowds = candidates_in_cell(x, greys, np.arange(20) < 15, SETTINGS)
    for row in range(15):
        others = np.array([other for other in range(20) if other != row])
        here = np.full(19, row)
        # Parts are tried of what is crowded, and that is known of primary rows alone.
        whole = np.where(others < 15, part_likeness(greys, others, here), -1)
        fit = np.maximum(part_likeness(greys, here, others), whole)
        assert crowds.alike[row] == np.sort(fit)[-8]
    assert not crowds.alike[15:].any()


@pytest.mark.parametrize("name", ["products", "xrays"])
@pytest.mark.parametrize("side", [32, 64])
def test_in_a_uniform_set_thumbnails_are_alike_and_photographs_that_embeddings_find_alike_are_not(
    name: str, side: int
) -> None:
    uniform = [image.resize((side, side)) for image in LOOKALIKES[name](30, np.random.default_rng(3))]
    others = [photograph(one).crop((x, y, x + 120, y + 120)) for one in PHOTOGRAPHS for x, y in ((0, 0), (120, 100))]
    x, everything = embeddings(30 + len(others), 0.9, seed=18), np.ones(30 + len(others), bool)
    _, crowds = candidates_in_cell(x, _greys(uniform + others), everything, SETTINGS)
    assert (crowds.alike[:30] >= ALIKE).mean() > 0.9
    assert (crowds.alike[30:] < ALIKE).mean() > 0.9


def test_the_depth_limits_what_is_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    x, greys = embeddings(40, 0.9, seed=10), noise(40, seed=11)
    everything = np.ones(40, bool)
    monkeypatch.setattr(crowded, "DEPTH", 1)
    pairs, _ = candidates_in_cell(x, greys, everything, replace(SETTINGS, candidates_per_image=1))
    nearest = cosine_pairs_in_cell(x, everything, replace(SETTINGS, candidates_per_image=1))
    assert set(listed(pairs)) == set(listed(nearest))


def _greys(images: list[Image.Image]) -> npt.NDArray[np.uint8]:
    return luma(np.stack([thumbnail(image.convert("RGB")) for image in images]))


@pytest.mark.parametrize("name", ["products", "xrays"])
def test_in_a_uniform_set_copies_are_named_that_the_embedding_does_not_tell_apart(name: str) -> None:
    images = LOOKALIKES[name](30, np.random.default_rng(1))
    copies = [TRANSFORMS["crop_90"].change(image, np.random.default_rng(at)) for at, image in enumerate(images)]
    x = embeddings(60, 0.9, seed=12)  # knows nothing of the pictures
    everything = np.ones(60, bool)
    named = set(listed(candidates_in_cell(x, _greys(images + copies), everything, SETTINGS)[0]))
    by_embedding = set(listed(cosine_pairs_in_cell(x, everything, replace(SETTINGS, candidates_per_image=6))))
    pairs = {(at, at + 30) for at in range(30)}
    assert len(pairs & named) >= 25
    assert len(pairs & by_embedding) < 15


def test_the_likeness_of_a_part_does_not_depend_on_the_batch() -> None:
    greys = noise(12, seed=13)
    i, j = (side.ravel() for side in np.mgrid[:12, :12])
    together = part_likeness(greys, i, j)
    alone = [part_likeness(greys[[a, b]], np.array([0]), np.array([1]))[0] for a, b in zip(i, j, strict=True)]
    assert together.tolist() == [float(value) for value in alone]


def test_a_picture_holds_its_crop_mirrored_or_not_and_no_other_picture() -> None:
    whole, other = (np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8) for seed in (14, 15))
    picture, another = (Image.fromarray(p).resize((320, 320), Image.Resampling.BICUBIC) for p in (whole, other))
    crop = picture.crop((64, 0, 288, 224))
    greys = _greys([picture, crop, crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT), another])
    fit = part_likeness(greys, np.array([0, 0, 1, 0]), np.array([1, 2, 0, 3]))
    assert fit[:2].min() > 0.9
    assert fit[2] < 0.8  # the crop does not hold the picture
    assert fit[3] < 0.8
