"""The cleaned manifest: one row per input sample, in the shard's own order, that says what becomes of it and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup.decisions import DEFAULT_DECISION, DecideSettings
from dedup.errors import ManifestError
from dedup.records import MANIFEST_SCHEMA, Shard
from dedup.run_folder import RUN_FILE, RunFolder

# The columns of a descriptor table that a manifest needs.
DESCRIPTOR_COLUMNS = ("sample_id", "key", "error", "width", "height", "sha256", "crc32", "caption", "url", "note")


def manifest_name(shard_id: str) -> str:
    """Where in the run folder a shard's part of the manifest lies."""
    return f"manifest/{shard_id}.parquet"


def manifest_table(
    shard: Shard, descriptors: pa.Table, decisions: pa.Table, settings: DecideSettings = DEFAULT_DECISION
) -> pa.Table:
    """The manifest of one shard (schema `records.MANIFEST_SCHEMA`).

    `descriptors` holds DESCRIPTOR_COLUMNS; `decisions` the rows of `decisions.choose`, under the same `settings`, for
    this shard's samples, or more. Every descriptor row gives exactly one manifest row: `removed` where a decision says
    so, `failed` where it has an error, else `kept`. Raises ManifestError when a sample that could not be decoded has
    a keeper.
    """
    rows = descriptors.num_rows
    match = pc.index_in(descriptors["sample_id"], value_set=decisions["sample_id"].combine_chunks())
    decided = decisions.take(match)  # null rows where nothing was decided
    failed = pc.is_valid(descriptors["error"])
    removed = pc.fill_null(pc.equal(decided["status"], "removed"), False)
    if pc.any(pc.and_(failed, pc.is_valid(decided["keeper"]))).as_py():
        raise ManifestError(
            f"shard {shard.url}: a sample that failed was grouped; delete the folder's pairs, run again"
        )
    status = pc.if_else(removed, "removed", pc.if_else(failed, "failed", "kept"))
    weight = decided["weight"]
    if settings.weighs:
        weight = pc.if_else(pc.equal(status, "kept"), pc.fill_null(weight, 1.0), None)
    columns = {
        "sample_id": descriptors["sample_id"],
        "shard": pa.repeat(shard.url, rows),
        "key": descriptors["key"],
        "status": status,
        "cluster": decided["cluster"],
        "cluster_size": pc.fill_null(decided["cluster_size"], 1),
        "component_size": pc.fill_null(decided["component_size"], 1),
        "keeper": decided["keeper"],
        "method": decided["method"],
        "score": decided["score"],
        "error": descriptors["error"],
        "width": descriptors["width"],
        "height": descriptors["height"],
        "sha256": _hex(descriptors["sha256"]),
        "crc32": descriptors["crc32"],
        "caption": descriptors["caption"],
        "url": descriptors["url"],
        "note": descriptors["note"],
        "weight": weight,
        "captions": decided["captions"],
    }
    table = pa.table([columns[name] for name in MANIFEST_SCHEMA.names], names=MANIFEST_SCHEMA.names)
    return table.cast(MANIFEST_SCHEMA).combine_chunks()


def count(table: pa.Table) -> dict[str, int]:
    """Rows by status, and removed rows by method ("removed:hash")."""
    statuses = Counter(table["status"].to_pylist())
    methods = Counter(table.filter(pc.equal(table["status"], "removed"))["method"].to_pylist())
    by_status = {status: statuses[status] for status in ("kept", "removed", "failed")}
    return by_status | {f"removed:{method}": number for method, number in methods.items()}


def read_manifest(run: str, columns: Sequence[str] | None = None) -> pa.Table:
    """The whole manifest of a finished run (schema `records.MANIFEST_SCHEMA`), shards in their order.

    `run` is the run folder, local or an fsspec URL. Raises ManifestError when there is no finished run in it.
    """
    schema = MANIFEST_SCHEMA if columns is None else pa.schema([MANIFEST_SCHEMA.field(name) for name in columns])
    tables = list(iter_manifest(run, columns))
    return pa.concat_tables(tables) if tables else schema.empty_table()


def iter_manifest(run: str, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """`read_manifest` one shard at a time."""
    folder = RunFolder(run)
    document = folder.read_json(RUN_FILE)
    if document is None:
        raise ManifestError(f"{run} is no run folder: it has no {RUN_FILE}")
    if "decide" not in document.get("steps", {}):
        raise ManifestError(f"the run in {run} is unfinished; start it again with the same settings to finish it")
    for shard in document["shards"]:
        yield folder.read_table(manifest_name(shard["shard_id"]), columns)


def _hex(digests: pa.ChunkedArray) -> pa.Array:
    """Fixed-size binary as lower-case hexadecimal strings; null stays null."""
    values = [None if digest is None else digest.hex() for digest in digests.to_pylist()]
    return pa.array(values, pa.string())


def split_by_shard(decisions: pa.Table, shards: Sequence[Shard]) -> dict[str, pa.Table]:
    """The part of `decisions` that concerns each shard, by shard_id; shards without any are absent.

    A shard's samples are those whose sample_id begins with its shard_id and a slash. Where a shard_id is a folder of
    another's (`a` and `a/b`), a part may hold rows of both, which `manifest_table` matches by the whole sample_id.
    """
    if decisions.num_rows == 0:
        return {}
    decisions = decisions.take(pc.sort_indices(decisions["sample_id"]))
    ids = np.array(decisions["sample_id"].to_pylist(), dtype=object)
    parts = {}
    for shard in shards:
        # "0" is the character after "/": every id with this prefix sorts between the two.
        first, last = np.searchsorted(ids, [f"{shard.shard_id}/", f"{shard.shard_id}0"])
        if last > first:
            parts[shard.shard_id] = decisions.slice(first, last - first)
    return parts
