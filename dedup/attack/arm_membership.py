"""Membership inference on the models of each arm, and arms compared: is what was cleaned also harder to recognise?

Singles and canaries are asked apart: cleaning takes copies away from canaries, and singles it leaves as they are. The
non-members of an arm are all pictures of the seed that its set holds no copy of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.attack.membership import ATTACKS, roc_of
from dedup.attack.scoring import BASELINES
from dedup.attack.shadows import members_of, stacked_losses
from dedup.attack.statistics import t_interval

POPULATIONS = ("single", "canary")
MEASURES = ("auc", "tpr_at_1%", "tpr_at_0.1%")


def membership_of_arm(
    attack: str, table: pa.Table, kind: npt.NDArray[Any], shadows: Sequence[pa.Table]
) -> dict[str, Any]:
    """`Roc.to_json` of each of POPULATIONS against the arm's non-members; None where there is none on a side.

    `table` and each of `shadows` are shadows.LOSSES_SCHEMA over the same rows, of the arm's model and of the seed's
    shadow models; `kind` (R,) is what each of the seed's samples is.
    """
    member = members_of(table)
    losses = stacked_losses([table])[0]
    shadow_losses, shadow_member = np.zeros((0, *losses.shape)), np.zeros((0, len(member)), bool)
    if shadows:
        shadow_losses, shadow_member = stacked_losses(shadows), np.stack([members_of(shadow) for shadow in shadows])
    scores = ATTACKS[attack](losses, shadow_losses, shadow_member)
    kinds = kind[table["row"].to_numpy()]
    shown: dict[str, Any] = {}
    for population in POPULATIONS:
        chosen = ~member | (kinds == population)
        told = member[chosen]
        shown[population] = roc_of(scores[chosen], told).to_json() if told.any() and not told.all() else None
    return shown


def compare_membership(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], baselines: Sequence[str] = BASELINES
) -> list[dict[str, Any]]:
    """Every arm against every baseline that was run, paired by seed: attack.json's `membership.comparisons`.

    `arms` has the entries of attack.json, by seed, with `membership` as {attack: membership_of_arm}. Returns arm,
    against, attack, of (a population), measure, seeds, value and base (means over the seeds that both could be told
    of), difference, low, high, method.
    """
    rows = []
    for against in (name for name in baselines if name in arms):
        for arm in (name for name in arms if name != against):
            for attack, population, measure in _told(arms[against]):
                own, base = (_values(arms[name], attack, population, measure) for name in (arm, against))
                seeds = sorted(own.keys() & base.keys())
                if not seeds:
                    continue
                pairs = np.array([[own[seed], base[seed]] for seed in seeds])
                difference = t_interval(pairs[:, 0] - pairs[:, 1])
                rows.append(
                    {"arm": arm, "against": against, "attack": attack, "of": population, "measure": measure}
                    | {"seeds": len(seeds), "value": float(pairs[:, 0].mean()), "base": float(pairs[:, 1].mean())}
                    | {**difference.to_json("difference"), "method": difference.method}
                )
    return rows


def _told(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    attacks = list(dict.fromkeys(attack for entry in entries for attack in entry["membership"]))
    return [(attack, of, measure) for attack in attacks for of in POPULATIONS for measure in MEASURES]


def _values(entries: Sequence[Mapping[str, Any]], attack: str, population: str, measure: str) -> dict[int, float]:
    """By seed, where it could be told."""
    curves = {entry["seed"]: entry["membership"].get(attack, {}).get(population) for entry in entries}
    return {seed: curve[measure] for seed, curve in curves.items() if curve and curve[measure] is not None}
