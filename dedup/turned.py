"""Candidate pairs of pictures of which one is the other turned by 90, 180 or 270 degrees.

    descriptors ──turned_rows──▶ rows by hash band ──turned_pairs──▶ pairs

To a perceptual hash a turned picture is another one, and embeddings lose one in ten. So each thumbnail is hashed as it
is, turned by a quarter and by a half, and the hash of one picture as it is is looked for among those of turned ones. By
quarters the other way round, the other one of the two is turned. Rows are searched as `candidates` says, in order.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from dedup import hamming
from dedup.candidates import (
    BAND_ROW,
    CANDIDATE_SCHEMA,
    EQUAL_HASHES_SEARCHED,
    informative,
    matrix,
    pairs_of,
    rows_by_band,
)
from dedup.hashes import HASHES
from dedup.neighbors import SearchSettings
from dedup.records import THUMBNAIL_SIDE
from dedup.thumbnails import luma

TURNED_ROW = pa.schema([*BAND_ROW, ("quarters", pa.int32())])  # counterclockwise
# All of 116 copies of photographs turned by 90 or 270 degrees differ by no more, 88 of them by none. Among CIFAR-10's
# 50,000 images there are 7 pairs.
MAX_BITS = 4
QUARTERS = (0, 1, 2)
BITS = 64


def bands_agreeing(samples: int) -> int:
    """`hamming.bands_agreeing` for a set of so many samples."""
    return hamming.bands_agreeing(len(QUARTERS) * samples, MAX_BITS, BITS)


def turned_rows(representatives: pa.Table, shard: int, agreeing: int) -> pa.Table:
    """Rows of TURNED_ROW, several of each informative picture; `representatives` has sample_id, information and
    thumbnail."""
    rows = informative(representatives)
    side = THUMBNAIL_SIDE
    greys = luma(matrix(rows["thumbnail"], side * side * 3).reshape(-1, side, side, 3))
    parts = []
    for quarters in QUARTERS if len(rows) else ():
        codes = _hashed(np.rot90(greys, quarters, (1, 2)))
        part = rows_by_band(rows["sample_id"], codes, shard, MAX_BITS, agreeing)
        parts.append(part.append_column("quarters", pa.array(np.full(len(part), quarters, np.int32))))
    return pa.concat_tables([TURNED_ROW.empty_table(), *parts])


def _hashed(greys: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    pictures = torch.from_numpy(np.ascontiguousarray(greys)).unsqueeze(1)
    return np.asarray(HASHES["phash"].compute(pictures).numpy())


def turned_pairs(rows: pa.Table, settings: SearchSettings, agreeing: int) -> pa.Table:
    """Of rows of TURNED_ROW, `in_order`: the pairs of a picture as it is and a turned one within MAX_BITS, of each row
    the nearest `candidates_per_image` before it and after it. Score: 1 - distance / 64, of these two hashes.

    Of many equal hashes, as of placeholders, only the first are compared with others: the rest have pairs with these.
    """
    if not len(rows):
        return CANDIDATE_SCHEMA.empty_table()
    rows = rows.take(pc.sort_indices(rows, sort_keys=[("sample_id", "ascending"), ("quarters", "ascending")]))
    codes, value = matrix(rows["code"], BITS // 8), rows["value"].to_numpy().view(np.uint64)
    band, quarters = rows["band"].to_numpy(), rows["quarters"].to_numpy()
    sample = pc.rank(rows["sample_id"], tiebreaker="dense").to_numpy()
    # Pictures as they are and turned ones have places of their own among equal codes.
    searched, _, _ = hamming.thin_equal(2 * band + (quarters > 0), codes, EQUAL_HASHES_SEARCHED, 0)
    places = np.flatnonzero(searched)
    found = hamming.hamming_pairs_in_bands(band[places], value[places], codes[places], MAX_BITS, agreeing)
    i, j = places[found.i], places[found.j]
    one_turned = ((quarters[i] == 0) != (quarters[j] == 0)) & (sample[i] != sample[j])
    turned = hamming.HammingPairs(i, j, found.distance).take(one_turned)
    turned = hamming.limit_candidates(turned, -1, settings.candidates_per_image)
    return pairs_of(rows, turned.i, turned.j, "turned", 1 - turned.distance / BITS)
