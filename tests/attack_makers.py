"""Small references and generations for the tests of the attack."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.attack.reference import GROUPS_SCHEMA, Reference

Images = npt.NDArray[np.float32]


def group_table(kinds: Sequence[str], copies: Sequence[int], near: Sequence[bool] | None = None) -> pa.Table:
    columns = [range(len(kinds)), kinds, copies, near or [False] * len(kinds), [None] * len(kinds)]
    arrays = [pa.array(list(column), field.type) for column, field in zip(columns, GROUPS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=GROUPS_SCHEMA)


def noise(count: int, seed: int, side: int = 8, channels: int = 1) -> Images:
    """Pictures of which no two are alike: their l2 is about 0.41."""
    return np.random.default_rng(seed).random((count, channels, side, side), np.float32)


def singles(images: Images) -> Reference:
    """Each image a group of its own."""
    count = len(images)
    return Reference(images, np.arange(count), group_table(["single"] * count, [1] * count))


def near_to(images: Images, amount: float, seed: int) -> Images:
    """The same pictures with noise of this standard deviation, about."""
    added = np.random.default_rng(seed).normal(0, amount, images.shape)
    return np.clip(images + added, 0, 1).astype(np.float32)
