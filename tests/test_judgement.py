"""Which pairs are compared by their pixels, and by what proposals they are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from dedup.candidates import CANDIDATE_SCHEMA, CROWDING_SCHEMA
from dedup.crowded import CROWDED
from dedup.judgement import (
    around,
    by_probability,
    distinct,
    doubtful,
    hopeful,
    not_asked,
    uniform,
    with_crowds,
    worth_a_look,
    worth_another_look,
)
from dedup.looks import ALIKE
from dedup.neighbors import SearchSettings
from dedup.rounds import JUDGED_SCHEMA
from dedup.small_evidence import SMALL_SIDE
from dedup.tile_looks import Around
from dedup.verify import VerifySettings

PAIRS = [(f"a{first}", f"b{second}") for first in range(3) for second in range(5)]
NEVER = np.zeros(len(PAIRS), bool)
LIKELY = np.tile(np.array([0.1, 0.7, 0.6, 0.7, 0.2], np.float32), 3)
COSINE = np.tile(np.array([0.9, 0.8, np.nan, 0.8, 0.7], np.float32), 3)
SEARCH = SearchSettings(candidates_per_image=2)
BEST_TWO = [False, True, False, True, False] * 3


def samples(side: int, of_b: int | None = None) -> pa.Table:
    names = sorted({name for pair in PAIRS for name in pair})
    sides = np.array([side if of_b is None or name.startswith("a") else of_b for name in names], np.int32)
    return pa.table({"sample_id": names, "width": sides, "height": sides // 2})


def in_crowds(a: float, b: float) -> dict[str, np.ndarray]:
    """Columns of PAIRS, of which all have that crowding."""
    return {f"{side}_crowding": np.full(len(PAIRS), value, np.float32) for side, value in (("a", a), ("b", b))}


def looked_at(
    method: str,
    crowding: float,
    settled: np.ndarray = NEVER,
    order: np.ndarray | None = None,
    side: int = SMALL_SIDE + 1,
    search: SearchSettings = SEARCH,
    by_hash: float = 0.9,
) -> list[bool]:
    rows = np.arange(len(PAIRS)) if order is None else order
    table = pa.table(
        {
            "a": [PAIRS[row][0] for row in rows],
            "b": [PAIRS[row][1] for row in rows],
            "method": [method] * len(rows),
            "score": np.full(len(rows), by_hash, np.float32),
            **in_crowds(crowding, 1.0),
        }
    )
    found = np.zeros(len(rows), bool)
    found[rows] = worth_a_look(table, COSINE[rows], samples(side), settled[rows], LIKELY[rows], search)
    return [bool(look) for look in found]


def test_hopeful_are_pairs_alike_to_embeddings_of_which_one_lies_in_no_crowd() -> None:
    for a, b in ((0.7, 0.7), (float(CROWDED), 0.7), (0.8, 0.99)):
        assert hopeful(pa.table(in_crowds(a, b)), COSINE).tolist() == [True, True, False, True, False] * 3
    assert not hopeful(pa.table(in_crowds(float(CROWDED), float(CROWDED))), COSINE).any()


@pytest.mark.parametrize("method", ["hash", "embedding", "turned"])
def test_of_pairs_in_a_crowd_without_local_features_the_likeliest_are_looked_at(method: str) -> None:
    assert looked_at(method, float(CROWDED)) == BEST_TWO


def test_of_larger_ones_only_those_that_are_more_likely_than_not() -> None:
    settled = np.array([False, True, True, False, False] * 3)
    assert looked_at("hash", 0.99, settled) == [False, False, False, True, False] * 3
    assert looked_at("hash", 0.99, settled, side=SMALL_SIDE) == [False, False, False, True, True] * 3
    assert looked_at("hash", 0.99, settled, by_hash=0.95) == [False, False, False, True, True] * 3


def test_what_a_cosine_accepts_is_looked_at_and_takes_no_place() -> None:
    search = replace(SEARCH, min_cosine=0.85)
    assert looked_at("embedding", 0.99, search=search) == [True, True, False, True, False] * 3


def test_small_pictures_have_no_local_features_to_ask() -> None:
    assert all(looked_at("embedding", 0.99, side=SMALL_SIDE))
    assert looked_at("hash", 0.99, side=SMALL_SIDE) == BEST_TWO


def test_all_others_are_looked_at() -> None:
    assert all(looked_at("hash", 0.84))
    assert all(looked_at("embedding", 0.84))
    assert all(looked_at("local", 0.99))
    assert all(looked_at("suggested", 0.99))


def test_settled_pairs_need_no_look_and_take_no_place() -> None:
    settled = np.array([False, True, False, False, False] * 3)
    assert looked_at("hash", 0.99, settled) == [False, False, True, True, False] * 3
    assert not any(looked_at("embedding", 0.5, ~NEVER))


def seen(**cosines: list[float]) -> pa.Table:
    """Rows of CROWDING_SCHEMA of samples of these names."""
    columns = {
        "shard": np.zeros(len(cosines), np.int32),
        "sample_id": list(cosines),
        "cosines": [np.float32(each).tobytes() for each in cosines.values()],
        "alike": np.linspace(0, 0.5, len(cosines)).astype(np.float32),
    }
    return pa.table(columns, schema=CROWDING_SCHEMA)


def with_both_crowds(rows: list[tuple[str, str, int, int]], around: pa.Table) -> pa.Table:
    pairs = pa.table({name: [row[at] for row in rows] for at, name in enumerate(("a", "b", "family", "before"))})
    return with_crowds(with_crowds(pairs, "b", around), "a", around)


def test_around_a_pair_things_are_as_alike_as_around_its_two_samples() -> None:
    there = seen(a=[0.99, 0.98, 0.97, 0.96, 0.9], b=[0.9, 0.9, 0.8, 0.8, 0.75], c=[0.9])
    found = around(with_both_crowds([("a", "b", 2, 0), ("b", "c", 2, 0), ("c", "d", 2, 0)], there))
    assert found.dtype == np.float32
    assert [Around(*row) for row in found.tolist()] == [
        Around(crowding=0.75, most=pytest.approx(0.9), alike=0.25),
        Around(crowding=0.0, most=0.75, alike=0.5),
        Around(crowding=0.0, most=0.0, alike=0.5),
    ]


def test_copies_that_are_known_make_no_crowd() -> None:
    there = seen(a=[0.99, 0.98, 0.97, 0.96, 0.95, 0.9, 0.6], b=[0.99, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92])
    rows = [("a", "b", 2, 0), ("a", "b", 3, 2), ("a", "b", 4, 3), ("a", "b", 5, 4), ("a", "b", 6, 5)]
    pairs = with_both_crowds(rows, there)
    assert around(pairs)[:, 0].tolist() == pytest.approx([0.95, 0.9, 0.6, 0, 0])
    assert around(pairs)[:, 1].tolist() == pytest.approx([0.95, 0.94, 0.93, 0.92, 0])
    # The first was never judged; then one of the two lies in no crowd any more, and at last neither.
    assert worth_another_look(pairs).tolist() == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("of_b", "alike", "again"), [(SMALL_SIDE, 0.0, False), (SMALL_SIDE, ALIKE, True), (SMALL_SIDE + 1, 0.0, True)]
)
def test_small_pictures_deserve_another_look_only_in_uniform_sets(of_b: int, alike: float, again: bool) -> None:
    """Their evidence is the same however many of the crowd are copies; thumbnails of a larger one may count less."""
    count = len(PAIRS)
    columns = {f"{end}_alike": np.full(count, alike, np.float32) for end in "ab"}
    pairs = pa.table(
        {
            "a": [a for a, _ in PAIRS],
            "b": [b for _, b in PAIRS],
            "method": ["embedding"] * count,
            "score": np.full(count, 0.9, np.float32),
            **{name: np.zeros(count, np.int32) for name in ("shard_a", "shard_b", "family", "before")},
            **in_crowds(0.9, 0.9),
            **columns,
        }
    )
    unlikely = np.full(count, 0.5, np.float32)
    _, judged = by_probability(pairs, COSINE, samples(SMALL_SIDE, of_b), unlikely, SEARCH, VerifySettings())
    assert judged["crowded"].to_pylist() == [again] * count


@pytest.mark.parametrize(
    ("crowding", "of_b", "score", "before", "more", "believed"),
    [
        (0.84, 0.99, 0.9, 0, (), True),  # one of the two lies in no such crowd
        (0.85, 0.85, 0.9, 0, (), False),
        (0.85, 0.85, 1 - 3 / 64, 0, (), False),
        (0.85, 0.85, 1 - 2 / 64, 0, (), True),
        (0.85, 0.85, 0.9, 0, ("local",), True),
        (0.85, 0.85, 0.9, 0, ("hash", "embedding"), False),
        (0.85, 0.85, 0.0, 2, (), True),  # it was judged before, as it is asked again
    ],
)
def test_in_crowds_pages_are_believed_if_they_are_nearly_equal_or_share_features(
    crowding: float, of_b: float, score: float, before: int, more: tuple[str, ...], believed: bool
) -> None:
    rows = [("a", "b", "page", score), *(("a", "b", method, 0.9) for method in more), ("a", "c", "local", 0.9)]
    table = pa.table(
        {
            **{name: [row[at] for row in rows] for at, name in enumerate(("a", "b", "method"))},
            "score": np.array([row[3] for row in rows], np.float32),
            "before": np.full(len(rows), before, np.int32),
            "a_crowding": np.full(len(rows), crowding, np.float32),
            "b_crowding": np.full(len(rows), of_b, np.float32),
        }
    )
    assert doubtful(table).tolist() == [not believed] + [False] * (len(rows) - 1)
    assert doubtful(table[:0]).tolist() == []


def test_doubted_pairs_are_kept_in_mind_but_for_those_that_are_asked_anyway() -> None:
    count = len(PAIRS)
    known = {"method": ["page"] * count, **{name: np.zeros(count, np.int32) for name in ("shard_a", "shard_b")}}
    family = {"family": np.full(count, 2, np.int32), "before": np.zeros(count, np.int32)}
    ends = {"a": [a for a, _ in PAIRS], "b": [b for _, b in PAIRS]}
    doubted = pa.table({**ends, **known, "score": np.full(count, 0.9, np.float32), **family})
    left = not_asked(doubted, doubted.slice(2))
    assert list(zip(*(left[name].to_pylist() for name in "ab"), strict=True)) == PAIRS[:2]
    assert left.schema == JUDGED_SCHEMA
    assert left["score"].null_count == 2
    assert left["crowded"].to_pylist() == [True, True]
    assert not any(left["accepted"].to_pylist())


def test_uniform_are_pairs_around_both_of_which_thumbnails_are_alike() -> None:
    pairs = pa.table({"a_alike": np.float32([ALIKE, ALIKE, 0]), "b_alike": np.float32([1, 0.89, 1])})
    assert uniform(pairs).tolist() == [True, False, False]


def test_the_order_of_the_pairs_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(len(PAIRS))
    assert looked_at("hash", 0.9, order=shuffled) == looked_at("hash", 0.9)


def test_no_pairs_are_no_work() -> None:
    empty = CANDIDATE_SCHEMA.empty_table()
    nothing = np.zeros(0, np.float32)
    for side in "ab":
        empty = empty.append_column(f"{side}_crowding", pa.array(nothing))
    assert worth_a_look(empty, nothing, samples(200), np.zeros(0, bool), nothing, SEARCH).tolist() == []


def test_a_pair_is_known_by_what_says_most_for_it_and_keeps_its_cosine() -> None:
    proposals = [
        ("a", "b", "hash", 0.9),
        ("a", "b", "embedding", 0.75),
        ("a", "c", "local", 0.5),
        ("a", "c", "hash", 0.95),
        ("b", "c", "hash", 0.95),
        ("b", "d", "local", 0.625),
        ("b", "d", "embedding", 0.625),
    ]
    rows = [
        {"a": a, "b": b, "method": method, "score": score, "shard_a": 0, "shard_b": 0}
        for a, b, method, score in reversed(proposals)
    ]
    pairs, cosine = distinct(pa.Table.from_pylist(rows, schema=CANDIDATE_SCHEMA))
    found = list(zip(*(pairs[name].to_pylist() for name in ("a", "b", "method")), strict=True))
    assert found == [("a", "b", "embedding"), ("a", "c", "local"), ("b", "c", "hash"), ("b", "d", "local")]
    assert np.nan_to_num(cosine).tolist() == [0.75, 0.5, 0.0, 0.625]
    assert pairs["score"].to_pylist() == pytest.approx([0.9, 0.95, 0.95, 0.0])
    assert pairs.schema == CANDIDATE_SCHEMA
