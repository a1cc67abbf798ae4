"""Photographs among small pictures: what is counted as found, and what as joined by mistake."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from shard_makers import jpeg, sample_members

from dedup.errors import ConfigError
from dedup.records import PAIR_SCHEMA
from dedup.run_folder import RunFolder
from dedup.shards import write_shard
from pipelines.mixed_benchmark import _joined, measure

FEW = ("--embedder", "none", "--workers", "1")


def shard(path: Path, seeds: range, side: int) -> Path:
    members = [member for seed in seeds for member in sample_members(f"{seed:03d}", jpeg(seed, side, side))]
    write_shard(str(path), members)
    return path


def test_copies_are_found_among_small_pictures_and_nothing_joins_them(tmp_path: Path) -> None:
    photos, small = shard(tmp_path / "photos.tar", range(4), 200), shard(tmp_path / "small.tar", range(100, 108), 32)
    (tmp_path / "work").mkdir()
    outcome = measure(str(photos), str(small), tmp_path / "work", 1, 0, FEW)
    assert (outcome.score.originals, outcome.score.wrong_originals) == (4, 0)
    assert outcome.score.by_transform.set_index("transform").loc["all", "copies"] == 4
    assert (outcome.joined, outcome.pairs) == (0, (4 + 4) * 8)
    assert set(outcome.seconds) == {"describe", "search", "verify"}


def test_pairs_of_both_sets_count_where_they_are_accepted(tmp_path: Path) -> None:
    ends = [
        ("photographs/0/a", "small/0/b", True),
        ("photographs/0/a", "small/0/c", False),
        ("photographs/0/a", "photographs/0/b", True),
        ("small/0/b", "small/0/c", True),
    ]
    rows = [
        {"a": a, "b": b, "method": "verified", "score": 0.5, "probability": 0.5, "accepted": accepted}
        for a, b, accepted in ends
    ]
    folder = RunFolder(str(tmp_path))
    folder.write_table("pairs/0.parquet", pa.Table.from_pylist(rows, PAIR_SCHEMA))
    folder.write_table("pairs/1.parquet", PAIR_SCHEMA.empty_table())
    assert _joined(folder) == 1


def test_small_pictures_must_be_files(tmp_path: Path) -> None:
    photos = shard(tmp_path / "photos.tar", range(1), 64)
    write_shard("memory://elsewhere/small.tar", sample_members("000", jpeg(0, 32, 32)))
    with pytest.raises(ConfigError, match="must be files here"):
        measure(str(photos), "memory://elsewhere/small.tar", tmp_path, 1, 0, FEW)
