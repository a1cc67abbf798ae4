"""Pairs that a search missed, suggested by those accepted: two copies of one picture are copies of each other.

A star removes only what has a direct edge to its keeper, and each image names only a few candidates. So where a - b and
b - c are accepted, a - c is worth a look of its own. It is only proposed here; verification decides as of any pair.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]

_PATHS_PER_BLOCK = 1 << 22


def second_neighbors(
    n: int, i: Ints, j: Ints, score: Singles, known: tuple[Ints, Ints], per_node: int
) -> tuple[Ints, Ints]:
    """Pairs of nodes two accepted edges apart, and not known.

    `i`, `j` (E,) are the ends of undirected edges between nodes 0 to n - 1, no edge twice; `score` (E,), higher is
    closer; `known` are pairs in either order that need no second look, the edges among them. Each node looks along its
    `per_node` best edges, and theirs, and names its `per_node` best paths; a path is as good as its weaker edge, equal
    ones go by node number. Returns (P,) and (P,), the first below the second, each pair once, sorted.

    Memory: in proportion to n * per_node, and a fixed amount.
    """
    start, end, weight = _best_edges(n, np.concatenate([i, j]), np.concatenate([j, i]), np.tile(score, 2), per_node)
    first, second = (np.concatenate(sides) for sides in ((known[0], known[1]), (known[1], known[0])))
    seen = np.unique(first * n + second)
    rows = max(1, _PATHS_PER_BLOCK // max(1, per_node**2))
    named = []
    for begin in range(0, n, rows):
        nodes = np.arange(begin, min(n, begin + rows))
        edge, origin = _ranges(start, nodes)  # u - v
        after, before = _ranges(start, end[edge])  # v - w
        source, target = nodes[origin[before]], end[after]
        path = np.minimum(weight[edge][before], weight[after])
        new = (source != target) & ~_contains(seen, source * n + target)
        source, target, path = source[new], target[new], path[new]
        order = np.lexsort((-path, target, source))
        once = np.ones(len(order), bool)
        key = (source * n + target)[order]
        once[1:] = key[1:] != key[:-1]
        order = order[once]
        order = order[np.lexsort((target[order], -path[order], source[order]))]
        place = np.arange(len(order)) - np.searchsorted(source[order], source[order])
        kept = order[place < per_node]
        named.append(np.minimum(source[kept], target[kept]) * n + np.maximum(source[kept], target[kept]))
    keys = np.unique(np.concatenate([np.zeros(0, np.int64), *named]))
    return keys // max(n, 1), keys % max(n, 1)


def _best_edges(n: int, source: Ints, target: Ints, score: Singles, per_node: int) -> tuple[Ints, Ints, Singles]:
    """The `per_node` best edges of each node, as (start (n + 1,), target, score): those of node k lie from start[k]."""
    order = np.lexsort((target, -score, source))
    source, target, score = source[order], target[order], score[order]
    keep = np.arange(len(source)) - np.searchsorted(source, source) < per_node
    source, target, score = source[keep], target[keep], score[keep]
    return np.searchsorted(source, np.arange(n + 1)), target, score


def _ranges(start: Ints, nodes: Ints) -> tuple[Ints, Ints]:
    """The positions of the edges of each of `nodes`, one after the other, and which of `nodes` each belongs to."""
    count = start[nodes + 1] - start[nodes]
    offset = np.cumsum(count) - count
    positions = np.arange(int(count.sum())) + np.repeat(start[nodes] - offset, count)
    return positions, np.repeat(np.arange(len(nodes)), count)


def _contains(sorted_keys: Ints, keys: Ints) -> npt.NDArray[np.bool_]:
    if not len(sorted_keys):
        return np.zeros(len(keys), bool)
    at = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.asarray(sorted_keys[at] == keys)
