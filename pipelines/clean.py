"""Write cleaned shards on Dask: checked against the manifest, resumable by shard; the input is never touched."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from distributed import Client, as_completed

from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.listing import open_filesystem, refuse_changed
from dedup.manifest import manifest_name
from dedup.records import Shard
from dedup.rewrite import CleanSettings, Output, Rewriter, Written, plan
from dedup.run_folder import RunFolder, fingerprint
from dedup.staying import manifest_columns
from pipelines.client import ClusterSettings, connect, slots
from pipelines.progress import Progress
from pipelines.run_state import Run

logger = logging.getLogger(__name__)

CLEAN_FILE = "clean.json"
FORMAT = 3  # of clean.json
_SECONDS_BETWEEN_SAVES = 10.0
_TASK_BYTES = 64_000_000  # of input: smaller shards are written together
_TASKS_PER_SLOT = 4  # at least, where there are so many shards, so that no worker waits long for the last one


def clean(run_url: str, out: str, settings: CleanSettings, cluster: ClusterSettings) -> dict[str, Any]:
    """Write what stays of the run's shards into the folder `out`, or finish what was begun there; gives clean.json.

    Shards that an earlier call wrote are read, and written again where they are not as they should be: the log names
    them.

    Raises ManifestError where the run is unfinished, ShardError where a shard changed or vanished since, ConfigError
    where `out` overlaps the input or holds something else.
    """
    run = Run.reopen(run_url)
    if not run.is_finished("decide"):
        raise run.unfinished()
    _refuse_overlap(out, run.shards)
    staying = [settings.staying(entry["counts"]) for entry in run.document["shards"]]
    outputs = plan(run.shards, staying, settings)
    folder = RunFolder(out)
    refuse_changed(run.shards)
    document = _open(folder, run, settings)
    written = _of_earlier_calls(folder, document)
    try:
        with connect(cluster) as client:
            started = time.monotonic()
            document["shards_of_earlier_calls"] = _write_all(client, run, folder, outputs, settings, document, written)
            document["seconds"] = round(time.monotonic() - started, 3)
        document["counts"] = _checked_counts(folder, run, outputs, written, settings)
        document["finished"] = True
    finally:
        _save(folder, document, written)
    return document


def text(document: dict[str, Any], out: str) -> str:
    """What was written, for a terminal."""
    counts = document["counts"]
    earlier = document["shards_of_earlier_calls"]
    checked = "checked against the manifest"
    if earlier:
        checked = f"{earlier:,} of them by earlier calls, all {checked}"
    return "\n".join(
        [
            f"input    {counts['input']:>12,}",
            f"written  {counts['written']:>12,}  in {len(document['shards']):,} shards, {checked}",
            f"left out {counts['removed']:>12,}  removed",
            f"         {counts['failed_left_out']:>12,}  failed",
            f"shards   {out}",
        ]
    )


def _refuse_overlap(out: str, shards: Sequence[Shard]) -> None:
    target = _real_path(out)
    for folder in sorted({_real_path(shard.url.rpartition("/")[0]) for shard in shards}):
        for inner, outer, how in (
            (target, folder, "is the folder of input shards, or in it"),
            (folder, target, "holds input shards"),
        ):
            if f"{inner}/".startswith(f"{outer.rstrip('/')}/"):
                raise ConfigError(f"{out} {how} ({folder}), which are never changed: choose a folder beside it")


def _real_path(url: str) -> str:
    fs, path, local = open_filesystem(url)
    return os.path.realpath(path) if local else str(fs.unstrip_protocol(path)).rstrip("/")


def _open(folder: RunFolder, run: Run, settings: CleanSettings) -> dict[str, Any]:
    """clean.json of what was begun in the folder, else a new one, which is saved."""
    document = {
        "format": FORMAT,
        "run": run.folder.url,
        "decision": fingerprint(run.step_fingerprint("decide"), [entry["counts"] for entry in run.document["shards"]]),
        "settings": dataclasses.asdict(settings),
        "shards": [],
        "finished": False,
    }
    try:
        before = folder.read_json(CLEAN_FILE)
        occupied = before is None and bool(folder.sizes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder.url} cannot hold shards ({type(error).__name__}: {error})") from error
    if occupied:
        raise ConfigError(f"{folder.url} is not empty and has no {CLEAN_FILE}: choose a new folder")
    if before is None:
        folder.write_json(CLEAN_FILE, document)
        return document
    for name in ("format", "decision", "settings"):
        if before.get(name) != document[name]:
            raise ConfigError(
                f"{folder.url} holds shards cleaned by another {name} ({before.get(name)}, now {document[name]}): "
                "choose a new folder, or delete this one"
            )
    return {**before, "finished": False}


def _of_earlier_calls(folder: RunFolder, document: dict[str, Any]) -> dict[str, Written]:
    """What earlier calls have written, by name; a file that is gone or of another size counts as not written."""
    sizes = folder.sizes()
    found = {}
    for entry in (Written(**entry) for entry in document["shards"]):
        name = f"{entry.name}.tar"
        if sizes.get(name) == entry.size:
            found[entry.name] = entry
        elif name in sizes:
            changed = f"has {sizes[name]:,} bytes, and {entry.size:,} when it was written"
            logger.warning("%s %s; it is written again", folder.path(name), changed)
    return found


def _save(folder: RunFolder, document: dict[str, Any], written: dict[str, Written]) -> None:
    document["shards"] = [dataclasses.asdict(written[name]) for name in sorted(written)]
    folder.write_json(CLEAN_FILE, document)


def _write_all(
    client: Client,
    run: Run,
    folder: RunFolder,
    outputs: Sequence[Output],
    settings: CleanSettings,
    document: dict[str, Any],
    written: dict[str, Written],
) -> int:
    """Check those of `outputs` that are `written` and write the others, add these, and save the document now and then.
    Gives the number of those that were as they should be."""
    groups = _tasks(outputs, slots(client))
    earlier = [{output.name: written[output.name] for output in group if output.name in written} for group in groups]
    pools = run.settings.decide.pools
    task = functools.partial(_write_outputs, run=run.folder, folder=folder, settings=settings, pools=pools)
    intact = len(written)
    saved = time.monotonic()
    with Progress("clean", sum(output.samples for output in outputs), "images") as progress:
        futures = client.map(task, groups, earlier, pure=False, retries=0)
        try:
            for _, (result, problems) in as_completed(futures, with_results=True):
                for problem in problems:
                    logger.warning("%s; it was written again", problem)
                intact -= len(problems)
                written.update((entry.name, entry) for entry in result)
                samples = sum(entry.samples for entry in result)
                progress.advance(samples, samples)
                if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    _save(folder, document, written)
                    saved = time.monotonic()
        finally:
            client.cancel(futures, force=True)
    return intact


def _tasks(outputs: Sequence[Output], slots: int) -> list[list[Output]]:
    """Outputs that one task writes. Those that begin in one shard go together, so that no shard is read more than
    twice; and small ones, since each task costs some milliseconds."""
    enough = min(_TASK_BYTES, sum(output.pieces[0].shard.size for output in outputs) // (_TASKS_PER_SLOT * slots))
    tasks: list[list[Output]] = []
    size = enough
    for _, group in itertools.groupby(outputs, lambda output: output.pieces[0].shard.shard_id):
        if size >= enough:
            tasks.append([])
            size = 0
        tasks[-1] += group
        size += tasks[-1][-1].pieces[0].shard.size
    return tasks


def _write_outputs(
    outputs: list[Output],
    earlier: dict[str, Written],
    run: RunFolder,
    folder: RunFolder,
    settings: CleanSettings,
    pools: bool,
) -> tuple[list[Written], list[str]]:
    """One task: outputs that follow one another. Those that `earlier` calls wrote, by name, are checked, and written
    only where they are not as they should be; gives these problems, too."""
    written, problems = [], []
    with Rewriter(functools.partial(_manifest, run, manifest_columns(pools)), settings, pools) as rewriter:
        for output in outputs:
            name = f"{output.name}.tar"
            if output.name in earlier:
                try:
                    rewriter.check(output, earlier[output.name], folder.path(name))
                except ShardError as error:
                    problems.append(str(error))
                else:
                    written.append(earlier[output.name])
                    continue
            if settings.shard_size is None:
                _write_side_table(output, run, folder, settings)
            with folder.whole_file(name) as path:
                written.append(rewriter.write(output, Path(path)))
    return written, problems


def _manifest(run: RunFolder, columns: Sequence[str], shard: Shard) -> pa.Table:
    return run.read_table(manifest_name(shard.shard_id), columns)


def _write_side_table(output: Output, run: RunFolder, folder: RunFolder, settings: CleanSettings) -> None:
    """Where img2dataset left a table beside the shard: its rows but those of the samples that go."""
    [piece] = output.pieces
    fs, path, _ = open_filesystem(piece.shard.url)
    source = f"{path.removesuffix('.tar')}.parquet"
    if not fs.exists(source):
        return
    try:
        with fs.open(source, "rb") as file:
            table = pq.read_table(file)
    except (OSError, pa.ArrowInvalid) as error:
        reason = f"the table beside it, {source}, cannot be read ({error}): move it away, or restore it"
        raise ShardError(piece.shard.url, reason) from error
    if "key" not in table.column_names:
        return
    manifest = run.read_table(manifest_name(piece.shard.shard_id), ["key", "status"])
    going = manifest.filter(pc.invert(settings.stays(manifest["status"])))["key"]
    folder.write_table(f"{output.name}.parquet", table.filter(pc.invert(pc.is_in(table["key"], value_set=going))))


def _checked_counts(
    folder: RunFolder, run: Run, outputs: Sequence[Output], written: dict[str, Written], settings: CleanSettings
) -> dict[str, int]:
    """What was written and left out, in all. Raises ManifestError where the folder does not hold what it should."""
    sizes = folder.sizes()
    for output in outputs:
        entry = written[output.name]
        if entry.samples != output.samples or sizes.get(f"{output.name}.tar") != entry.size:
            raise ManifestError(f"{folder.path(output.name)}.tar is not as it was written: clean again")
    counts: dict[str, int] = run.document["counts"]
    total = sum(entry.samples for entry in written.values())
    if total != settings.staying(counts):
        raise ManifestError(f"{folder.url} holds {total} samples, {settings.staying(counts)} stay by the manifest")
    failed_left_out = counts["failed"] if settings.drop_failed else 0
    return {
        "input": counts["input"],
        "written": total,
        "removed": counts["removed"],
        "failed_left_out": failed_left_out,
    }
