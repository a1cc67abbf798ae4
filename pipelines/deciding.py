"""Group the accepted pairs, decide who stays, and write the manifest, shard by shard."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup import manifest
from dedup.groups import group
from dedup.policies import columns_of, keep_order, parse_policy
from dedup.records import PAIR_SCHEMA, Shard
from dedup.run_folder import RunFolder
from pipelines.describing import descriptors_name
from pipelines.run_state import Run
from pipelines.url_lists import write_url_lists

_LARGEST_GROUPS = 5
_PAIR_COLUMNS = ("a", "b", "method", "score", "accepted")


def decide(run: Run, client: Client) -> None:
    """Write manifest/<shard_id>.parquet for every shard of the run.

    The driver holds the accepted pairs and a row per sample in them: memory follows the duplicates, not the set.
    """
    run.start("decide")
    pairs = _accepted_pairs(run.folder)
    policies = parse_policy(run.settings.decide.keep)
    involved = manifest.split_by_shard(_involved(pairs), run.shards)
    rows = client.gather(
        [
            client.submit(_rows_of, run.folder, shard_id, part["sample_id"], columns_of(policies), pure=False)
            for shard_id, part in involved.items()
        ]
    )
    if rows:
        ranked = pa.concat_tables(rows)
        decisions = group(pairs, ranked["sample_id"], keep_order(ranked, policies), run.settings.decide.grouping)
    else:
        decisions = group(pairs, pa.array([], pa.string()), [], run.settings.decide.grouping)

    parts = manifest.split_by_shard(decisions, run.shards)
    nothing = decisions.slice(0, 0)
    write = functools.partial(_write_manifest, folder=run.folder)
    counts = client.gather(
        [client.submit(write, shard, parts.get(shard.shard_id, nothing), pure=False) for shard in run.shards]
    )
    _remove_stale(run)

    total: Counter[str] = Counter()
    for entry, shard_counts in zip(run.document["shards"], counts, strict=True):
        entry["counts"] = shard_counts
        total.update(shard_counts)
    run.document["counts"] = {"input": sum(entry["samples"] for entry in run.document["shards"]), **dict(total)}
    run.document["largest_groups"] = _largest(decisions)
    write_url_lists(run, client)
    run.finish("decide")


def _accepted_pairs(folder: RunFolder) -> pa.Table:
    schema = pa.schema([PAIR_SCHEMA.field(name) for name in _PAIR_COLUMNS])
    tables = [schema.empty_table()]
    for name in folder.names("pairs"):
        table = folder.read_table(name, _PAIR_COLUMNS)
        tables.append(table.filter(table["accepted"]))
    return pa.concat_tables(tables)


def _involved(pairs: pa.Table) -> pa.Table:
    both = pa.chunked_array(pairs["a"].chunks + pairs["b"].chunks, type=pa.string())
    return pa.table({"sample_id": pc.unique(both)})


def _rows_of(folder: RunFolder, shard_id: str, sample_ids: pa.ChunkedArray, columns: list[str]) -> pa.Table:
    table = folder.read_table(descriptors_name(shard_id), columns)
    return table.filter(pc.is_in(table["sample_id"], value_set=sample_ids.combine_chunks()))


def _write_manifest(shard: Shard, decisions: pa.Table, folder: RunFolder) -> dict[str, int]:
    descriptors = folder.read_table(descriptors_name(shard.shard_id), manifest.DESCRIPTOR_COLUMNS)
    table = manifest.manifest_table(shard, descriptors, decisions)
    folder.write_table(manifest.manifest_name(shard.shard_id), table)
    return manifest.count(table)


def _remove_stale(run: Run) -> None:
    """Parts of shards that an earlier run into this folder had and this one has not."""
    current = {manifest.manifest_name(shard.shard_id) for shard in run.shards}
    for name in run.folder.names("manifest"):
        if name not in current:
            run.folder.remove(name)


def _largest(decisions: pa.Table) -> list[dict[str, Any]]:
    keepers = decisions.filter(pc.and_(pc.is_null(decisions["keeper"]), pc.greater(decisions["cluster_size"], 1)))
    order = pc.sort_indices(keepers, sort_keys=[("cluster_size", "descending"), ("sample_id", "ascending")])
    columns = ["sample_id", "cluster", "cluster_size"]
    return list(keepers.select(columns).take(order[:_LARGEST_GROUPS]).to_pylist())
