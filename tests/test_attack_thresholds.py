"""Thresholds are tightened to what tells a set's own pictures apart, and never loosened."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dedup.attack.extraction import ATTACKS, MatchSettings, extract, match
from dedup.attack.reference import Reference
from dedup.attack.thresholds import tightened
from dedup.errors import ConfigError
from tests.attack_makers import Images, group_table, near_to, noise, singles

LOOSE = MatchSettings(max_gap=0.999, max_l2=1, max_tiled_l2=1, max_template_l2=1, max_adaptive=9)


def soft(count: int, seed: int) -> Images:
    """Pictures that differ little: their l2 is about 0.08, as that of pictures scaled down far."""
    return noise(count, seed) * np.float32(0.2) + np.float32(0.4)


def test_by_brute_force() -> None:
    """Of 60 pictures none may count: the threshold is just below the distance of the nearest two of different parts."""
    images = noise(60, 0)
    every = np.sqrt(((images[:, None].astype(np.float64) - images[None]) ** 2).mean((2, 3, 4)))
    part = np.arange(60) % 8
    least = every[part[:, None] != part[None]].min()
    threshold = tightened(singles(images), "l2", LOOSE).max_l2
    assert threshold < least
    assert threshold == pytest.approx(least, abs=1e-6)


@pytest.mark.parametrize("attack", ATTACKS)
def test_copies_still_count_and_unrelated_pictures_do_not(attack: str) -> None:
    reference = singles(noise(300, 0))
    settings = tightened(reference, attack, LOOSE)
    made = np.concatenate([near_to(reference.images, 0.02, 1), noise(300, 2)])
    before, after = (extract(match(made, reference, some), attack, some) for some in (LOOSE, settings))
    assert before.mean() > 0.9
    assert after[:300].all()
    assert after[300:].mean() < 0.02


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_threshold_that_tells_them_apart_stays_as_asked(attack: str) -> None:
    assert tightened(singles(noise(60, 0)), attack, MatchSettings()) == MatchSettings()


def test_the_published_l2_is_lowered_where_unrelated_pictures_are_that_near() -> None:
    reference = singles(soft(60, 0))
    settings = MatchSettings(min_contrast=0.01)
    made = soft(100, 1)
    tight = tightened(reference, "l2", settings)
    assert extract(match(made, reference, settings), "l2", settings).all()
    assert extract(match(made, reference, tight), "l2", tight).mean() < 0.1
    assert tight == replace(settings, max_l2=tight.max_l2)
    assert extract(match(near_to(reference.images, 0.02, 2), reference, tight), "l2", tight).all()


def test_half_a_per_cent_of_the_pictures_may_be_alike() -> None:
    images = noise(400, 0)
    images[1] = near_to(images[:1], 0.01, 1)[0]  # each of the two counts as a copy of the other
    alike = tightened(singles(images), "l2", LOOSE)
    assert alike.max_l2 > 0.25
    few = tightened(singles(images[:300]), "l2", LOOSE)  # one in 300, but not two
    assert few.max_l2 < 0.02


def test_versions_of_one_picture_are_not_unrelated() -> None:
    pictures = noise(60, 0)
    group = np.array([*range(60), *range(60)])
    versions = Reference(np.concatenate([pictures, near_to(pictures, 0.01, 1)]), group, singles(pictures).groups)
    assert tightened(versions, "l2", LOOSE).max_l2 > 0.25
    two = Reference(pictures[:3], np.array([0, 0, 1]), group_table(["single"] * 2, [1, 1]))
    assert tightened(two, "l2", LOOSE) == LOOSE  # too few to tell anything


def test_equal_pictures_leave_a_threshold_that_nothing_but_equal_ones_reach() -> None:
    reference = singles(np.repeat(noise(1, 0), 20, 0))
    assert 0 < tightened(reference, "l2", LOOSE).max_l2 < 1e-6


def test_unknown_attack_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown attack 'gpa'"):
        tightened(singles(noise(9, 0)), "gpa", LOOSE)
