"""Membership inference: was this image in the training set?

    losses = denoising_losses(model, images, settings)              (N, T): a model's loss at each noise level
    scores = ATTACKS["lira"](losses, shadow_losses, shadow_member)  (N,), with shadow models; loss_threshold without
    roc_of(scores, member)                                          how well these tell members from others

Scores are higher for likelier members. LiRA asks how usual a loss is among models trained with the image and among
those trained without it (Carlini et al. 2022, "Membership inference attacks from first principles"). Losses of
diffusion models are noisy, so each is a mean over several noise draws and the mirrored image (Carlini et al. 2023,
arXiv 2301.13188).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats

from dedup.errors import ConfigError

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_NON_MEMBERS = 1000  # to tell a true-positive rate at a false-positive rate of 0.1 %
MIN_SHADOWS = 2  # with and without each image, for a mean of each


class Denoiser(Protocol):
    """A diffusion model as its denoised estimate (Karras et al. 2022, D(x; sigma))."""

    def __call__(self, noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        """`noisy` (B, C, S, S) scaled to [-1, 1] before the noise, `sigma` (B,), `labels` (B,) int64 or None ->
        (B, C, S, S)."""


@dataclass(frozen=True)
class MembershipSettings:
    """How losses are taken. Raises ConfigError for values that make no sense."""

    sigmas: tuple[float, ...] = (0.1, 0.2, 0.4, 0.8, 1.6)
    """Noise levels, in units of pixels scaled to [-1, 1]."""

    draws: int = 10
    """Noise draws per image and level, half of them on the mirrored image where flips is set."""

    flips: bool = True
    """Whether to take losses of the mirrored image as well."""

    seed: int = 0
    """Of the noise, the same for every model and image, so that models differ by what they learned alone."""

    batch: int = 256
    """Images per call of the model."""

    def __post_init__(self) -> None:
        if not self.sigmas or min(self.sigmas) <= 0:
            raise ConfigError(f"sigmas={self.sigmas}: give one noise level above 0 or more")
        if self.draws < 1 + self.flips:
            raise ConfigError(f"draws={self.draws}: choose {1 + self.flips} or more")
        if self.batch < 1:
            raise ConfigError(f"batch={self.batch}: choose 1 or more")


@torch.no_grad()
def denoising_losses(
    model: Denoiser,
    images: npt.NDArray[np.float32],
    settings: MembershipSettings,
    labels: npt.NDArray[np.int64] | None = None,
    device: str = "cpu",
) -> Floats:
    """Mean squared error of the denoised estimate: (N, C, S, S) in [0, 1] -> (N, T), one column per noise level.

    Lower is likelier a member. Each is a mean over `draws`; every image gets the same noise.
    """
    losses = np.zeros((len(images), len(settings.sigmas)))
    generator = torch.Generator().manual_seed(settings.seed)
    noises = torch.randn((settings.draws, *images.shape[1:]), generator=generator).to(device)
    for start in range(0, len(images), settings.batch):
        rows = slice(start, start + settings.batch)
        clean = torch.from_numpy(images[rows]).to(device) * 2 - 1
        label = None if labels is None else torch.from_numpy(labels[rows]).to(device)
        for column, sigma in enumerate(settings.sigmas):
            for draw, noise in enumerate(noises):
                target = clean.flip(-1) if settings.flips and draw % 2 else clean
                level = torch.full((len(target),), sigma, device=device)
                error = (model(target + sigma * noise, level, label) - target).square().flatten(1).mean(1)
                losses[rows, column] += error.double().cpu().numpy() / settings.draws
    return losses


def lira(losses: Floats, shadow_losses: Floats, shadow_member: Bools) -> Floats:
    """The log-likelihood ratio of membership: (N,) scores, higher for likelier members.

    `losses` (N, T) are the attacked model's, `shadow_losses` (M, N, T) those of M shadow models, `shadow_member` (M, N)
    which images each was trained on. For each image and noise level a Gaussian is fitted to the logarithms of the
    losses of the shadows with the image and of those without; variances are pooled over images, as the paper advises
    for few shadow models, and the levels' ratios are added. Raises ConfigError where an image lacks shadows on either
    side.
    """
    inside = shadow_member.sum(0)
    outside = len(shadow_member) - inside
    if min(inside.min(), outside.min()) < MIN_SHADOWS:
        raise ConfigError(
            f"an image is in only {inside.min()} shadow models, another out of only {outside.min()}, and {MIN_SHADOWS} "
            "each are needed: train more of them, each on a random half"
        )
    logs = np.log(np.maximum(shadow_losses, np.finfo(float).tiny))
    observed = np.log(np.maximum(losses, np.finfo(float).tiny))
    score = np.zeros(len(losses))
    for member, sign in ((shadow_member, 1), (~shadow_member, -1)):
        weight = member[:, :, None] / member.sum(0)[None, :, None]
        mean = (weight * logs).sum(0)
        squares = np.where(member[:, :, None], (logs - mean) ** 2, 0).sum((0, 1))
        spread = np.sqrt(np.maximum(squares / (member.sum() - member.shape[1]), 1e-12))
        score += sign * stats.norm.logpdf(observed, mean, spread).sum(1)
    return score


def loss_threshold(losses: Floats, shadow_losses: Floats, shadow_member: Bools) -> Floats:  # noqa: ARG001
    """The mean loss over noise levels, negated: (N,) scores, higher for likelier members. Asks no shadow models."""
    return np.asarray(-losses.mean(1))


ATTACKS: dict[str, Callable[[Floats, Floats, Bools], Floats]] = {
    "loss_threshold": loss_threshold,
    "lira": lira,
}
"""(losses (N, T) of the attacked model, those (M, N, T) of M shadow models, (M, N) which of these saw which image) ->
(N,) scores, higher for likelier members."""

NEEDS_SHADOWS = ("lira",)


@dataclass(frozen=True, eq=False)
class Roc:
    """A ROC curve: rates ascending from 0 to 1 over thresholds that fall. `auc` 0.5 is guessing."""

    false_positive_rate: Floats
    true_positive_rate: Floats
    auc: float
    members: int
    non_members: int

    def true_positives_at(self, false_positive_rate: float) -> float:
        """The largest true-positive rate whose false-positive rate is at most this."""
        at_most = self.false_positive_rate <= false_positive_rate + 1e-12
        return float(self.true_positive_rate[at_most].max())

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values. `tpr_at_0.1%` is null below MIN_NON_MEMBERS non-members: then it is the rate at no
        false positive at all, which says nothing about 0.1 %."""
        enough = self.non_members >= MIN_NON_MEMBERS
        return {
            "auc": self.auc,
            "tpr_at_1%": self.true_positives_at(0.01) if self.non_members >= MIN_NON_MEMBERS / 10 else None,
            "tpr_at_0.1%": self.true_positives_at(0.001) if enough else None,
            "members": self.members,
            "non_members": self.non_members,
        }


def roc_of(scores: Floats, member: Bools) -> Roc:
    """(N,) scores, higher for likelier members, and (N,) bool -> the curve; equal scores are one step.

    Raises ConfigError where there is no member or no non-member.
    """
    members, non_members = int(member.sum()), int((~member).sum())
    if not members or not non_members:
        raise ConfigError(f"{members} members and {non_members} non-members: a ROC curve needs both")
    order = np.argsort(-scores, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    true = np.concatenate([[0], np.cumsum(member[order])[ends] / members])
    false = np.concatenate([[0], np.cumsum(~member[order])[ends] / non_members])
    area = float(((true[1:] + true[:-1]) / 2 * np.diff(false)).sum())
    return Roc(false, true, area, members, non_members)
