"""Descriptors -> candidate pairs, as rows of tables: what a search does with the rows that it has brought together.

    descriptors ──exact_rows──▶ rows by sha256 ──exact_pairs──▶ pairs, copies   (copies take no further part)
                ──hash_rows──▶ rows by hash band ──hash_pairs──▶ pairs
                ──cell_rows──▶ rows by cell ──cell_pairs──▶ pairs, crowding
                ──local_rows──▶ crowded rows by cell ──local_pairs──▶ pairs

Rows that may form pairs have one value in the column that a search goes by, so a set of any size can be searched
partition by partition, each partition holding all rows of its values, `in_order`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup import hamming, neighbors
from dedup.crowded import candidates_in_cell, packed
from dedup.hashes import MIN_INFORMATION
from dedup.neighbors import SearchSettings
from dedup.records import PAGE, PAIR_SCHEMA, THUMBNAIL_SIDE
from dedup.small_evidence import SMALL_SIDE
from dedup.thumbnails import luma

logger = logging.getLogger(__name__)

# A pair as the searches hand it on: with the numbers of its samples' shards, in the order of the run.
CANDIDATE_SCHEMA = pa.schema(
    [
        *(PAIR_SCHEMA.field(name) for name in ("a", "b", "method", "score")),
        ("shard_a", pa.int32()),
        ("shard_b", pa.int32()),
    ]
)
CROWDING_SCHEMA = pa.schema(  # as `crowded.Crowds` has them, the cosines `crowded.packed`
    {"shard": pa.int32(), "sample_id": pa.string(), "cosines": pa.binary(), "alike": pa.float32()}
)
CROWDING_ROW_BYTES = 700
EXACT_ROW = pa.schema({"bucket": pa.int64(), "sha256": pa.binary(), "sample_id": pa.string(), "shard": pa.int32()})
COPY_ROW = pa.schema({"shard": pa.int32(), "sample_id": pa.string()})
BAND_ROW = pa.schema(
    {"value": pa.int64(), "band": pa.int32(), "sample_id": pa.string(), "shard": pa.int32(), "code": pa.binary()}
)
HASH_ROW = pa.schema([*BAND_ROW, ("page", pa.int8())])  # 1: the hash of the picture inside
CELL_ROW = pa.schema(
    {
        "cell": pa.int32(),
        "sample_id": pa.string(),
        "shard": pa.int32(),
        "primary": pa.int8(),
        "small": pa.int8(),
        "embedding": pa.binary(),
        "grey": pa.binary(),
    }
)
CELL_ROW_BYTES = 2000
VERSION = 11  # counted up where the same descriptors give other candidates: older ones are then searched anew
SAMPLED_PER_CELL = 64  # embeddings that cells are trained on
# Of images with one and the same hash so many are compared with all others, and the rest with a few of those.
EQUAL_HASHES_SEARCHED = 256
_EQUAL_HASHES_LINKED = 16

Embedded = tuple[pa.Array, npt.NDArray[np.float16]]  # sample_id (N,) and embedding (N, D)


def in_order(table: pa.Table) -> pa.Table:
    """The rows sorted by all integer and string columns: the same rows in the same order, wherever they came from."""
    kinds = (pa.types.is_integer, pa.types.is_string)
    keys = [(field.name, "ascending") for field in table.schema if any(is_kind(field.type) for is_kind in kinds)]
    return table.sort_by(keys).combine_chunks()


# ---------------------------------------------------------------- byte-identical


def exact_rows(descriptors: pa.Table, shard: int) -> pa.Table:
    """Rows of EXACT_ROW of the decoded samples; `descriptors` has sample_id, sha256 and error."""
    rows = decoded(descriptors)
    digests = matrix(rows["sha256"], 32)
    bucket = np.ascontiguousarray(digests[:, :8]).view(np.int64)[:, 0]
    number = np.full(len(rows), shard, np.int32)
    return pa.table([bucket, rows["sha256"].cast(pa.binary()), rows["sample_id"], number], schema=EXACT_ROW)


def exact_pairs(rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Of rows of EXACT_ROW the pairs of byte-identical samples, and the copies (rows of COPY_ROW).

    A pair leads from each copy to its representative, the first by sample_id.
    """
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("sha256", "ascending"), ("sample_id", "ascending")]))
    digests = matrix(rows["sha256"], 32)
    first = np.ones(len(rows), bool)
    first[1:] = (digests[1:] != digests[:-1]).any(axis=1)
    representative = np.maximum.accumulate(np.where(first, np.arange(len(rows)), 0))
    copies = np.flatnonzero(~first)
    pairs = pairs_of(rows, representative[copies], copies, "exact", np.ones(len(copies)))
    return pairs, rows.select(COPY_ROW.names).take(pa.array(copies))


def decoded(descriptors: pa.Table) -> pa.Table:
    """The rows that have a picture."""
    return descriptors.filter(pc.is_null(descriptors["error"]))


def without(descriptors: pa.Table, copies: pa.Table) -> pa.Table:
    """The rows that are no copies of others."""
    return descriptors.filter(
        pc.invert(pc.is_in(descriptors["sample_id"], value_set=copies["sample_id"].combine_chunks()))
    )


# ---------------------------------------------------------------- by hash


def hash_rows(
    representatives: pa.Table, shard: int, settings: SearchSettings, agreeing: int, pages: bool = False
) -> pa.Table:
    """Rows of HASH_ROW, several of each informative picture; `representatives` has sample_id, information and the hash
    that is searched, with `pages` also that of pictures inside, whatever the page around them is."""
    name, rows = settings.hash, informative(representatives)
    width = representatives.schema.field(name).type.byte_width
    parts = [_hash_rows(rows["sample_id"], rows[name], width, shard, settings, agreeing, 0)]
    if pages:
        inside = representatives.filter(pc.is_valid(representatives[f"{PAGE}{name}"]))  # of informative ones alone
        parts.append(_hash_rows(inside["sample_id"], inside[f"{PAGE}{name}"], width, shard, settings, agreeing, 1))
    return pa.concat_tables(parts)


def _hash_rows(
    sample_ids: pa.ChunkedArray,
    codes: pa.ChunkedArray,
    width: int,
    shard: int,
    settings: SearchSettings,
    agreeing: int,
    page: int,
) -> pa.Table:
    rows = rows_by_band(sample_ids, matrix(codes, width), shard, settings.search_bits, agreeing)
    return rows.append_column("page", pa.array(np.full(len(rows), page, np.int8)))


def informative(representatives: pa.Table) -> pa.Table:
    """Those whose hashes say something; placeholders and blank pages have one hash, and are no copies for it."""
    return representatives.filter(pc.greater_equal(representatives["information"], MIN_INFORMATION)).combine_chunks()


def rows_by_band(
    sample_ids: pa.ChunkedArray, codes: npt.NDArray[np.uint8], shard: int, bits: int, agreeing: int
) -> pa.Table:
    """Rows of BAND_ROW of the hashes `codes` (N, bytes) of N samples of a shard, to be searched within `bits`."""
    values = hamming.band_values(codes, bits, agreeing)
    bands = values.shape[1]
    row = pa.array(np.repeat(np.arange(len(codes)), bands))
    columns = [
        values.ravel().view(np.int64),
        np.tile(np.arange(bands, dtype=np.int32), len(codes)),
        sample_ids.take(row),
        np.full(len(row), shard, np.int32),
        pa.array([code.tobytes() for code in codes], pa.binary()).take(row),
    ]
    return pa.table(columns, schema=BAND_ROW)


def hash_pairs(rows: pa.Table, settings: SearchSettings, agreeing: int) -> pa.Table:
    """Of rows of HASH_ROW, `in_order`: all pairs within max_bits, and each one's nearest within candidate_bits. Pairs
    that agree once a page is taken off one of the two, or both, are named "page": each row's nearest alone."""
    if not len(rows):
        return CANDIDATE_SCHEMA.empty_table()
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("sample_id", "ascending"), ("page", "ascending")]))
    width = len(rows["code"][0].as_py())
    codes = matrix(rows["code"], width)
    value = rows["value"].to_numpy().view(np.uint64)
    band, page = rows["band"].to_numpy(), rows["page"].to_numpy() == 1
    # Pictures inside have places of their own among equal codes.
    (searched, i, j), (searched_pages, first, further) = (_thinned(band, codes, kind) for kind in (~page, page))
    places = np.sort(np.concatenate([searched, searched_pages]))
    found = hamming.hamming_pairs_in_bands(band[places], value[places], codes[places], settings.search_bits, agreeing)
    found = hamming.HammingPairs(places[found.i], places[found.j], found.distance)
    whole = ~(page[found.i] | page[found.j])
    sample = pc.rank(rows["sample_id"], tiebreaker="dense").to_numpy()
    inside = ~whole & (sample[found.i] != sample[found.j])
    near = hamming.limit_candidates(found.take(whole), settings.max_bits, settings.candidates_per_image)
    on_page = hamming.limit_candidates(found.take(inside), -1, settings.candidates_per_image)
    score = np.concatenate([1 - near.distance / (8 * width), np.ones(len(i))])
    i, j = np.concatenate([near.i, i]), np.concatenate([near.j, j])
    score_on_page = np.concatenate([1 - on_page.distance / (8 * width), np.ones(len(first))])
    first, further = np.concatenate([on_page.i, first]), np.concatenate([on_page.j, further])
    pages = pairs_of(rows, first, further, "page", score_on_page)
    return pa.concat_tables([pairs_of(rows, i, j, "hash", score), pages])


def _thinned(
    band: npt.NDArray[np.integer[Any]], codes: npt.NDArray[np.uint8], which: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.int64], ...]:
    """`hamming.thin_equal` of some of the rows: the rows to be searched, and the pairs of the others."""
    rows = np.flatnonzero(which)
    searched, i, j = hamming.thin_equal(band[rows], codes[rows], EQUAL_HASHES_SEARCHED, _EQUAL_HASHES_LINKED)
    return rows[searched], rows[i], rows[j]


# ---------------------------------------------------------------- by embedding


def embeddings(representatives: pa.Table) -> Embedded:
    """sample_id (N,) and embedding (N, D) float16; `representatives` has these two columns."""
    rows = representatives.combine_chunks()
    width = rows.schema.field("embedding").type.list_size
    if not len(rows):
        return pa.array([], pa.string()), np.zeros((0, width), np.float16)
    column = rows["embedding"].combine_chunks()
    return rows["sample_id"].combine_chunks(), column.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)


def step_of(samples: int, wanted: int) -> int:
    """The step by which `every` takes about `wanted` of so many samples."""
    return max(1, samples // max(1, wanted))


def every(embedded: Embedded, shard: int, step: int) -> tuple[list[str], npt.NDArray[np.float16]]:
    """Every `step`-th of a shard's rows, beginning elsewhere in each shard."""
    ids, rows = embedded
    return ids[shard % step :: step].to_pylist(), rows[shard % step :: step]


def train(
    sampled: Sequence[tuple[list[str], npt.NDArray[np.float16]]], cells: int, seed: int
) -> npt.NDArray[np.float16]:
    """Centroids (C, D) float16 of at most `cells` cells; none where nothing was decoded."""
    rows = np.concatenate([part for _, part in sampled])
    return neighbors.train_cells(rows, min(cells, len(rows)), seed) if len(rows) else rows


def cell_rows(
    centroids: npt.NDArray[np.float16], representatives: pa.Table, shard: int, settings: SearchSettings
) -> pa.Table:
    """Rows of CELL_ROW: each embedding in its `assignments` nearest cells, primary in the first; `representatives` has
    sample_id, embedding, thumbnail, width and height."""
    side = THUMBNAIL_SIDE
    thumbnails = matrix(representatives["thumbnail"], side * side * 3).reshape(-1, side, side, 3)
    greys = luma(thumbnails).reshape(-1, side * side)
    rows, row = by_cell(centroids, representatives, shard, settings)
    rows["small"] = pc.less_equal(longer_side(representatives), SMALL_SIDE).cast(pa.int8()).take(row)
    rows["grey"] = pa.array([grey.tobytes() for grey in greys], pa.binary()).take(row)
    return pa.table(rows).select(CELL_ROW.names).cast(CELL_ROW)


def by_cell(
    centroids: npt.NDArray[np.float16], samples: pa.Table, shard: int, settings: SearchSettings
) -> tuple[dict[str, Any], pa.Array]:
    """What rows of a search by cells have in common, for each of a shard's samples in its nearest cells; and of each
    row the number of its sample."""
    ids, embedded = embeddings(samples)
    cells = neighbors.assign_cells(centroids, embedded, settings.assignments)
    copies = cells.shape[1]
    row = pa.array(np.repeat(np.arange(len(ids)), copies))
    columns = {
        "cell": cells.ravel(),
        "sample_id": ids.take(row),
        "shard": np.full(len(row), shard, np.int32),
        "primary": np.tile((np.arange(copies) == 0).astype(np.int8), len(ids)),
        "embedding": pa.array([line.tobytes() for line in embedded], pa.binary()).take(row),
    }
    return columns, row


def in_cells(rows: pa.Table) -> Iterator[tuple[pa.Table, npt.NDArray[np.float16], npt.NDArray[np.bool_]]]:
    """The rows of each cell, their embeddings, and which of them are primary there; `rows` are sorted by cell."""
    cells = rows["cell"].to_numpy()
    starts = np.flatnonzero(np.diff(cells, prepend=-1))
    for start, stop in zip(starts, np.append(starts, len(cells))[1:], strict=True):
        cell = rows.slice(start, stop - start)
        x = matrix(cell["embedding"], len(cell["embedding"][0].as_py())).view(np.float16)
        yield cell, x, cell["primary"].to_numpy() == 1


def longer_side(rows: pa.Table) -> pa.ChunkedArray:
    return pc.max_element_wise(rows["width"], rows["height"])


def cell_pairs(rows: pa.Table, settings: SearchSettings) -> tuple[pa.Table, pa.Table]:
    """Of rows of CELL_ROW, `in_order`: the pairs that `crowded.candidates_in_cell` finds in each cell, and how
    crowded it is around each sample (rows of CROWDING_SCHEMA; samples around which it is not are absent)."""
    found, crowded = [CANDIDATE_SCHEMA.empty_table()], [CROWDING_SCHEMA.empty_table()]
    for cell, x, primary in in_cells(rows):
        greys = matrix(cell["grey"], THUMBNAIL_SIDE**2).reshape(-1, THUMBNAIL_SIDE, THUMBNAIL_SIDE)
        # A sample is primary in one cell, where all that it proposes is found.
        pairs, crowds = candidates_in_cell(x, greys, primary, settings, cell["small"].to_numpy() == 1)
        found.append(pairs_of(cell, pairs.i, pairs.j, "embedding", pairs.score))
        there = np.flatnonzero(primary & (crowds.crowding > 0))
        cell = cell.select(["shard", "sample_id"]).take(pa.array(there))
        cell = cell.append_column("cosines", pa.array(packed(crowds.cosines[there]), pa.binary()))
        crowded.append(cell.append_column("alike", pa.array(crowds.alike[there])))
    return pa.concat_tables(found), pa.concat_tables(crowded)


# ---------------------------------------------------------------- tables


def pairs_of(
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


def matrix(values: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """A binary column without nulls, each value `width` bytes, as (N, width)."""
    return np.frombuffer(b"".join(values.to_pylist()), np.uint8).reshape(-1, width)
