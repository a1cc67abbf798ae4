"""Accepted pairs -> groups, and who stands for whom.

Grouping works on classes: a class is a set of byte-identical samples, which `exact` pairs tie to a representative. An
edge of one member is an edge of all, so a class is taken or kept as a whole, and its first member in keep order stands
for it.

    pairs ──classes──▶ best edge per pair of classes ──GROUPINGS──▶ keeper of each class ──▶ one row per sample

A grouping is a function of edges between classes that are numbered in keep order. To add one, add it to `GROUPINGS`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.connected import component_labels
from dedup.errors import ConfigError, ManifestError
from dedup.overrides import NO_OVERRIDES, Overrides

logger = logging.getLogger(__name__)

Ints = npt.NDArray[np.int64]

EVIDENCE = ("exact", "verified", "hash", "embedding")  # the strongest first

GROUP_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("cluster", pa.int64()),  # null where a star took all neighbours of this sample
        pa.field("cluster_size", pa.int32(), nullable=False),
        pa.field("component_size", pa.int32(), nullable=False),
        pa.field("keeper", pa.string()),  # null for the keeper itself, and where there is no group
        pa.field("method", pa.string()),
        pa.field("score", pa.float32()),
    ]
)

_EDGES_PER_BLOCK = 1 << 20  # turned into Python integers at a time


@dataclass(frozen=True)
class Edges:
    """Undirected edges between `n` classes, numbered 0 to n - 1 in keep order.

    `first` < `second`, both (E,) int64, sorted by (first, second), no edge twice; `method` (E,) indexes `EVIDENCE`,
    `score` (E,) is float32. `apart` are pairs of classes, (smaller, larger), of which neither may stand for the other;
    no edge joins them.
    """

    n: int
    first: Ints
    second: Ints
    method: Ints
    score: npt.NDArray[np.float32]
    apart: frozenset[tuple[int, int]] = frozenset()


def star(edges: Edges) -> Ints:
    """In keep order, each class not yet taken becomes a keeper and takes its neighbours not yet taken.

    So a class is removed only by a direct edge to one that is kept, and no two keepers share an edge (the
    lexicographically first maximal independent set). Returns (n,) int64: each class's keeper, itself where it is kept.
    """
    keeper = [-1] * edges.n  # -1: not taken
    for start in range(0, len(edges.first), _EDGES_PER_BLOCK):
        block = slice(start, start + _EDGES_PER_BLOCK)
        # Edges come sorted by their first end: when one is reached, all that could take that end have been.
        for first, second in zip(edges.first[block].tolist(), edges.second[block].tolist(), strict=True):
            if keeper[second] < 0 and keeper[first] < 0:
                keeper[second] = first
    result = np.array(keeper, dtype=np.int64)
    return np.where(result < 0, np.arange(edges.n), result)


def components(edges: Edges) -> Ints:
    """All classes that are connected, over any number of edges, have the first of them in keep order as keeper.

    Where some of them are `apart`, a keeper takes only what it reaches without them, and the first of the rest in keep
    order is the next keeper. Returns (n,) int64: each class's keeper, itself where it is kept.
    """
    keeper = _connected(edges)
    split = {int(keeper[one]) for one, other in edges.apart if keeper[one] == keeper[other]}
    if split:
        _split(keeper, edges, np.flatnonzero(np.isin(keeper, list(split))))
    return keeper


def _connected(edges: Edges) -> Ints:
    """(n,) int64: the first class in keep order of each class's connected component."""
    labels = component_labels(edges.n, edges.first, edges.second)
    _, first_of, inverse = np.unique(labels, return_index=True, return_inverse=True)
    return np.asarray(first_of[inverse], dtype=np.int64)


def _split(keeper: Ints, edges: Edges, members: Ints) -> None:
    """Give these classes, whole components that hold some which are apart, their keepers anew, in place."""
    neighbors: dict[int, list[int]] = {member: [] for member in members.tolist()}
    inside = np.isin(edges.first, members)
    for first, second in zip(edges.first[inside].tolist(), edges.second[inside].tolist(), strict=True):
        neighbors[first].append(second)
        neighbors[second].append(first)
    strangers: dict[int, set[int]] = {}
    for one, other in edges.apart:
        strangers.setdefault(one, set()).add(other)
        strangers.setdefault(other, set()).add(one)
    taken: set[int] = set()
    for first in neighbors:  # in keep order
        if first in taken:
            continue
        closed, new = taken | strangers.get(first, set()), [first]
        closed.add(first)
        while new:
            member = new.pop()
            keeper[member] = first
            taken.add(member)
            found = [neighbor for neighbor in neighbors[member] if neighbor not in closed]
            closed.update(found)
            new += found


GROUPINGS: dict[str, Callable[[Edges], Ints]] = {"star": star, "components": components}


def group(
    pairs: pa.Table,
    sample_ids: pa.Array,
    ranks: npt.ArrayLike,
    grouping: str = "star",
    overrides: Overrides = NO_OVERRIDES,
) -> pa.Table:
    """Groups the samples of all accepted pairs.

    `pairs` has at least the columns a, b, method, score, accepted of `records.PAIR_SCHEMA`, in any order; a pair may
    occur several times, and counts by its strongest evidence (the order of `EVIDENCE`, then the highest score).
    `sample_ids` (M) and `ranks` (M,) give the keep order, 0 kept first, of at least the samples in accepted pairs and
    in `overrides`; equal ranks are ordered by sample_id.

    Of the overrides, `separate` takes out the edge between two samples, and between their byte-identical copies; one
    that is to `remove` can be no keeper, but is a member of the group of one, and counts in all sizes.

    Returns a table of `GROUP_SCHEMA`, sorted by sample_id, with one row per sample in an accepted pair or override. A
    row without `keeper` is a keeper, or has no group. `cluster` numbers the groups in the order of their keepers'
    sample_id. `keeper`, `method` and `score` are the direct edge to the keeper: for a copy in the keeper's own class
    `exact` and 1, else the edge between the two classes. A sample whose neighbours all went to other keepers has no
    cluster and cluster_size 1, but its component_size.

    Under `components`, too, neither of two separated samples stands for the other: see there. A sample may hang on its
    keeper only through others. It then has that keeper, but null method and score, for no edge is its evidence.

    Raises ConfigError on an unknown grouping, an override that names no sample, or one that separates byte-identical
    samples; ManifestError on an unknown method, or a sample without rank.
    """
    if grouping not in GROUPINGS:
        raise ConfigError(f"unknown grouping {grouping!r}; choose from {', '.join(GROUPINGS)}")
    overrides.check(sample_ids)
    pairs = pairs.filter(pairs["accepted"])
    ids, a, b = _number_samples(pairs, overrides.sample_ids())
    order = _rank_of(ids, sample_ids, np.asarray(ranks, dtype=np.int64))
    method = _method_numbers(pairs)
    score = pairs["score"].to_numpy().astype(np.float32)

    exact = method == 0
    unwanted = pc.is_in(ids, value_set=overrides.sample_ids("remove")).to_numpy(zero_copy_only=False)
    class_of, best_of = _classes(len(ids), a[exact], b[exact], order, unwanted)
    edges = _class_edges(len(best_of), class_of[a], class_of[b], method, score)
    edges = _without_separated(edges, ids, class_of, overrides, over_chains=grouping == "components")
    keeper_class = GROUPINGS[grouping](edges)[class_of]
    keeper = best_of[keeper_class]
    keeper = np.where(unwanted[keeper], np.arange(len(ids)), keeper)  # there, all that are alike are to be removed

    edge_method, edge_score = _evidence(edges, keeper_class, class_of)
    removed = keeper != np.arange(len(ids))
    sizes = np.bincount(keeper, minlength=len(ids))
    keepers = np.flatnonzero(sizes > 1)
    cluster = np.searchsorted(keepers, keeper)
    component = _connected(edges)[class_of]
    return pa.table(
        [
            ids,
            pa.array(cluster, mask=sizes[keeper] == 1),
            sizes[keeper].astype(np.int32),
            np.bincount(component, minlength=1)[component].astype(np.int32),
            ids.take(pa.array(keeper, mask=~removed)),
            pa.array(EVIDENCE).take(pa.array(edge_method, mask=~removed | (edge_method < 0))),
            pa.array(edge_score, mask=~removed | (edge_method < 0)),
        ],
        schema=GROUP_SCHEMA,
    )


def direct_copies(pairs: pa.Table, sample_ids: pa.ChunkedArray, overrides: Overrides = NO_OVERRIDES) -> Ints:
    """(M,) int64, with how many other samples accepted `pairs` join each of `sample_ids` (M).

    `pairs` as `group` takes them. An edge of one of several byte-identical samples is an edge of all of these. Edges
    that an override separates do not count, those of samples that it removes do.
    """
    pairs = pairs.filter(pairs["accepted"])
    ids, a, b = _number_samples(pairs, overrides.sample_ids())
    if not len(ids):
        return np.zeros(len(sample_ids), np.int64)
    method, everyone = _method_numbers(pairs), np.arange(len(ids))
    exact = method == 0
    class_of, _ = _classes(len(ids), a[exact], b[exact], everyone, np.zeros(len(ids), bool))
    size = np.bincount(class_of)
    edges = _class_edges(len(size), class_of[a], class_of[b], method, pairs["score"].to_numpy())
    edges = _without(edges, *_separated(ids, class_of, overrides))
    copies = size - 1
    np.add.at(copies, edges.first, size[edges.second])
    np.add.at(copies, edges.second, size[edges.first])
    at = pc.fill_null(pc.index_in(sample_ids, value_set=ids), -1).to_numpy()
    return np.where(at < 0, 0, copies[class_of[at]])


def _number_samples(pairs: pa.Table, more: pa.Array) -> tuple[pa.Array, Ints, Ints]:
    """The sample_ids in accepted pairs and `more`, sorted, and the positions of each pair's a and b among them."""
    encoded = pa.chunked_array([*pairs["a"].chunks, *pairs["b"].chunks, more], type=pa.string()).combine_chunks()
    encoded = encoded.dictionary_encode()
    order = pc.sort_indices(encoded.dictionary).to_numpy()
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    numbers = number[encoded.indices.to_numpy()]
    return encoded.dictionary.take(pa.array(order)), numbers[: len(pairs)], numbers[len(pairs) : 2 * len(pairs)]


def _rank_of(ids: pa.Array, sample_ids: pa.Array, ranks: Ints) -> Ints:
    if isinstance(sample_ids, pa.ChunkedArray):
        sample_ids = sample_ids.combine_chunks()
    at = pc.index_in(ids, value_set=sample_ids)
    if at.null_count:
        missing = ids.filter(pc.is_null(at))
        raise ManifestError(
            f"{len(missing)} samples occur in pairs but have no keep rank, first {missing[0].as_py()!r}: "
            "the pairs belong to other descriptors, so search again"
        )
    return np.asarray(ranks[at.to_numpy(zero_copy_only=False)])


def _method_numbers(pairs: pa.Table) -> Ints:
    numbers = pc.index_in(pairs["method"], value_set=pa.array(EVIDENCE))
    if numbers.null_count:
        unknown = pairs["method"].filter(pc.is_null(numbers))[0].as_py()
        raise ManifestError(f"accepted pair with unknown method {unknown!r}; known are {', '.join(EVIDENCE)}")
    return np.asarray(numbers.to_numpy(), dtype=np.int64)


def _classes(n: int, a: Ints, b: Ints, order: Ints, last: npt.NDArray[np.bool_]) -> tuple[Ints, Ints]:
    """Classes of byte-identical samples, numbered in keep order.

    `a`, `b` are the ends of the exact pairs, `order` (n,) the samples' keep ranks; those of `last` (n,) come after all
    others. Returns the class of each sample, and the sample that stands for each class.
    """
    labels = component_labels(n, a, b)
    in_order = np.lexsort((order, last))  # stable: samples are numbered by sample_id, which so breaks ties
    _, first_at, inverse = np.unique(labels[in_order], return_index=True, return_inverse=True)
    number = np.empty(len(first_at), dtype=np.int64)
    number[np.argsort(first_at)] = np.arange(len(first_at))
    class_of = np.empty(n, dtype=np.int64)
    class_of[in_order] = number[inverse]
    return class_of, in_order[np.sort(first_at)]


def _class_edges(n: int, a: Ints, b: Ints, method: Ints, score: npt.NDArray[np.float32]) -> Edges:
    """One edge, the strongest, per pair of different classes."""
    apart = a != b
    first, second = np.minimum(a, b)[apart], np.maximum(a, b)[apart]
    method, score = method[apart], score[apart]
    weakness = 4.0 * method - score  # scores are at most 1 in size, so the method goes first
    order = np.lexsort((weakness, first * n + second))
    first, second, method, score = first[order], second[order], method[order], score[order]
    new = np.ones(len(first), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return Edges(n, first[new], second[new], method[new], score[new])


def _without_separated(
    edges: Edges, ids: pa.Array, class_of: Ints, overrides: Overrides, *, over_chains: bool
) -> Edges:
    """The edges but those that an override says are between different pictures, and these pairs as `apart`.

    The log names an override of a pair that no edge joins, or (`over_chains`) no chain of them.
    """
    rows = overrides.having("separate")
    if not rows:
        return edges
    one, other = _separated(ids, class_of, overrides)
    for row, same in zip(rows, one == other, strict=True):
        if same:
            raise overrides.error(row, f"{row.sample_id!r} and {row.other!r} are identical files; you can keep both")
    joined = np.isin(_keys(edges.n, one, other), _keys(edges.n, edges.first, edges.second))
    if over_chains:
        reached = _connected(edges)
        joined = reached[one] == reached[other]
    for row, found in zip(rows, joined, strict=True):
        if not found:
            logger.warning(
                "%s",
                overrides.told(
                    row,
                    f"no accepted pair joins {row.sample_id!r} and {row.other!r}, so there is nothing to separate; "
                    "`dedup explain` tells what joins each to others",
                ),
            )
    return _without(edges, one, other)


def _separated(ids: pa.Array, class_of: Ints, overrides: Overrides) -> tuple[Ints, Ints]:
    """The classes of the two samples of each override that separates."""
    rows = overrides.having("separate")
    one, other = (
        class_of[pc.index_in(pa.array(names, pa.string()), value_set=ids).to_numpy()]
        for names in ([row.sample_id for row in rows], [row.other for row in rows])
    )
    return one, other


def _without(edges: Edges, one: Ints, other: Ints) -> Edges:
    """The edges but those between these classes, which are `apart`."""
    counts = ~np.isin(_keys(edges.n, edges.first, edges.second), _keys(edges.n, one, other))
    apart = frozenset(zip(np.minimum(one, other).tolist(), np.maximum(one, other).tolist(), strict=True))
    return Edges(edges.n, edges.first[counts], edges.second[counts], edges.method[counts], edges.score[counts], apart)


def _keys(n: int, one: Ints, other: Ints) -> Ints:
    """A number for each pair of classes, whichever comes first."""
    return np.minimum(one, other) * n + np.maximum(one, other)


def _evidence(edges: Edges, keeper: Ints, member: Ints) -> tuple[Ints, npt.NDArray[np.float32]]:
    """Method (an index of `EVIDENCE`) and score by which each keeper class stands for each member class.

    Within a class that is exact and 1; -1 and 0 where the two share no edge.
    """
    method = np.where(keeper == member, 0, -1)
    score = np.where(keeper == member, 1, 0).astype(np.float32)
    if len(edges.first):
        keys, wanted = edges.first * edges.n + edges.second, keeper * edges.n + member
        order = np.argsort(wanted)  # looking up in order is several times as fast
        at = np.empty(len(wanted), dtype=np.int64)
        at[order] = np.minimum(np.searchsorted(keys, wanted[order]), len(keys) - 1)
        found = keys[at] == wanted
        method[found], score[found] = edges.method[at[found]], edges.score[at[found]]
    return method, score
