"""Intervals of rare events, and what they say of a run's precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup.intervals import expected_count
from dedup.projection import highest_rate, possible_pairs, precision, sample_needed, set_needed


@pytest.mark.parametrize(
    ("weights", "low", "high"),
    [([], 0, 3.6889), ([1], 0.0253, 5.5716), ([1] * 10, 4.7954, 18.3904), ([50], 50 * 0.0253, 50 * 5.5716)],
)
def test_counts_have_garwoods_interval_scaled_by_what_hangs_together(
    weights: list[float], low: float, high: float
) -> None:
    assert expected_count(weights) == pytest.approx((low, high), abs=0.01)


def test_the_interval_covers_the_truth_of_clumped_events_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        weights = rng.integers(1, 4, rng.poisson(8)).tolist()
        low, high = expected_count(weights)
        covered += low <= 16 <= high
    assert covered >= 0.92 * 400


def test_precision_by_hand() -> None:
    # 1,000 images, 100 of them copies, 90 found; 499,500 pairs of which 1 in 100,000 is false: 5 removed by mistake.
    assert precision(0.9, 0.1, 1e-5, 1000) == pytest.approx(90 / 94.995)
    assert math.isnan(precision(0.9, 0.0, 0.0, 1000))
    assert precision(0.9, 0.1, highest_rate(0.99, 0.9, 0.1, 1000), 1000) == pytest.approx(0.99)


def test_pairs_of_a_sample_are_counted_once() -> None:
    assert possible_pairs(3, 5) == 9  # 3 with each of 2 others, and 3 among themselves
    assert possible_pairs(5, 5) == 10


@given(
    st.floats(0.5, 0.999), st.floats(0.5, 1), st.floats(0.01, 0.5), st.integers(100, 1_000_000), st.integers(2, 10**6)
)
def test_the_sample_that_is_asked_for_suffices_and_a_smaller_one_does_not(
    target: float, recall: float, share: float, run_images: int, images: int
) -> None:
    def bound(sample: int, of: int) -> float:
        return precision(recall, share, expected_count([])[1] / possible_pairs(sample, of), run_images)

    needed = sample_needed(target, recall, share, run_images, images)
    if needed is None:
        assert bound(images, images) < target
        whole = set_needed(target, recall, share, run_images)
        assert whole > images
        assert bound(whole, whole) >= target - 1e-9
    else:
        assert bound(needed, images) >= target - 1e-9
        assert needed == 1 or bound(needed - 1, images) < target + 1e-9


def test_a_set_that_is_its_own_run_needs_more_images_the_higher_the_target() -> None:
    assert set_needed(0.999, 0.98, 0.1, None) == 37_605 - 1
    none = expected_count([])[1] / possible_pairs(37_604, 37_604)
    assert precision(0.98, 0.1, none, 37_604) >= 0.999
