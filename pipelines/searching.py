"""Find pairs over the whole set: byte-identical ones, then near ones by hash and by embedding.

    descriptors ──by sha256──▶ exact pairs ──by shard──▶ list of copies         (copies take no further part)
                ──by hash band──▶ hash pairs
                ──by cell──▶ embedding pairs ──against an exact search for a sample──▶ recall

Each arrow is one shuffle: rows that may form pairs meet in one partition. What was found lies in candidates/*.parquet.
"""

from __future__ import annotations

import functools
import logging
import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup import hamming, neighbors
from dedup.hashes import MIN_INFORMATION
from dedup.intervals import wilson
from dedup.neighbors import SearchSettings
from dedup.records import PAIR_SCHEMA
from dedup.run_folder import RunFolder
from pipelines.describing import descriptors_name
from pipelines.run_state import Run
from pipelines.shuffle import partitions_for, shuffle

logger = logging.getLogger(__name__)

# A pair as the searches hand it on: with the numbers of its samples' shards, in the order of the run.
CANDIDATE_SCHEMA = pa.schema(
    [
        *(PAIR_SCHEMA.field(name) for name in ("a", "b", "method", "score")),
        ("shard_a", pa.int32()),
        ("shard_b", pa.int32()),
    ]
)
CROWDING_SCHEMA = pa.schema({"shard": pa.int32(), "sample_id": pa.string(), "crowding": pa.float32()})
CROWDING = "crowding"  # folder of what the embedding search saw of each sample's neighbourhood
_EXACT_ROW = pa.schema({"bucket": pa.int64(), "sha256": pa.binary(), "sample_id": pa.string(), "shard": pa.int32()})
_COPY_ROW = pa.schema({"shard": pa.int32(), "sample_id": pa.string()})
_BAND_ROW = pa.schema(
    {"value": pa.int64(), "band": pa.int32(), "sample_id": pa.string(), "shard": pa.int32(), "code": pa.binary()}
)
_CELL_ROW = pa.schema(
    {
        "cell": pa.int32(),
        "sample_id": pa.string(),
        "shard": pa.int32(),
        "primary": pa.int8(),
        "embedding": pa.binary(),
    }
)
_SAMPLE_ROWS_PER_CELL = 64
# Of images with one and the same hash so many are compared with all others, and the rest with a few of those.
_EQUAL_HASHES_SEARCHED = 256
_EQUAL_HASHES_LINKED = 16
_WORK = "work"  # what only this step needs, removed at its end


def search(run: Run, client: Client) -> None:
    """Write candidates/*.parquet, and the measured recall of the embedding search into run.json."""
    run.start("search")
    for folder in ("candidates", CROWDING, _WORK):
        run.folder.remove(folder)
    parts = _Parts(
        run.folder,
        tuple(shard.shard_id for shard in run.shards),
        run.settings.search,
        run.settings.describe.hash_size**2,
    )
    samples = sum(entry["samples"] for entry in run.document["shards"])
    seconds: dict[str, float] = {}
    found: dict[str, int] = {}
    for kind, find in (("exact", find_exact), ("hash", find_by_hash), ("embedding", find_by_embedding)):
        if kind == "embedding" and not run.document["embedder"]["dim"]:
            continue
        started = time.monotonic()
        found[kind] = find(parts, client, samples)
        seconds[kind] = time.monotonic() - started
    if "embedding" in found:
        run.document["recall"] = measure_recall(parts, client, samples)
    run.folder.remove(_WORK)
    run.finish("search", candidates=found, seconds=seconds)


@dataclass(frozen=True)
class _Parts:
    """What the searches read and where they write; travels with the tasks."""

    folder: RunFolder
    shard_ids: tuple[str, ...]
    settings: SearchSettings
    hash_bits: int

    def write(self, kind: str, partition: int, pairs: pa.Table) -> int:
        if pairs.num_rows:
            self.folder.write_table(f"candidates/{kind}-{partition:05d}.parquet", pairs)
        return int(pairs.num_rows)

    def representatives(self, shard: int, columns: list[str]) -> pa.Table:
        """The shard's decoded samples, of byte-identical ones only the first by sample_id."""
        rows = self.folder.read_table(descriptors_name(self.shard_ids[shard]), ["sample_id", "error", *columns])
        rows = rows.filter(pc.is_null(rows["error"]))
        copies = _copies_name(self.shard_ids[shard])
        if self.folder.exists(copies):
            value_set = self.folder.read_table(copies, ["sample_id"])["sample_id"].combine_chunks()
            rows = rows.filter(pc.invert(pc.is_in(rows["sample_id"], value_set=value_set)))
        return rows


def _copies_name(shard_id: str) -> str:
    return f"{_WORK}/copies/{shard_id}.parquet"


# ---------------------------------------------------------------- byte-identical


def find_exact(parts: _Parts, client: Client, samples: int) -> int:
    """An edge from every byte-identical copy to its representative, the first by sample_id."""
    source, use = functools.partial(_exact_rows, parts), functools.partial(_exact_pairs, parts)
    shards, partitions = range(len(parts.shard_ids)), partitions_for(samples, 100)
    found = shuffle(client, "search: identical", source, shards, _EXACT_ROW, "bucket", partitions, use)
    if found:
        lists, write = parts.folder.names(f"{_WORK}/digests"), functools.partial(_write_copies, parts)
        partitions = partitions_for(found, 100)
        shuffle(client, "search: list copies", parts.folder.read_table, lists, _COPY_ROW, "shard", partitions, write)
    return found


def _exact_rows(parts: _Parts, shard: int) -> pa.Table:
    rows = parts.folder.read_table(descriptors_name(parts.shard_ids[shard]), ["sample_id", "sha256", "error"])
    rows = rows.filter(pc.is_null(rows["error"]))
    digests = _matrix(rows["sha256"], 32)
    bucket = np.ascontiguousarray(digests[:, :8]).view(np.int64)[:, 0]
    number = np.full(len(rows), shard, np.int32)
    return pa.table([bucket, rows["sha256"].cast(pa.binary()), rows["sample_id"], number], schema=_EXACT_ROW)


def _exact_pairs(parts: _Parts, rows: pa.Table, partition: int) -> int:
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("sha256", "ascending"), ("sample_id", "ascending")]))
    digests = _matrix(rows["sha256"], 32)
    first = np.ones(len(rows), bool)
    first[1:] = (digests[1:] != digests[:-1]).any(axis=1)
    representative = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    copies = np.flatnonzero(~first)
    if not len(copies):
        return 0
    parts.folder.write_table(f"{_WORK}/digests/{partition:05d}.parquet", rows.select(_COPY_ROW.names).take(copies))
    ones = np.ones(len(copies))
    return parts.write("exact", partition, _pairs(rows, representative[copies], copies, "exact", ones))


def _write_copies(parts: _Parts, rows: pa.Table, partition: int) -> int:  # noqa: ARG001
    for shard in pc.unique(rows["shard"]).to_pylist():
        parts.folder.write_table(_copies_name(parts.shard_ids[shard]), rows.filter(pc.equal(rows["shard"], shard)))
    return len(rows)


# ---------------------------------------------------------------- by hash


def find_by_hash(parts: _Parts, client: Client, samples: int) -> int:
    """Pairs of informative pictures: all within max_bits, and each one's nearest within candidate_bits."""
    bits = parts.settings.search_bits
    agreeing = hamming.bands_agreeing(samples, bits, parts.hash_bits)
    source = functools.partial(_band_rows, parts, agreeing)
    use = functools.partial(_hash_pairs, parts, agreeing)
    shards = range(len(parts.shard_ids))
    rows = samples * math.comb(bits + agreeing, agreeing)
    return shuffle(client, "search: hashes", source, shards, _BAND_ROW, "value", partitions_for(rows, 100), use)


def _band_rows(parts: _Parts, agreeing: int, shard: int) -> pa.Table:
    name = parts.settings.hash
    rows = parts.representatives(shard, [name, "information"])
    rows = rows.filter(pc.greater_equal(rows["information"], MIN_INFORMATION)).combine_chunks()
    codes = _matrix(rows[name], parts.hash_bits // 8)
    values = hamming.band_values(codes, parts.settings.search_bits, agreeing)
    bands = values.shape[1]
    row = np.repeat(np.arange(len(rows)), bands)
    band = np.tile(np.arange(bands, dtype=np.int32), len(rows))
    repeated = rows.take(row)
    columns = [
        values.ravel().view(np.int64),
        band,
        repeated["sample_id"],
        np.full(len(row), shard, np.int32),
        repeated[name].cast(pa.binary()),
    ]
    return pa.table(columns, schema=_BAND_ROW)


def _hash_pairs(parts: _Parts, agreeing: int, rows: pa.Table, partition: int) -> int:
    settings = parts.settings
    if not len(rows):
        return 0
    rows = rows.take(pc.sort_indices(rows["sample_id"]))
    codes = _matrix(rows["code"], parts.hash_bits // 8)
    value = rows["value"].to_numpy().view(np.uint64)
    band = rows["band"].to_numpy()
    searched, i, j = hamming.thin_equal(band, codes, _EQUAL_HASHES_SEARCHED, _EQUAL_HASHES_LINKED)
    places = np.flatnonzero(searched)
    found = hamming.hamming_pairs_in_bands(band[places], value[places], codes[places], settings.search_bits, agreeing)
    found = hamming.limit_candidates(found, settings.max_bits, settings.candidates_per_image)
    score = np.concatenate([1 - found.distance / parts.hash_bits, np.ones(len(i))])
    i, j = np.concatenate([places[found.i], i]), np.concatenate([places[found.j], j])
    return parts.write("hash", partition, _pairs(rows, i, j, "hash", score))


# ---------------------------------------------------------------- by embedding


def find_by_embedding(parts: _Parts, client: Client, samples: int) -> int:
    """Pairs of near embeddings, as `neighbors.cosine_pairs_in_cell` says."""
    cells = parts.settings.cells or neighbors.n_cells(samples)
    sampled = _sampled(parts, client, samples, cells * _SAMPLE_ROWS_PER_CELL)
    centroids = client.submit(_train, sampled, cells, parts.settings.seed, pure=False)
    if not len(centroids.result()):
        return 0  # nothing was decoded
    source = functools.partial(_cell_rows, parts, centroids.result())
    use = functools.partial(_embedding_pairs, parts)
    shards = range(len(parts.shard_ids))
    copies = min(parts.settings.assignments, cells)
    partitions = min(cells, partitions_for(samples * copies, 1000))
    return shuffle(client, "search: embeddings", source, shards, _CELL_ROW, "cell", partitions, use)


def _train(sampled: list[tuple[list[str], npt.NDArray[np.float16]]], cells: int, seed: int) -> npt.NDArray[np.float16]:
    rows = np.concatenate([embeddings for _, embeddings in sampled])
    return neighbors.train_cells(rows, min(cells, len(rows)), seed) if len(rows) else rows


def _cell_rows(parts: _Parts, centroids: npt.NDArray[np.float16], shard: int) -> pa.Table:
    ids, embeddings = _embeddings(parts, shard)
    cells = neighbors.assign_cells(centroids, embeddings, parts.settings.assignments)
    copies = cells.shape[1]
    row = np.repeat(np.arange(len(ids)), copies)
    primary = np.tile((np.arange(copies) == 0).astype(np.int8), len(ids))
    values = pa.array([embedding.tobytes() for embedding in embeddings], pa.binary())
    number = np.full(len(row), shard, np.int32)
    return pa.table([cells.ravel(), ids.take(row), number, primary, values.take(pa.array(row))], schema=_CELL_ROW)


def _embedding_pairs(parts: _Parts, rows: pa.Table, partition: int) -> int:
    if not len(rows):
        return 0
    cells = rows["cell"].to_numpy()
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    found, crowded = [CANDIDATE_SCHEMA.empty_table()], [CROWDING_SCHEMA.empty_table()]
    for start, stop in zip(starts, [*starts[1:], len(cells)], strict=True):
        cell = rows.slice(start, stop - start)
        width = len(cell["embedding"][0].as_py())
        x = _matrix(cell["embedding"], width).view(np.float16)
        primary = cell["primary"].to_numpy() == 1
        settings = parts.settings
        deep = replace(settings, candidates_per_image=max(settings.candidates_per_image, neighbors.CROWD))
        pairs = neighbors.cosine_pairs_in_cell(x, primary, deep)
        # A sample is primary in one cell, where all that it proposes is found.
        crowding = neighbors.crowding(pairs, len(cell))
        complete = math.inf if settings.min_cosine is None else settings.min_cosine
        pairs = neighbors.limit_candidates(pairs, complete, settings.candidates_per_image)
        found.append(_pairs(cell, pairs.i, pairs.j, "embedding", pairs.score))
        cell = cell.append_column("crowding", pa.array(crowding)).select(CROWDING_SCHEMA.names)
        crowded.append(cell.filter(pa.array(primary & (crowding > 0))))
    parts.folder.write_table(f"{CROWDING}/{partition:05d}.parquet", pa.concat_tables(crowded))
    return parts.write("embedding", partition, pa.concat_tables(found))


def _embeddings(parts: _Parts, shard: int) -> tuple[pa.Array, npt.NDArray[np.float16]]:
    """sample_id (N,) and embedding (N, D) float16 of a shard's representatives."""
    rows = parts.representatives(shard, ["embedding"]).combine_chunks()
    width = rows.schema.field("embedding").type.list_size
    if not len(rows):
        return pa.array([], pa.string()), np.zeros((0, width), np.float16)
    column = rows["embedding"].combine_chunks()
    return rows["sample_id"].combine_chunks(), column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def _sampled(parts: _Parts, client: Client, samples: int, wanted: int) -> list[Any]:
    """Futures of (sample_ids, embeddings): some `wanted` of all samples, evenly spread, the same at every call."""
    every = max(1, samples // max(1, wanted))
    shards = range(len(parts.shard_ids))
    return list(client.map(functools.partial(_every, parts, every), shards, pure=False))


def _every(parts: _Parts, every: int, shard: int) -> tuple[list[str], npt.NDArray[np.float16]]:
    ids, embeddings = _embeddings(parts, shard)
    return ids[shard % every :: every].to_pylist(), embeddings[shard % every :: every]


# ---------------------------------------------------------------- recall


def measure_recall(parts: _Parts, client: Client, samples: int) -> dict[str, Any]:
    """Of the true neighbours of a sample of images, found by exact search, the share that the run found, too.

    True neighbours of an image are its best `candidates_per_image` of at least `candidate_cosine` (of at least
    `min_cosine` where that is set).
    """
    settings = parts.settings
    sampled = client.gather(_sampled(parts, client, samples, settings.recall_queries))
    ids = [identity for part, _ in sampled for identity in part][: settings.recall_queries]
    queries = np.concatenate([rows for _, rows in sampled])[: len(ids)]
    floor = settings.candidate_cosine if settings.min_cosine is None else settings.min_cosine
    wanted = settings.candidates_per_image
    [everywhere] = client.scatter([(ids, queries)], broadcast=True)
    task = functools.partial(_exact, parts, floor, wanted)
    near = pa.concat_tables(
        client.gather(client.map(task, range(len(parts.shard_ids)), everywhere=everywhere, pure=False))
    )
    near = near.sort_by([("query", "ascending"), ("score", "descending"), ("sample_id", "ascending")])
    query = near["query"].to_numpy()
    place = np.arange(len(near)) - np.searchsorted(query, query)
    near = near.filter(pa.array(place < wanted))
    found = _found_pairs(parts.folder, pa.array(ids, pa.string()))
    true = [tuple(sorted((ids[row["query"]], row["sample_id"]))) for row in near.to_pylist()]
    hits = sum(pair in found for pair in true)
    low, high = wilson(hits, len(true))
    return {
        "queries": len(ids),
        "min_cosine": floor,
        "neighbors": len(true),
        "found": hits,
        "recall": hits / len(true) if true else None,
        "interval_95": [low, high] if true else None,
    }


def _exact(
    parts: _Parts, floor: float, wanted: int, shard: int, everywhere: tuple[list[str], npt.NDArray[np.float16]]
) -> pa.Table:
    query_ids, queries = everywhere
    ids, embeddings = _embeddings(parts, shard)
    near = neighbors.exact_neighbors(queries, embeddings, floor, wanted + 1)  # one more, for the image itself
    table = pa.table({"query": near.i, "sample_id": ids.take(pa.array(near.j)), "score": near.score})
    own = pa.array(query_ids, pa.string()).take(pa.array(near.i))
    return table.filter(pc.not_equal(table["sample_id"], own))


def _found_pairs(folder: RunFolder, ids: pa.Array) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for name in folder.names("candidates"):
        if name.startswith("candidates/embedding-"):
            table = folder.read_table(name, ["a", "b"])
            table = table.filter(pc.or_(pc.is_in(table["a"], value_set=ids), pc.is_in(table["b"], value_set=ids)))
            found.update(zip(table["a"].to_pylist(), table["b"].to_pylist(), strict=True))
    return found


# ---------------------------------------------------------------- tables


def _pairs(
    rows: pa.Table,
    i: npt.NDArray[np.int64],
    j: npt.NDArray[np.int64],
    method: str,
    score: npt.NDArray[np.floating[Any]],
) -> pa.Table:
    """Rows of CANDIDATE_SCHEMA for the pairs (i, j) of rows with sample_id and shard."""
    first, second = (rows.select(["sample_id", "shard"]).take(pa.array(side)) for side in (i, j))
    ordered = pc.less(first["sample_id"], second["sample_id"])
    columns = [
        pc.if_else(ordered, first["sample_id"], second["sample_id"]),
        pc.if_else(ordered, second["sample_id"], first["sample_id"]),
        pa.repeat(method, len(i)),
        pa.array(score.astype(np.float32)),
        pc.if_else(ordered, first["shard"], second["shard"]),
        pc.if_else(ordered, second["shard"], first["shard"]),
    ]
    return pa.table(columns, schema=CANDIDATE_SCHEMA)


def _matrix(values: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """A binary column without nulls, each value `width` bytes, as (N, width)."""
    return np.frombuffer(b"".join(values.to_pylist()), np.uint8).reshape(-1, width)
