"""Outliers: how far each image stands from all others, and whether those that stand apart are extracted more.

Pictures that stand apart are memorized too (Carlini et al. 2023, arXiv 2301.13188). Copies are the stronger cause by
far, so the two are only told apart within one level of copies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt

from dedup.attack.reference import Reference
from dedup.attack.statistics import Hits, rate_interval
from dedup.errors import ConfigError

NEIGHBORS = 10
TERCILES = 3


def outlier_scores(descriptors: npt.NDArray[np.float32], neighbors: int = NEIGHBORS) -> npt.NDArray[np.float32]:
    """The mean Euclidean distance to the `neighbors` nearest others: (U, D) descriptors -> (U,) float32.

    Higher stands further apart. One descriptor per group, so that copies of a picture do not make it an inlier. Where
    there are fewer others, all count. Raises ConfigError for less than two descriptors.
    """
    if len(descriptors) < 2:
        raise ConfigError("an outlier stands apart from others, and there are none")
    k = min(neighbors + 1, len(descriptors))
    rows = np.ascontiguousarray(descriptors, np.float32)
    squared, found = faiss.knn(rows, rows, k)
    own = found == np.arange(len(rows))[:, None]
    own[~own.any(1), -1] = True  # a row with k twins may miss itself: any of them stands for it
    return np.asarray(np.sqrt(np.maximum(squared[~own].reshape(len(rows), k - 1), 0)).mean(1))


def extraction_by_outlier(reference: Reference, hit: Hits) -> list[dict[str, Any]]:
    """Extraction by terciles of the outlier score within each level: the rows of attack.json's `outliers`.

    `hit` (U,) bool: the groups extracted. Returns kind, near, k, tercile (0 the most ordinary, 2 the most apart),
    groups, hit. Ties are broken by group number. Levels of fewer than three groups are left out. Raises ConfigError
    where the reference has no outlier scores.
    """
    if reference.groups["outlier"].null_count:
        raise ConfigError("the reference's groups have no outlier scores: measure them before they are reported")
    score = reference.groups["outlier"].to_numpy()
    kind = reference.groups["kind"].to_numpy(zero_copy_only=False)
    levels = sorted(
        {
            level
            for level in zip(kind, reference.near, reference.copies, strict=True)
            if level[0] in ("single", "canary")
        }
    )
    rows = []
    for name, near, k in levels:
        members = np.flatnonzero((kind == name) & (reference.near == near) & (reference.copies == k))
        if len(members) < TERCILES:
            continue
        for tercile, part in enumerate(np.array_split(members[np.argsort(score[members], kind="stable")], TERCILES)):
            counts = {"tercile": tercile, "groups": len(part), "hit": int(hit[part].sum())}
            rows.append({"kind": str(name), "near": bool(near), "k": int(k), **counts})
    return rows


def pooled_terciles(by_seed: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of `extraction_by_outlier` of several seeds, level by level taken together: kind, near, k, tercile,
    seeds, groups, hit, rate, low, high. The interval is over seeds."""
    cells: dict[tuple[Any, ...], list[Hits]] = {}
    for rows in by_seed:
        for row in rows:
            cell = row["kind"], row["near"], row["k"], row["tercile"]
            cells.setdefault(cell, []).append(np.arange(row["groups"]) < row["hit"])
    pooled = []
    for cell, of_seeds in sorted(cells.items()):
        hits = np.stack(of_seeds)
        counts = {"seeds": len(hits), "groups": int(hits.size), "hit": int(hits.sum())}
        labels = dict(zip(("kind", "near", "k", "tercile"), cell, strict=True))
        pooled.append({**labels, **counts, **rate_interval(hits).to_json("rate")})
    return pooled
