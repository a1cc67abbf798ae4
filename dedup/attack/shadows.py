"""Shadow models: each trained on a random half of the pictures, so that membership can be told from usual losses.

Every model is attacked in turn with all others as its shadows, and the scores are pooled: with 2N pictures and M models
that gives M * N non-members, enough for a true-positive rate at a false-positive rate of 0.1 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.attack.membership import Bools, Floats, Roc, lira, roc_of

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


def membership_curves(tables: Sequence[pa.Table]) -> tuple[dict[str, Roc], list[float]]:
    """The pooled ROC curves of LiRA and of the loss threshold, and LiRA's AUC of each model attacked.

    `tables` has LOSSES_SCHEMA of each model, over the same rows in the same order. Raises ConfigError where an image
    lacks shadow models on either side.
    """
    losses = np.stack([np.stack(table["losses"].to_pylist()) for table in tables])
    member = np.stack([table["member"].to_numpy(zero_copy_only=False) for table in tables])
    likelihood = []
    for model in range(len(tables)):
        others = np.arange(len(tables)) != model
        likelihood.append(lira(losses[model], losses[others], member[others]))
    curves = {
        "LiRA": roc_of(np.concatenate(likelihood), member.reshape(-1)),
        "loss threshold": roc_of(-losses.mean(2).reshape(-1), member.reshape(-1)),
    }
    by_model = [roc_of(scores, known).auc for scores, known in zip(likelihood, member, strict=True)]
    return curves, by_model


def membership_report(tables: Sequence[pa.Table]) -> dict[str, Any]:
    """attack.json's `membership`."""
    curves, by_model = membership_curves(tables)
    return {"models": len(tables), "lira_auc_by_model": by_model} | {
        name: curve.to_json() for name, curve in curves.items()
    }
