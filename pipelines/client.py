"""Where the work runs: a Dask cluster on this machine, sized to it, or one that already exists."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import dask
import torch
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster
from distributed.diagnostics.plugin import WorkerPlugin

from dedup.errors import ClusterError, ConfigError

logger = logging.getLogger(__name__)

KILLS_UNTIL_GIVEN_UP = 3
_SECONDS_WITHOUT_WORKERS = 300.0  # a killed worker is back within seconds, the machine of a remote one after minutes
_MAX_THREADS_PER_GPU = 16
_DASHBOARD = "127.0.0.1:0"  # a free port, and nobody else's business
_DASK_CONFIG = {
    # A task is given up when it was on a worker that died more often than this.
    "distributed.scheduler.allowed-failures": KILLS_UNTIL_GIVEN_UP - 1,
    # So long after a worker's death Dask looks once, and if there is none of its name just then, because that has died
    # again and is being restarted, it ends the nanny that restarts it. Left alone, the nanny brings it back.
    "distributed.deploy.lost-worker-timeout": "365 days",
    "distributed.worker.daemon": True,
    # Dask has workers hand memory back at every 64 kB. Arrays of pictures are larger than that, and a new one on new
    # pages takes longer than what is done with it: verifying took half as long again.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 128 << 20,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "dataframe.shuffle.method": "p2p",
    "dataframe.convert-string": False,
}


@dataclass(frozen=True)
class ClusterSettings:
    """Where the work runs; nothing here changes any result. Raises ConfigError for values that cannot be."""

    scheduler: str | None = None
    """Address of a running Dask scheduler (tcp://...); by default a cluster on this machine."""

    workers: int | None = None
    """Processes of the cluster on this machine; by default as many as suit it."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers={self.workers}: must be at least 1")
        if self.scheduler and self.workers:
            raise ConfigError("workers is for the local cluster; with scheduler=... the cluster has its own")


@dataclass(frozen=True)
class Layout:
    """`workers` processes of `threads` threads each; with `gpus`, worker i sees only gpus[i]."""

    workers: int
    threads: int
    gpus: tuple[str, ...] = ()


def layout(cores: int, gpus: tuple[str, ...] = (), workers: int | None = None) -> Layout:
    """One worker per GPU where there are GPUs, else one per core; or `workers`, among which the cores are divided.

    A task uses one thread for itself, so workers x threads is what the machine has and libraries' own pools stay at
    one thread: nothing oversubscribes.
    """
    if gpus:
        chosen = gpus[:workers]
        return Layout(len(chosen), max(1, min(cores // len(chosen), _MAX_THREADS_PER_GPU)), chosen)
    if workers is None:
        workers = max(1, cores)  # a second thread per worker waits for the interpreter lock more than it works
    return Layout(workers, max(1, cores // workers))


@contextlib.contextmanager
def connect(settings: ClusterSettings) -> Iterator[Client]:
    """A Dask client for the block; the local cluster, if it made one, ends with it.

    Where all workers are lost and none comes back, whatever waits for a result raises ClusterError.
    """
    with dask.config.set(_DASK_CONFIG), contextlib.ExitStack() as stack:
        if settings.scheduler:
            _check_reachable(settings.scheduler)
            client = stack.enter_context(Client(settings.scheduler, timeout="20s"))
        else:
            plan = layout(_cores(), _visible_gpus(), settings.workers)
            cluster = stack.enter_context(_local_cluster(plan))
            client = stack.enter_context(Client(cluster))
        client.register_plugin(_QuietWorker())
        logger.info("Dask dashboard: %s", client.dashboard_link)
        missing = asyncio.run_coroutine_threadsafe(_miss_workers(client), client.loop.asyncio_loop)
        stack.callback(missing.cancel)
        yield client


async def _miss_workers(client: Client) -> None:
    """Fails all that the client waits for where there were workers and there has been none for too long: Dask would
    wait for ever.

    Dask's `no-workers-timeout` is not for this: it counts a worker that is paused for its memory as none, though that
    may be at work; it belongs to the scheduler, which may serve others, too; and it runs while a cluster starts up.
    """
    there_were_some = False
    last_fine = time.monotonic()
    while True:
        with contextlib.suppress(OSError):  # a scheduler out of reach is the client's to deal with
            workers = (await client.scheduler.identity(n_workers=0))["n_workers"]
            waiting = [state for state in list(client.futures.values()) if not state.done()]  # others add to them
            now = time.monotonic()
            there_were_some = there_were_some or workers > 0
            if workers or not waiting:
                last_fine = now
            elif there_were_some and now - last_fine > _SECONDS_WITHOUT_WORKERS:
                for state in waiting:
                    state.set_error(_no_worker_is_left(), None)
        await asyncio.sleep(_SECONDS_WITHOUT_WORKERS / 100)


def _no_worker_is_left() -> ClusterError:
    return ClusterError(
        f"no worker is left, and none came back within {_SECONDS_WITHOUT_WORKERS:g} seconds: most likely they were "
        "killed because memory ran out (the log of the cluster, or of the system, tells); give each more memory, by "
        "fewer workers or a smaller --max-pixels. What is finished is kept, the same command goes on from there"
    )


def _check_reachable(scheduler: str) -> None:
    """A Client that fails to connect is left to the garbage collector, whose clean-up can deadlock with the start of
    the next Client: so none is made for an address where nothing listens."""
    try:
        address = urlsplit(scheduler if "://" in scheduler else f"tcp://{scheduler}")
        if address.hostname is None or address.port is None:
            raise ValueError("an address is tcp://host:port")
        socket.create_connection((address.hostname, address.port), timeout=20).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {scheduler} ({error}); start one with `dask scheduler`, "
            "or leave SCHEDULER out to use this machine"
        ) from error


def slots(client: Client) -> int:
    """How many tasks run at once."""
    return max(1, sum(map(int, client.nthreads().values())))


def _local_cluster(plan: Layout) -> SpecCluster:
    if not plan.gpus:
        return LocalCluster(
            n_workers=plan.workers,
            threads_per_worker=plan.threads,
            dashboard_address=_DASHBOARD,
            silence_logs=logging.ERROR,
        )
    memory = dask.config.get("distributed.worker.memory.limit", None) or "auto"
    workers = {
        index: {
            "cls": Nanny,
            "options": {"nthreads": plan.threads, "memory_limit": memory, "env": {"CUDA_VISIBLE_DEVICES": gpu}},
        }
        for index, gpu in enumerate(plan.gpus)
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": _DASHBOARD, "host": "127.0.0.1", "port": 0}}
    return SpecCluster(workers=workers, scheduler=scheduler, silence_logs=logging.ERROR)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _visible_gpus() -> tuple[str, ...]:
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if count and named:
        return tuple(name.strip() for name in named.split(","))[:count]
    return tuple(str(index) for index in range(count))


class _QuietWorker(WorkerPlugin):  # type: ignore[misc]
    """Leaves Ctrl-C to the driver (the terminal sends it to every process), and libraries to one thread each."""

    name = "dedup-quiet-worker"

    def setup(self, worker: Any) -> None:  # noqa: ARG002
        with contextlib.suppress(ValueError):  # not in a process's main thread: a worker inside another program
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        torch.set_num_threads(1)
        logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)  # the driver tells of a task's error, once
