"""Planted sets: the planner, the draw, and the arms."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.attack.reference import KINDS
from dedup.attack.sets import (
    ARMS,
    CAPTIONS,
    NEAR_TRANSFORMS,
    SAMPLES_SCHEMA,
    PlanSettings,
    check,
    draw,
    fitting,
    samples_table,
    shard_members,
)
from dedup.errors import ConfigError
from dedup.images import decode
from dedup.transforms import TRANSFORMS
from tests.attack_sets import PLAN, VIEW, pool_of, rows_of, seed_set


def test_a_plan_counts_what_it_needs() -> None:
    # Levels 1 and 3: two exact canaries each, one near one at 3, so 5 canaries; 2 copies too many of each of three.
    assert len(PLAN.canaries()) == 5
    assert PLAN.redundant == 6
    assert PLAN.needed == 4 + 5 + 5 + 6
    assert PLAN.parts() == "4 singles, 5 canaries, 5 held out, 6 refill"


def test_too_few_pictures_are_refused_with_a_plan_that_fits() -> None:
    check(pool_of(PLAN.needed), PLAN)
    with pytest.raises(ConfigError, match=r"20 distinct pictures are needed .* there are 12 .* these fit: --singles"):
        check(pool_of(12), PLAN)
    with pytest.raises(ConfigError, match="no plan fits"):
        check(pool_of(1), PLAN)


@settings(deadline=None)
@given(
    available=st.integers(0, 3000),
    levels=st.sets(st.integers(1, 40), min_size=1, max_size=6),
    exact=st.integers(1, 20),
    near=st.integers(0, 20),
    singles=st.integers(0, 1000),
)
def test_a_proposed_plan_fits_and_is_no_larger(
    available: int, levels: set[int], exact: int, near: int, singles: int
) -> None:
    plan = PlanSettings(tuple(sorted(levels)), exact, near, singles)
    smaller = fitting(available, plan)
    if smaller is None:
        least = PlanSettings(plan.levels[:1], 1, round(near / exact), 0)
        assert available < 2 * least.needed
        return
    assert smaller.needed <= max(available, 0)
    assert smaller.exact <= exact
    assert smaller.near <= near + 1
    assert smaller.singles <= singles
    assert plan.levels[: len(smaller.levels)] == smaller.levels
    if available >= plan.needed:
        assert smaller == plan


def test_every_picture_has_one_part_and_canaries_their_copies() -> None:
    samples = draw(pool_of(PLAN.needed), PLAN, seed=0, side=VIEW.side)
    sources = Counter(sample.source for sample in samples)
    by_group = Counter(sample.group for sample in samples)
    for sample in samples:
        occurs = 3 if sample.kind == "held_out" and sample.near else max(1, sample.copies)
        assert by_group[sample.group] == occurs == sources[sample.source]
        assert sample.kind in KINDS
    kinds = Counter(sample.kind for sample in samples)
    assert kinds == {"single": 4, "canary": 2 * 1 + 3 * 3, "held_out": 4 * 1 + 3, "refill": 6}
    assert len({sample.picture.key for sample in samples}) == len(samples)


def test_twins_of_near_canaries_have_as_many_variants_of_the_same_kinds_and_are_never_trained_on() -> None:
    plan = PlanSettings(levels=(1, 8), exact=1, near=2, singles=0)
    samples = draw(pool_of(plan.needed), plan, seed=0, side=VIEW.side)
    transforms: dict[str, list[list[str]]] = {"canary": [], "held_out": []}
    for group in sorted({sample.group for sample in samples if sample.near}):
        members = [sample for sample in samples if sample.group == group]
        transforms[members[0].kind].append([member.transform for member in members])
    assert [len(members) for members in transforms["held_out"]] == [8, 8]
    for kind in transforms:
        assert all({"exact", *NEAR_TRANSFORMS} == set(members) for members in transforms[kind])
    planted = seed_set()
    twins = {row for row in rows_of(planted, "held_out") if planted.table["near"][row].as_py()}
    assert len(twins) == 3
    assert not any(twins & set(arm(planted).tolist()) for arm in ARMS.values())
    reference = planted.reference()
    held_out = np.flatnonzero(reference.is_kind("held_out"))
    assert [int((reference.group == g).sum()) for g in held_out] == [1, 1, 1, 1, 3]
    assert [int(reference.rivals[reference.group == g].sum()) for g in held_out] == [1] * 5
    assert reference.rivals.sum() == len(reference.images) - 2


def test_exact_copies_are_the_same_bytes_and_near_ones_are_not() -> None:
    groups: dict[int, list[bytes]] = {}
    for sample in draw(pool_of(PLAN.needed), PLAN, seed=0, side=VIEW.side):
        assert (sample.transform != "exact") == (sample.near and not sample.picture.key.endswith("-0000"))
        if sample.copies == 3:
            groups.setdefault(sample.group, []).append(sample.picture.image.data)
    assert sorted(len(set(copies)) for copies in groups.values()) == [1, 1, 3]
    assert set(NEAR_TRANSFORMS) <= set(TRANSFORMS)


def test_no_near_copy_is_smaller_than_what_models_see() -> None:
    plan = PlanSettings(levels=(1, 32), exact=1, near=4, singles=0)
    pool = pool_of(plan.needed)
    side = min(min(decode(picture.image.data, min_side=0).rgb.size) for picture in pool.pictures) - 2
    samples = draw(pool, plan, 0, side)
    assert all(min(decode(sample.picture.image.data, min_side=0).rgb.size) >= side for sample in samples)
    assert {sample.transform for sample in samples} >= {"recompress", "mirror", "border", "grey"}
    with pytest.raises(ConfigError, match="no near copy of a picture of"):
        draw(pool, plan, 0, 1000)


def test_each_seed_draws_anew_and_the_same_seed_the_same() -> None:
    pool = pool_of(PLAN.needed)
    assert draw(pool, PLAN, 1, VIEW.side) == draw(pool, PLAN, 1, VIEW.side)
    parts = [{s.source: s.kind for s in draw(pool, PLAN, seed, VIEW.side)} for seed in (0, 1)]
    assert parts[0] != parts[1]


def test_shards_hold_the_set_before_cleaning_alone() -> None:
    samples = draw(pool_of(PLAN.needed), PLAN, seed=0, side=VIEW.side)
    shards = list(shard_members(samples, 3, seed=0))
    names = [name for members in shards for name, _ in members]
    expected = {sample.picture.key for sample in samples if sample.kind in ("single", "canary")}
    assert {name.split(".")[0] for name in names} == expected
    assert len(names) == 2 * len(expected)
    assert len(shards) == 3
    assert names != sorted(names)


def test_arms_hold_what_their_names_say() -> None:
    planted = seed_set()
    training = rows_of(planted, "single") | rows_of(planted, "canary")
    sets = {name: set(arm(planted).tolist()) for name, arm in ARMS.items()}
    assert all(len(ARMS[name](planted)) == len(rows) for name, rows in sets.items())
    assert sets["duplicated"] == training
    assert sets["oracle"] == sets["deduplicated"]  # cleaning kept the first of each group here
    assert len(sets["deduplicated"]) == 4 + 5
    assert sets["deduplicated"] < sets["deduplicated+refill"]
    assert len(sets["deduplicated+refill"]) == len(training)
    assert sets["deduplicated+refill"] - sets["deduplicated"] == rows_of(planted, "refill")
    assert sets["random-drop"] < training
    assert len(sets["random-drop"]) == len(sets["deduplicated"])
    for rows in sets.values():
        assert not rows & rows_of(planted, "held_out")


def test_deduplication_is_what_the_run_kept_and_not_the_truth() -> None:
    planted = seed_set(keep=lambda sample: sample.picture.key.endswith(("-0001", "-0002")))
    kept = ARMS["deduplicated"](planted)
    assert len(kept) == 6
    assert not planted.first_of_group()[kept].any()
    assert planted.present(kept).sum() == 3
    assert len(ARMS["deduplicated+refill"](planted)) == 6 + 6  # nine were removed, and six fresh ones there are


def test_the_reference_has_each_variant_of_each_group_once() -> None:
    planted = seed_set()
    reference = planted.reference()
    assert len(reference.groups) == PLAN.needed
    assert len(reference.images) == PLAN.needed + 2 + 2  # near copies of a canary and of its twin differ from these
    assert Counter(reference.groups["kind"].to_pylist()) == {"single": 4, "canary": 5, "held_out": 5, "refill": 6}
    assert sorted(reference.copies[reference.is_kind("canary")]) == [1, 1, 3, 3, 3]
    assert reference.groups["outlier"].to_pylist() == [0.5] * PLAN.needed


@pytest.mark.parametrize("captions", CAPTIONS)
def test_labels_number_the_captions(captions: str) -> None:
    planted = seed_set()
    labels, count = planted.labels(captions)
    assert labels.shape == planted.group.shape
    assert labels.dtype == np.int64
    assert count == {"none": 0, "shared": 1, "own": 3, "unique": PLAN.needed}[captions]
    assert labels.max() == max(count - 1, 0)
    for group in np.unique(planted.group):  # copies share the caption
        assert len(set(labels[planted.group == group])) == 1


def test_samples_are_stored_as_models_see_them() -> None:
    samples = draw(pool_of(PLAN.needed), PLAN, seed=0, side=VIEW.side)
    table = samples_table(samples, set(), {f"p{n}": float(n) for n in range(PLAN.needed)}, VIEW)
    assert table.schema.equals(SAMPLES_SCHEMA)
    assert {len(image) for image in table["image"].to_pylist()} == {64}
    for row in table.to_pylist():
        assert row["outlier"] == float(row["source"][1:])
        assert row["kept"] is (False if row["kind"] in ("single", "canary") else None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"levels": ()}, "rising"),
        ({"levels": (4, 2)}, "rising"),
        ({"levels": (0, 2)}, "rising"),
        ({"exact": 0}, "at least 1"),
        ({"near": -1}, "negative"),
    ],
)
def test_unusable_plans_are_refused(change: dict[str, int], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        PlanSettings(**change)
