"""The benchmark of cleaning: what it compares is true of the shards."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedup.describe import DescribeSettings
from dedup.errors import ConfigError
from dedup.shards import ShardReader, list_shards
from pipelines import clean_benchmark
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.settings import RunSettings
from tests.shard_makers import shard


@pytest.fixture
def run(shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch) -> Path:
    settings = RunSettings(describe=DescribeSettings(embedder="none"))
    deduplicate([str(shards)], str(tmp_path / "run"), settings, cluster)
    monkeypatch.setattr(clean_benchmark, "ClusterSettings", lambda: cluster)
    return tmp_path / "run"


def test_a_round_trip_compares_every_member(run: Path, shards: Path, tmp_path: Path) -> None:
    told = clean_benchmark.round_trip(str(shards), run, tmp_path / "out")
    assert "of 12 samples equal, 4 samples gone" in told


def test_a_round_trip_that_lost_something_is_an_error(
    run: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_benchmark, "_key", lambda name: name)  # so that nothing counts as removed
    with pytest.raises(ConfigError, match="did not come back as it was"):
        clean_benchmark.round_trip(str(shards), run, tmp_path / "out")


def test_shuffled_pictures_are_all_different(tmp_path: Path) -> None:
    shard(tmp_path / "in" / "0.tar", samples=2)
    images, size = clean_benchmark.write_shuffled(str(tmp_path / "in"), tmp_path / "out", 3)
    found = [s.image.data for each in list_shards([str(tmp_path / "out")])[1] for s in ShardReader(each) if s.image]
    assert (images, size) == (6, sum(map(len, found)))
    assert len(set(found)) == 6
