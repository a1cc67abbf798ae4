"""Prompts answered with one image are told from those answered with many."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from dedup.attack.cliques import CliqueSettings, calibrate, flagged, largest_clique
from dedup.attack.distances import ROWS
from dedup.errors import ConfigError
from tests.attack_makers import Images, near_to, noise

SETTINGS = CliqueSettings(min_clique=5)


def memorized(copies: int, others: int, seed: int = 0) -> Images:
    """Generations of which the last `copies` are of one image."""
    image = noise(1, seed + 1000).repeat(copies, 0)
    return np.concatenate([noise(others, seed), near_to(image, 0.02, seed)])


def test_a_memorized_image_among_others() -> None:
    clique = largest_clique(memorized(7, 20), SETTINGS)
    assert clique.tolist() == list(range(20, 27))
    assert flagged(clique, SETTINGS)
    assert not flagged(largest_clique(memorized(4, 20), SETTINGS), SETTINGS)


def test_the_largest_clique_as_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    made = np.concatenate([near_to(noise(1, seed), 0.05, seed).repeat(4, 0) for seed in range(3)])
    made = near_to(made, 0.12, 9)
    for threshold in rng.uniform(0.1, 0.6, 8):
        settings = CliqueSettings(max_tiled_l2=threshold)
        near = {(a, b) for a, b in combinations(range(12), 2) if len(largest_clique(made[[a, b]], settings)) == 2}
        expected = next(
            some
            for size in range(12, 0, -1)
            for some in combinations(range(12), size)
            if all(pair in near for pair in combinations(some, 2))
        )
        assert largest_clique(made, settings).tolist() == list(expected)


def test_a_chain_is_no_clique() -> None:
    ends = noise(2, 0)
    chain = np.stack([ends[0] + (ends[1] - ends[0]) * step for step in np.linspace(0, 1, 12, dtype=np.float32)])
    assert len(largest_clique(chain, SETTINGS)) < 5


def test_flat_generations_are_no_clique() -> None:
    flat = np.full((30, 1, 8, 8), 0.5, np.float32)
    assert len(largest_clique(flat, SETTINGS)) == 1


def test_one_large_background_is_no_clique() -> None:
    made = np.ones((12, 1, 8, 8), np.float32)
    made[:, :, 2:4, 2:4] = noise(12, 0, side=2)
    assert len(largest_clique(made, CliqueSettings(max_tiled_l2=0.1))) < 5


def test_a_nearly_complete_graph_is_answered() -> None:
    """A tenth of all pairs are just too far apart: maximal cliques without number."""
    made = near_to(noise(1, 0).repeat(150, 0), 0.05, 1)
    middle = CliqueSettings(max_tiled_l2=0.115)
    assert flagged(largest_clique(made, middle), middle)


def test_nothing_of_nothing() -> None:
    assert largest_clique(noise(0, 0), SETTINGS).tolist() == []
    assert ROWS >= 500  # generations of one prompt fit one block


def test_calibration_keeps_the_false_positive_rate() -> None:
    """Prompts with answers of varied likeness: as many are flagged as allowed, and no more."""
    prompts = [near_to(noise(1, seed).repeat(8, 0), 0.02 * (1 + seed), seed) for seed in range(20)]
    for share in (0.05, 0.2):
        threshold = calibrate(prompts, SETTINGS, share)
        settings = CliqueSettings(max_tiled_l2=threshold, min_clique=5)
        assert sum(flagged(largest_clique(made, settings), settings) for made in prompts) == 20 * share


def test_calibration_on_prompts_without_any_clique() -> None:
    flat = np.full((3, 1, 8, 8), 0.5, np.float32)
    assert calibrate([flat] * 20, SETTINGS, 0.05) == 1


@pytest.mark.parametrize("count", [49, 98])  # of which 1 / count, times count, comes to less than 1
def test_one_in_as_many_prompts_as_there_are_can_be_told(count: int) -> None:
    assert calibrate([np.full((3, 1, 8, 8), 0.5, np.float32)] * count, SETTINGS, 1 / count) == 1


def test_too_few_prompts_to_calibrate_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"5 prompts cannot tell .* 0\.01: give 100"):
        calibrate([noise(8, seed) for seed in range(5)], SETTINGS)


@pytest.mark.parametrize("change", [{"min_clique": 1}, {"max_tiled_l2": -0.1}, {"max_tiled_l2": float("nan")}])
def test_settings_without_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        CliqueSettings(**change)  # type: ignore[arg-type]
