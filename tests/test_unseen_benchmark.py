"""Transforms that nothing was fitted on: what they make, and what of it is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import skimage.data
from PIL import Image
from shard_makers import sample_members

from dedup.shards import write_shard
from dedup.transforms import TRANSFORMS
from pipelines.multiplied import samples
from pipelines.rare_transforms import RARE
from pipelines.unseen_benchmark import found, plant_shared, plant_unseen, removed
from pipelines.unseen_transforms import SHARED, UNSEEN
from tests.verification import png

FEW = ("--workers", "1")


def _photographs(path: Path) -> str:
    members = []
    for name in ("astronaut", "coffee", "rocket"):
        image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
        image.thumbnail((300, 300))
        members += sample_members(name, png(image), extension="png")
    write_shard(str(path), members)
    return str(path)


@pytest.mark.parametrize("name", [*UNSEEN, *RARE])
def test_a_transform_is_the_same_by_equal_generators_and_leaves_the_picture(name: str) -> None:
    image = Image.fromarray(skimage.data.coffee()).convert("RGB").resize((120, 90))
    before = image.tobytes()
    first, again = ((UNSEEN | RARE)[name](image, np.random.default_rng(3)) for _ in range(2))
    assert first.data == again.data
    assert image.tobytes() == before
    assert first.open().convert("RGB").resize(image.size).tobytes() != before


def test_none_of_them_is_fitted_on() -> None:
    assert not set(UNSEEN | RARE) & set(TRANSFORMS)
    assert not set(UNSEEN) & set(RARE)


def test_copies_are_dealt_round_and_round(tmp_path: Path) -> None:
    planted = list(plant_unseen(samples(_photographs(tmp_path / "photos.tar")), 4, 0))
    assert [each.transform for each in planted if each.original] == list(UNSEEN)[:12]
    assert [each.key for each in planted if not each.original] == ["astronaut", "coffee", "rocket"]


def test_the_same_lies_over_each(tmp_path: Path) -> None:
    photos = _photographs(tmp_path / "photos.tar")
    for name in SHARED:
        first, second, _ = (np.asarray(each.image.open(), int) for each in plant_shared(samples(photos), name, 0))
        assert first.shape == second.shape
        assert 0.05 < (np.abs(first - second).max(2) < 12).mean() < 0.95


def test_what_a_run_finds_and_removes_is_counted(tmp_path: Path) -> None:
    photos = _photographs(tmp_path / "photos.tar")
    outcome = found(samples(photos), 4, tmp_path / "found", 0, FEW)  # turned, upside down, from the side, and so on
    total = outcome.by_transform.set_index("transform").loc["all"]
    assert (total.copies, outcome.originals, outcome.wrong_originals) == (12, 3, 0)
    assert total.found >= 10
    assert removed(samples(photos), "a badge", tmp_path / "removed", 0, FEW) == (0, 3)
