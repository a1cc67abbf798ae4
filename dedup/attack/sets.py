"""Training sets with a known answer: who is single, who is planted how often, who is held out; and the arms.

    pool ──check──▶ enough? ──draw(seed)──▶ planted samples ──dedup──▶ SeedSet ──ARMS──▶ rows an arm trains on

Which picture becomes what is drawn anew for each seed. Canaries at each level of copies come in two kinds: exact copies
of one file, and near copies (recompressed, cropped, mirrored, ...), as their held-out twins have.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.attack.pool import Picture, Pool, ViewSettings, as_floats, view
from dedup.attack.reference import GROUPS_SCHEMA, Reference
from dedup.errors import ConfigError
from dedup.images import decode
from dedup.transforms import TRANSFORMS, Encoded

NEAR_TRANSFORMS = ("recompress", "crop_90", "mirror", "shrink", "border", "grey")

SAMPLES_SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("group", pa.int64(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # one of reference.KINDS
        pa.field("copies", pa.int32(), nullable=False),  # k of its group; 0 for held_out
        pa.field("near", pa.bool_(), nullable=False),  # a canary of near copies, or the held-out twin of one
        pa.field("transform", pa.string(), nullable=False),  # exact for a group's first picture and exact copies
        pa.field("source", pa.string(), nullable=False),  # key of the pool's picture
        pa.field("caption", pa.string(), nullable=False),
        pa.field("outlier", pa.float32(), nullable=False),  # of its picture in the pool, see outliers.outlier_scores
        pa.field("kept", pa.bool_()),  # by the run that cleaned the set; null for held_out and refill
        pa.field("image", pa.binary(), nullable=False),  # C*S*S bytes, as a model sees it
    ]
)


@dataclass(frozen=True)
class PlanSettings:
    """What a set holds. Raises ConfigError for what cannot be planted."""

    levels: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    """How often canaries occur."""

    exact: int = 6
    """Canaries at each level whose copies are byte-identical."""

    near: int = 3
    """Canaries at each level above 1 whose copies are recompressed, cropped, mirrored, shrunk, bordered or grey."""

    singles: int = 450
    """Pictures that occur once."""

    def __post_init__(self) -> None:
        if not self.levels or min(self.levels) < 1 or list(self.levels) != sorted(set(self.levels)):
            raise ConfigError(f"levels={self.levels}: must be rising numbers of copies from 1, as 1,2,4,8")
        if self.exact < 1:
            raise ConfigError(f"exact={self.exact}: must be at least 1")
        if self.near < 0 or self.singles < 0:
            raise ConfigError(f"near={self.near}, singles={self.singles}: must not be negative")

    def canaries(self) -> list[tuple[int, bool]]:
        """(copies, near) of each canary."""
        exact = [(k, False) for k in self.levels for _ in range(self.exact)]
        return exact + [(k, True) for k in self.levels if k > 1 for _ in range(self.near)]

    @property
    def redundant(self) -> int:
        """Copies beyond the first: what ideal cleaning removes, and refill replaces."""
        return sum(k - 1 for k, _ in self.canaries())

    @property
    def needed(self) -> int:
        """Distinct pictures: singles, canaries, as many held out, and refill."""
        return self.singles + 2 * len(self.canaries()) + self.redundant

    def parts(self) -> str:
        """`needed`, spelt out."""
        canaries = len(self.canaries())
        return f"{self.singles:,} singles, {canaries:,} canaries, {canaries:,} held out, {self.redundant:,} refill"


def check(pool: Pool, plan: PlanSettings) -> None:
    """Raises ConfigError, with a plan that fits, where the pool has too few distinct pictures."""
    if len(pool) >= plan.needed:
        return
    smaller = fitting(len(pool), plan)
    proposal = "no plan fits: give more pictures"
    if smaller is not None:
        levels = " ".join(f"--levels {level}" for level in smaller.levels)
        proposal = (
            f"these fit: --singles {smaller.singles} --exact {smaller.exact} --near {smaller.near} {levels}; "
            "or give more pictures"
        )
    raise ConfigError(
        f"{plan.needed:,} distinct pictures are needed ({plan.parts()}), and there are {len(pool):,} "
        f"(of the others: {pool.why()}); {proposal}"
    )


def fitting(available: int, plan: PlanSettings) -> PlanSettings | None:
    """The largest smaller plan that needs at most `available` pictures: fewer canaries first, then fewer levels.

    At least a third of what it needs are singles, as in a set that is mostly no copies. None where nothing fits.
    """
    for last in range(len(plan.levels), 0, -1):
        for exact in range(plan.exact, 0, -1):
            near = round(plan.near * exact / plan.exact)
            smaller = PlanSettings(plan.levels[:last], exact, near, singles=0)
            singles = min(plan.singles, available - smaller.needed)
            if singles >= min(plan.singles, smaller.needed // 2):
                return dataclasses.replace(smaller, singles=singles)
    return None


@dataclass(frozen=True)
class PlantedSample:
    """One sample of a set: a picture, and the part it plays."""

    picture: Picture
    source: str
    group: int
    kind: str
    copies: int
    near: bool = False
    transform: str = "exact"


def draw(pool: Pool, plan: PlanSettings, seed: int, side: int) -> list[PlantedSample]:
    """The samples of one seed: singles and canaries with all copies (the set before cleaning), held-out ones, refill.

    The pool must be large enough (`check`), its pictures of at least `side` pixels. A near canary of k copies, and its
    held-out twin, is an original and k - 1 copies by NEAR_TRANSFORMS in turn, of at least `side` pixels, too.
    """
    rng = np.random.default_rng((seed, 0))
    pictures = iter([pool.pictures[index] for index in rng.permutation(len(pool))])
    canaries = plan.canaries()
    roles = [("single", 1, 1, False)] * plan.singles
    roles += [("canary", copies, copies, near) for copies, near in canaries]
    roles += [("held_out", 0, copies if near else 1, near) for copies, near in canaries]
    roles += [("refill", 1, 1, False)] * plan.redundant
    samples: list[PlantedSample] = []
    for group, (kind, copies, occurrences, near) in enumerate(roles):
        picture = next(pictures)
        for copy in range(occurrences):
            key = f"{group:06d}-{copy:04d}"
            transform, image = "exact", picture.image
            if near and copy:
                turn = (group + copy) % len(NEAR_TRANSFORMS)
                transforms = (*NEAR_TRANSFORMS[turn:], *NEAR_TRANSFORMS[:turn])
                transform, image = _near_copy(image, transforms, np.random.default_rng((seed, 1, group, copy)), side)
            planted = Picture(key, image, picture.caption)
            samples.append(PlantedSample(planted, picture.key, group, kind, copies, near, transform))
    return samples


def _near_copy(image: Encoded, transforms: Sequence[str], rng: np.random.Generator, side: int) -> tuple[str, Encoded]:
    """The first of these transforms that leaves `side` pixels, and what it makes of the picture."""
    original = decode(image.data, min_side=0).rgb
    for transform in transforms:
        copy = TRANSFORMS[transform](original, rng)
        if min(decode(copy.data, min_side=0).rgb.size) >= side:
            return transform, copy
    raise ConfigError(f"no near copy of a picture of {original.width}x{original.height} has {side} pixels a side")


def in_training_set(sample: PlantedSample) -> bool:
    """Whether it is part of the set before cleaning."""
    return sample.kind in ("single", "canary")


def shard_members(samples: Sequence[PlantedSample], shards: int, seed: int) -> Iterator[list[tuple[str, bytes]]]:
    """The set before cleaning as the members of `shards` webdataset shards, shuffled, captions included."""
    training = [sample for sample in samples if in_training_set(sample)]
    order = np.random.default_rng((seed, 2)).permutation(len(training))
    for number in range(shards):
        members = []
        for index in order[number::shards]:
            picture = training[index].picture
            members.append((f"{picture.key}.{picture.image.extension}", picture.image.data))
            members.append((f"{picture.key}.txt", picture.caption.encode()))
        yield members


def samples_table(
    samples: Sequence[PlantedSample], kept: Collection[str], outlier: Mapping[str, float], settings: ViewSettings
) -> pa.Table:
    """SAMPLES_SCHEMA: all samples of a seed as models see them.

    `kept` are the keys that cleaning kept, `outlier` has the score of each of the pool's pictures by its key.
    Raises ConfigError for a sample that is smaller than models' pictures.
    """
    pixels = [view(decode(sample.picture.image.data, min_side=0).rgb, settings).tobytes() for sample in samples]
    columns = {
        "key": [sample.picture.key for sample in samples],
        "group": [sample.group for sample in samples],
        "kind": [sample.kind for sample in samples],
        "copies": [sample.copies for sample in samples],
        "near": [sample.near for sample in samples],
        "transform": [sample.transform for sample in samples],
        "source": [sample.source for sample in samples],
        "caption": [sample.picture.caption for sample in samples],
        "outlier": [outlier[sample.source] for sample in samples],
        "kept": [sample.picture.key in kept if in_training_set(sample) else None for sample in samples],
        "image": pixels,
    }
    return pa.table(columns, schema=SAMPLES_SCHEMA)


class SeedSet:
    """The samples of one seed, by row of `table` (SAMPLES_SCHEMA), and what is derived from them.

    `images` (R, C, S, S) float32 in [0, 1]; `group` (R,) int64.
    """

    def __init__(self, table: pa.Table, shape: tuple[int, int, int], seed: int) -> None:
        self.table = table
        self.seed = seed
        flat = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8)
        self.images = as_floats(flat.reshape(len(table), *shape))
        self.group: npt.NDArray[np.int64] = table["group"].to_numpy()
        self.kind = table["kind"].to_numpy(zero_copy_only=False)
        self.kept = np.asarray(table["kept"].to_pylist(), dtype=object) == np.True_

    def rows(self, *kinds: str) -> npt.NDArray[np.int64]:
        """The rows of these kinds."""
        return np.flatnonzero(np.isin(self.kind, kinds))

    def first_of_group(self) -> npt.NDArray[np.bool_]:
        """(R,) bool: the picture that others of its group are copies of."""
        first = np.zeros(len(self.group), bool)
        first[np.unique(self.group, return_index=True)[1]] = True
        return first

    def reference(self) -> Reference:
        """Every different picture of every group; the near copies of held-out twins are no rivals."""
        variants: dict[tuple[int, bytes], int] = {}
        for row, (group, image) in enumerate(zip(self.group.tolist(), self.table["image"].to_pylist(), strict=True)):
            variants.setdefault((group, image), row)
        rows = np.array(list(variants.values()))
        first = self.first_of_group()
        groups = self.table.filter(pa.array(first)).select(GROUPS_SCHEMA.names).cast(GROUPS_SCHEMA)
        rival = first[rows] | (self.kind[rows] != "held_out")
        return Reference(self.images[rows], self.group[rows], groups.combine_chunks(), rival)

    def present(self, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(U,) bool: the groups of which `rows` hold a picture."""
        return np.bincount(self.group[rows], minlength=int(self.group.max()) + 1) > 0

    def labels(self, captions: str) -> tuple[npt.NDArray[np.int64], int]:
        """(R,) labels that a conditional model is trained on, and how many there are; see CAPTIONS."""
        return CAPTIONS[captions](self)


def _as_labels(values: Sequence[object]) -> tuple[npt.NDArray[np.int64], int]:
    names, labels = np.unique(np.asarray(values, dtype=str), return_inverse=True)
    return labels.astype(np.int64).reshape(-1), len(names)


CAPTIONS: dict[str, Callable[[SeedSet], tuple[npt.NDArray[np.int64], int]]] = {
    "none": lambda seed_set: (np.zeros(len(seed_set.group), np.int64), 0),
    "shared": lambda seed_set: (np.zeros(len(seed_set.group), np.int64), 1),
    "own": lambda seed_set: _as_labels(seed_set.table["caption"].to_pylist()),
    "unique": lambda seed_set: (seed_set.group, int(seed_set.group.max()) + 1),
}
"""What a model is told of a picture: nothing; one caption for all; the caption that came with it (a class, often); or
one that no other picture has, shared by its copies. Captions matter for memorization as much as copies do (Somepalli et
al. 2023, arXiv 2305.20086)."""


def _deduplicated(seed_set: SeedSet) -> npt.NDArray[np.int64]:
    return np.flatnonzero(seed_set.kept)


def _refilled(seed_set: SeedSet) -> npt.NDArray[np.int64]:
    removed = len(seed_set.rows("single", "canary")) - int(seed_set.kept.sum())
    return np.concatenate([_deduplicated(seed_set), seed_set.rows("refill")[:removed]])


def _oracle(seed_set: SeedSet) -> npt.NDArray[np.int64]:
    return np.intersect1d(seed_set.rows("single", "canary"), np.flatnonzero(seed_set.first_of_group()))


def _random_drop(seed_set: SeedSet) -> npt.NDArray[np.int64]:
    rng = np.random.default_rng((seed_set.seed, 3))
    return np.sort(rng.choice(seed_set.rows("single", "canary"), int(seed_set.kept.sum()), replace=False))


ARMS: dict[str, Callable[[SeedSet], npt.NDArray[np.int64]]] = {
    "duplicated": lambda seed_set: seed_set.rows("single", "canary"),
    "deduplicated": _deduplicated,
    "deduplicated+refill": _refilled,
    "oracle": _oracle,
    "random-drop": _random_drop,
}
"""The rows that each arm trains on: the set as it is; cleaned by the pipeline; cleaned, then refilled to the old size
with fresh pictures; cleaned by the planted truth; and as many removed as cleaning did, but at random."""
