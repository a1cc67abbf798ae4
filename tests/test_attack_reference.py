"""A reference is checked when it is made."""

from __future__ import annotations

import dataclasses

import numpy as np
import pyarrow as pa
import pytest

from dedup.attack.reference import Reference
from dedup.errors import ConfigError
from tests.attack_makers import group_table


def groups(*kinds: str) -> pa.Table:
    return group_table(kinds, [{"canary": 4, "held_out": 0}.get(kind, 1) for kind in kinds])


def reference() -> Reference:
    images = np.linspace(0, 1, 4 * 16, dtype=np.float32).reshape(4, 1, 4, 4)
    return Reference(images, np.array([2, 0, 2, 1]), groups("canary", "single", "held_out"))


def test_groups_by_kind() -> None:
    assert reference().is_kind("held_out").tolist() == [False, False, True]
    assert reference().copies.tolist() == [4, 1, 0]
    assert reference().near.tolist() == [False] * 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": np.zeros((4, 4, 4), np.float32)}, "1 or 3, S, S"),
        ({"images": np.zeros((4, 2, 4, 4), np.float32)}, "1 or 3, S, S"),
        ({"images": np.zeros((4, 1, 4, 4))}, "float64"),
        ({"images": np.full((4, 1, 4, 4), 255, np.float32)}, r"in \[0, 1\]"),
        ({"images": np.full((4, 1, 4, 4), np.nan, np.float32)}, r"in \[0, 1\]"),
        ({"images": np.zeros((3, 1, 4, 4), np.float32)}, "3 images need as many"),
        ({"group": np.array([0, 0, 2, 2])}, "each of the 3 groups an image"),
        ({"group": np.array([0, 1, 2, 3])}, "each of the 3 groups an image"),
        ({"groups": groups("canary", "single", "twin")}, "twin"),
        ({"groups": groups("canary", "single", "held_out").take([1, 0, 2])}, "in this order"),
        ({"groups": groups("canary", "single", "held_out").drop_columns("outlier")}, "GROUPS_SCHEMA"),
        ({"groups": groups("canary"), "group": np.zeros(4, np.int64)}, "two groups at least, not 1"),
    ],
)
def test_what_is_no_reference_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        dataclasses.replace(reference(), **change)
