"""Which candidates are compared by their pixels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from dedup.crowded import CROWDED
from dedup.judgement import worth_a_look

PAIRS = [(f"a{first}", f"b{second}") for first in range(3) for second in range(5)]
NEVER = np.zeros(len(PAIRS), bool)
LIKELY = np.tile(np.array([0.1, 0.5, 0.3, 0.5, 0.2], np.float32), 3)


def looked_at(method: str, crowding: float, settled: np.ndarray = NEVER, order: np.ndarray | None = None) -> list[bool]:
    rows = np.arange(len(PAIRS)) if order is None else order
    table = pa.table(
        {
            "a": [PAIRS[row][0] for row in rows],
            "b": [PAIRS[row][1] for row in rows],
            "method": [method] * len(rows),
        }
    )
    crowds = np.full(len(rows), crowding, np.float32)
    found = np.zeros(len(rows), bool)
    found[rows] = worth_a_look(table, settled[rows], LIKELY[rows], crowds, per_image=2)
    return [bool(look) for look in found]


def test_of_pairs_that_hashes_alone_propose_in_a_crowd_the_likeliest_are_looked_at() -> None:
    assert looked_at("hash", float(CROWDED)) == [False, True, False, True, False] * 3


def test_all_others_are_looked_at() -> None:
    assert all(looked_at("hash", 0.84))
    assert all(looked_at("embedding", 0.99))
    assert all(looked_at("suggested", 0.99))


def test_settled_pairs_need_no_look_and_take_no_place() -> None:
    settled = np.array([False, True, False, False, False] * 3)
    assert looked_at("hash", 0.99, settled) == [False, False, True, True, False] * 3
    assert not any(looked_at("embedding", 0.5, ~NEVER))


def test_the_order_of_the_pairs_does_not_matter() -> None:
    shuffled = np.random.default_rng(0).permutation(len(PAIRS))
    assert looked_at("hash", 0.9, order=shuffled) == looked_at("hash", 0.9)


def test_no_pairs_are_no_work() -> None:
    empty = pa.table({name: pa.array([], pa.string()) for name in ("a", "b", "method")})
    nothing = np.zeros(0, np.float32)
    assert worth_a_look(empty, np.zeros(0, bool), nothing, nothing).tolist() == []
