"""Membership inference: losses by hand, LiRA on simulated shadows, ROC curves, shadow models' halves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from dedup.attack.arm_membership import compare_membership, membership_of_arm
from dedup.attack.membership import ATTACKS, MembershipSettings, Roc, denoising_losses, lira, roc_of
from dedup.attack.shadows import LOSSES_SCHEMA, halves, losses_table, membership_curves, membership_report
from dedup.errors import ConfigError
from tests.attack_makers import noise


def test_losses_are_the_mean_error_over_draws_at_each_noise_level() -> None:
    def identity(noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG001
        return noisy

    settings = MembershipSettings(sigmas=(0.5, 2.0), draws=400, batch=3)
    losses = denoising_losses(identity, noise(5, seed=0), settings)
    assert losses.shape == (5, 2)
    np.testing.assert_allclose(losses.mean(0), [0.25, 4.0], rtol=0.02)  # the error is the noise itself
    np.testing.assert_allclose(losses, denoising_losses(identity, noise(5, seed=0), settings))
    np.testing.assert_allclose(losses[0], losses[4])  # every image gets the same noise


def test_losses_know_labels_and_mirrored_images() -> None:
    images = noise(2, seed=0)
    asked: list[torch.Tensor] = []

    def model(noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:  # noqa: ARG001
        assert labels is not None
        asked.append(noisy)
        return labels.view(-1, 1, 1, 1).expand_as(noisy).float()

    losses = denoising_losses(model, images, MembershipSettings(sigmas=(1e-9,), draws=2), np.array([0, 1]))
    np.testing.assert_allclose(asked[1].numpy(), asked[0].numpy()[..., ::-1], atol=1e-6)
    expected = [((images[i] * 2 - 1 - i) ** 2).mean() for i in range(2)]
    np.testing.assert_allclose(losses[:, 0], expected, rtol=1e-5)


def simulated(models: int, pictures: int, seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Losses (M, N, 2) that membership lowers a little beside what sets pictures apart, and who is a member."""
    rng = np.random.default_rng(seed)
    member = halves(models, pictures, seed)
    difficulty = rng.normal(0, 1, (1, pictures, 1))
    logs = difficulty - 0.3 * member[:, :, None] + rng.normal(0, 0.15, (models, pictures, 2))
    return np.exp(logs), member


def test_lira_sees_through_pictures_that_are_easy_for_every_model() -> None:
    losses, member = simulated(17 + 1, 800)
    scores = lira(losses[0], losses[1:], member[1:])
    assert roc_of(scores, member[0]).auc > 0.9
    assert roc_of(-losses[0].mean(1), member[0]).auc < 0.7


def test_lira_is_the_ratio_of_two_gaussians() -> None:
    rng = np.random.default_rng(0)
    member = halves(6, 3, 0)
    logs = rng.normal(0, 1, (6, 3, 1))
    inside, outside = (np.stack([logs[side[:, i], i, 0] for i in range(3)]) for side in (member, ~member))
    spread = [
        np.sqrt(((part - part.mean(1, keepdims=True)) ** 2).sum() / (part.size - 3)) for part in (inside, outside)
    ]
    observed = rng.normal(0, 1, (3, 1))
    expected = stats.norm.logpdf(observed[:, 0], inside.mean(1), spread[0])
    expected -= stats.norm.logpdf(observed[:, 0], outside.mean(1), spread[1])
    np.testing.assert_allclose(lira(np.exp(observed), np.exp(logs), member), expected)


def test_too_few_shadows_are_refused() -> None:
    losses, member = simulated(3, 5)
    with pytest.raises(ConfigError, match="train more of them"):
        lira(losses[0], losses[1:], member[1:])


def test_a_curve_by_hand() -> None:
    # Falling scores: member, non-member and member at one score, non-member.
    curve = roc_of(np.array([3.0, 2.0, 2.0, 1.0]), np.array([True, False, True, False]))
    np.testing.assert_allclose(curve.false_positive_rate, [0, 0, 0.5, 1])
    np.testing.assert_allclose(curve.true_positive_rate, [0, 0.5, 1, 1])
    assert curve.auc == pytest.approx(0.875)
    assert curve.true_positives_at(0.49) == 0.5
    assert curve.true_positives_at(0.5) == 1
    with pytest.raises(ConfigError, match="needs both"):
        roc_of(np.zeros(2), np.array([True, True]))


@pytest.mark.parametrize(("non_members", "at_1", "at_01"), [(99, False, False), (100, True, False), (1000, True, True)])
def test_rates_that_too_few_non_members_cannot_tell_are_null(non_members: int, at_1: bool, at_01: bool) -> None:
    member = np.arange(non_members + 50) < 50
    shown = roc_of(np.random.default_rng(0).random(len(member)), member).to_json()
    assert (shown["tpr_at_1%"] is not None, shown["tpr_at_0.1%"] is not None) == (at_1, at_01)


def test_each_picture_is_in_half_of_the_models_and_models_differ() -> None:
    member = halves(8, 500, seed=1)
    assert (member.sum(0) == 4).all()
    assert len({row.tobytes() for row in member}) == 8
    assert abs(member.mean(1) - 0.5).max() < 0.1
    assert np.array_equal(member, halves(8, 500, seed=1))
    assert not np.array_equal(member, halves(8, 500, seed=2))


def test_every_model_is_attacked_and_scores_are_pooled() -> None:
    rows = np.arange(300)
    by_seed = []
    for seed in range(3):
        losses, member = simulated(8, 300, seed)
        by_seed.append([losses_table(rows, member[model], losses[model]) for model in range(8)])
    assert all(table.schema.equals(LOSSES_SCHEMA) for tables in by_seed for table in tables)
    curves, aucs = membership_curves(by_seed)
    assert curves["lira"].members == curves["lira"].non_members == 3 * 8 * 150
    assert curves["lira"].auc == pytest.approx(np.mean([auc["lira"] for auc in aucs]), abs=0.05)
    assert curves["lira"].auc > curves["loss_threshold"].auc + 0.1
    report = membership_report(by_seed)
    assert report["lira"]["tpr_at_0.1%"] is not None
    assert (report["models"], report["seeds"], len(report["lira"]["by_seed"])) == (8, 3, 3)
    assert report["lira"]["auc_low"] <= report["lira"]["auc_over_seeds"] <= report["lira"]["auc_high"]


@pytest.mark.parametrize("change", [{"sigmas": ()}, {"sigmas": (0.0,)}, {"draws": 1}, {"batch": 0}])
def test_unusable_settings_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="|".join(change)):
        MembershipSettings(**change)


def test_a_curve_is_what_its_counts_say() -> None:
    curve = Roc(np.array([0.0, 1.0]), np.array([0.0, 1.0]), 0.5, 3, 4)
    assert curve.to_json() == {"auc": 0.5, "tpr_at_1%": None, "tpr_at_0.1%": None, "members": 3, "non_members": 4}


@pytest.mark.parametrize("attack", ATTACKS)
class TestEveryAttackOnMembership:
    def test_scores_are_higher_for_members(self, attack: str) -> None:
        rng = np.random.default_rng(0)
        member = halves(9 + 1, 400, 0)
        losses = np.exp(-1.0 * member[:, :, None] + rng.normal(0, 0.3, (10, 400, 2)))
        scores = ATTACKS[attack](losses[0], losses[1:], member[1:])
        assert scores.shape == (400,)
        assert roc_of(scores, member[0]).auc > 0.9

    def test_arms_are_asked_of_singles_and_canaries_apart(self, attack: str) -> None:
        """Singles leak nothing here and canaries much, against the same pictures that the arm has not seen."""
        rng = np.random.default_rng(0)
        kind = np.array(["single"] * 100 + ["canary"] * 50 + ["held_out"] * 50)
        trained = np.isin(kind, ["single", "canary"])
        member = halves(8, 200, 0)
        logs = rng.normal(0, 0.3, (8, 200, 1)) - 0.5 * member[:, :, None]
        shadows = [losses_table(np.arange(200), member[m], np.exp(logs[m])) for m in range(8)]
        own = rng.normal(0, 0.3, (200, 1)) - 1.0 * (kind == "canary")[:, None]
        table = losses_table(np.arange(200), trained, np.exp(own))
        shown = membership_of_arm(attack, table, kind, shadows)
        assert (shown["single"]["members"], shown["canary"]["members"]) == (100, 50)
        assert shown["single"]["non_members"] == shown["canary"]["non_members"] == 50
        assert shown["canary"]["auc"] > 0.9
        assert 0.35 < shown["single"]["auc"] < 0.65


def test_arms_are_compared_by_membership_paired_by_seed() -> None:
    def entries(*aucs: float) -> list[dict[str, Any]]:
        rates = {"tpr_at_1%": 0.1, "tpr_at_0.1%": None}
        return [
            {"seed": seed, "membership": {"lira": {"single": None, "canary": {"auc": auc, **rates}}}}
            for seed, auc in enumerate(aucs)
        ]

    rows = compare_membership({"duplicated": entries(0.8, 0.9, 0.7), "deduplicated": entries(0.6, 0.7, 0.5)})
    assert [(row["of"], row["measure"]) for row in rows] == [("canary", "auc"), ("canary", "tpr_at_1%")]
    auc = rows[0]
    assert (auc["attack"], auc["arm"], auc["against"], auc["seeds"]) == ("lira", "deduplicated", "duplicated", 3)
    assert (auc["base"], auc["value"]) == (pytest.approx(0.8), pytest.approx(0.6))
    assert auc["difference"] == pytest.approx(-0.2)
    # Paired: the seeds differ, their differences do not.
    assert (auc["low"], auc["high"]) == pytest.approx((-0.2, -0.2))
    two = compare_membership({"duplicated": entries(0.8, 0.9), "deduplicated": entries(0.6, 0.7)})
    assert two[0]["low"] is None
