"""Candidates -> pairs: which are accepted, and by what evidence.

    candidates ──distinct──▶ pairs ──verify──▶ probability ──by_probability──▶ judged pairs
                       └────────────────by_scores (where nothing is verified)──────▶ judged pairs

A judged pair is a row of `records.PAIR_SCHEMA`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.crowded import CROWDED, CROWDING_PLACE, score_at
from dedup.looks import ALIKE
from dedup.neighbors import SearchSettings
from dedup.pair_features import CROWD
from dedup.records import PAIR_SCHEMA, Shard
from dedup.rounds import JUDGED_SCHEMA, numbers, without_pairs
from dedup.shards import read_range
from dedup.small_evidence import SMALL_SIDE
from dedup.verify import VerifySettings

Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

# A pair is proposed by the first of these that found it.
_PROPOSERS = pa.array(["suggested", "page", "local", "embedding", "turned", "hash"])
# By thumbnails, of pairs that local features do not propose where everything looks alike: of 4,570 such pairs of
# potatoes, X-rays and products and of their copies it leaves 2,100, and all 20 that bring copies to their group. So
# nearly equal are the hashes of a copy with a watermark that thumbnails doubt.
_LIKELY, _ALIKE = np.float32(0.5), np.float32(1 - 4 / 64)

# So nearly equal are the hashes of a picture and of one on a page where everything looks alike. There hundreds of
# pictures show something that looks like a picture on a page, one as the other: of 2,235 pairs of potatoes, X-rays and
# products and their copies that such hashes propose within 6 of 64 bits, and local features do not, two are copies, and
# 255 are so nearly equal.
_ALIKE_ON_PAGE = np.float32(1 - 2 / 64)

# Thumbnails dismiss no pair of such a cosine, but where everything looks alike around both: of 594 pairs of different
# photographs that they dismiss 50 have it, and of 26 of copies, by all kinds of retouching, 23.
_HOPEFUL = np.float32(0.8)


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
    narrow = candidates.select(["a", "b", "method", "score"]).append_column("rank", rank)
    sorted_rows = pc.sort_indices(narrow, order)  # pairs may bring along what is known of both samples: it moves once
    first, cosine, likeness = _merged(narrow.take(sorted_rows))
    pairs = candidates.take(sorted_rows.take(pa.array(first))).combine_chunks()
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


def with_crowds(pairs: pa.Table, side: str, seen: pa.Table) -> pa.Table:
    """`pairs` and how alike everything is around their samples of that side ("a" or "b"), 0 where it is not known, as
    columns of float32: `<side>_crowding` to the embedding, `<side>_crowding_before` by which they were judged before,
    and `<side>_alike` to thumbnails, of which copies are counted.

    `pairs` has the sample_ids, `family` and `before` of `rounds.TO_JUDGE_SCHEMA`: as many of the nearest embeddings as
    are known to be copies of the two are not counted. `seen` has sample_id, cosines and alike, as `CROWDING_SCHEMA`.
    """
    at = pc.index_in(pairs[side], value_set=seen["sample_id"].combine_chunks()).combine_chunks()
    row, lists = np.asarray(pc.fill_null(at, -1).to_numpy(), np.int64), seen["cosines"].to_pylist()
    for when, counted in (("", "family"), ("_before", "before")):
        family = pairs[counted].to_numpy()
        found = np.where(family > 0, score_at(lists, row, CROWDING_PLACE + np.maximum(family, 2) - 2), np.float32(0))
        pairs = pairs.append_column(f"{side}_crowding{when}", pa.array(found, pa.float32()))
    return pairs.append_column(f"{side}_alike", pc.fill_null(seen["alike"].combine_chunks().take(at), 0.0))


def around(pairs: pa.Table) -> Singles:
    """(N, 3) float32 for `verify_pairs`, the fields of `tile_looks.Around`, of pairs `with_crowds` of both samples."""
    alike = np.maximum(*(pairs[f"{side}_alike"].to_numpy() for side in "ab"))
    return np.column_stack([_crowding(pairs), alike])


def _crowding(pairs: pa.Table, when: str = "") -> Singles:
    """(N, 2): the lesser and the greater crowding of each pair's two samples, now or "_before"."""
    return np.sort(np.column_stack([pairs[f"{side}_crowding{when}"].to_numpy() for side in "ab"]), axis=1)


def worth_another_look(pairs: pa.Table) -> Bools:
    """(N,): which pairs are judged for the first time, or lie in no crowd, or hardly, now that copies are not counted;
    `pairs` are as `around` takes them."""
    fewer = (_crowding(pairs, "_before") > CROWD) & (_crowding(pairs) <= CROWD)
    return np.asarray((pairs["before"].to_numpy() == 0) | fewer.any(axis=1))


def doubtful(candidates: pa.Table) -> Bools:
    """(N,): which candidates hashes of pictures on pages propose where everything looks alike, and local features do
    not, if these hashes differ by more than a little. All candidates of a pair are there, and what `around` takes.

    A picture that occurs many times, on pages, too, may be what looks alike, so they are not forgotten (`not_asked`).
    """
    method = candidates["method"].to_numpy(zero_copy_only=False)
    doubted = (method == "page") & (_crowding(candidates)[:, 0] >= CROWDED)
    doubted &= (candidates["before"].to_numpy() == 0) & (candidates["score"].to_numpy() < _ALIKE_ON_PAGE)
    rows = np.flatnonzero(doubted)
    if len(rows):
        pages, by_features = (
            pc.binary_join_element_wise(part["a"], part["b"], "\0")
            for part in (candidates.take(pa.array(rows)), candidates.filter(pa.array(method == "local")))
        )
        doubted[rows] = pc.invert(pc.is_in(pages, value_set=pc.unique(by_features))).to_numpy()
    return np.asarray(doubted)


def not_asked(candidates: pa.Table, asked: pa.Table) -> pa.Table:
    """Rows of JUDGED_SCHEMA of candidates that are `doubtful`, but for pairs in `asked` for other reasons: rejected for
    the crowd, without a score, so that they are asked once copies are known to make it."""
    candidates = without_pairs(candidates, asked)
    count = len(candidates)
    known = {
        "accepted": np.zeros(count, bool),
        "verified": np.zeros(count, bool),
        "score": pa.nulls(count, pa.float32()),
        "cosine": np.full(count, np.nan, np.float32),
        "likeness": np.zeros(count, np.float32),
        "crowded": np.ones(count, bool),
    }
    return _as_judged(candidates, known)


def _as_judged(pairs: pa.Table, known: Mapping[str, Any]) -> pa.Table:
    """Rows of JUDGED_SCHEMA: `pairs`, and what is `known` of them by now, (N,) each."""
    columns = [pa.array(known[name]) if name in known else pairs[name] for name in JUDGED_SCHEMA.names]
    return pa.table(columns, names=JUDGED_SCHEMA.names).cast(JUDGED_SCHEMA)


def _of_both(pairs: pa.Table, samples: pa.Table, values: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """(N,) and (N,): of each pair's two samples the lesser value and the greater; `values` (M,) are those of
    `samples`."""
    ids = samples["sample_id"].combine_chunks()
    first, second = (values[numbers(ids, pairs[side])] for side in "ab")
    return np.minimum(first, second), np.maximum(first, second)


def alone(pairs: pa.Table) -> Bools:
    """(N,): around which pairs no crowd is known, of either sample; `pairs` are as `around` takes them."""
    return np.asarray(_crowding(pairs)[:, 1] <= CROWD)


def uniform(pairs: pa.Table) -> Bools:
    """(N,): around which pairs thumbnails are all alike, of both samples; `pairs` are as `around` takes them."""
    return np.asarray(np.minimum(*(pairs[f"{side}_alike"].to_numpy() for side in "ab")) >= ALIKE)


def hopeful(pairs: pa.Table, cosine: Singles) -> Bools:
    """(N,): which pairs thumbnails do not dismiss, as they do not see a picture that was turned and cropped: of very
    alike embeddings, one of which lies in no crowd. `pairs` and `cosine` (N,) are as `distinct` gives them, with what
    `around` takes."""
    return np.asarray((_crowding(pairs)[:, 0] <= CROWD) & (cosine >= _HOPEFUL))  # NaN is not


def worth_a_look(
    pairs: pa.Table, cosine: Singles, samples: pa.Table, settled: Bools, likely: Singles, search: SearchSettings
) -> Bools:
    """(N,): which of the pairs that thumbnails have not `settled` (N,) are compared by their pixels; `pairs` and
    `cosine` (N,) are as `distinct` gives them, with what `around` takes, `samples` has sample_id, width and height.

    All, but where everything looks alike, embeddings and hashes propose hundreds that are no copies. What they propose
    there and local features do not (or, of small pictures, which have none, what hashes alone propose) is limited to
    each first sample's `candidates_per_image` of greatest probability by thumbnails, `likely` (N,), of larger pictures
    only if that is more likely than not, or their hashes are nearly equal. Equally likely ones go by b. The rest are no
    candidates any more, but for those that `min_cosine` accepts.
    """
    look = ~settled
    method = pairs["method"].to_numpy(zero_copy_only=False)
    small = _of_both(pairs, samples, _larger_side(samples))[0] <= SMALL_SIDE
    by_little = (method == "hash") | (np.isin(method, ["embedding", "turned"]) & ~small)
    by_little &= _crowding(pairs)[:, 0] >= CROWDED
    by_little &= ~_accepted_by_cosine(search, cosine)
    limited = np.flatnonzero(look & by_little)
    a, b = (pc.rank(pairs[side], tiebreaker="dense").to_numpy()[limited] for side in "ab")
    order = np.lexsort((b, -likely[limited], a))
    place = np.arange(len(limited)) - np.searchsorted(a[order], a[order])
    look[limited[order[place >= search.candidates_per_image]]] = False
    look[by_little & ~small & (likely < _LIKELY) & (pairs["score"].to_numpy() < _ALIKE)] = False
    return look


def _larger_side(samples: pa.Table) -> npt.NDArray[Any]:
    return np.asarray(np.maximum(*(samples[name].to_numpy() for name in ("width", "height"))))


def _whatever_the_crowd(pairs: pa.Table, samples: pa.Table) -> Bools:
    """(N,): which pairs neither thumbnails nor pixels judge otherwise for what is crowded around them: both are small,
    and thumbnails are not all alike. (Only of the negative of one more is asked there.)"""
    small = _of_both(pairs, samples, _larger_side(samples))[1] <= SMALL_SIDE
    return np.asarray(small & (around(pairs)[:, 2] < ALIKE))


def by_probability(
    pairs: pa.Table,
    cosine: Singles,
    samples: pa.Table,
    probability: Singles,
    search: SearchSettings,
    verify: VerifySettings,
) -> tuple[pa.Table, pa.Table]:
    """Verified pairs, judged: accepted from the probability on that `verify` asks for, or from `min_cosine` on.

    `pairs`, `cosine` (N,), NaN where the pair has none, and `samples` are as `worth_a_look` takes them; `probability`
    (N,). Returns the judged pairs, sorted by a and b, and rows of JUDGED_SCHEMA.
    """
    by_cosine = _accepted_by_cosine(search, cosine)
    verified = probability >= np.float32(verify.accepts_from)
    accepted = by_cosine | verified
    method = pc.if_else(pa.array(by_cosine), "embedding", "verified")
    score = np.where(by_cosine, cosine, probability)
    known = {
        "accepted": accepted,
        "verified": verified,
        "score": probability,
        "cosine": cosine,
        "likeness": pairs["score"],
        "crowded": (_crowding(pairs)[:, 1] > CROWD) & ~_whatever_the_crowd(pairs, samples),
    }
    return _judged(pairs, method, score, accepted, probability), _as_judged(pairs, known)


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
