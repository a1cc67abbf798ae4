from __future__ import annotations

import asyncio
import logging
import os
import time
from pathlib import Path
from typing import Any

import dask
import pytest
from distributed import Future, LocalCluster, Nanny, Status, as_completed

from dedup.errors import ClusterError, ConfigError
from pipelines import client as connecting
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


def test_a_worker_comes_back_however_long_that_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restart = Nanny._on_worker_exit

    async def restart_late(nanny: Nanny, exitcode: int) -> None:
        await asyncio.sleep(1)
        await restart(nanny, exitcode)

    monkeypatch.setattr(Nanny, "_on_worker_exit", restart_late)
    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "0.5s"}),
        connect(ClusterSettings(workers=1)) as client,
    ):
        assert client.submit(_die_once, tmp_path / "died", pure=False).result(timeout=60) == "done"


def test_lost_workers_end_all_waiting_on_any_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_SECONDS_WITHOUT_WORKERS", 1.0)
    monkeypatch.setattr(Nanny, "_on_worker_exit", leave_it_dead)
    with (
        connect(ClusterSettings(workers=1)) as local,
        connect(ClusterSettings(scheduler=local.scheduler.address)) as remote,
    ):
        many = remote.map(_die, range(20), pure=False)
        after = remote.submit(sum, many, pure=False)
        with pytest.raises(ClusterError, match=r"no worker is left, and none came back within 1 seconds: .*memory"):
            local.submit(_die, 0, pure=False).result()
        with pytest.raises(ClusterError):
            list(as_completed(many, with_results=True))
        with pytest.raises(ClusterError):
            remote.gather([after])
        with pytest.raises(ClusterError):  # as does what comes too late
            remote.submit(_double, 1, pure=False).result()


def test_workers_that_start_or_are_paused_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connecting, "_SECONDS_WITHOUT_WORKERS", 0.2)
    with (
        # Without a limit of memory nothing but the test pauses a worker, or ends its pause.
        LocalCluster(
            n_workers=0, memory_limit=0, dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL
        ) as starting,
        connect(ClusterSettings(scheduler=starting.scheduler_address)) as client,
    ):
        future = client.submit(_double, 1, pure=False)
        assert _waits(future)
        starting.scale(1)
        assert future.result() == 2
        client.run(_set_status, Status.paused)
        future = client.submit(_double, 2, pure=False)
        assert _waits(future)
        client.run(_set_status, Status.running)
        assert future.result() == 4


async def leave_it_dead(nanny: Nanny, exitcode: int) -> None:
    """Instead of what a nanny does where its worker died."""


def _die(number: int) -> int:
    time.sleep(0.3)
    os._exit(number)


def _die_once(marker: Path) -> str:
    if not marker.exists():
        marker.touch()
        os._exit(1)
    return "done"


def _double(number: int) -> int:
    return 2 * number


def _set_status(status: Status, dask_worker: Any) -> None:
    dask_worker.status = status


def _waits(future: Future) -> bool:
    time.sleep(1)
    return bool(future.status == "pending")
