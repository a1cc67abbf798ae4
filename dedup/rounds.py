"""Verified pairs -> what is judged next: pairs that accepted ones suggest, and rejected ones that deserve another look.

    judged pairs ──families──▶ how many pictures are one ─┬─suggested──▶ two copies of one picture may be each other's
                                                          └─again──────▶ around these is less alike than it seemed

Pictures that occur many times lie among their copies, as pictures of a uniform set lie among others, and where
everything is alike more is asked of a pair. Which of the two it is shows once the surer pairs are accepted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.candidates import CANDIDATE_SCHEMA
from dedup.closure import second_neighbors
from dedup.connected import component_labels
from dedup.records import PAIR_SCHEMA

Ints = npt.NDArray[np.int64]

ROUNDS = 3  # each doubles how far along accepted pairs suggestions may come
_SUGGESTIONS_PER_IMAGE = 16

# A candidate, how many pictures accepted pairs join to either of its two, these among them (2: none), and how many
# they were when it was judged before (0: never).
TO_JUDGE_SCHEMA = pa.schema([*CANDIDATE_SCHEMA, ("family", pa.int32()), ("before", pa.int32())])
# A pair that was judged, by the columns of TO_JUDGE_SCHEMA and: whether it was accepted, and verified, with the
# probability (null: it was doubted, and not asked); its cosine and its hash's likeness (NaN and 0 for none); whether
# everything was alike around it, and that had a say.
JUDGED_SCHEMA = pa.schema(
    [
        *(PAIR_SCHEMA.field(name) for name in ("a", "b", "method")),
        ("shard_a", pa.int32()),
        ("shard_b", pa.int32()),
        ("family", pa.int32()),
        ("before", pa.int32()),
        PAIR_SCHEMA.field("accepted"),
        ("verified", pa.bool_()),
        ("score", pa.float32()),
        ("cosine", pa.float32()),
        ("likeness", pa.float32()),
        ("crowded", pa.bool_()),
    ]
)


def first_round(candidates: pa.Table) -> pa.Table:
    """Rows of CANDIDATE_SCHEMA as rows of TO_JUDGE_SCHEMA."""
    count = len(candidates)
    for name, value in (("family", 2), ("before", 0)):
        candidates = candidates.append_column(name, pa.array(np.full(count, value, np.int32)))
    return candidates.select(TO_JUDGE_SCHEMA.names)


class Rounds:
    """What is to be judged next, asked after each round of a run."""

    def __init__(self) -> None:
        self._accepted = 0

    def following(self, judged: Callable[[], Iterable[pa.Table]]) -> pa.Table:
        """Rows of TO_JUDGE_SCHEMA; none where nothing is left to judge.

        `judged` gives tables of JUDGED_SCHEMA, at every call anew. Holds the accepted pairs, as the decision does, and
        of the rejected ones those between the same samples, or of one of these in a crowd.
        """
        tables = (table.filter(table["accepted"]) for table in judged())
        accepted = pa.concat_tables([JUDGED_SCHEMA.empty_table(), *tables])
        samples = _ends(accepted)
        ids = samples["sample_id"].combine_chunks()
        families = _Families(ids, accepted.filter(accepted["verified"]))
        found = [_suggested(judged, accepted, samples, families)]
        if len(accepted) > self._accepted:  # else all that it could show was looked at again before
            found.append(_again(judged, ids, families))
        self._accepted = len(accepted)
        return pa.concat_tables(found)


def superseded(judged: Iterable[pa.Table]) -> pa.Table:
    """Columns a and b of the pairs in tables of JUDGED_SCHEMA that were judged before: those verdicts count no more."""
    tables = [table.filter(pc.greater(table["before"], 0)).select(["a", "b"]) for table in judged]
    return pa.concat_tables([JUDGED_SCHEMA.empty_table().select(["a", "b"]), *tables])


def without_pairs(table: pa.Table, pairs: pa.Table) -> pa.Table:
    """The rows of `table`, which has columns a and b, that are none of these `pairs`."""
    ids = pc.unique(pa.chunked_array([*pairs["a"].chunks, *pairs["b"].chunks], type=pa.string()))
    keys, unwanted = (numbers(ids, each["a"]) * (len(ids) + 1) + numbers(ids, each["b"]) for each in (table, pairs))
    return table.filter(pa.array(~np.isin(keys, unwanted)))


class _Families:
    """Pictures that accepted pairs join, in some steps."""

    def __init__(self, ids: pa.Array, accepted: pa.Table) -> None:
        self._ids = ids
        i, j = (numbers(ids, accepted[side]) for side in "ab")
        self._label = component_labels(len(ids), i, j)
        self._size = np.bincount(self._label, minlength=1)

    def of(self, pairs: pa.Table) -> Ints:
        """(N,): how many pictures belong to the families of each pair's two, these among them."""
        (label_a, size_a), (label_b, size_b) = (self._family(pairs[side]) for side in "ab")
        return np.where((label_a == label_b) & (label_a >= 0), size_a, size_a + size_b)

    def _family(self, samples: pa.ChunkedArray) -> tuple[Ints, Ints]:
        number = numbers(self._ids, samples)
        label = np.where(number < len(self._ids), np.append(self._label, -1)[number], -1)
        return label, np.where(label >= 0, self._size[label], 1)


def _suggested(
    judged: Callable[[], Iterable[pa.Table]], accepted: pa.Table, samples: pa.Table, families: _Families
) -> pa.Table:
    """Pairs that two accepted ones suggest, and that are not judged yet."""
    ids = samples["sample_id"].combine_chunks()
    known = [JUDGED_SCHEMA.empty_table().select(["a", "b"])]
    for table in judged():
        table = table.filter(pc.and_(pc.is_in(table["a"], value_set=ids), pc.is_in(table["b"], value_set=ids)))
        table = table.filter(pc.is_valid(table["score"]))
        known.append(table.select(["a", "b"]))
    everything = pa.concat_tables(known)
    i, j = second_neighbors(
        len(ids),
        numbers(ids, accepted["a"]),
        numbers(ids, accepted["b"]),
        accepted["score"].to_numpy(),
        (numbers(ids, everything["a"]), numbers(ids, everything["b"])),
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
    pairs = first_round(pa.table(columns, schema=CANDIDATE_SCHEMA))
    return _with(pairs, "family", families.of(pairs))


def _again(judged: Callable[[], Iterable[pa.Table]], ids: pa.Array, families: _Families) -> pa.Table:
    """Pairs that were rejected in a crowd, of which more pictures are known to be copies now."""
    found = [TO_JUDGE_SCHEMA.empty_table()]
    for table in judged():
        joined = pc.or_(pc.is_in(table["a"], value_set=ids), pc.is_in(table["b"], value_set=ids))
        table = table.filter(pc.and_(pc.and_(table["crowded"], pc.invert(table["accepted"])), joined))
        family, before = families.of(table), table["family"]
        table = _with(_with(table, "before", before), "family", family)
        table = table.filter(pa.array(family > before.to_numpy()))
        # As it was proposed: by its hash, and by what said more for it.
        by_hash = _with(_with(table, "score", table["likeness"]), "method", pa.repeat("hash", len(table)))
        found.append(by_hash.filter(pc.greater(by_hash["likeness"], 0)))
        otherwise = _with(table, "score", np.nan_to_num(table["cosine"].to_numpy()))
        found.append(otherwise.filter(pc.not_equal(otherwise["method"], "hash")))
    return pa.concat_tables([each.select(TO_JUDGE_SCHEMA.names).cast(TO_JUDGE_SCHEMA) for each in found])


def _with(pairs: pa.Table, name: str, values: npt.ArrayLike | pa.ChunkedArray) -> pa.Table:
    place = pairs.column_names.index(name)
    column = values if isinstance(values, pa.ChunkedArray | pa.Array) else pa.array(values)
    return pairs.set_column(place, pairs.schema.field(place), column.cast(pairs.schema.field(place).type))


def _ends(pairs: pa.Table) -> pa.Table:
    """Each sample in `pairs` once, by sample_id, with its shard as shard_min."""
    ends = [
        pairs.select(list(names)).rename_columns(["sample_id", "shard"])
        for names in (("a", "shard_a"), ("b", "shard_b"))
    ]
    return pa.concat_tables(ends).group_by("sample_id").aggregate([("shard", "min")]).sort_by("sample_id")


def numbers(ids: pa.Array, values: pa.ChunkedArray) -> Ints:
    """(N,): the number of each in `ids`; len(ids) for what is not there."""
    return np.asarray(pc.fill_null(pc.index_in(values, value_set=ids), len(ids)).to_numpy(), np.int64)
