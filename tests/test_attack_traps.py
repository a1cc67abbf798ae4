"""Ways to measure wrongly, each of which the scoring must not fall for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch

from dedup.attack.extraction import ATTACKS, MatchSettings, copied_group, extract, match
from dedup.attack.reference import Reference
from dedup.attack.scoring import ArmScore, Count, Rate, compare_arms, score_arm
from dedup.attack.statistics import emission_test
from dedup.attack.verdict import cautions, learned_less, verdict
from tests.attack_makers import Images, group_table, near_to, noise, singles

SETTINGS = MatchSettings()


def reference_of(images: Images, group: list[int]) -> Reference:
    count = max(group) + 1
    return Reference(images, np.array(group), group_table(["single"] * count, [1] * count))


def extracted(made: Images, reference: Reference, attack: str = "gap") -> list[bool]:
    found: list[bool] = extract(match(made, reference, SETTINGS), attack, SETTINGS).tolist()
    return found


class TestCopiesInTheReference:
    pictures = noise(60, 0)
    made = near_to(pictures[:20], 0.03, 1)
    copies = np.concatenate([pictures, pictures[:20], near_to(pictures[:20], 0.02, 2)])

    @pytest.mark.parametrize("attack", ATTACKS)
    def test_they_change_no_verdict(self, attack: str) -> None:
        planted = reference_of(self.copies, [*range(60), *range(20), *range(20)])
        assert (
            extracted(self.made, planted, attack) == extracted(self.made, singles(self.pictures), attack) == [True] * 20
        )

    def test_as_groups_of_their_own_they_would_hide_each_other(self) -> None:
        """The trap itself: by image instead of by group, what was planted twice is never extracted."""
        assert not any(extracted(self.made, singles(self.copies), "gap"))

    def test_no_arm_gains_by_what_stands_in_its_set(self) -> None:
        """Equal generations give equal rates, whether the arm's set held each canary eight times or once."""
        kinds, copies = ["canary"] * 20 + ["single"] * 40, [8] * 20 + [1] * 40
        planted = Reference(self.copies, np.array([*range(60), *range(20), *range(20)]), group_table(kinds, copies))
        plain = Reference(self.pictures, np.arange(60), group_table(kinds, copies))
        scores = []
        for reference in (planted, plain):
            matches = match(self.made, reference, SETTINGS)
            copied, verdicts = copied_group(matches, "gap"), extract(matches, "gap", SETTINGS)
            scores.append(score_arm(copied, reference, verdicts, np.ones(60, bool)))
        assert scores[0] == scores[1]
        assert scores[0].rates[0].hit == 20


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_generation_of_the_mirrored_copy_is_a_hit(attack: str) -> None:
    """One canonical image per group would miss it, and whoever keeps the mirrored copy would seem to leak nothing."""
    pictures = noise(60, 0)
    mirrored = np.ascontiguousarray(pictures[:1, :, :, ::-1])
    both = reference_of(np.concatenate([pictures, mirrored]), [*range(60), 0])
    made = near_to(mirrored, 0.03, 1)
    assert extracted(made, both, attack) == [True]
    assert copied_group(match(made, both, SETTINGS), attack).tolist() == [0]
    assert extracted(made, singles(pictures), attack) == [False]


def arm(canaries: float, single: float, held_out: float = 0.0) -> dict[int, ArmScore]:
    def count(share: float) -> Count:
        return Count.of(np.arange(200) < round(share * 200))

    one = ArmScore(
        (Rate(**vars(count(canaries)), near=False, k=32),),
        count(single),
        count(held_out),
        count(held_out),
        *(400, 0, 1000, 0, 0),
    )
    return dict.fromkeys(range(3), one)


class TestTheRegime:
    def test_in_order(self) -> None:
        assert cautions({"duplicated": arm(0.9, 0.0), "deduplicated": arm(0.05, 0.0)}) == []

    def test_full_memorization_is_told(self) -> None:
        (said,) = cautions({"duplicated": arm(1, 0.99), "deduplicated": arm(1, 0.99)})
        assert "full memorization" in said

    def test_no_memorization_is_told(self) -> None:
        (said,) = cautions({"duplicated": arm(0, 0), "deduplicated": arm(0, 0)})
        assert "nothing to lower" in said

    def test_false_positives_are_told(self) -> None:
        (said,) = cautions({"duplicated": arm(0.9, 0, 0.01), "deduplicated": arm(0.1, 0, 0.02)})
        assert said.startswith("deduplicated: 2 % of the held-out")

    @pytest.mark.parametrize(
        ("loss", "leaked", "told"),
        [((0.1, 0.2), 0.05, True), ((-0.1, 0.2), 0.05, False), ((0.1, 0.2), 0.9, False), ((None, None), 0.05, False)],
    )
    def test_an_arm_that_learned_less_is_told(
        self, loss: tuple[float | None, float | None], leaked: float, told: bool
    ) -> None:
        """An under-trained model would win: it leaks less."""
        comparisons = compare_arms({"duplicated": arm(0.9, 0.0), "deduplicated": arm(leaked, 0.0)})
        low, high = loss
        utility = {"arm": "deduplicated", "against": "duplicated", "base": 0.6, "value": 0.75, "low": low, "high": high}
        said = learned_less(
            [{**utility, "measure": measure} for measure in ("held_out_loss", "distribution_distance")], comparisons
        )
        assert said == ["deduplicated leaks less than duplicated and denoises held-out pictures worse (loss 0.600 -> "
                        "0.750): it may leak less because it learned less"] * told  # fmt: skip

    def test_displacement_is_told_and_shown_apart(self) -> None:
        """The cleaned set leaks its singles instead: as many groups in all, and yet the canaries' rate falls."""
        scores = {"duplicated": arm(0.5, 0.0), "deduplicated": arm(0.0, 0.5)}
        (said,) = cautions(scores)
        assert "deduplicated leaks more singles than duplicated (+50.0 points)" in said
        assert "extraction 50 % -> 0 %" in verdict(scores)
        assert "singles 0 % -> 50 %" in verdict(scores)


@pytest.mark.parametrize("attack", ATTACKS)
def test_flat_images_pass_for_nothing(attack: str) -> None:
    """Even where the training set holds the same flat image, which every criterion alone would call a copy."""
    flat = np.full((1, 1, 8, 8), 0.5, np.float32)
    made = np.clip(flat + np.random.default_rng(0).normal(0, 0.01, (5, 1, 8, 8)), 0, 1).astype(np.float32)
    reference = singles(np.concatenate([noise(60, 0), flat]))
    matches = match(made, reference, SETTINGS)
    assert matches["distance"].to_numpy().max() < 0.02
    assert not any(extracted(made, reference, attack))
    if attack not in ("template", "adaptive_image", "adaptive_generation"):
        assert all(extract(matches, attack, replace(SETTINGS, min_contrast=0.0)))


def test_a_shared_background_is_no_copy_by_tiles() -> None:
    """Different things before one white ground are near by l2 and far by the tile in which they differ."""
    scenes = np.ones((60, 1, 16, 16), np.float32)
    scenes[:, :, 4:8, 4:8] = noise(60, 0, side=4)
    made = scenes[:1].copy()
    made[:, :, 4:8, 4:8] = noise(1, 99, side=4)
    assert extracted(made, singles(scenes), "l2") == [True]
    assert extracted(made, singles(scenes), "tiled_l2") == [False]
    assert extracted(made, singles(scenes), "template") == [False]


def test_template_copies_are_missed_by_criteria_of_exact_copies() -> None:
    """The same layout with four tiles of sixteen filled in anew (Webster 2023): `template` sees it."""
    pictures = noise(60, 0, side=16)
    made = near_to(pictures[:10], 0.02, 1)
    made[:, :, 4:8] = noise(10, 2, side=16)[:, :, 4:8]
    found = {attack: sum(extracted(made, singles(pictures), attack)) for attack in ATTACKS}
    assert (found["gap"], found["l2"], found["tiled_l2"]) == (0, 0, 0)
    assert found["template"] == 10


def optimal_samples(images: Images, copies: npt.NDArray[np.float64], count: int, seed: int) -> Images:
    """Samples of the empirical-optimal denoiser, by Heun's steps of the probability flow (Karras et al. 2022).

    The denoised estimate is the mean of the training images, weighted by their copies and their likelihood.
    """
    data = torch.from_numpy(images).double().flatten(1)
    prior = torch.from_numpy(np.log(copies))
    rho = 7
    sigmas = torch.linspace(80 ** (1 / rho), 0.002 ** (1 / rho), 40, dtype=torch.float64) ** rho

    def slope(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        weights = torch.softmax(prior - torch.cdist(x, data).square() / (2 * sigma**2), 1)
        return (x - weights @ data) / sigma

    x = sigmas[0] * torch.from_numpy(np.random.default_rng(seed).normal(size=(count, data.shape[1])))
    for sigma, following in pairwise(sigmas):
        first = slope(x, sigma)
        step = x + (following - sigma) * first
        x = x + (following - sigma) * (first + slope(step, following)) / 2
    made: Images = x.clamp(0, 1).float().reshape(count, *images.shape[1:]).numpy()
    return made


@pytest.mark.parametrize("attack", ["gap", "l2", "tiled_l2", "template"])
def test_the_whole_path_reproduces_the_optimal_denoiser(attack: str) -> None:
    """It emits image i with probability k_i / N: one chi-squared test over all images, through match and score."""
    copies = np.repeat([1, 2, 4, 8], 5).astype(np.float64)
    kinds = ["single"] * 5 + ["canary"] * 15 + ["held_out"] * 20
    pictures = noise(40, 0)
    reference = Reference(pictures, np.arange(40), group_table(kinds, [*copies.astype(int).tolist(), *[0] * 20]))
    made = optimal_samples(pictures[:20], copies, 1200, seed=1)
    matches = match(made, reference, SETTINGS)
    verdicts, copied = extract(matches, attack, SETTINGS), copied_group(matches, attack)
    result = score_arm(copied, reference, verdicts, ~reference.is_kind("held_out"))
    assert verdicts.mean() > 0.99  # the last step ends a little beside the image, and now and then between two
    assert (result.held_out.hit, result.false_generations) == (0, 0)
    assert result.unique_extracted == 20
    emitted = np.bincount(copied[verdicts], minlength=40)[:20]
    assert emission_test(emitted, copies)["p"] > 0.001
    assert emission_test(emitted, np.ones(20))["p"] < 1e-9
