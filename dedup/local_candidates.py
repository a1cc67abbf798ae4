"""Candidates by local features, in the cells of the search by embedding, where that finds everything alike.

    crowded samples ──local_rows──▶ rows by cell ──local_pairs──▶ candidates

There an embedding ranks a copy behind hundreds of others (`local_votes`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup import neighbors
from dedup.candidates import CANDIDATE_SCHEMA, by_cell, in_cells, longer_side, pairs_of
from dedup.crowded import CROWDING_PLACE, score_at
from dedup.errors import ImageError
from dedup.held_pictures import HeldPictures, Pictures
from dedup.local_features import GLANCE_SIDE
from dedup.local_votes import Ints, Votes, best_pairs, packed_features, voted_pairs
from dedup.neighbors import SearchSettings
from dedup.small_evidence import SMALL_SIDE

logger = logging.getLogger(__name__)

LOCAL_ROW = pa.schema(
    {
        "cell": pa.int32(),
        "sample_id": pa.string(),
        "shard": pa.int32(),
        "primary": pa.int8(),
        "embedding": pa.binary(),
        "features": pa.binary(),
    }
)
LOCAL_ROW_BYTES = 16_000
# From this crowding on, local features propose. Below it embeddings tell copies from other pictures.
CROWDED_BY_FEATURES = 0.8


def crowded_samples(descriptors: pa.Table, crowding: pa.Table) -> pa.Table:
    """The rows of those samples whose surroundings are so alike that local features are asked; `descriptors` has
    sample_id, width and height, `crowding` the columns sample_id and cosines."""
    crowded = crowding.filter(pa.array(ask_local_features(crowding)))
    rows = descriptors.filter(pc.is_in(descriptors["sample_id"], value_set=crowded["sample_id"].combine_chunks()))
    # Of smaller pictures local features tell nothing.
    return rows.filter(pc.greater(longer_side(rows), SMALL_SIDE))


def ask_local_features(crowding: pa.Table) -> npt.NDArray[np.bool_]:
    """(N,): around which samples everything is so alike; `crowding` has the column cosines."""
    row, place = np.arange(len(crowding)), np.full(len(crowding), CROWDING_PLACE)
    return np.asarray(score_at(crowding["cosines"].to_pylist(), row, place) >= CROWDED_BY_FEATURES)


def local_rows(
    centroids: npt.NDArray[np.float16],
    crowded: pa.Table,
    shard: int,
    settings: SearchSettings,
    read_image: Callable[[str], bytes],
    max_pixels: int,
    held: HeldPictures | None = None,
) -> pa.Table:
    """Rows of LOCAL_ROW of a shard's `crowded` samples, which have sample_id, inner and embedding, in the cells of
    `cell_rows`. A picture that can no longer be decoded is left out, and the log names it. What is
    prepared of the pictures is `held` for verification, which asks for more of most."""
    features, read = [], []
    held = HeldPictures(1) if held is None else held
    load = Pictures(crowded["sample_id"], crowded["inner"], {}, read_image, held, max_pixels)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the shards are what is shared out among cores, by the caller
    try:
        for row in range(len(crowded)):
            try:
                views = load(row)
            except ImageError as error:
                logger.warning("%s; it is not searched by local features", error)
            else:
                features.append(packed_features(views.at(GLANCE_SIDE)))
                read.append(row)
    finally:
        cv2.setNumThreads(threads)
    if not read:
        return LOCAL_ROW.empty_table()
    rows, row = by_cell(centroids, crowded.take(pa.array(read)), shard, settings)
    rows["features"] = pa.array(features, pa.binary()).take(row)
    return pa.table(rows).select(LOCAL_ROW.names).cast(LOCAL_ROW)


def local_pairs(rows: pa.Table, settings: SearchSettings) -> pa.Table:
    """Of rows of LOCAL_ROW, `in_order`: of each picture up to twice `candidates_per_image` partners in its cell, those
    that share most local features, with their cosine."""
    found = [CANDIDATE_SCHEMA.empty_table()]
    for cell, x, primary in in_cells(rows):
        named = voted_pairs(cell["features"].to_pylist(), _partners(settings), settings.seed)
        found.append(_proposed(cell, x, primary, *named))
    return pa.concat_tables(found)


def pairs_by_votes(rows: pa.Table, cast: Sequence[Votes], settings: SearchSettings) -> pa.Table:
    """`local_pairs` of rows that lie in one cell, by the votes of all shares."""
    for cell, x, primary in in_cells(rows):
        return _proposed(cell, x, primary, *best_pairs(len(cell), cast, _partners(settings)))
    return CANDIDATE_SCHEMA.empty_table()


def _partners(settings: SearchSettings) -> int:
    return 2 * settings.candidates_per_image


def _proposed(cell: pa.Table, x: npt.NDArray[np.float16], primary: npt.NDArray[np.bool_], i: Ints, j: Ints) -> pa.Table:
    wanted = primary[i] | primary[j]  # each sample is primary in one cell, and proposes from there
    i, j = i[wanted], j[wanted]
    return pairs_of(cell, i, j, "local", neighbors.cosine(x, i, j))
