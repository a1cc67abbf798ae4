"""Describe every shard: one Dask task per shard, resumable, with progress inside the shards too."""

from __future__ import annotations

import functools
import logging
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client, Future, KilledWorker, as_completed, get_worker, wait

from dedup import describe
from dedup.embedders import Embedder, resolve
from dedup.errors import ShardError
from dedup.records import Shard
from dedup.run_folder import RunFolder
from pipelines.client import KILLS_UNTIL_GIVEN_UP, slots
from pipelines.download_statistics import read_statistics
from pipelines.progress import Progress
from pipelines.run_state import Run, shard_entry

logger = logging.getLogger(__name__)

_TOPIC = "dedup-described"


def describe_shards(run: Run, client: Client) -> None:
    """Write descriptors/<shard_id>.parquet for every shard of the run that has none of this fingerprint yet.

    Raises ShardError for a shard that is unreadable or kills its workers, unless the run skips bad shards: then they
    are listed in run.json and are no part of the run.
    """
    run.resolve_embedder(client.submit(_embedder_facts, run.settings.describe.embedder, pure=False).result())
    fingerprint = run.step_fingerprint("describe")
    if run.of_other_version():
        logger.warning("%s was made by another version of dedup: its shards are described anew", run.folder.url)
    threads = max(1, slots(client) // len(run.shards))
    task = functools.partial(
        _describe_shard,
        folder=run.folder,
        settings=run.settings.describe,
        fingerprint=fingerprint,
        threads=threads,
        nested=_nested(run.shards),
    )
    by_key = {f"describe-{shard.shard_id}": shard for shard in run.shards}
    facts: dict[str, dict[str, Any]] = {}
    skipped: list[dict[str, str]] = []
    with Progress("describe", sum(shard.size for shard in run.shards), "images") as progress:
        watch = _Watch(progress)
        client.subscribe_topic(_TOPIC, watch.event)
        futures = client.map(task, list(by_key.values()), key=list(by_key), pure=False, retries=0)
        try:
            for shard, future in _each_ended(client, task, futures, by_key):
                error = future.exception()
                if error is None:
                    facts[shard.shard_id] = future.result()
                    watch.finished(shard, facts[shard.shard_id]["samples"])
                    future.release()
                    continue
                error = _named(error, shard)
                if not (run.skip_bad_shards and isinstance(error, ShardError)):
                    raise error
                logger.warning("skipped: %s", error)
                skipped.append({"url": shard.url, "reason": error.reason})
        finally:
            client.cancel(futures, force=True)
            client.unsubscribe_topic(_TOPIC)
    run.shards = [shard for shard in run.shards if shard.shard_id in facts]
    entries = [shard_entry(shard, facts[shard.shard_id]) for shard in run.shards]
    run.document["workers"] = _peaks(entries)
    run.document["shards"] = entries
    run.document["skipped_shards"] = skipped
    run.document["downloaded"] = read_statistics(run.shards)
    seconds = {step: sum(entry["seconds"][step] for entry in entries) for step in describe.DescribeStats().seconds}
    fresh = sum(entry["samples"] for entry in entries if not entry.pop("resumed"))
    run.finish("describe", described=fresh, cpu_seconds=seconds)


def _each_ended(
    client: Client, task: Callable[[Shard], dict[str, Any]], futures: list[Future], by_key: dict[str, Shard]
) -> Iterator[tuple[Shard, Future]]:
    """Each shard with its task, as they end. Where workers died, all tasks that ran there are suspects: those are run
    again at the end, one at a time, so that only a shard that does kill its workers fails by it."""
    suspects = []
    for future in as_completed(futures):
        if isinstance(future.exception(), KilledWorker):
            suspects.append(by_key[future.key])
        else:
            yield by_key[future.key], future
    for shard in suspects:
        alone = client.submit(task, shard, key=f"describe-alone-{shard.shard_id}", pure=False)
        wait([alone])
        yield shard, alone


def descriptors_name(shard_id: str) -> str:
    """Where in the run folder a shard's descriptors lie."""
    return f"descriptors/{shard_id}.parquet"


def _nested(shards: list[Shard]) -> frozenset[str]:
    """The shard_ids that lie in a folder named as another shard is: a/b where there is also a."""
    ids = {shard.shard_id for shard in shards}
    return frozenset(i for i in ids if any(str(parent) in ids for parent in PurePosixPath(i).parents))


def _describe_shard(
    shard: Shard,
    folder: RunFolder,
    settings: describe.DescribeSettings,
    fingerprint: str,
    threads: int,
    nested: frozenset[str],
) -> dict[str, Any]:
    """One task: facts for run.json; reads the shard only if its descriptors are missing or of another state."""
    name = descriptors_name(shard.shard_id)
    identity = {"fingerprint": fingerprint, "size": shard.size, "version": shard.version}
    note = folder.note(name)
    if note is not None and all(note.get(key) == value for key, value in identity.items()):
        return {**note["facts"], "resumed": True}
    embedder = _embedder(settings.embedder)
    stats = describe.DescribeStats()
    with folder.table_writer(name, describe.schema(settings, embedder)) as writer:
        for table in describe.describe_batches(shard, settings, embedder, threads=threads, stats=stats):
            _refuse_ambiguous(shard, table["sample_id"], nested)
            writer.write(table)
            _report(shard.shard_id, stats.samples, table["offset"])
        facts = asdict(stats) | {"worker": _worker_name(), "peak_bytes": _peak_bytes()}
        del facts["bytes"]  # the shard's size, which its entry has
        writer.annotate({**identity, "facts": facts})
    return {**facts, "resumed": False}


def _refuse_ambiguous(shard: Shard, sample_ids: pa.ChunkedArray, nested: frozenset[str]) -> None:
    """Key b/c of shard a would have the sample_id that key c of shard a/b has."""
    for other in nested:
        if other.startswith(f"{shard.shard_id}/") and pc.any(pc.starts_with(sample_ids, f"{other}/")).as_py():
            raise ShardError(
                shard.url,
                f"its keys under {other[len(shard.shard_id) + 1 :]}/ give the same sample ids as shard {other}: "
                "rename one of the two shards, or run them apart",
            )


_embedders: dict[str, Embedder | None] = {}
_embedders_lock = threading.Lock()


def _embedder(name: str) -> Embedder | None:
    """This process's embedder of that name, which its tasks share: loaded once, by one thread."""
    with _embedders_lock:
        if name not in _embedders:
            embedder = resolve(name, threads=_worker_threads())
            _embedders[name] = _embedders[embedder.name if embedder else "none"] = embedder
        return _embedders[name]


def _embedder_facts(name: str) -> dict[str, Any]:
    """What `name` comes to on the workers, where the GPUs and the weights are."""
    embedder = _embedder(name)
    if embedder is None:
        return {"name": "none", "dim": 0, "image_size": 0, "weights_sha256": None, "threshold": None, "device": "none"}
    return {
        "name": embedder.name,
        "dim": embedder.dim,
        "image_size": embedder.image_size,
        "weights_sha256": embedder.weights_sha256,
        "threshold": asdict(embedder.threshold) if embedder.threshold else None,
        "device": str(embedder.device),
    }


class _Watch:
    """Turns events from inside the shards, and their ends, into progress; an event may be late or lost."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._seen: dict[str, tuple[int, int]] = {}  # shard_id -> (bytes, samples) counted so far

    def event(self, event: tuple[Any, Mapping[str, Any]]) -> None:
        content = event[1]
        self._count(content["shard_id"], content["bytes"], content["samples"])

    def finished(self, shard: Shard, samples: int) -> None:
        self._count(shard.shard_id, shard.size, samples)

    def _count(self, shard_id: str, size: int, samples: int) -> None:
        bytes_before, samples_before = self._seen.get(shard_id, (0, 0))
        if size > bytes_before:
            self._seen[shard_id] = (size, samples)
            self._progress.advance(size - bytes_before, samples - samples_before)


def _report(shard_id: str, samples: int, offsets: Any) -> None:
    reached = max((offset for offset in offsets.to_pylist() if offset is not None), default=0)
    try:
        get_worker().log_event(_TOPIC, {"shard_id": shard_id, "bytes": reached, "samples": samples})
    except ValueError:  # called outside a Dask worker
        return


def _named(error: BaseException, shard: Shard) -> BaseException:
    if isinstance(error, KilledWorker):
        return ShardError(
            shard.url,
            f"{KILLS_UNTIL_GIVEN_UP} workers died while describing it (out of memory, or a crash in a decoder); use "
            "fewer workers, a smaller --max-pixels, or leave the shard out",
        )
    return error


def _worker_threads() -> int:
    try:
        return int(get_worker().state.nthreads)
    except ValueError:
        return 1


def _worker_name() -> str:
    try:
        return str(get_worker().address)
    except ValueError:
        return "local"


def _peak_bytes() -> int:
    """The most memory that this process has held at once."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _peaks(entries: list[dict[str, Any]]) -> dict[str, int]:
    peaks: dict[str, int] = {}
    for entry in entries:
        worker, peak = entry.pop("worker"), entry.pop("peak_bytes")
        peaks[worker] = max(peaks.get(worker, 0), peak)
    return peaks
