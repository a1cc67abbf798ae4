"""Which pairs are compared by their pixels, and by what proposals they are known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from dedup.candidates import CANDIDATE_SCHEMA
from dedup.crowded import CROWDED
from dedup.judgement import crowding_of, distinct, hopeful, worth_a_look
from dedup.looks import Around
from dedup.neighbors import SearchSettings
from dedup.small_evidence import SMALL_SIDE

PAIRS = [(f"a{first}", f"b{second}") for first in range(3) for second in range(5)]
NEVER = np.zeros(len(PAIRS), bool)
LIKELY = np.tile(np.array([0.1, 0.7, 0.6, 0.7, 0.2], np.float32), 3)
COSINE = np.tile(np.array([0.9, 0.8, np.nan, 0.8, 0.7], np.float32), 3)
SEARCH = SearchSettings(candidates_per_image=2)
BEST_TWO = [False, True, False, True, False] * 3


def samples(crowding: float, side: int) -> pa.Table:
    names = sorted({name for pair in PAIRS for name in pair})
    sides = np.full(len(names), side, np.int32)
    columns = {"sample_id": names, "crowding": np.full(len(names), crowding, np.float32)}
    return pa.table(columns | {"width": sides, "height": sides // 2})


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
        }
    )
    found = np.zeros(len(rows), bool)
    found[rows] = worth_a_look(table, COSINE[rows], samples(crowding, side), settled[rows], LIKELY[rows], search)
    return [bool(look) for look in found]


def test_hopeful_are_pairs_alike_to_embeddings_of_which_one_lies_in_no_crowd() -> None:
    table = pa.table({"a": [a for a, _ in PAIRS], "b": [b for _, b in PAIRS]})
    assert hopeful(table, COSINE, samples(0.7, 300)).tolist() == [True, True, False, True, False] * 3
    assert not hopeful(table, COSINE, samples(float(CROWDED), 300)).any()
    one_in_a_crowd = samples(0.7, 300).to_pandas()
    one_in_a_crowd.loc[one_in_a_crowd["sample_id"] == "a0", "crowding"] = float(CROWDED)
    assert hopeful(table, COSINE, pa.Table.from_pandas(one_in_a_crowd)).tolist() == [True, True, False, True, False] * 3


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


def test_around_a_pair_things_are_as_alike_as_around_its_two_samples() -> None:
    table = pa.table({"sample_id": ["a", "b", "c"], "crowding": [0.9, 0.75, 0.0], "alike": [0.0, 0.5, 0.25]})
    found = crowding_of(pa.table({"a": ["a", "b"], "b": ["b", "c"]}), table)
    assert found.dtype == np.float32
    assert [Around(*row) for row in found.tolist()] == [
        Around(crowding=0.75, most=pytest.approx(0.9), alike=0.5),
        Around(crowding=0.0, most=0.75, alike=0.5),
    ]


def test_the_order_of_the_pairs_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(len(PAIRS))
    assert looked_at("hash", 0.9, order=shuffled) == looked_at("hash", 0.9)


def test_no_pairs_are_no_work() -> None:
    empty = CANDIDATE_SCHEMA.empty_table()
    nothing = np.zeros(0, np.float32)
    assert worth_a_look(empty, nothing, samples(0.9, 200), np.zeros(0, bool), nothing, SEARCH).tolist() == []


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
