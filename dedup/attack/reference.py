"""The reference: what the generations of every arm are compared with.

All arms are scored against the same groups of images, whatever each arm was trained on. A group holds every planted
variant of one picture (the original, its exact copies once, its mirrored or bordered copies), so that a generation of
any of them is a generation of that picture, and a picture that was planted many times is no harder to tell from its
neighbours than one planted once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.errors import ConfigError

KINDS = (
    "single",  # occurs once in the training set
    "canary",  # planted `copies` times
    "held_out",  # never trained on: what is "extracted" of these is a false positive
    "refill",  # fresh pictures that bring a cleaned set back to its old size
)

GROUPS_SCHEMA = pa.schema(
    [
        pa.field("group", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # one of KINDS
        pa.field("copies", pa.int32(), nullable=False),  # k, in the set before cleaning; 0 for held_out
        pa.field("near", pa.bool_(), nullable=False),  # of near copies instead of exact ones: a canary, or its twin
        pa.field("outlier", pa.float32()),  # higher stands further apart; null until measured
    ]
)


@dataclass(frozen=True, eq=False)
class Reference:
    """V variants of U groups.

    `images` (V, C, S, S) float32 in [0, 1], C 1 or 3; `group` (V,) int64, the group of each variant; `groups` has one
    row per group, in the order 0..U-1, as GROUPS_SCHEMA. Each group has at least one variant. Two groups at least,
    because a gap is one between groups. Raises ConfigError where one of these does not hold.

    `rival` (V,) bool, by default all: the variants that other groups are told apart from. The versions of held-out
    twins are none: they can be hit, but as second-nearest they would hide copies of what was trained on.
    """

    images: npt.NDArray[np.float32]
    group: npt.NDArray[np.int64]
    groups: pa.Table
    rival: npt.NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or self.images.shape[1] not in (1, 3) or self.images.dtype != np.float32:
            raise ConfigError(
                f"reference images must be (V, 1 or 3, S, S) float32, not {self.images.shape} {self.images.dtype}"
            )
        if len(self.images) and not (self.images.min() >= 0 and self.images.max() <= 1):
            raise ConfigError("reference images must lie in [0, 1]")
        if self.groups.schema != GROUPS_SCHEMA:
            raise ConfigError(f"the table of groups has another schema than GROUPS_SCHEMA: {self.groups.schema}")
        count = len(self.groups)
        if not np.array_equal(self.groups["group"].to_numpy(), np.arange(count)):
            raise ConfigError("the rows of the table of groups must be the groups 0, 1, 2, ... in this order")
        if unknown := set(self.groups["kind"].to_pylist()) - set(KINDS):
            raise ConfigError(f"unknown kind of group {sorted(unknown)}: known are {', '.join(KINDS)}")
        if self.group.shape != (len(self.images),) or not np.array_equal(np.unique(self.group), np.arange(count)):
            raise ConfigError(
                f"{len(self.images)} images need as many group numbers, and each of the {count} groups an image"
            )
        if len(np.unique(self.group[self.rivals])) < count:
            raise ConfigError(f"each of the {count} groups needs an image that is a rival of others")
        if count < 2:
            raise ConfigError(f"a reference needs two groups at least, not {count}")

    @property
    def rivals(self) -> npt.NDArray[np.bool_]:
        """(V,) bool, see `rival`."""
        return np.ones(len(self.images), bool) if self.rival is None else self.rival

    def is_kind(self, kind: str) -> npt.NDArray[np.bool_]:
        """(U,) bool: the groups of this kind."""
        return np.asarray(self.groups["kind"].to_numpy(zero_copy_only=False) == kind)

    @property
    def copies(self) -> npt.NDArray[np.int32]:
        """(U,) int32: how often each group occurs in the set before cleaning."""
        return np.asarray(self.groups["copies"].to_numpy())

    @property
    def near(self) -> npt.NDArray[np.bool_]:
        """(U,) bool: the canaries of near copies, and their held-out twins."""
        return np.asarray(self.groups["near"].to_numpy(zero_copy_only=False))
