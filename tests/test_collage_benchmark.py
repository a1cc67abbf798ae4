"""The benchmark of collages: what is planted, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedup.shards import write_shard
from pipelines.collage_benchmark import COLLAGES, SIDE, plant_collages, removed
from tests.shard_makers import sample_members
from tests.verification import photograph, png

NAMES = ("astronaut", "chelsea", "coffee", "flower", "china")


@pytest.fixture
def photos(tmp_path: Path) -> str:
    path = tmp_path / "photos.tar"
    write_shard(
        str(path), [each for name in NAMES for each in sample_members(name, png(photograph(name)), extension="png")]
    )
    return str(path)


@pytest.mark.parametrize("kind", COLLAGES)
def test_a_collage_shows_the_picture_and_others(kind: str) -> None:
    pictures = [photograph(name) for name in NAMES]
    collage = COLLAGES[kind](pictures[:4])
    assert min(collage.size) == SIDE
    for other in (1, 2, 3):
        changed = [*pictures[:other], pictures[4], *pictures[other + 1 : 4]]
        shown = {"four": 3, "three": 2, "two": 1}[kind.split()[0]]
        assert (COLLAGES[kind](changed).tobytes() == collage.tobytes()) == (other > shown)
    assert COLLAGES[kind]([pictures[4], *pictures[1:4]]).tobytes() != collage.tobytes()


def test_each_photograph_is_planted_alone_and_beside_others(photos: str) -> None:
    planted = list(plant_collages(photos, 0))
    assert [each.key for each in planted[::2]] == list(NAMES)
    assert [each.key for each in planted[1::2]] == [f"{name}~beside" for name in NAMES]
    assert {each.original for each in planted} == {None}


def test_what_a_run_removes_is_counted(photos: str, tmp_path: Path) -> None:
    *gone, total = removed(photos, tmp_path / "run", 0, ("--workers", "1"))
    assert (sum(gone) <= 1, total) == (True, 5)
    assert sum(removed(photos, tmp_path / "any", 0, ("--workers", "1", "--min-cosine", "0.1"))[:2]) > 3
