from __future__ import annotations

import os

import pytest

from dedup.errors import ConfigError
from pipelines.client import ClusterSettings, Layout, connect, layout


@pytest.mark.parametrize(
    ("cores", "gpus", "workers", "expected"),
    [
        (1, (), None, Layout(1, 1)),
        (2, (), None, Layout(2, 1)),
        (4, (), None, Layout(4, 1)),
        (64, (), None, Layout(64, 1)),
        (8, (), 2, Layout(2, 4)),
        (2, (), 2, Layout(2, 1)),
        (2, (), 4, Layout(4, 1)),
        (16, ("0",), None, Layout(1, 16, ("0",))),
        (96, ("0", "1", "2", "3"), None, Layout(4, 16, ("0", "1", "2", "3"))),
        (8, ("2", "3"), None, Layout(2, 4, ("2", "3"))),
        (8, ("2", "3"), 1, Layout(1, 8, ("2",))),
        (1, ("0", "1"), None, Layout(2, 1, ("0", "1"))),
    ],
)
def test_the_machine_is_used_and_not_oversubscribed(
    cores: int, gpus: tuple[str, ...], workers: int | None, expected: Layout
) -> None:
    assert layout(cores, gpus, workers) == expected


@pytest.mark.parametrize("address", ["nonsense", "tcp://127.0.0.1", "tcp://127.0.0.1:1", "127.0.0.1:x"])
def test_an_address_where_no_scheduler_listens_is_named(address: str) -> None:
    with pytest.raises(ConfigError, match=f"no Dask scheduler answers at {address}"), connect(ClusterSettings(address)):
        pytest.fail("connected")


def test_workers_keep_memory_to_use_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    for name in names:  # what the environment says comes first, and a cluster that another test made leaves it there
        monkeypatch.delenv(name, raising=False)
    with connect(ClusterSettings(workers=1)) as client:
        (of_worker,) = client.run(lambda: [int(os.environ[name]) for name in names]).values()
    assert min(of_worker) > 30e6


def test_settings_that_contradict_are_refused() -> None:
    with pytest.raises(ConfigError, match="workers=0"):
        ClusterSettings(workers=0)
    with pytest.raises(ConfigError, match="the cluster has its own"):
        ClusterSettings(scheduler="tcp://127.0.0.1:1", workers=2)
