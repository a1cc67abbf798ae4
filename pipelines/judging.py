"""Decide of each candidate pair whether it is accepted, and write pairs/*.parquet."""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup.neighbors import SearchSettings
from dedup.records import PAIR_SCHEMA
from dedup.run_folder import RunFolder
from pipelines.run_state import Run
from pipelines.searching import CANDIDATE_SCHEMA
from pipelines.shuffle import partitions_for, shuffle


def judge(run: Run, client: Client) -> None:
    """Accept what is identical, hashes within `max_bits`, and embeddings of at least `min_cosine` where that is set."""
    run.start("verify")
    run.folder.remove("pairs")
    candidates = run.folder.names("candidates")
    count = sum(run.document["steps"]["search"]["candidates"].values())
    use = functools.partial(_judge, run.folder, run.settings.search, run.settings.describe.hash_size**2)
    if candidates:
        source, partitions = run.folder.read_table, partitions_for(count, 100)
        shuffle(client, "judge pairs", source, candidates, CANDIDATE_SCHEMA, "a", partitions, use)
    run.finish("verify")


def _judge(folder: RunFolder, settings: SearchSettings, hash_bits: int, rows: pa.Table, partition: int) -> int:
    rows = rows.group_by(["a", "b", "method"], use_threads=False).aggregate([("score", "max")])  # once each
    rows = rows.rename_columns({"score_max": "score"}).sort_by([(name, "ascending") for name in ("a", "b", "method")])
    score = rows["score"].to_numpy()
    method = rows["method"]
    bits = np.rint((1 - score) * hash_bits)
    accepted = {
        "exact": np.ones(len(rows), bool),
        "hash": bits <= settings.max_bits,
        "embedding": score >= np.float32(settings.min_cosine if settings.min_cosine is not None else np.inf),
    }
    decision = np.zeros(len(rows), bool)
    for name, accept in accepted.items():
        decision |= pc.equal(method, name).to_numpy() & accept
    if len(rows):
        columns = [rows["a"], rows["b"], method, rows["score"], pa.nulls(len(rows), pa.float32()), pa.array(decision)]
        folder.write_table(f"pairs/{partition:05d}.parquet", pa.table(columns, schema=PAIR_SCHEMA))
    return int(decision.sum())
