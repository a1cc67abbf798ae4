"""The benchmark of the loader's filter: both sides load the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dedup.errors import ManifestError
from pipelines import filter_benchmark
from tests.test_filters import SET, make_run

# webdataset leaves the file of a shard to the garbage collector.
pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def urls(tmp_path: Path) -> list[str]:
    return [str(tmp_path / "shards" / f"{shard_id}.tar") for shard_id in SET]


def test_loaders_with_and_without_filter_give_all_samples(tmp_path: Path, urls: list[str]) -> None:
    run = str(make_run(tmp_path, SET))
    loaders = [filter_benchmark.loader(urls, each, None) for each in (None, run)]
    assert [samples for _, samples in filter_benchmark.measure(loaders)] == [5, 5]


def test_the_filter_is_asked(tmp_path: Path, urls: list[str]) -> None:
    make_run(tmp_path, SET)
    run = str(make_run(tmp_path / "of one shard", {"a/0": SET["a/0"]}))
    with pytest.raises(ManifestError, match="b/0"):
        filter_benchmark.measure([filter_benchmark.loader(urls, run, None)])


def test_the_report_has_a_line_for_each_way_to_load(tmp_path: Path) -> None:
    run = str(make_run(tmp_path, {"b/0": SET["b/0"]}))
    lines = list(filter_benchmark.report([str(tmp_path / "shards" / "b" / "0.tar")], run, rounds=1))
    assert [line.split(",")[0] for line in lines] == list(filter_benchmark.DECODERS)
    assert all(re.search(r"2 samples: .* it costs -?\d+\.\d%", line) for line in lines)
