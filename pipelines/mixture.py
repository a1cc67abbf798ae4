"""What a run made of the user's images and the copies planted among them, gathered for the report.

Each task reads one file of pairs and hands on the few rows that matter. The driver holds the pairs of the sample, the
accepted ones of the set, as the decision does, and those nearest to the threshold.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup.calibrate import Found, find, removed_near, strengths
from dedup.manifest import manifest_name, split_by_shard
from dedup.records import PAIR_SCHEMA
from dedup.run_folder import RunFolder
from pipelines import planted_sample
from pipelines.run_state import Run

_COPY = f"{planted_sample.FOLDER}/"  # how the sample_ids of planted copies begin


@dataclass(frozen=True)
class Mixture:
    """`found` is what the run made of the sample; `borderline` are pairs of the set itself, nearest to the threshold on
    both sides: `a`, `b`, `strength` and `side` (above or below)."""

    found: Found
    borderline: pd.DataFrame


@dataclass(frozen=True)
class _Rows:
    """From one file of pairs: those that name the sample or a copy, the accepted of the set, and the borderline."""

    sample: pa.Table
    accepted: pa.Table
    borderline: pd.DataFrame


def gather(run: Run, client: Client, folder: RunFolder, threshold: float, borderline: int) -> Mixture:
    """`run` is finished, over the set and the copies planted in `folder`; it accepts from strength `threshold` on."""
    truth, sample = planted_sample.truth(folder), planted_sample.drawn_sample(folder)
    verified = run.settings.verify.verify
    names = run.folder.names("pairs")
    [wanted] = client.scatter([pa.array(sample)], broadcast=True)
    exact = [name for name in names if name.startswith("pairs/exact-")]
    task = functools.partial(_representatives, run.folder)
    standing = pa.concat_arrays([pa.array(sample), *client.gather(client.map(task, exact, wanted=wanted, pure=False))])
    [wanted] = client.scatter([standing.unique()], broadcast=True)
    read = functools.partial(_rows, run.folder, threshold, borderline // 2, verified)
    parts: list[_Rows] = client.gather(client.map(read, names, wanted=wanted, pure=False))
    nothing = PAIR_SCHEMA.empty_table()
    pairs = pa.concat_tables([nothing, *(part.sample for part in parts)])
    accepted = pa.concat_tables([nothing, *(part.accepted for part in parts)])
    images = sum(e["samples"] - e["failed"] for e in run.document["shards"] if not e["shard_id"].startswith(_COPY))
    clusters = _clusters(run, client, {*truth["sample_id"].to_pylist(), *truth["original"].to_pylist()})
    found = find(pairs, clusters, truth, sample, images, removed_near(accepted), verified=verified)
    nearest = _nearest([part.borderline for part in parts], borderline // 2)
    return Mixture(found, nearest)


def _representatives(folder: RunFolder, name: str, wanted: pa.Array) -> pa.Array:
    """Of the wanted samples that are copies of an identical file, that file; of copies too."""
    pairs = folder.read_table(name, ["a", "b"])
    return pairs.filter(_names(pairs["b"], wanted))["a"].combine_chunks()


def _names(ids: pa.ChunkedArray, wanted: pa.Array) -> pa.ChunkedArray:
    return pc.or_(pc.is_in(ids, value_set=wanted), pc.starts_with(ids, _COPY))


def _rows(folder: RunFolder, threshold: float, borderline: int, verified: bool, name: str, wanted: pa.Array) -> _Rows:
    pairs = folder.read_table(name)
    sample = pairs.filter(pc.or_(_names(pairs["a"], wanted), _names(pairs["b"], wanted)))
    own = pairs.filter(pc.invert(pc.or_(pc.starts_with(pairs["a"], _COPY), pc.starts_with(pairs["b"], _COPY))))
    frame = pd.DataFrame({side: own[side].to_numpy() for side in "ab"} | {"strength": strengths(own, verified)})
    frame["side"] = np.where(frame["strength"] >= threshold, "above", "below")
    frame = frame[np.isfinite(frame["strength"]) & (frame["strength"] > 0)]
    return _Rows(sample, own.filter(own["accepted"]), _nearest([frame], borderline))


def _nearest(frames: Iterable[pd.DataFrame], count: int) -> pd.DataFrame:
    """Of each side the `count` pairs nearest to the threshold, the strongest first."""
    columns = ["a", "b", "strength", "side"]
    frames = [frame for frame in frames if len(frame)]
    if not frames:
        return pd.DataFrame(columns=columns)
    pairs = pd.concat(frames).sort_values(["strength", "a", "b"], ascending=[False, True, True], kind="stable")
    above, below = (pairs[pairs["side"] == side] for side in ("above", "below"))
    return pd.concat([above.tail(count) if count else above.head(0), below.head(count)])[columns].reset_index(drop=True)


def _clusters(run: Run, client: Client, ids: set[str]) -> dict[str, int | None]:
    parts = split_by_shard(pa.table({"sample_id": sorted(ids)}), run.shards)
    futures = [
        client.submit(_clusters_of, run.folder, shard_id, part["sample_id"], pure=False)
        for shard_id, part in parts.items()
    ]
    found: dict[str, int | None] = {}
    for part in client.gather(futures):
        found.update(part)
    return found


def _clusters_of(folder: RunFolder, shard_id: str, sample_ids: pa.ChunkedArray) -> dict[str, Any]:
    rows = folder.read_table(manifest_name(shard_id), ["sample_id", "cluster"])
    rows = rows.filter(pc.is_in(rows["sample_id"], value_set=sample_ids.combine_chunks()))
    return dict(zip(rows["sample_id"].to_pylist(), rows["cluster"].to_pylist(), strict=True))
