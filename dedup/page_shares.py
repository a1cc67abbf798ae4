"""How much of an image is the picture, and how much the page around it.

    accepted pairs, descriptor rows ──picture_shares──▶ share of each image's pixels

`pages` finds pictures on pages, but what it finds may be a window or a door. Where an accepted pair says that another
image shows that and not the whole, it is the picture.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.overrides import NO_OVERRIDES, Overrides
from dedup.records import PAGE, PAGE_SHARE

Codes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

_ONE_PICTURE = 6 / 64  # of the bits of two hashes, how many may differ; by default as many propose a pair


def page_columns(hash_name: str) -> list[str]:
    """What `picture_shares` reads beside sample_id, where this hash was described."""
    return [hash_name, f"{PAGE}{hash_name}", PAGE_SHARE]


def page_hashes(columns: Iterable[str]) -> list[str]:
    """The hashes that descriptor rows with these columns have of the picture inside, too."""
    return [name.removeprefix(PAGE) for name in columns if name.startswith(PAGE) and name != PAGE_SHARE]


def picture_shares(pairs: pa.Table, rows: pa.Table, overrides: Overrides = NO_OVERRIDES) -> npt.NDArray[np.float64]:
    """(M,), 0..1, of each of `rows` (M) the share of its pixels that is the picture: that of the picture inside where
    an accepted one of `pairs` joins the image to one whose hash is that of the picture inside and not that of all,
    else 1. Byte-identical images, which `pairs` joins to one of them, have the share of that one. Pairs that an
    override separates tell nothing.

    `rows` holds sample_id and `page_columns` of one hash or more, of which the first counts.
    """
    name = page_hashes(rows.column_names)[0]
    pairs = pairs.filter(pairs["accepted"])
    a, b = (_places(rows, pairs[side]) for side in ("a", "b"))
    known = (a >= 0) & (b >= 0)
    exact = pc.equal(pairs["method"], "exact").to_numpy(zero_copy_only=False)[known]
    a, b = a[known], b[known]
    same_file = np.arange(len(rows))
    same_file[b[exact]] = a[exact]
    parted = [
        _places(rows, pa.chunked_array([[getattr(row, side) for row in overrides.having("separate")]], pa.string()))
        for side in ("sample_id", "other")
    ]
    joined = ~np.isin(_keys(same_file, a, b), _keys(same_file, *parted))
    identical, (a, b) = (a[exact], b[exact]), (a[joined], b[joined])
    inside = pc.is_valid(rows[f"{PAGE}{name}"]).to_numpy(zero_copy_only=False)
    whole, page = _codes(rows[name]), _codes(rows[f"{PAGE}{name}"])
    shown = np.zeros(len(rows), bool)
    for first, second in ((a, b), (b, a)):
        first, second = first[inside[first]], second[inside[first]]
        shown[first[_alike(page[first], whole[second]) & ~_alike(whole[first], whole[second])]] = True
    shown[identical[1]] |= shown[identical[0]]
    return np.where(shown, pc.fill_null(rows[PAGE_SHARE], 1.0).to_numpy(), 1.0).astype(np.float64)


def _keys(same_file: Ints, a: Ints, b: Ints) -> Ints:
    """One number for each pair, whichever comes first, the same for pairs of identical files."""
    first, second = same_file[a], same_file[b]
    return np.asarray(np.minimum(first, second) * len(same_file) + np.maximum(first, second))


def _alike(a: Codes, b: Codes) -> Bools:
    apart = np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int64)
    return np.asarray(apart <= _ONE_PICTURE * 8 * a.shape[1])


def _places(rows: pa.Table, sample_ids: pa.ChunkedArray) -> Ints:
    """Where samples are in `rows`; -1 for those that are not."""
    places = pc.index_in(sample_ids, value_set=rows["sample_id"].combine_chunks())
    return np.asarray(pc.fill_null(places, -1).to_numpy(), np.int64)


def _codes(hashes: pa.ChunkedArray) -> Codes:
    """(M, bytes): zeros for null."""
    width = hashes.type.byte_width
    return np.frombuffer(b"".join(code or bytes(width) for code in hashes.to_pylist()), np.uint8).reshape(-1, width)
