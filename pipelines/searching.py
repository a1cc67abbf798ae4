"""Find pairs over the whole set: byte-identical ones, then near ones by hash and by embedding.

    descriptors ──by sha256──▶ exact pairs ──by shard──▶ list of copies         (copies take no further part)
                ──by hash band──▶ hash pairs, also of pictures on pages; pairs of turned pictures
                ──by cell──▶ embedding pairs ──against an exact search for a sample──▶ recall
                ──crowded ones by cell──▶ pairs that share local features

Each arrow is one shuffle: rows that may form pairs meet in one partition. What was found lies in candidates/*.parquet.
"""

from __future__ import annotations

import functools
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup import candidates, hamming, local_candidates, neighbors, turned
from dedup.candidates import (
    CELL_ROW,
    CELL_ROW_BYTES,
    COPY_ROW,
    CROWDING_ROW_BYTES,
    CROWDING_SCHEMA,
    EXACT_ROW,
    HASH_ROW,
    SAMPLED_PER_CELL,
)
from dedup.intervals import wilson
from dedup.judgement import ImageReader
from dedup.local_candidates import LOCAL_ROW, LOCAL_ROW_BYTES
from dedup.neighbors import SearchSettings
from dedup.records import PAGE, Shard
from dedup.run_folder import RunFolder
from pipelines.describing import descriptors_name
from pipelines.preparing import held_pictures, let_go
from pipelines.run_state import Run
from pipelines.shuffle import partitions_for, shuffle
from pipelines.voting import vote

CROWDING = "crowding"  # folder of what the search by embedding saw around each sample, by shard
_WORK = "work"  # what only this step needs, removed at its end
_CENTROIDS = f"{_WORK}/centroids.parquet"
_SEEN = f"{_WORK}/crowding"  # by cell
_FEWEST_SHARES = 16  # so that pictures of few shards, too, are read and described by local features on some cores


def search(run: Run, client: Client) -> None:
    """Write candidates/*.parquet, and the measured recall of the embedding search into run.json."""
    run.start("search")
    for folder in ("candidates", CROWDING, _WORK):
        run.folder.remove(folder)
    parts = _Parts(
        run.folder,
        tuple(run.shards),
        run.settings.search,
        run.settings.describe.hash_size**2,
        run.settings.describe.max_pixels,
        run.settings.verify.looks,
        run.settings.verify.pictures_held,
    )
    let_go(client)
    samples = sum(entry["samples"] for entry in run.document["shards"])
    seconds: dict[str, float] = {}
    found: dict[str, int] = {}
    searches = {"exact": find_exact, "hash": find_by_hash}
    if parts.verified:
        searches["turned"] = find_turned
    if run.document["embedder"]["dim"]:
        searches["embedding"] = find_by_embedding
        if parts.verified:
            searches["local"] = find_by_local_features
    for kind, find in searches.items():
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
    shards: tuple[Shard, ...]
    settings: SearchSettings
    hash_bits: int
    max_pixels: int
    verified: bool  # whether pairs are looked at: proposals may then be generous
    pictures_held: int

    def write(self, kind: str, partition: int, pairs: pa.Table) -> int:
        if pairs.num_rows:
            self.folder.write_table(f"candidates/{kind}-{partition:05d}.parquet", pairs)
        return int(pairs.num_rows)

    def representatives(self, shard: int, columns: list[str]) -> pa.Table:
        """The shard's decoded samples, of byte-identical ones only the first by sample_id."""
        shard_id = self.shards[shard].shard_id
        rows = self.folder.read_table(descriptors_name(shard_id), ["sample_id", "error", *columns])
        copies = _copies_name(shard_id)
        rows = candidates.decoded(rows)
        return candidates.without(rows, self.folder.read_table(copies)) if self.folder.exists(copies) else rows

    def embeddings(self, shard: int) -> candidates.Embedded:
        return candidates.embeddings(self.representatives(shard, ["embedding"]))


def _copies_name(shard_id: str) -> str:
    return f"{_WORK}/copies/{shard_id}.parquet"


# ---------------------------------------------------------------- byte-identical


def find_exact(parts: _Parts, client: Client, samples: int) -> int:
    """An edge from every byte-identical copy to its representative, the first by sample_id."""
    source, use = functools.partial(_exact_rows, parts), functools.partial(_exact_pairs, parts)
    shards, partitions = range(len(parts.shards)), partitions_for(samples, 100)
    found = shuffle(client, "search: identical", source, shards, EXACT_ROW, "bucket", partitions, use)
    if found:
        lists, write = parts.folder.names(f"{_WORK}/digests"), functools.partial(_write_copies, parts)
        partitions = partitions_for(found, 100)
        shuffle(client, "search: list copies", parts.folder.read_table, lists, COPY_ROW, "shard", partitions, write)
    return found


def _exact_rows(parts: _Parts, shard: int) -> pa.Table:
    name = descriptors_name(parts.shards[shard].shard_id)
    return candidates.exact_rows(parts.folder.read_table(name, ["sample_id", "sha256", "error"]), shard)


def _exact_pairs(parts: _Parts, rows: pa.Table, partition: int) -> int:
    pairs, copies = candidates.exact_pairs(rows)
    if len(copies):
        parts.folder.write_table(f"{_WORK}/digests/{partition:05d}.parquet", copies)
    return parts.write("exact", partition, pairs)


def _write_copies(parts: _Parts, rows: pa.Table, partition: int) -> int:  # noqa: ARG001
    for shard in pc.unique(rows["shard"]).to_pylist():
        parts.folder.write_table(
            _copies_name(parts.shards[shard].shard_id), rows.filter(pc.equal(rows["shard"], shard))
        )
    return len(rows)


# ---------------------------------------------------------------- by hash


def find_by_hash(parts: _Parts, client: Client, samples: int) -> int:
    """Pairs of informative pictures: all within max_bits, and each one's nearest within candidate_bits; where pairs are
    verified, of pictures that lie on pages, too."""
    bits = parts.settings.search_bits
    agreeing = hamming.bands_agreeing(samples, bits, parts.hash_bits)
    source = functools.partial(_hash_rows, parts, agreeing)
    use = functools.partial(_hash_pairs, parts, agreeing)
    shards = range(len(parts.shards))
    rows = samples * math.comb(bits + agreeing, agreeing)
    return shuffle(client, "search: hashes", source, shards, HASH_ROW, "value", partitions_for(rows, 100), use)


def _hash_rows(parts: _Parts, agreeing: int, shard: int) -> pa.Table:
    name = parts.settings.hash
    inside = [f"{PAGE}{name}"] if parts.verified else []
    rows = parts.representatives(shard, [name, "information", *inside])
    return candidates.hash_rows(rows, shard, parts.settings, agreeing, parts.verified)


def _hash_pairs(parts: _Parts, agreeing: int, rows: pa.Table, partition: int) -> int:
    return parts.write("hash", partition, candidates.hash_pairs(rows, parts.settings, agreeing))


# ---------------------------------------------------------------- turned


def find_turned(parts: _Parts, client: Client, samples: int) -> int:
    """Pairs of informative pictures of which one is turned, as `turned.turned_pairs` says."""
    agreeing = turned.bands_agreeing(samples)
    source = functools.partial(_turned_rows, parts, agreeing)
    use = functools.partial(_turned_pairs, parts, agreeing)
    rows = len(turned.QUARTERS) * samples * math.comb(turned.MAX_BITS + agreeing, agreeing)
    shards, partitions = range(len(parts.shards)), partitions_for(rows, 100)
    return shuffle(client, "search: turned", source, shards, turned.TURNED_ROW, "value", partitions, use)


def _turned_rows(parts: _Parts, agreeing: int, shard: int) -> pa.Table:
    return turned.turned_rows(parts.representatives(shard, ["thumbnail", "information"]), shard, agreeing)


def _turned_pairs(parts: _Parts, agreeing: int, rows: pa.Table, partition: int) -> int:
    return parts.write("turned", partition, turned.turned_pairs(rows, parts.settings, agreeing))


# ---------------------------------------------------------------- by embedding


def find_by_embedding(parts: _Parts, client: Client, samples: int) -> int:
    """Pairs of near embeddings, as `crowded.candidates_in_cell` says."""
    cells = parts.settings.cells or neighbors.n_cells(samples)
    sampled = _sampled(parts, client, samples, cells * SAMPLED_PER_CELL)
    centroids = client.submit(candidates.train, sampled, cells, parts.settings.seed, pure=False).result()
    if not len(centroids):
        return 0  # nothing was decoded
    parts.folder.write_table(_CENTROIDS, pa.table({"centroid": [row.tobytes() for row in centroids]}))
    source = functools.partial(_cell_rows, parts, centroids)
    use = functools.partial(_embedding_pairs, parts)
    shards = range(len(parts.shards))
    copies = min(parts.settings.assignments, cells)
    partitions = min(cells, partitions_for(samples * copies, CELL_ROW_BYTES))
    return shuffle(client, "search: embeddings", source, shards, CELL_ROW, "cell", partitions, use)


def _cell_rows(parts: _Parts, centroids: npt.NDArray[np.float16], shard: int) -> pa.Table:
    samples = parts.representatives(shard, ["embedding", "thumbnail", "width", "height"])
    return candidates.cell_rows(centroids, samples, shard, parts.settings)


def _embedding_pairs(parts: _Parts, rows: pa.Table, partition: int) -> int:
    pairs, crowding = candidates.cell_pairs(rows, parts.settings)
    if len(rows):
        parts.folder.write_table(f"{_SEEN}/{partition:05d}.parquet", crowding)
    return parts.write("embedding", partition, pairs)


def _sampled(parts: _Parts, client: Client, samples: int, wanted: int) -> list[Any]:
    """Futures of (sample_ids, embeddings): some `wanted` of all samples, evenly spread, the same at every call."""
    step = candidates.step_of(samples, wanted)
    shards = range(len(parts.shards))
    return list(client.map(functools.partial(_every, parts, step), shards, pure=False))


def _every(parts: _Parts, step: int, shard: int) -> tuple[list[str], npt.NDArray[np.float16]]:
    return candidates.every(parts.embeddings(shard), shard, step)


# ---------------------------------------------------------------- by local features


def find_by_local_features(parts: _Parts, client: Client, samples: int) -> int:
    """Pairs that share local features, where embeddings find everything alike: `local_candidates.local_pairs`. What the
    search by embedding saw around each sample is written shard by shard, for verification, too."""
    seen = parts.folder.names(_SEEN)
    if not seen:
        return 0
    write, partitions = functools.partial(_write_crowding, parts), partitions_for(samples, CROWDING_ROW_BYTES)
    read = parts.folder.read_table
    crowded = shuffle(client, "search: crowds", read, seen, CROWDING_SCHEMA, "shard", partitions, write)
    if not crowded:
        return 0
    label, source = "search: local features", functools.partial(_local_rows, parts)
    shares = max(1, _FEWEST_SHARES // len(parts.shards))
    items = [(shard, share, shares) for shard in range(len(parts.shards)) for share in range(shares)]
    cells = parts.folder.read_table(_CENTROIDS).num_rows
    if cells == 1:
        return parts.write("local", 0, vote(client, label, source, items, parts.settings))
    use = functools.partial(_local_pairs, parts)
    partitions = min(cells, partitions_for(crowded * min(parts.settings.assignments, cells), LOCAL_ROW_BYTES))
    return shuffle(client, label, source, items, LOCAL_ROW, "cell", partitions, use)


def crowding_name(shard_id: str) -> str:
    """Rows of CROWDING_SCHEMA; no file where nothing of the shard is crowded."""
    return f"{CROWDING}/{shard_id}.parquet"


def _write_crowding(parts: _Parts, rows: pa.Table, partition: int) -> int:  # noqa: ARG001
    """Gives the number of samples that local features are asked about."""
    for shard in pc.unique(rows["shard"]).to_pylist():
        name = crowding_name(parts.shards[shard].shard_id)
        parts.folder.write_table(name, rows.filter(pc.equal(rows["shard"], shard)))
    return int(local_candidates.ask_local_features(rows).sum())


def _local_rows(parts: _Parts, item: tuple[int, int, int]) -> pa.Table:
    """Of a shard's crowded samples each so-many-th, from the given one on: the rows of `local_candidates`."""
    shard, share, shares = item
    name = crowding_name(parts.shards[shard].shard_id)
    if not parts.folder.exists(name):
        return LOCAL_ROW.empty_table()
    samples = parts.representatives(shard, ["embedding", "inner", "width", "height", "offset", "size"])
    crowded = local_candidates.crowded_samples(samples, parts.folder.read_table(name))
    crowded = crowded.take(pa.array(np.arange(share, len(crowded), shares)))
    crowded = crowded.append_column("shard", pa.array(np.full(len(crowded), shard, np.int32)))
    centroids = parts.folder.read_table(_CENTROIDS)["centroid"].to_pylist()
    cells = np.stack([np.frombuffer(row, np.float16) for row in centroids])
    read_image = ImageReader(parts.shards, crowded)
    held = held_pictures(parts.folder.url, parts.shards, parts.max_pixels, parts.pictures_held)
    return local_candidates.local_rows(cells, crowded, shard, parts.settings, read_image, parts.max_pixels, held)


def _local_pairs(parts: _Parts, rows: pa.Table, partition: int) -> int:
    return parts.write("local", partition, local_candidates.local_pairs(rows, parts.settings))


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
        client.gather(client.map(task, range(len(parts.shards)), everywhere=everywhere, pure=False))
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
    ids, embeddings = parts.embeddings(shard)
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
