"""What stands apart, and extraction by it within each level of copies."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dedup.attack.outliers import extraction_by_outlier, outlier_scores, pooled_terciles
from dedup.attack.reference import GROUPS_SCHEMA, Reference
from dedup.errors import ConfigError
from tests.attack_makers import group_table, noise


def test_by_hand() -> None:
    points = np.array([[0, 0], [3, 4], [0, 1], [0, 10]], np.float32)
    expected = [(1 + 5) / 2, (5 + 18**0.5) / 2, (1 + 18**0.5) / 2, (45**0.5 + 9) / 2]
    assert outlier_scores(points, 2).tolist() == pytest.approx(expected)
    assert outlier_scores(points, 99)[0] == pytest.approx(16 / 3)


def test_against_brute_force() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    every = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(2))
    np.testing.assert_allclose(outlier_scores(rows, 10), np.sort(every, 1)[:, 1:11].mean(1), rtol=1e-4)


def test_twins_do_not_hide_each_other() -> None:
    rows = np.concatenate([np.zeros((20, 4)), np.ones((1, 4))]).astype(np.float32)
    assert outlier_scores(rows, 5).tolist() == pytest.approx([0] * 20 + [2])


def test_an_outlier_needs_others() -> None:
    with pytest.raises(ConfigError, match="there are none"):
        outlier_scores(np.zeros((1, 4), np.float32))


def with_scores(scores: list[float]) -> Reference:
    kinds = ["single"] * 6 + ["canary"] * 3 + ["canary"] * 2 + ["held_out"]
    table = group_table(kinds, [1] * 6 + [32] * 3 + [4] * 2 + [0])
    place = GROUPS_SCHEMA.get_field_index("outlier")
    return Reference(
        noise(12, 0),
        np.arange(12),
        table.set_column(place, GROUPS_SCHEMA.field("outlier"), pa.array(scores, pa.float32())),
    )


def test_terciles_are_taken_within_each_level() -> None:
    hit = np.isin(np.arange(12), [5, 0, 6, 7, 8, 9])
    rows = extraction_by_outlier(with_scores([6, 1, 2, 3, 4, 5, 9, 8, 7, 1, 1, 1]), hit)
    assert [(row["kind"], row["k"], row["tercile"], row["groups"], row["hit"]) for row in rows] == [
        *(("canary", 32, tercile, 1, 1) for tercile in range(3)),  # two canaries of 4 copies are too few
        ("single", 1, 0, 2, 0),
        ("single", 1, 1, 2, 0),
        ("single", 1, 2, 2, 2),  # groups 5 and 0, which stand furthest apart
    ]


def test_without_scores_it_is_refused() -> None:
    reference = Reference(noise(3, 0), np.arange(3), group_table(["single"] * 3, [1] * 3))
    with pytest.raises(ConfigError, match="no outlier scores"):
        extraction_by_outlier(reference, np.zeros(3, bool))


def test_terciles_are_pooled_over_seeds_within_each_level() -> None:
    def row(kind: str, k: int, tercile: int, hit: int) -> dict[str, Any]:
        return {"kind": kind, "near": False, "k": k, "tercile": tercile, "groups": 4, "hit": hit}

    by_seed = [[row("canary", 8, 0, hit), row("canary", 8, 2, 4), row("single", 1, 0, 0)] for hit in (1, 2, 0)]
    pooled = {(row["kind"], row["k"], row["tercile"]): row for row in pooled_terciles(by_seed)}
    assert len(pooled) == 3
    ordinary = pooled["canary", 8, 0]
    assert (ordinary["seeds"], ordinary["groups"], ordinary["hit"], ordinary["rate"]) == (3, 12, 3, 0.25)
    assert 0 <= ordinary["low"] < 0.25 < ordinary["high"] < 1
    assert pooled["canary", 8, 2]["low"] < pooled["canary", 8, 2]["rate"] == 1
    assert pooled["single", 1, 0]["high"] > 0
