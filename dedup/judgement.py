"""Candidates -> pairs: which are accepted, by what evidence, and which further pairs the accepted ones suggest.

    candidates ──distinct──▶ pairs ──verify──▶ probability ──by_probability──▶ judged pairs ──suggested──▶ candidates
                       └────────────────by_scores (where nothing is verified)──────▶ judged pairs

A judged pair is a row of `records.PAIR_SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.candidates import CANDIDATE_SCHEMA
from dedup.closure import second_neighbors
from dedup.crowded import CROWDED
from dedup.neighbors import SearchSettings
from dedup.pair_features import CROWD
from dedup.records import PAIR_SCHEMA, Shard
from dedup.shards import read_range
from dedup.small_evidence import SMALL_SIDE
from dedup.verify import VerifySettings

Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

ROUNDS = 3  # of suggestions; each doubles how far along accepted pairs one may come
# A pair is proposed by the first of these that found it.
_PROPOSERS = pa.array(["suggested", "page", "local", "embedding", "turned", "hash"])
_SUGGESTIONS_PER_IMAGE = 16
# By thumbnails, of pairs that local features do not propose where everything looks alike: of 4,570 such pairs of
# potatoes, X-rays and products and of their copies it leaves 2,100, and all 20 that bring copies to their group. So
# nearly equal are the hashes of a copy with a watermark that thumbnails doubt.
_LIKELY, _ALIKE = np.float32(0.5), np.float32(1 - 4 / 64)

# Thumbnails dismiss no pair of such a cosine, but where everything looks alike around both: of 594 pairs of different
# photographs that they dismiss 50 have it, and of 26 of copies, by all kinds of retouching, 23.
_HOPEFUL = np.float32(0.8)

# Of a verified pair, what suggestions are made from.
JUDGED_SCHEMA = pa.schema(
    [
        *(PAIR_SCHEMA.field(name) for name in ("a", "b")),
        ("shard_a", pa.int32()),
        ("shard_b", pa.int32()),
        PAIR_SCHEMA.field("accepted"),
        ("score", pa.float32()),
    ]
)


def accept_exact(candidates: pa.Table) -> pa.Table:
    """Byte-identical samples are accepted as they are."""
    everything = np.ones(len(candidates), bool)
    return _judged(candidates, candidates["method"], everything, everything)


def by_scores(candidates: pa.Table, settings: SearchSettings, verify: VerifySettings, hash_bits: int) -> pa.Table:
    """Candidates, sorted by a and b, judged by what proposed them: each pair is one row, by its hash where that accepts
    it (within `max_bits`, but not where only the same bytes will do), else by its embedding where there is one
    (accepted from `min_cosine` on)."""
    first, cosine, likeness = _merged(candidates)
    bits = np.rint((1 - likeness) * hash_bits)  # NaN where the hashes did not propose the pair
    by_hash = (bits <= settings.max_bits) & (verify.accepts_from <= 1)
    by_cosine = ~by_hash & _accepted_by_cosine(settings, cosine)
    is_hash = by_hash | np.isnan(cosine)
    method = pc.if_else(pa.array(is_hash), "hash", "embedding")
    score = np.where(is_hash, likeness, cosine)
    return _judged(candidates.take(pa.array(first)), method, score, by_hash | by_cosine)


def distinct(candidates: pa.Table) -> tuple[pa.Table, Singles]:
    """Each pair once, sorted, with its cosine (N,) float32 (NaN for none), whatever proposed it; as `method` what says
    most for it: that accepted pairs suggest it, that hashes of pictures on pages do, local features, embeddings, hashes
    of turned pictures, or hashes alone; as `score` its likeness by hash (0 for none)."""
    rank = pc.index_in(candidates["method"], value_set=_PROPOSERS)
    order = [(name, "ascending") for name in ("a", "b", "rank")]
    rows = candidates.append_column("rank", rank).sort_by(order).drop_columns("rank")
    first, cosine, likeness = _merged(rows)
    pairs = rows.take(pa.array(first)).combine_chunks()
    place = pairs.column_names.index("score")
    return pairs.set_column(place, pairs.schema.field(place), pa.array(np.nan_to_num(likeness))), cosine


class ImageReader:
    """Reads a sample's image from its shard, by the byte range that describing noted.

    `samples` has sample_id, offset and size, and as `shard` the number of the sample's shard in `shards`.
    """

    def __init__(self, shards: Sequence[Shard], samples: pa.Table) -> None:
        columns = (samples[name].to_pylist() for name in ("sample_id", "shard", "offset", "size"))
        self._where = {
            identity: (shards[shard].url, start, size) for identity, shard, start, size in zip(*columns, strict=True)
        }

    def __call__(self, sample_id: str) -> bytes:
        return read_range(*self._where[sample_id])


def crowding_of(pairs: pa.Table, samples: pa.Table) -> Singles:
    """(N, 3) float32 for `verify_pairs`, the fields of `looks.Around`; `samples` has sample_id, crowding and alike."""
    crowding = _of_both(pairs, samples, samples["crowding"].to_numpy())
    alike = _of_both(pairs, samples, samples["alike"].to_numpy())
    return np.stack([*crowding, alike[1]], axis=1).astype(np.float32)


def _of_both(pairs: pa.Table, samples: pa.Table, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(N,) and (N,): of each pair's two samples the lesser value and the greater; `values` (M,) are those of
    `samples`."""
    ids = samples["sample_id"].combine_chunks()
    first, second = (values[_numbers(ids, pairs[side])] for side in "ab")
    return np.minimum(first, second), np.maximum(first, second)


def hopeful(pairs: pa.Table, cosine: Singles, samples: pa.Table) -> Bools:
    """(N,): which pairs thumbnails do not dismiss, as they do not see a picture that was turned and cropped: of very
    alike embeddings, one of which lies in no crowd. `pairs` and `cosine` (N,) are as `distinct` gives them, `samples`
    has sample_id and crowding."""
    lesser, _ = _of_both(pairs, samples, samples["crowding"].to_numpy())
    return np.asarray((lesser <= CROWD) & (cosine >= _HOPEFUL))  # NaN is not


def worth_a_look(
    pairs: pa.Table, cosine: Singles, samples: pa.Table, settled: Bools, likely: Singles, search: SearchSettings
) -> Bools:
    """(N,): which of the pairs that thumbnails have not `settled` (N,) are compared by their pixels; `pairs` and
    `cosine` (N,) are as `distinct` gives them, `samples` has sample_id, crowding, width and height.

    All, but where everything looks alike, embeddings and hashes propose hundreds that are no copies. What they propose
    there and local features do not (or, of small pictures, which have none, what hashes alone propose) is limited to
    each first sample's `candidates_per_image` of greatest probability by thumbnails, `likely` (N,), of larger pictures
    only if that is more likely than not, or their hashes are nearly equal. Equally likely ones go by b. The rest are no
    candidates any more, but for those that `min_cosine` accepts.
    """
    look = ~settled
    method = pairs["method"].to_numpy(zero_copy_only=False)
    larger_side = np.maximum(*(samples[name].to_numpy() for name in ("width", "height")))
    small = _of_both(pairs, samples, larger_side)[0] <= SMALL_SIDE
    by_little = (method == "hash") | (np.isin(method, ["embedding", "turned"]) & ~small)
    by_little &= _of_both(pairs, samples, samples["crowding"].to_numpy())[0] >= CROWDED
    by_little &= ~_accepted_by_cosine(search, cosine)
    limited = np.flatnonzero(look & by_little)
    a, b = (pc.rank(pairs[side], tiebreaker="dense").to_numpy()[limited] for side in "ab")
    order = np.lexsort((b, -likely[limited], a))
    place = np.arange(len(limited)) - np.searchsorted(a[order], a[order])
    look[limited[order[place >= search.candidates_per_image]]] = False
    look[by_little & ~small & (likely < _LIKELY) & (pairs["score"].to_numpy() < _ALIKE)] = False
    return look


def by_probability(
    pairs: pa.Table, cosine: Singles, probability: Singles, search: SearchSettings, verify: VerifySettings
) -> tuple[pa.Table, pa.Table]:
    """Verified pairs, judged: accepted from the probability on that `verify` asks for, or from `min_cosine` on.

    `cosine` (N,) is NaN where the pair has none; `probability` (N,). Returns the judged pairs, sorted by a and b, and
    rows of JUDGED_SCHEMA.
    """
    by_cosine = _accepted_by_cosine(search, cosine)
    accepted = by_cosine | (probability >= np.float32(verify.accepts_from))
    method = pc.if_else(pa.array(by_cosine), "embedding", "verified")
    score = np.where(by_cosine, cosine, probability)
    shards = pairs.select(["a", "b", "shard_a", "shard_b"]).append_column("accepted", pa.array(accepted))
    judged = shards.append_column("score", pa.array(probability)).cast(JUDGED_SCHEMA)
    return _judged(pairs, method, score, accepted, probability), judged


def suggested(judged: Callable[[], Iterable[pa.Table]]) -> pa.Table:
    """Candidates that two accepted pairs suggest, and that are not judged yet.

    `judged` gives tables of JUDGED_SCHEMA, at every call anew. Holds the accepted pairs, as the decision does, and of
    the rejected ones those between the same samples.
    """
    accepted = pa.concat_tables([table.filter(table["accepted"]) for table in judged()])
    ends = [
        accepted.select(list(names)).rename_columns(["sample_id", "shard"])
        for names in (("a", "shard_a"), ("b", "shard_b"))
    ]
    samples = pa.concat_tables(ends).group_by("sample_id").aggregate([("shard", "min")]).sort_by("sample_id")
    ids = samples["sample_id"].combine_chunks()
    known = []
    for table in judged():
        table = table.filter(pc.and_(pc.is_in(table["a"], value_set=ids), pc.is_in(table["b"], value_set=ids)))
        known.append(table.select(["a", "b"]))
    everything = pa.concat_tables(known)
    i, j = second_neighbors(
        len(ids),
        _numbers(ids, accepted["a"]),
        _numbers(ids, accepted["b"]),
        accepted["score"].to_numpy(),
        (_numbers(ids, everything["a"]), _numbers(ids, everything["b"])),
        _SUGGESTIONS_PER_IMAGE,
    )
    shards = samples["shard_min"].combine_chunks()
    columns = [
        ids.take(i),
        ids.take(j),
        pa.repeat("suggested", len(i)),
        np.zeros(len(i), np.float32),
        shards.take(i),
        shards.take(j),
    ]
    return pa.table(columns, schema=CANDIDATE_SCHEMA)


def _numbers(ids: pa.Array, values: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.asarray(pc.index_in(values, value_set=ids).to_numpy(), np.int64)


def _merged(rows: pa.Table) -> tuple[npt.NDArray[np.int64], Singles, Singles]:
    """Of each pair in `rows`, which are sorted: its first row, its cosine and its likeness by hash (NaN for none)."""
    a, b, method = (rows[name].to_numpy() for name in ("a", "b", "method"))
    score = rows["score"].to_numpy()
    new = np.ones(len(rows), bool)
    new[1:] = (a[1:] != a[:-1]) | (b[1:] != b[:-1])
    first, pair = np.flatnonzero(new), np.cumsum(new) - 1
    merged = []
    for names in (("embedding", "local"), ("hash",)):
        scores = np.full(len(first), np.nan, np.float32)
        of_method = np.isin(method, names)
        scores[pair[of_method]] = score[of_method]
        merged.append(scores)
    return first, merged[0], merged[1]


def _accepted_by_cosine(settings: SearchSettings, cosine: Singles) -> npt.NDArray[np.bool_]:
    if settings.min_cosine is None:
        return np.zeros(len(cosine), bool)
    return np.asarray(cosine >= np.float32(settings.min_cosine))  # NaN is not


def _judged(
    pairs: pa.Table,
    method: pa.ChunkedArray,
    score: npt.ArrayLike,
    accepted: npt.NDArray[np.bool_],
    probability: Singles | None = None,
) -> pa.Table:
    """Rows of PAIR_SCHEMA, sorted by a and b."""
    columns = [
        pairs["a"],
        pairs["b"],
        method,
        pa.array(np.asarray(score, np.float32)),
        pa.nulls(len(pairs), pa.float32()) if probability is None else pa.array(probability),
        pa.array(accepted),
    ]
    return pa.table(columns, schema=PAIR_SCHEMA).sort_by([("a", "ascending"), ("b", "ascending")])
