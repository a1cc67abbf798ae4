"""Who of a group stays: small cases by hand, then what holds for any pairs, settings and overrides."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dedup.decisions import CAPTIONS, DECISION_SCHEMA, WEIGHTS, DecideSettings, choose, columns_to_decide, decide_rows
from dedup.errors import ConfigError
from dedup.groups import EVIDENCE, GROUPINGS, group
from dedup.overrides import NO_OVERRIDES, Override, Overrides
from dedup.records import PAIR_SCHEMA

Pair = tuple[str, str, str, float]

# b, c, d and e are like a; e is like f as well.
FAN: list[Pair] = [("a", other, "verified", 0.9) for other in "bcde"] + [("e", "f", "hash", 0.8)]


def decided(
    pairs: list[Pair],
    settings: DecideSettings,
    *overrides: Override,
    order: str = "abcdefgh",
    captions: dict[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """The rows by sample_id; `order` lists the sample_ids in keep order."""
    rows = [{"a": a, "b": b, "method": method, "score": score, "accepted": True} for a, b, method, score in pairs]
    table = pa.Table.from_pylist(rows, PAIR_SCHEMA)
    by_hand = Overrides(overrides)
    samples = pa.table({"sample_id": list(order), "caption": pa.array([(captions or {}).get(n) for n in order], "str")})
    ranks = np.arange(len(order))
    groups = group(table, samples["sample_id"], ranks, settings.grouping, by_hand)
    chosen = choose(groups, samples, ranks, settings, by_hand)
    assert chosen.schema == DECISION_SCHEMA
    return {row.pop("sample_id"): row for row in chosen.to_pylist()}


def statuses(rows: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: row["status"] for name, row in rows.items()}


def kept(rows: dict[str, dict[str, Any]]) -> str:
    return "".join(name for name, row in rows.items() if row["status"] == "kept")


def test_who_stands_for_most_stays_unless_another_is_far_larger() -> None:
    """The picture itself, not a copy of it with words over it, of which others are no copies."""
    settings = DecideSettings()
    rows = pa.table({"sample_id": list("abcdef"), "width": [8] * 5 + [20], "height": [8] * 6, "error": pa.nulls(6)})
    assert set(columns_to_decide(settings)) == set(rows.column_names)
    pairs: list[Pair] = [("a", "b", "verified", 0.9)] + [("b", other, "verified", 0.9) for other in "cd"]
    pairs += [("c", "e", "verified", 0.9), ("e", "f", "verified", 0.9)]
    table = pa.Table.from_pylist([dict(zip(("a", "b", "method", "score"), pair, strict=True)) for pair in pairs])
    table = table.append_column("accepted", pa.array([True] * len(pairs)))
    groups, chosen = decide_rows(table, rows, settings)
    assert groups["keeper"].to_pylist() == ["b", None, "b", "b", "f", None]  # f is far larger
    assert chosen["status"].to_pylist() == ["removed", "kept", "removed", "removed", "removed", "kept"]
    _, by_size_alone = decide_rows(table, rows, DecideSettings(keep="largest"))
    assert by_size_alone["status"].to_pylist() == ["kept", "removed", "kept", "kept", "removed", "kept"]


@pytest.mark.parametrize(
    ("keep_up_to", "expected"), [(1, "af"), (2, "abf"), (4, "abcdf"), (5, "abcdef"), (99, "abcdef")]
)
def test_the_first_in_keep_order_stay(keep_up_to: int, expected: str) -> None:
    rows = decided(FAN, DecideSettings(keep_up_to=keep_up_to))
    assert kept(rows) == expected
    assert {row["cluster_size"] for name, row in rows.items() if name != "f"} == {5}
    for name, row in rows.items():
        gone = name not in expected
        assert (row["keeper"], row["method"]) == (("a", "verified") if gone else (None, None))
        assert row["score"] == (pytest.approx(0.9) if gone else None)
        assert (row["weight"], row["captions"]) == (None, None)


def test_the_first_by_another_order() -> None:
    assert kept(decided(FAN, DecideSettings(keep_up_to=3), order="adcbef")) == "acdf"


@pytest.mark.parametrize(("weights", "weight"), [("inverse", 1 / 5), ("inverse-sqrt", 5**-0.5)])
def test_weights_instead_of_removing(weights: str, weight: float) -> None:
    rows = decided(FAN, DecideSettings(weights=weights))
    assert kept(rows) == "abcdef"
    assert [row["weight"] for row in rows.values()] == pytest.approx([weight] * 5 + [1])
    assert {row["cluster"] for name, row in rows.items() if name != "f"} == {0}
    assert all(row["keeper"] is row["method"] is row["score"] is None for row in rows.values())


def test_weights_count_the_members_that_stay() -> None:
    rows = decided(FAN, DecideSettings(weights="inverse"), Override(1, "b", "remove"), Override(2, "c", "keep"))
    assert [row["weight"] for row in rows.values()] == [0.25, None, 1, 0.25, 0.25, 1]
    assert rows["b"]["cluster_size"] == 5


CAPTIONED = {"a": "two words", "b": "two  words\n", "c": "something longer", "d": " ", "f": "of another group"}


@pytest.mark.parametrize(
    ("captions", "expected"),
    [("keep", None), ("merge", ["two words", "something longer"]), ("longest", ["something longer"])],
)
def test_captions_of_what_goes(captions: str, expected: list[str] | None) -> None:
    rows = decided(FAN, DecideSettings(captions=captions), captions=CAPTIONED)
    assert {name: row["captions"] for name, row in rows.items()} == {**dict.fromkeys("bcdef"), "a": expected}


def test_the_keepers_caption_comes_first_and_the_others_in_the_order_of_their_sample_id() -> None:
    texts = {"a": "of a", "b": "of b", "c": "of c", "e": "of e"}
    rows = decided(FAN[:4], DecideSettings(captions="merge"), order="adecb", captions=texts)
    assert rows["a"]["captions"] == ["of a", "of b", "of c", "of e"]
    rows = decided([("a", "b", "hash", 1)], DecideSettings(captions="longest"), order="ba", captions=texts)
    assert rows["b"]["captions"] == ["of b"]  # as long as the other


def test_captions_that_stay_or_that_a_person_removed_are_not_pooled() -> None:
    texts = {name: f"of {name}" for name in "abcdef"}
    settings = DecideSettings(captions="merge", keep_up_to=2)
    rows = decided(FAN, settings, Override(1, "c", "remove"), Override(2, "d", "keep"), captions=texts)
    assert kept(rows) == "abdf"
    assert rows["a"]["captions"] == ["of a", "of e"]


def test_nothing_is_pooled_where_no_caption_is() -> None:
    assert decided(FAN, DecideSettings(captions="merge"))["a"]["captions"] is None


def test_keep_keeps_one_more_and_changes_nothing_else() -> None:
    before = decided(FAN, DecideSettings())
    after = decided(FAN, DecideSettings(), Override(1, "c", "keep"))
    assert after.pop("c") == {
        **before.pop("c"), "status": "kept", "keeper": None, "method": "override", "score": None,
    }  # fmt: skip
    assert after == before


def test_where_the_keeper_is_removed_another_one_is_chosen() -> None:
    rows = decided(FAN, DecideSettings(), Override(1, "a", "remove"))
    assert statuses(rows) == {"a": "removed", "b": "kept", "c": "kept", "d": "kept", "e": "kept", "f": "removed"}
    assert (rows["a"]["keeper"], rows["a"]["method"], rows["a"]["score"]) == (None, "override", None)
    assert rows["a"]["cluster"] == rows["b"]["cluster"]  # b would stand for it
    assert rows["f"]["keeper"] == "e"
    assert {row["component_size"] for row in rows.values()} == {6}


def test_of_identical_files_the_next_one_stands_for_the_others() -> None:
    pairs: list[Pair] = [("a", "b", "exact", 1), ("a", "c", "exact", 1), ("a", "d", "verified", 0.7)]
    rows = decided(pairs, DecideSettings(), Override(1, "a", "remove"))
    assert {name: row["keeper"] for name, row in rows.items()} == {"a": None, "b": None, "c": "b", "d": "b"}
    assert rows["d"]["method"] == "verified"
    rows = decided(pairs, DecideSettings(), *(Override(n, name, "remove") for n, name in enumerate("abc")))
    assert statuses(rows) == {"a": "removed", "b": "removed", "c": "removed", "d": "kept"}


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_a_group_of_which_nothing_is_wanted(grouping: str) -> None:
    rows = decided(
        FAN, DecideSettings(grouping=grouping), *(Override(n, name, "remove") for n, name in enumerate("abcdef"))
    )
    assert kept(rows) == ""
    assert {row["cluster"] for row in rows.values()} == {None}
    assert {row["keeper"] for row in rows.values()} == {None}


def test_separating_what_no_pair_joins_is_told(caplog: pytest.LogCaptureFixture) -> None:
    apart = Override(7, "b", "separate", "c")
    with caplog.at_level(logging.WARNING):
        assert decided(FAN, DecideSettings(), apart) == decided(FAN, DecideSettings())
    assert "line 7: no accepted pair joins 'b' and 'c', so there is nothing to separate" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        decided(FAN, DecideSettings(), Override(1, "c", "separate", "a"))
    assert not caplog.text


def test_separate_takes_out_one_edge() -> None:
    rows = decided(FAN, DecideSettings(), Override(1, "c", "separate", "a"))
    assert statuses(rows)["c"] == "kept"
    assert (rows["c"]["cluster"], rows["c"]["component_size"], rows["b"]["component_size"]) == (None, 1, 5)
    assert statuses(rows) | {"c": "removed"} == statuses(decided(FAN, DecideSettings()))


def test_separate_holds_for_copies_and_not_between_them() -> None:
    pairs: list[Pair] = [("a", "b", "exact", 1), ("c", "d", "exact", 1), ("a", "c", "verified", 0.9)]
    assert kept(decided(pairs, DecideSettings(), Override(1, "b", "separate", "d"))) == "ac"
    with pytest.raises(ConfigError, match=r"overrides\.csv, line 7: 'b' and 'a' are identical files"):
        decided(pairs, DecideSettings(), Override(7, "b", "separate", "a"))


def test_components_do_not_join_over_others_what_is_separated(caplog: pytest.LogCaptureFixture) -> None:
    triangle: list[Pair] = [("a", "b", "hash", 0.9), ("a", "c", "hash", 0.9), ("b", "c", "hash", 0.9)]
    apart, components = Override(1, "a", "separate", "b"), DecideSettings(grouping="components")
    rows = decided([*triangle, ("b", "d", "hash", 0.9), ("c", "e", "hash", 0.9)], components, apart)
    # What only b reaches is b's: d is no likeness of a.
    assert {name: row["keeper"] for name, row in rows.items()} == {"a": None, "b": None, "c": "a", "d": "b", "e": "a"}
    assert {row["component_size"] for row in rows.values()} == {5}

    chain: list[Pair] = [("a", "c", "hash", 0.9), ("b", "c", "hash", 0.9)]
    assert kept(decided(chain, components, apart)) == "ab"
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        decided(chain, components, Override(1, "a", "separate", "f"), order="abcf")
    assert "no accepted pair joins 'a' and 'f'" in caplog.text


def test_samples_that_are_alone_can_be_named() -> None:
    rows = decided(
        [], DecideSettings(), Override(1, "a", "remove"), Override(2, "b", "keep"), Override(3, "c", "separate", "d")
    )
    assert {name: (row["status"], row["method"]) for name, row in rows.items()} == {
        "a": ("removed", "override"), "b": ("kept", "override"), "c": ("kept", None), "d": ("kept", None),
    }  # fmt: skip
    assert {row["cluster_size"] for row in rows.values()} == {1}


def test_a_name_that_no_sample_has() -> None:
    with pytest.raises(ConfigError, match=r"overrides\.csv, line 2: no sample of this run is called 'z'"):
        decided(FAN, DecideSettings(), Override(1, "a", "keep"), Override(2, "z", "keep"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grouping": "ring"}, "grouping=ring: known are star, components"),
        ({"keep_up_to": 0}, "keep_up_to=0: of each group at least 1"),
        ({"weights": "equal"}, "weights=equal: known are none, inverse, inverse-sqrt"),
        ({"captions": "all"}, "captions=all: known are keep, merge, longest"),
        ({"weights": "inverse", "keep_up_to": 2}, "keep_up_to=2 concerns images that go"),
        ({"weights": "inverse", "captions": "merge"}, "captions=merge concerns images that go"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecideSettings(**settings)


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_rule_of_weights_gives_one_to_the_single_and_less_to_the_many(name: str) -> None:
    weights = WEIGHTS[name](np.arange(1, 100))
    assert weights[0] == 1
    assert (np.diff(weights) < 0).all()
    assert (weights > 0).all()


@pytest.mark.parametrize("name", CAPTIONS)
def test_every_way_to_pool_gives_some_of_the_captions_in_their_order(name: str) -> None:
    captions = ["of the keeper", "short", "as long as it", "the longest of all captions"]
    pooled = CAPTIONS[name](captions)
    assert pooled
    assert pooled == [caption for caption in captions if caption in pooled]


# ---------------------------------------------------------------- what always holds


@dataclass(frozen=True)
class Case:
    """Samples in keep order, the first of each class of identical files, edges between classes, and overrides."""

    order: str
    first_of: dict[str, str]
    edges: dict[frozenset[str], tuple[str, float]]
    overrides: tuple[Override, ...]

    @property
    def pairs(self) -> list[Pair]:
        exact: list[Pair] = [(first, name, "exact", 1.0) for name, first in self.first_of.items() if first != name]
        return exact + [(min(ends), max(ends), *evidence) for ends, evidence in self.edges.items()]

    def named(self, action: str) -> set[str]:
        return {row.sample_id for row in self.overrides if row.action == action}

    def evidence(self, one: str, other: str) -> tuple[str, float] | None:
        """Of the direct edge between two samples, where there is one that counts."""
        ends = frozenset({self.first_of[one], self.first_of[other]})
        if len(ends) == 1:
            return "exact", 1.0
        return None if self.separated(one, other) else self.edges.get(ends)

    def separated(self, one: str, other: str) -> bool:
        ends = {self.first_of[one], self.first_of[other]}
        pairs = [(row.sample_id, row.other) for row in self.overrides if row.action == "separate"]
        return any({self.first_of[a], self.first_of[b]} == ends for a, b in pairs)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    names = "abcdefghijkl"[: draw(st.integers(2, 12))]
    first_of: dict[str, str] = {}
    for name in names:
        first_of[name] = draw(st.sampled_from([*dict.fromkeys(first_of.values()), name, name]))
    firsts = sorted(set(first_of.values()))
    evidence = st.tuples(st.sampled_from(EVIDENCE[1:]), st.integers(1, 32).map(lambda number: number / 32))
    ends = st.sets(st.sampled_from(firsts), min_size=2, max_size=2).map(frozenset)
    edges = draw(st.dictionaries(ends, evidence, max_size=16)) if len(firsts) > 1 else {}
    actions = draw(st.dictionaries(st.sampled_from(names), st.sampled_from(["keep", "remove"]), max_size=5))
    apart = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(names)), max_size=3))
    rows = [Override(0, name, action) for name, action in actions.items()]
    rows += [Override(0, one, "separate", other) for one, other in apart if first_of[one] != first_of[other]]
    return Case("".join(draw(st.permutations(names))), first_of, edges, tuple(rows))


@hypothesis_settings(deadline=None)
@given(cases(), st.integers(1, 4), st.sampled_from([*GROUPINGS]))
def test_what_goes_has_a_keeper_that_stays(case: Case, keep_up_to: int, grouping: str) -> None:
    settings = DecideSettings(grouping=grouping, keep_up_to=keep_up_to)
    rows = decided(case.pairs, settings, *case.overrides, order=case.order)
    assert {name for pair in case.pairs for name in pair[:2]} | case.named("keep") | case.named("remove") <= set(rows)
    for name, row in rows.items():
        if name in case.named("remove"):
            assert (row["status"], row["keeper"], row["method"], row["score"]) == ("removed", None, "override", None)
        elif name in case.named("keep"):
            assert (row["status"], row["keeper"], row["method"], row["score"]) == ("kept", None, "override", None)
        elif row["status"] == "kept":
            assert row["keeper"] is row["method"] is row["score"] is None
        else:
            keeper = rows[row["keeper"]]
            assert keeper["status"] == "kept"
            assert keeper["cluster"] == row["cluster"]
            evidence = case.evidence(name, row["keeper"])
            assert (row["method"], row["score"]) == (evidence or (None, None))
            assert evidence is not None or grouping == "components"
            assert not case.separated(name, row["keeper"])


@hypothesis_settings(deadline=None)
@given(cases(), st.integers(1, 4), st.sampled_from([*GROUPINGS]))
def test_of_each_group_the_first_stay_and_no_more_than_asked(case: Case, keep_up_to: int, grouping: str) -> None:
    settings = DecideSettings(grouping=grouping, keep_up_to=keep_up_to)
    rows = decided(case.pairs, settings, *case.overrides, order=case.order)
    for cluster in {row["cluster"] for row in rows.values()} - {None}:
        members = [name for name in case.order if name in rows and rows[name]["cluster"] == cluster]
        assert {rows[name]["cluster_size"] for name in members} == {len(members)}
        assert len(members) > 1
        wanted = [name for name in members if name not in case.named("remove")]
        staying = set(wanted[:keep_up_to]) | (case.named("keep") & set(members))
        assert staying
        assert {name for name in members if rows[name]["status"] == "kept"} == staying
    for row in rows.values():
        if row["cluster"] is None:
            assert row["cluster_size"] == 1
            assert row["status"] == "kept" or row["method"] == "override"


@hypothesis_settings(deadline=None)
@given(cases(), st.sampled_from([*GROUPINGS]))
def test_inverse_weights_of_a_group_add_up_to_one(case: Case, grouping: str) -> None:
    overrides = tuple(row for row in case.overrides if row.action != "keep")
    settings = DecideSettings(grouping=grouping, weights="inverse")
    rows = decided(case.pairs, settings, *overrides, order=case.order)
    totals: dict[Any, float] = {}
    for name, row in rows.items():
        assert (row["weight"] is None) == (row["status"] == "removed") == (name in case.named("remove"))
        if row["status"] == "kept":
            group_of = name if row["cluster"] is None else row["cluster"]
            totals[group_of] = totals.get(group_of, 0) + row["weight"]
    assert list(totals.values()) == pytest.approx([1] * len(totals))
    # As many as would stay if copies went.
    assert len(totals) == len(
        kept(decided(case.pairs, DecideSettings(grouping=grouping), *overrides, order=case.order))
    )


@hypothesis_settings(deadline=None)
@given(cases())
def test_pooled_captions_are_those_of_the_keeper_and_of_all_that_went_for_it(case: Case) -> None:
    captions = {name: f"caption {ord(name) % 4}" for name in case.order if name not in "cg"}
    rows = decided(case.pairs, DecideSettings(captions="merge"), *case.overrides, order=case.order, captions=captions)
    for name, row in rows.items():
        gone = sorted(other for other, its in rows.items() if its["keeper"] == name)
        texts = list(dict.fromkeys(captions[member] for member in [name, *gone] if member in captions))
        assert row["captions"] == ((texts or None) if gone else None)


def test_without_overrides_nothing_is_decided_by_hand() -> None:
    assert "override" not in {row["method"] for row in decided(FAN, DecideSettings()).values()}
    assert NO_OVERRIDES.sha256 is None
