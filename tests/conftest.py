"""What several test files share: a Dask cluster that starts once, and a set of shards with known duplicates."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from distributed import LocalCluster

from pipelines.client import ClusterSettings
from pipelines.shuffle import quiet
from tests.shard_makers import encode, jpeg, picture, sample_members, write_tar


@pytest.fixture(scope="session")
def cluster() -> Iterator[ClusterSettings]:
    """Two worker processes, for all tests of a session; runs reach it by its address."""
    quiet()
    with LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
    ) as running:
        yield ClusterSettings(scheduler=running.scheduler_address)


@pytest.fixture
def collected() -> Iterator[None]:
    """For tests of loaders, which leave the files of shards to the garbage collector: it runs before the next test."""
    yield
    gc.collect()


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    """An empty remote filesystem."""
    fs = fsspec.filesystem("memory")
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    yield fs
    fs.store.clear()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where a run goes."""
    return tmp_path / "run"


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Three shards of 16 samples in all. Of picture 0 there are three byte-identical files and a recompressed one, of
    picture 1 a larger one; two samples cannot be decoded."""
    folder = tmp_path / "shards"
    first = jpeg(0)
    members = [
        [sample_members(f"a{seed}", jpeg(seed), f"picture {seed}") for seed in range(5)],
        [
            sample_members("b0", first, "a copy"),
            sample_members("b1", encode(picture(0), quality=60), "a recompressed copy with the longest caption"),
            sample_members("b2", jpeg(1)[:500], "truncated"),
            sample_members("b3", jpeg(11), None),
            sample_members("b4", jpeg(12), None, aesthetic=4.5),
            sample_members("b5", None, "no image"),
        ],
        [
            sample_members("c0", encode(picture(1).resize((320, 240)), "PNG"), "larger", extension="png"),
            sample_members("c1", first, "another copy"),
            sample_members("c2", jpeg(22), "picture 22"),
            sample_members("c3", jpeg(23), "picture 23"),
            sample_members("c4", jpeg(24), "picture 24"),
        ],
    ]
    for number, samples in enumerate(members):
        write_tar(folder / f"{number:05d}.tar", [member for sample in samples for member in sample])
    return folder
