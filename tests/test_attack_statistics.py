"""Intervals against textbook values and, by simulation, against the truth they should hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dedup.attack.statistics import (
    Hits,
    Interval,
    difference_interval,
    emission_test,
    rate_interval,
    ratio_interval,
    share_ratio_interval,
    t_interval,
    zero_hits_bound,
)
from dedup.errors import ConfigError


def hits(*rates: float, canaries: int = 20) -> Hits:
    """One seed per rate; the first canaries are hit."""
    return np.arange(canaries)[None, :] < np.round(np.array(rates)[:, None] * canaries)


def test_t_interval_is_scipys() -> None:
    values = np.array([0.1, 0.25, 0.3, 0.2])
    expected = stats.ttest_1samp(values, 0).confidence_interval()
    interval = t_interval(values)
    assert (interval.estimate, interval.low, interval.high) == pytest.approx((0.2125, expected.low, expected.high))


def test_below_three_seeds_there_is_no_interval() -> None:
    for interval in (
        t_interval(np.array([0.1, 0.2])),
        difference_interval(hits(0.5, 0.4), hits(0.9, 0.9)),
        ratio_interval(hits(0.5, 0.4), hits(0.9, 0.9)),
        rate_interval(hits(0.5, 0.4)),
    ):
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)
        assert interval.method == "too few seeds for an interval: 2"
        assert not interval.within(1)
        assert not interval.excludes(0.99)


def test_difference_of_varied_seeds_is_the_paired_t() -> None:
    arm, base = hits(0.2, 0.4, 0.6), hits(0.5, 0.9, 0.8)
    expected = stats.ttest_rel(arm.mean(1), base.mean(1)).confidence_interval()
    interval = difference_interval(arm, base)
    assert interval.estimate == pytest.approx(-1 / 3)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_seeds_that_agree_by_chance_are_not_certain() -> None:
    same = difference_interval(hits(0.5, 0.5, 0.5), hits(0.5, 0.5, 0.5))
    assert (same.estimate, same.low, same.high) == pytest.approx((0, -1.96 / 62, 1.96 / 62), abs=1e-3)
    full = rate_interval(hits(1, 1, 1))
    assert (full.low, full.high) == pytest.approx((60 / (60 + 1.96**2), 1), abs=1e-4)  # Wilson's, 60 of 60
    ratio = ratio_interval(hits(0.5, 0.5, 0.5), hits(1, 1, 1))
    assert ratio.low < 0.5 < ratio.high


def test_pairing_by_canary_counts() -> None:
    """Equal rates on the same canaries say more than equal rates on different ones."""
    base = hits(0.5, 0.5, 0.5)
    same, other = difference_interval(base, base), difference_interval(~base, base)
    assert same.estimate == other.estimate == 0
    assert same.high - same.low < other.high - other.low


def test_ratio_by_hand() -> None:
    arm, base = hits(0.2, 0.4, 0.3), hits(0.8, 0.9, 0.85)
    interval = ratio_interval(arm, base)
    assert interval.estimate == pytest.approx(0.9 / 2.55)
    for bound in (interval.low, interval.high):  # Fieller's bounds are where the paired t test just rejects
        assert stats.ttest_1samp(arm.mean(1) - bound * base.mean(1), 0).pvalue == pytest.approx(0.05, abs=1e-6)


def test_ratio_of_shares_by_hand_and_at_its_ends() -> None:
    arm, base = np.array([[5, 50], [6, 50], [5, 50]]), np.array([[20, 100], [24, 100], [22, 100]])
    interval = share_ratio_interval(arm, base)
    assert interval.estimate == pytest.approx(16 / 66 * 2)
    spread = 1.96 * math.sqrt(1 / 16 - 1 / 150 + 1 / 66 - 1 / 300)  # wider here than Fieller's over such equal seeds
    bounds = interval.estimate * math.exp(-spread), interval.estimate * math.exp(spread)
    assert (interval.low, interval.high) == pytest.approx(bounds, rel=1e-3)
    none = share_ratio_interval(arm * [0, 1], base)
    assert (none.estimate, none.low) == (0, 0)
    assert none.high == pytest.approx(3 / 150 / 0.22, rel=0.02)
    assert math.isnan(share_ratio_interval(arm, base * [0, 1]).estimate)
    assert "too few seeds" in share_ratio_interval(arm[:2], base[:2]).method
    with pytest.raises(ConfigError, match="of the same seeds"):
        share_ratio_interval(arm[:2], base)


@pytest.mark.parametrize("seeds", [3, 10])
def test_coverage_of_the_ratio_of_shares(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    groups, base_groups, repeats = 400, 500, 400
    held = 0
    for _ in range(repeats):
        effect = np.exp(rng.normal(0, 0.1, seeds))
        arm = np.stack([rng.binomial(groups, 0.04 * effect), np.full(seeds, groups)], 1)
        base = np.stack([rng.binomial(base_groups, 0.1 * effect), np.full(seeds, base_groups)], 1)
        interval = share_ratio_interval(arm, base)
        held += interval.low <= 0.4 <= interval.high
    assert held / repeats > 0.93


def test_ratio_where_an_arm_has_no_hit() -> None:
    assert math.isnan(ratio_interval(hits(0.5, 0.5, 0.5), hits(0, 0, 0)).estimate)
    assert "undefined" in ratio_interval(hits(0, 0, 0), hits(0, 0, 0)).method
    none = ratio_interval(hits(0, 0, 0), hits(0.5, 0.4, 0.6))
    assert (none.estimate, none.low) == (0, 0)
    assert none.high == pytest.approx(3 / 60 / 0.5, rel=0.03)  # the rule of three, 60 canaries


def test_ratio_without_upper_bound() -> None:
    interval = ratio_interval(hits(0.05, 0.1, 0.5), hits(0, 0, 0.4))
    assert interval.high == math.inf
    assert interval.to_json("ratio", "ratio_") == {"ratio": interval.estimate, "ratio_low": 0.0, "ratio_high": None}


@pytest.mark.parametrize("seeds", [3, 9, 10, 15])
def test_ratio_and_difference_of_an_arm_with_itself(seeds: int) -> None:
    same = hits(*np.linspace(0.3, 0.8, seeds))
    assert difference_interval(same, same).estimate == 0
    assert ratio_interval(same, same).estimate == 1
    assert difference_interval(same, same).within(0.1)
    assert not difference_interval(same, same).excludes(0)


def test_from_ten_seeds_the_bootstrap() -> None:
    few, many = hits(*[0.2, 0.4] * 4), hits(*[0.2, 0.4] * 5)
    assert "t over seeds" in difference_interval(few, ~few).method
    assert "paired hierarchical bootstrap" in difference_interval(many, ~many).method
    assert difference_interval(many, ~many) == difference_interval(many, ~many)


@pytest.mark.parametrize("seeds", [5, 10])
def test_where_nothing_was_extracted_something_still_may(seeds: int) -> None:
    nothing = np.zeros((seeds, 6), bool)
    assert rate_interval(nothing).high > 0.05
    assert not difference_interval(nothing[:, :1], nothing[:, :1]).within(0.1)


def test_zero_hits() -> None:
    assert zero_hits_bound(4000) == pytest.approx(3 / 4000, rel=2e-3)
    assert zero_hits_bound(0) == 1
    assert stats.binom.cdf(0, 17, zero_hits_bound(17)) == pytest.approx(0.05)


def test_equivalence_asks_for_the_whole_interval() -> None:
    assert Interval(0.0, -0.09, 0.09, "").within(0.1)
    assert not Interval(0.0, -0.11, 0.09, "").within(0.1)  # no difference shown, and no equality either
    assert not Interval(0.05, 0.01, 0.12, "").within(0.1)
    assert Interval(0.05, 0.01, 0.12, "").excludes(0)


@settings(deadline=None, max_examples=60)
@given(st.integers(3, 12), st.integers(1, 9), st.integers(0, 999))
def test_intervals_hold_their_estimate_and_stay_in_range(seeds: int, canaries: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    arm, base = rng.random((2, seeds, canaries)) < rng.random((2, 1, 1))
    for interval, least, most in (
        (rate_interval(arm), 0, 1),
        (difference_interval(arm, base), -1, 1),
        (ratio_interval(arm, base), 0, math.inf),
    ):
        if not math.isnan(interval.low):
            assert least <= interval.low <= interval.estimate + 1e-9
            assert interval.estimate - 1e-9 <= interval.high <= most


def simulated(rng: np.random.Generator, seeds: int, canaries: int, arm: float, base: float) -> tuple[Hits, Hits]:
    """Hits of two arms: each seed shifts the log-odds of both, each canary is as easy in the one as in the other."""
    shift = rng.normal(0, 0.5, (2, seeds, 1)) * [[[1.0]], [[0.5]]] + rng.normal(0, 1, (1, seeds, canaries))
    odds = np.exp(shift + np.log([[[arm / (1 - arm)]], [[base / (1 - base)]]]))
    of_arm, of_base = rng.random((2, seeds, canaries)) < odds / (1 + odds)
    return of_arm, of_base


@pytest.mark.parametrize(
    ("seeds", "canaries", "arm", "base", "repeats"),
    [
        (3, 48, 0.2, 0.8, 400),
        (3, 16, 0.05, 0.9, 400),
        (5, 16, 0.3, 0.35, 400),
        (10, 24, 0.2, 0.8, 120),
        (10, 6, 0.02, 0.5, 120),  # an arm that hardly leaks
    ],
)
def test_coverage(seeds: int, canaries: int, arm: float, base: float, repeats: int) -> None:
    """The 95 % intervals hold the truth at least 93 times in 100, which 95 of 100 stays above but by bad luck."""
    rng = np.random.default_rng(seeds + canaries)
    of_arm, of_base = simulated(rng, 20_000, canaries, arm, base)
    difference, ratio, rate = of_arm.mean() - of_base.mean(), of_arm.mean() / of_base.mean(), of_arm.mean()
    held = np.zeros((repeats, 3), bool)
    for repeat in range(repeats):
        pair = simulated(rng, seeds, canaries, arm, base)
        intervals = difference_interval(*pair), ratio_interval(*pair), rate_interval(pair[0])
        held[repeat] = [i.low <= true <= i.high for i, true in zip(intervals, (difference, ratio, rate), strict=True)]
    assert (held.mean(0) >= 0.93).all(), held.mean(0)


def test_coverage_of_two_arms_that_hardly_leak() -> None:
    rng = np.random.default_rng(7)
    of_arm, of_base = simulated(rng, 20_000, 6, 0.02, 0.02)
    difference, rate = of_arm.mean() - of_base.mean(), of_arm.mean()
    pairs = [simulated(rng, 10, 6, 0.02, 0.02) for _ in range(120)]
    held = [(difference_interval(*pair), rate_interval(pair[0])) for pair in pairs]
    assert np.mean([i.low <= difference <= i.high for i, _ in held]) >= 0.93
    assert np.mean([i.low <= rate <= i.high for _, i in held]) >= 0.93


def test_intervals_notice_a_difference() -> None:
    """What coverage alone would not ask for: intervals of use. Three seeds tell 0.2 from 0.8."""
    rng = np.random.default_rng(0)
    assert np.mean([difference_interval(*simulated(rng, 3, 48, 0.2, 0.8)).excludes(0) for _ in range(50)]) > 0.8


def test_emission_in_proportion_is_not_rejected_and_another_is() -> None:
    weights = np.array([1.0, 2, 4, 8])
    counts = np.random.default_rng(0).multinomial(1500, weights / 15)
    assert emission_test(counts, weights)["df"] == 3
    assert emission_test(counts, weights)["p"] > 0.01
    assert emission_test(counts, np.ones(4))["p"] < 1e-6


def test_emission_test_needs_enough_generations() -> None:
    with pytest.raises(ConfigError, match=r"expected 2\.0 times in 30 generations, and 5 are needed: draw 75"):
        emission_test(np.array([10, 20]), np.array([1.0, 14.0]))


def test_other_canaries_are_refused() -> None:
    with pytest.raises(ConfigError, match="not of the same canaries"):
        difference_interval(hits(0.5, 0.5), hits(0.5, 0.5, 0.5))
    with pytest.raises(ConfigError, match="no canaries"):
        rate_interval(np.zeros((3, 0), bool))
