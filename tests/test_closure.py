from __future__ import annotations

import numpy as np
import pytest

from dedup.closure import second_neighbors


def closed(
    n: int, edges: dict[tuple[int, int], float], known: list[tuple[int, int]], per_node: int
) -> list[tuple[int, int]]:
    ends = np.array(list(edges), np.int64).reshape(-1, 2)
    more = np.array([*edges, *known], np.int64).reshape(-1, 2)
    scores = np.array(list(edges.values()), np.float32)
    i, j = second_neighbors(n, ends[:, 0], ends[:, 1], scores, (more[:, 0], more[:, 1]), per_node)
    return list(zip(i.tolist(), j.tolist(), strict=True))


def test_a_chain_gives_its_second_neighbours_only() -> None:
    assert closed(5, {(0, 1): 0.9, (1, 2): 0.9, (3, 2): 0.9, (3, 4): 0.9}, [], 8) == [(0, 2), (1, 3), (2, 4)]


def test_what_was_judged_before_is_not_proposed_again() -> None:
    edges = {(0, 1): 0.9, (1, 2): 0.9, (2, 3): 0.9}
    assert closed(4, edges, [(2, 0)], 8) == [(1, 3)]
    assert closed(3, {(0, 1): 1.0, (1, 2): 1.0, (0, 2): 1.0}, [], 8) == []


def test_nothing_comes_of_nothing() -> None:
    assert closed(0, {}, [], 8) == []
    assert closed(3, {}, [], 8) == []
    assert closed(2, {(0, 1): 0.5}, [], 8) == []


def test_a_hub_costs_no_more_than_each_node_may_name() -> None:
    hub = {(0, leaf): 1 - leaf / 10_000 for leaf in range(1, 2001)}
    pairs = closed(2001, hub, [], 4)
    # Each leaf knows the hub, which leads it to its own four best leaves.
    assert len(pairs) <= 4 * 2000
    assert set(pairs) >= {(1, 2), (1, 3), (2, 3), (1, 2000), (2, 2000), (3, 2000), (4, 2000)}
    assert (1999, 2000) not in pairs


def test_the_best_paths_come_first() -> None:
    edges = {(0, 1): 0.9, (0, 2): 0.6, (0, 3): 0.8}
    assert closed(4, edges, [], 1) == [(1, 3)] or (1, 3) in closed(4, edges, [], 1)
    # With one edge each, 0 looks at 1 only, and 2 and 3 reach 1 through 0.
    assert closed(4, edges, [], 1) == [(1, 2), (1, 3)]


@pytest.mark.parametrize("seed", range(5))
def test_without_limits_it_is_the_square_of_the_graph(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedup.closure._PATHS_PER_BLOCK", 5_000)
    rng = np.random.default_rng(seed)
    n = 60
    adjacent = np.triu(rng.random((n, n)) < 0.04, 1)
    known = np.triu(rng.random((n, n)) < 0.1, 1)
    both = adjacent | adjacent.T
    expected = np.triu((both.astype(int) @ both.astype(int) > 0) & ~both & ~known, 1)
    edges = {(int(a), int(b)): float(rng.random()) for a, b in np.argwhere(adjacent)}
    pairs = closed(n, edges, [(int(a), int(b)) for a, b in np.argwhere(known)], n)
    assert pairs == [(int(a), int(b)) for a, b in np.argwhere(expected)]
