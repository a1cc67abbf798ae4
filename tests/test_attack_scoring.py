"""Scores by hand, and the comparisons and the verdict made of them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from dedup.attack.reference import Reference
from dedup.attack.scoring import (
    ArmScore,
    Count,
    Rate,
    arm_rates,
    compare_arms,
    compare_unique,
    equivalences,
    generations_curve,
    never_hit,
    score_arm,
)
from dedup.attack.statistics import Hits
from dedup.attack.verdict import cautions, verdict
from dedup.errors import ConfigError
from tests.attack_makers import group_table, noise

# Groups 0, 1: exact canaries of 8; 2: near canary of 8; 3: exact canary of 2; 4, 5: singles; 6, 7: held out; 8: refill.
KINDS = [*["canary"] * 4, "single", "single", "held_out", "held_out", "refill"]
REFERENCE = Reference(
    noise(9, 0), np.arange(9), group_table(KINDS, [8, 8, 8, 2, 1, 1, 0, 0, 1], [n == 2 for n in range(9)])
)
PRESENT = np.array([n not in (6, 7, 8) for n in range(9)])


def generated(*groups: int) -> npt.NDArray[np.int64]:
    return np.array(groups, np.int64)


def scored(*groups: int, extracted: Hits | None = None, present: Hits = PRESENT) -> ArmScore:
    verdicts = np.ones(len(groups), bool) if extracted is None else extracted
    return score_arm(generated(*groups), REFERENCE, verdicts, present)


def test_by_hand() -> None:
    result = scored(0, 0, 2, 4, 6, 8, 5, extracted=np.array([1, 1, 1, 1, 1, 1, 0], bool))
    assert result.rates == (
        Rate(1, 0, (), near=False, k=2),
        Rate(2, 1, (0,), near=False, k=8),
        Rate(1, 1, (0,), near=True, k=8),
    )
    assert result.singles == Count(2, 1, (0,))
    assert result.held_out == Count(2, 1, (0,))
    assert result.absent == Count(3, 2, (0, 2))
    assert (result.unique_groups, result.unique_extracted) == (6, 3)
    assert (result.generations, result.extracted_generations, result.false_generations) == (7, 6, 2)


def test_twins_of_exact_and_of_near_canaries_are_counted_apart() -> None:
    near = [n in (2, 7) for n in range(9)]
    reference = Reference(noise(9, 0), np.arange(9), group_table(KINDS, [8, 8, 8, 2, 1, 1, 0, 0, 1], near))
    result = score_arm(generated(0, 7), reference, np.ones(2, bool), PRESENT)
    assert result.twins == (Rate(1, 0, (), near=False, k=0), Rate(1, 1, (0,), near=True, k=0))
    assert result.held_out == Count(2, 1, (1,))
    assert ArmScore.from_json(json.loads(json.dumps(result.to_json()))) == result
    rows = [row for row in arm_rates({0: result, 1: result, 2: result}) if row["kind"] == "held_out"]
    assert [(row["near"], row["hit"], row["groups"]) for row in rows] == [(None, 3, 6), (False, 0, 3), (True, 3, 3)]
    scores = {arm: {0: result} for arm in ("duplicated", "deduplicated")}
    assert "; false positives 0 % exact, 100 % near; " in verdict(scores)
    assert any("of the held-out twins of near canaries" in said for said in cautions(scores))


def test_canaries_never_hit_have_a_bound_by_the_rule_of_three() -> None:
    bound = never_hit(scored(0, 2, *[4] * 998))
    assert (bound["canaries"], bound["of"]) == (2, 4)
    assert bound["emitted_below"] == pytest.approx(3 / 1000, rel=0.01)


def unique(extracted: int, groups: int) -> ArmScore:
    return replace(scored(0), unique_extracted=extracted, unique_groups=groups)


def test_unique_groups_per_unique_group_are_compared_over_seeds() -> None:
    before = {seed: unique(n, 100) for seed, n in enumerate((20, 24, 22))}
    after = {seed: unique(n, 50) for seed, n in enumerate((5, 6, 5))}
    gan = {0: unique(2, 100)}
    rows = compare_unique({"duplicated": before, "deduplicated": after}, others={"GAN": gan})
    assert [(row["arm"], row["seeds"], row["extracted"], row["groups"]) for row in rows] == [
        ("deduplicated", 3, 16, 150),
        ("GAN", 1, 2, 100),
    ]
    row = rows[0]
    assert (row["share"], row["base_share"]) == (pytest.approx(16 / 150), pytest.approx(0.22))
    assert row["ratio"] == pytest.approx(16 / 150 / 0.22)
    assert row["ratio_low"] < row["ratio"] < row["ratio_high"]
    assert rows[1]["ratio"] == pytest.approx(0.1)
    assert rows[1]["ratio_low"] is None
    json.dumps(rows, allow_nan=False)


def test_a_dropped_canary_counts_as_not_extracted() -> None:
    without = PRESENT.copy()
    without[1] = False
    result = scored(0, present=without)
    assert result.rates[1] == Rate(2, 1, (0,), near=False, k=8)
    assert (result.unique_groups, result.absent.groups) == (5, 4)


def test_singles_never_enter_the_rates_of_canaries() -> None:
    assert [rate.hit for rate in scored(4, 5).rates] == [0, 0, 0]
    assert scored(4, 5).singles.hit == 2


def test_through_json_and_back() -> None:
    result = scored(0, 2, 4, 6)
    content = json.loads(json.dumps(result.to_json()))
    assert ArmScore.from_json({**content, "seed": 3, "utility": {}}) == result
    assert content["unique"] == {"groups": 6, "extracted": 3}
    assert content["rates"][1] == {"near": False, "k": 8, "groups": 2, "hit": 1, "hits": [0]}


def test_what_does_not_correspond_is_refused() -> None:
    with pytest.raises(ConfigError, match="1 verdicts on 2 generations"):
        scored(0, 1, extracted=np.array([True]))
    with pytest.raises(ConfigError, match="8 of 9 groups"):
        scored(0, present=PRESENT[:8])
    with pytest.raises(ConfigError, match="held-out group stands in the training set"):
        scored(0, present=np.ones(9, bool))


def test_curve_counts_new_true_groups_only() -> None:
    groups = [0, 0, 6, 4, 2, 5]
    curve = generations_curve(generated(*groups), np.array([1, 1, 1, 1, 0, 1], bool), PRESENT, points=50)
    assert {row["generations"]: row["extracted"] for row in curve} == {1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 6: 3}
    assert generations_curve(generated(), np.zeros(0, bool), PRESENT) == []


def arm(*rates: float, singles: float = 0.0) -> dict[int, ArmScore]:
    """One seed per rate of the canaries of 16 copies; 40 canaries, 100 singles, 50 held-out groups."""

    def count(share: float, groups: int) -> Count:
        return Count.of(np.arange(groups) < round(share * groups))

    return {
        seed: ArmScore(
            (Rate(40, round(rate * 40), tuple(range(round(rate * 40))), near=False, k=16),),
            count(singles, 100),
            count(0.02, 50),
            count(0.02, 50),
            140,
            0,
            1000,
            0,
            0,
        )
        for seed, rate in enumerate(rates)
    }


def test_arms_are_compared_with_each_baseline_in_each_stratum() -> None:
    scores = {"duplicated": arm(0.9, 0.8, 0.85), "deduplicated": arm(0.1, 0.1, 0.05), "oracle": arm(0.1, 0.1, 0.05)}
    rows = compare_arms(scores)
    assert {(row["arm"], row["against"]) for row in rows} == {
        ("deduplicated", "duplicated"),
        ("oracle", "duplicated"),
        ("duplicated", "oracle"),
        ("deduplicated", "oracle"),
    }
    against = [row for row in rows if (row["arm"], row["against"]) == ("deduplicated", "duplicated")]
    assert [(row["kind"], row["near"], row.get("k"), row.get("k_min")) for row in against] == [
        ("canary", False, 16, None),
        ("canary", False, None, 8),
        ("canary", None, None, 8),
        ("single", None, 1, None),
        ("held_out", None, 0, None),
    ]
    pooled = against[2]
    assert pooled["difference"] == pytest.approx(-2.3 / 3)
    assert pooled["high"] < -0.6
    assert pooled["ratio"] == pytest.approx(0.25 / 2.55)
    assert (pooled["ratio_low"] < pooled["ratio"] < pooled["ratio_high"], pooled["seeds"]) == (True, 3)
    assert next(row for row in against if row["kind"] == "single")["ratio"] is None  # neither arm has a hit
    json.dumps(rows, allow_nan=False)


def test_equality_and_difference() -> None:
    scores = {"oracle": arm(0.1, 0.1, 0.05), "deduplicated": arm(0.1, 0.1, 0.05), "random-drop": arm(0.8, 0.9, 0.85)}
    rows = {row["arm"]: row for row in equivalences(compare_arms(scores)) if row["near"] is None}
    assert (rows["deduplicated"]["equivalent"], rows["deduplicated"]["differs"]) == (True, False)
    assert (rows["random-drop"]["equivalent"], rows["random-drop"]["differs"]) == (False, True)


def test_without_enough_seeds_no_equality_is_claimed() -> None:
    rows = equivalences(compare_arms({"oracle": arm(0.1, 0.1), "deduplicated": arm(0.1, 0.1)}))
    assert not any(row["equivalent"] or row["differs"] for row in rows)


def test_only_seeds_of_both_arms_count() -> None:
    scores = {"duplicated": arm(0.9, 0.8, 0.85), "deduplicated": arm(0.1, 0.1)}
    assert {row["seeds"] for row in compare_arms(scores)} == {2}


def test_rates_of_an_arm() -> None:
    rows = arm_rates(arm(0.9, 0.8, 0.85))
    assert rows[0]["rate"] == pytest.approx(0.85)
    assert (rows[0]["groups"], rows[0]["hit"]) == (120, 102)
    assert rows[0]["low"] < 0.8 < 0.9 < rows[0]["high"] <= 1


def test_verdict() -> None:
    scores = {"duplicated": arm(0.9, 0.8, 0.85), "deduplicated": arm(0.1, 0.1, 0.05, singles=0.03)}
    assert verdict(scores) == (
        "copies >= 8: extraction 85 % -> 8 % (difference -77 points, 95 % interval -91 to -62); "
        "singles 0 % -> 3 %; false positives 2 %; 3 seeds, too few for a claim (10)"
    )
    assert "too few seeds for an interval: 1); " in verdict({name: {0: scores[name][0]} for name in scores})
    assert "nothing to compare" in verdict({"duplicated": scores["duplicated"]})
    many = {name: {seed: scores[name][seed % 3] for seed in range(10)} for name in scores}
    assert verdict(many).endswith("; 10 seeds")


def test_small_shares_are_not_rounded_to_nothing() -> None:
    few = {
        name: {s: replace(v, singles=Count(1000, 4, (0, 1, 2, 3))) for s, v in arm(0.5, 0.5, 0.5).items()}
        for name in ("duplicated", "deduplicated")
    }
    assert "singles 0.4 % -> 0.4 %" in verdict(few)
