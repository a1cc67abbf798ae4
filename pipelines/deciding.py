"""Group the accepted pairs, decide who stays, and write the manifest, shard by shard."""

from __future__ import annotations

import functools
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup import manifest
from dedup.decisions import DecideSettings, columns_to_decide, decide_rows, samples_to_decide
from dedup.overrides import NO_OVERRIDES, Overrides
from dedup.records import PAIR_SCHEMA, Shard, descriptor_schema
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
    overrides = run.overrides or NO_OVERRIDES
    groups, decisions = _decisions(run, client, overrides)
    run.start("decide")  # from here on what was decided before is replaced
    parts = manifest.split_by_shard(decisions, run.shards)
    nothing = decisions.slice(0, 0)
    write = functools.partial(_write_manifest, folder=run.folder, settings=run.settings.decide)
    counts = client.gather(
        [client.submit(write, shard, parts.get(shard.shard_id, nothing), pure=False) for shard in run.shards]
    )
    _remove_stale(run)

    total: Counter[str] = Counter()
    for entry, shard_counts in zip(run.document["shards"], counts, strict=True):
        entry["counts"] = shard_counts
        total.update(shard_counts)
    run.document["counts"] = {"input": sum(entry["samples"] for entry in run.document["shards"]), **dict(total)}
    run.document["largest_groups"] = _largest(groups)
    run.document["overrides"] = overrides.facts() if overrides.sha256 else None
    write_url_lists(run, client)
    run.finish("decide", **_effects(decisions, total["kept"], run.settings.decide))


def _decisions(run: Run, client: Client, overrides: Overrides) -> tuple[pa.Table, pa.Table]:
    """The groups of the accepted pairs, and what becomes of each of their members and of each sample in overrides."""
    settings = run.settings.decide
    pairs = _accepted_pairs(run.folder)
    hash_name = run.settings.describe.hashes[0]
    columns = columns_to_decide(settings, hash_name)
    involved = manifest.split_by_shard(pa.table({"sample_id": samples_to_decide(pairs, overrides)}), run.shards)
    parts = client.gather(
        [
            client.submit(_rows_of, run.folder, shard_id, part["sample_id"], columns, pure=False)
            for shard_id, part in involved.items()
        ]
    )
    rows = pa.concat_tables(parts) if parts else _no_rows(run).select(columns)
    return decide_rows(pairs, rows, settings, overrides)


def _no_rows(run: Run) -> pa.Table:
    return descriptor_schema(run.settings.describe.hash_bytes, 0).empty_table()


def _accepted_pairs(folder: RunFolder) -> pa.Table:
    schema = pa.schema([PAIR_SCHEMA.field(name) for name in _PAIR_COLUMNS])
    tables = [schema.empty_table()]
    for name in folder.names("pairs"):
        table = folder.read_table(name, _PAIR_COLUMNS)
        tables.append(table.filter(table["accepted"]))
    return pa.concat_tables(tables)


def _rows_of(folder: RunFolder, shard_id: str, sample_ids: pa.ChunkedArray, columns: list[str]) -> pa.Table:
    table = folder.read_table(descriptors_name(shard_id), columns)
    return table.filter(pc.is_in(table["sample_id"], value_set=sample_ids.combine_chunks()))


def _write_manifest(shard: Shard, decisions: pa.Table, folder: RunFolder, settings: DecideSettings) -> dict[str, int]:
    descriptors = folder.read_table(descriptors_name(shard.shard_id), manifest.DESCRIPTOR_COLUMNS)
    table = manifest.manifest_table(shard, descriptors, decisions, settings)
    folder.write_table(manifest.manifest_name(shard.shard_id), table)
    return manifest.count(table)


def _remove_stale(run: Run) -> None:
    """Parts of shards that an earlier run into this folder had and this one has not."""
    current = {manifest.manifest_name(shard.shard_id) for shard in run.shards}
    for name in run.folder.names("manifest"):
        if name not in current:
            run.folder.remove(name)


def _effects(decisions: pa.Table, kept: int, settings: DecideSettings) -> dict[str, Any]:
    """What the summary tells of weights and captions; a sample without duplicate weighs 1."""
    effects: dict[str, Any] = {}
    if settings.weighs:
        weights = decisions["weight"].drop_null().to_numpy().astype(np.float64)
        effects["weight_sum"] = float(kept - len(weights) + weights.sum())
    if settings.pools:
        effects["pooled"] = len(decisions) - decisions["captions"].null_count
    return effects


def _largest(groups: pa.Table) -> list[dict[str, Any]]:
    keepers = groups.filter(pc.and_(pc.is_null(groups["keeper"]), pc.greater(groups["cluster_size"], 1)))
    order = pc.sort_indices(keepers, sort_keys=[("cluster_size", "descending"), ("sample_id", "ascending")])
    columns = ["sample_id", "cluster", "cluster_size"]
    return list(keepers.select(columns).take(order[:_LARGEST_GROUPS]).to_pylist())
