"""Grouping: small cases by hand, then invariants against a plain reference on random pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dedup.errors import ConfigError, ManifestError
from dedup.groups import EVIDENCE, GROUP_SCHEMA, GROUPINGS, direct_copies, group
from dedup.overrides import Override, Overrides
from dedup.records import PAIR_SCHEMA

Pair = tuple[str, str, str, float]


def pairs_table(pairs: list[Pair], accepted: bool = True) -> pa.Table:
    rows = [
        {"a": min(a, b), "b": max(a, b), "method": method, "score": score, "probability": None, "accepted": accepted}
        for a, b, method, score in pairs
    ]
    return pa.Table.from_pylist(rows, PAIR_SCHEMA)


def grouped(pairs: list[Pair], order: str = "abcdefgh", grouping: str = "star") -> dict[str, dict[str, Any]]:
    """The rows by sample_id; `order` lists the sample_ids in keep order."""
    rows = group(pairs_table(pairs), pa.array(list(order)), range(len(order)), grouping)
    return {row.pop("sample_id"): row for row in rows.to_pylist()}


def keepers(rows: dict[str, dict[str, Any]]) -> dict[str, str | None]:
    return {name: row["keeper"] for name, row in rows.items()}


CHAIN: list[Pair] = [("a", "b", "hash", 0.9), ("b", "c", "hash", 0.9), ("c", "d", "hash", 0.9)]


def test_star_removes_only_by_direct_edges() -> None:
    rows = grouped(CHAIN)
    assert keepers(rows) == {"a": None, "b": "a", "c": None, "d": "c"}
    assert [rows[name]["cluster"] for name in "abcd"] == [0, 0, 1, 1]
    assert [rows[name]["cluster_size"] for name in "abcd"] == [2, 2, 2, 2]
    assert [rows[name]["component_size"] for name in "abcd"] == [4, 4, 4, 4]


def test_components_keep_one_of_a_chain() -> None:
    rows = grouped(CHAIN, grouping="components")
    assert keepers(rows) == {"a": None, "b": "a", "c": "a", "d": "a"}
    assert {row["cluster_size"] for row in rows.values()} == {4}


def test_components_name_no_evidence_where_no_edge_is_direct() -> None:
    rows = grouped(CHAIN, grouping="components")
    assert (rows["b"]["method"], rows["b"]["score"]) == ("hash", pytest.approx(0.9))
    assert (rows["c"]["method"], rows["c"]["score"]) == (None, None)


class TestDirectCopies:
    def test_by_hand(self) -> None:
        # b and c are one file, so a, which is like b, is like both; d is like a alone, e like nobody.
        pairs = [
            ("b", "c", "exact", 1.0),
            ("a", "b", "verified", 0.9),
            ("a", "d", "hash", 0.9),
            ("a", "b", "hash", 0.9),
        ]
        names = pa.chunked_array([["d", "c"], ["e", "b", "a"]])
        assert direct_copies(pairs_table(pairs), names).tolist() == [1, 2, 0, 2, 3]

    def test_rejected_pairs_do_not_count(self) -> None:
        names = pa.chunked_array([["a", "b"]])
        assert direct_copies(pairs_table(CHAIN, accepted=False), names).tolist() == [0, 0]

    def test_what_was_separated_by_hand_does_not_count(self) -> None:
        # c and d are one file: what is separated from the one is separated from the other.
        pairs = [*CHAIN, ("c", "d", "exact", 1.0), ("a", "d", "verified", 0.9)]
        by_hand = Overrides((Override(1, "b", "separate", "d"), Override(2, "a", "separate", "b")))
        names = pa.chunked_array([list("abcd")])
        assert direct_copies(pairs_table(pairs), names).tolist() == [3, 3, 3, 3]
        assert direct_copies(pairs_table(pairs), names, by_hand).tolist() == [2, 0, 2, 2]

    def test_they_are_whom_a_sample_would_take_if_it_came_first(self) -> None:
        rng = np.random.default_rng(0)
        names = "abcdefghijkl"
        pairs: list[Pair] = [
            (*sorted(rng.choice(list(names), 2, replace=False)), str(rng.choice(EVIDENCE)), 0.9) for _ in range(14)
        ]
        counted = direct_copies(pairs_table(pairs), pa.chunked_array([list(names)]))
        for name, count in zip(names, counted.tolist(), strict=True):
            order = name + names.replace(name, "")
            taken = [row for row in grouped(pairs, order).values() if row["keeper"] == name]
            assert len(taken) == count


def test_keep_order_decides_who_is_kept() -> None:
    assert keepers(grouped(CHAIN, order="bcad")) == {"a": "b", "b": None, "c": "b", "d": None}
    assert keepers(grouped(CHAIN, order="dcba", grouping="components")) == {"a": "d", "b": "d", "c": "d", "d": None}


def test_leftover_of_a_star_has_no_cluster_but_a_component() -> None:
    rows = grouped(CHAIN, order="bcad")
    assert rows["d"] == {
        "cluster": None,
        "cluster_size": 1,
        "component_size": 4,
        "keeper": None,
        "method": None,
        "score": None,
    }


def test_clusters_are_numbered_by_their_keepers_sample_id() -> None:
    rows = grouped([("a", "f", "hash", 1), ("b", "e", "hash", 1)], order="febadc")
    assert keepers(rows) == {"a": "f", "b": "e", "e": None, "f": None}
    assert {name: row["cluster"] for name, row in rows.items()} == {"a": 1, "b": 0, "e": 0, "f": 1}


def test_copies_inherit_the_edges_of_their_representative() -> None:
    exact: list[Pair] = [("a", "b", "exact", 1), ("a", "c", "exact", 1), ("d", "e", "exact", 1)]
    rows = grouped([*exact, ("a", "d", "verified", 0.8)], order="cabed")
    assert keepers(rows) == {"a": "c", "b": "c", "c": None, "d": "c", "e": "c"}
    assert {name: row["method"] for name, row in rows.items()} == {
        "a": "exact",
        "b": "exact",
        "c": None,
        "d": "verified",
        "e": "verified",
    }
    assert rows["e"]["score"] == pytest.approx(0.8)
    assert rows["b"]["score"] == 1
    assert {row["component_size"] for row in rows.values()} == {5}


def test_class_is_taken_as_a_whole() -> None:
    # e is last in keep order, but its copy a is first: both stand before b.
    rows = grouped([("a", "e", "exact", 1), ("b", "e", "hash", 0.95)], order="abcde")
    assert keepers(rows) == {"a": None, "b": "a", "e": "a"}


@pytest.mark.parametrize("stronger", range(len(EVIDENCE) - 1))
def test_strongest_evidence_of_a_pair_counts(stronger: int) -> None:
    pairs: list[Pair] = [("a", "b", EVIDENCE[stronger + 1], 1.0), ("a", "b", EVIDENCE[stronger], 0.5)]
    row = grouped(pairs)["b"]
    assert (row["method"], row["score"]) == (EVIDENCE[stronger], 1.0 if stronger == 0 else 0.5)


def test_higher_score_counts_among_equal_methods() -> None:
    pairs: list[Pair] = [("a", "b", "hash", 0.75), ("a", "b", "hash", 0.875), ("a", "b", "hash", 0.5)]
    assert grouped(pairs)["b"]["score"] == 0.875


def test_rejected_pairs_do_not_count() -> None:
    pairs = pa.concat_tables([pairs_table([("a", "b", "hash", 1)]), pairs_table([("b", "c", "hash", 1)], False)])
    rows = group(pairs, pa.array(["a", "b", "c"]), [0, 1, 2])
    assert rows["sample_id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_no_pairs(grouping: str) -> None:
    rows = group(PAIR_SCHEMA.empty_table(), pa.array([], pa.string()), [], grouping)
    assert rows.schema == GROUP_SCHEMA
    assert len(rows) == 0


@pytest.mark.parametrize("grouping", GROUPINGS)
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_a_plain_reference(grouping: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"{number:03d}" for number in range(120)]
    copy_of = {name: names[rng.integers(0, k)] for k, name in enumerate(names) if k > 0 and rng.random() < 0.3}
    copy_of = {copy: original for copy, original in copy_of.items() if original not in copy_of}
    pairs: list[Pair] = [(original, copy, "exact", 1.0) for copy, original in copy_of.items()]
    originals = [name for name in names if name not in copy_of]
    for a, b in rng.choice(originals, (60, 2)):
        if a != b:
            pairs.append((str(a), str(b), str(rng.choice(EVIDENCE[1:])), float(rng.integers(1, 64)) / 64))
    rng.shuffle(pairs)
    pairs = [(str(a), str(b), str(method), float(score)) for a, b, method, score in pairs]
    order = [names[k] for k in rng.permutation(len(names))]

    rows = {
        row["sample_id"]: row for row in group(pairs_table(pairs), pa.array(order), range(120), grouping).to_pylist()
    }

    # Copies are joined by edges of their own, so that nothing below knows of classes.
    members = {name: [name] + [copy for copy, original in copy_of.items() if original == name] for name in originals}
    best: dict[frozenset[str], tuple[int, float]] = {}
    for a, b, method, score in pairs:
        ends = [(x, y) for x in members[copy_of.get(a, a)] for y in members[copy_of.get(b, b)] if x != y]
        for x, y in ends:
            edge = frozenset((x, y))
            best[edge] = min(best.get(edge, (9, 0.0)), (EVIDENCE.index(method), -score))
    neighbors: dict[str, set[str]] = {name: set() for edge in best for name in edge}
    for edge in best:
        x, y = edge
        neighbors[x].add(y)
        neighbors[y].add(x)
    component: dict[str, frozenset[str]] = {}
    for name in neighbors:
        seen, todo = {name}, [name]
        while todo:
            new = neighbors[todo.pop()] - seen
            seen |= new
            todo += new
        component[name] = frozenset(seen)
    keeper: dict[str, str] = {}
    for name in order:
        if name not in neighbors or name in keeper:
            continue
        for member in neighbors[name] if grouping == "star" else component[name]:
            keeper.setdefault(member, name)
        keeper[name] = name

    assert sorted(neighbors) == list(rows)
    numbered = sorted({kept for name, kept in keeper.items() if name != kept})
    for name, row in rows.items():
        kept = keeper[name]
        assert row["keeper"] == (None if kept == name else kept)
        assert row["cluster_size"] == sum(other == kept for other in keeper.values())
        assert row["cluster"] == (numbered.index(kept) if row["cluster_size"] > 1 else None)
        assert row["component_size"] == len(component[name])
        evidence = best.get(frozenset((name, kept)))
        assert row["method"] == (EVIDENCE[evidence[0]] if evidence else None)
        assert row["score"] == (-evidence[1] if evidence else None)


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_order_of_rows_does_not_matter(grouping: str) -> None:
    pairs = pairs_table([*CHAIN, ("a", "c", "embedding", 0.7), ("e", "f", "exact", 1), ("d", "e", "verified", 0.6)])
    ids = pa.array(list("hgfedcba"))
    expected = group(pairs, ids, range(8), grouping)
    shuffled = pairs.take(pa.array([4, 2, 5, 0, 3, 1]))
    chunked = pa.concat_tables([shuffled.slice(0, 2), shuffled.slice(2)])
    back = pa.array(list("abcdefgh"))
    assert group(chunked, back, range(7, -1, -1), grouping).equals(expected)


def test_equal_ranks_are_ordered_by_sample_id() -> None:
    rows = group(pairs_table([("a", "b", "hash", 1), ("b", "c", "exact", 1)]), pa.array(["c", "b", "a"]), [0, 0, 0])
    assert rows["keeper"].to_pylist() == [None, "a", "a"]


def test_unknown_grouping_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown grouping 'clique'; choose from star, components"):
        grouped(CHAIN, grouping="clique")


def test_sample_without_rank_is_refused() -> None:
    with pytest.raises(ManifestError, match="1 samples occur in pairs but have no keep rank, first 'd'"):
        grouped(CHAIN, order="abc")


def test_unknown_method_is_refused() -> None:
    with pytest.raises(ManifestError, match="unknown method 'guess'"):
        grouped([("a", "b", "guess", 1)])
