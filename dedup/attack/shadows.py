"""Shadow models: each trained on a random half of the pictures, so that membership can be told from usual losses.

Every model is attacked in turn with all others of its seed as shadows, and the scores are pooled: with 2N pictures and
M models that gives M * N non-members a seed, enough for a true-positive rate at a false-positive rate of 0.1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.attack.membership import ATTACKS, Bools, Floats, Roc, roc_of
from dedup.attack.statistics import t_interval

LOSSES_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the seed's samples
        pa.field("member", pa.bool_(), nullable=False),  # whether the model was trained on it
        pa.field("losses", pa.list_(pa.float64()), nullable=False),  # one per noise level
    ]
)


def halves(models: int, pictures: int, seed: int) -> Bools:
    """(models, pictures) bool: which model is trained on which picture; each on half of the models, drawn at random.

    `models` is even.
    """
    order = np.random.default_rng((seed, 4)).random((models, pictures)).argsort(0)
    return np.asarray(order < models // 2)


def losses_table(rows: npt.NDArray[np.int64], member: Bools, losses: Floats) -> pa.Table:
    """LOSSES_SCHEMA of one model."""
    return pa.table({"row": rows, "member": member, "losses": losses.tolist()}, schema=LOSSES_SCHEMA)


def stacked_losses(tables: Sequence[pa.Table]) -> Floats:
    """(M, N, T) losses of M tables of LOSSES_SCHEMA over the same rows."""
    return np.stack([np.stack(table["losses"].to_pylist()) for table in tables])


def members_of(table: pa.Table) -> Bools:
    """(N,) which rows the model of a LOSSES_SCHEMA table was trained on."""
    return np.asarray(table["member"].to_numpy(zero_copy_only=False))


def membership_curves(by_seed: Sequence[Sequence[pa.Table]]) -> tuple[dict[str, Roc], list[dict[str, float]]]:
    """The ROC curve of each attack, pooled over all shadow models of all seeds, and by seed the AUC of each attack.

    `by_seed` has for each seed LOSSES_SCHEMA of each model, over the same rows in the same order. Each model is
    attacked with the others of its seed as shadows. Raises ConfigError where an image lacks some on either side.
    """
    scores: dict[str, list[Floats]] = {name: [] for name in ATTACKS}
    known: list[Bools] = []
    aucs = []
    for tables in by_seed:
        losses, member = stacked_losses(tables), np.stack([members_of(table) for table in tables])
        known.append(member.reshape(-1))
        for name, attack in ATTACKS.items():
            others = [np.arange(len(tables)) != model for model in range(len(tables))]
            told = [attack(losses[model], losses[rest], member[rest]) for model, rest in enumerate(others)]
            scores[name].append(np.concatenate(told))
        aucs.append({name: roc_of(some[-1], known[-1]).auc for name, some in scores.items()})
    return {name: roc_of(np.concatenate(some), np.concatenate(known)) for name, some in scores.items()}, aucs


def membership_report(by_seed: Sequence[Sequence[pa.Table]]) -> dict[str, Any]:
    """attack.json's `membership.shadows`: models of each seed, and of each attack the pooled curve, and its AUC with
    the interval over seeds."""
    curves, aucs = membership_curves(by_seed)
    report: dict[str, Any] = {"models": len(by_seed[0]), "seeds": len(by_seed)}
    for name, curve in curves.items():
        interval = t_interval(np.array([of_seed[name] for of_seed in aucs]))
        report[name] = curve.to_json() | {"by_seed": [of_seed[name] for of_seed in aucs]}
        report[name] |= interval.to_json("auc_over_seeds", "auc_")
    return report
