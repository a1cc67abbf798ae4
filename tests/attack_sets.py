"""Small planted sets for the tests of the attack's models and arms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dedup.attack.pool import Picture, Pool, ViewSettings, encode_png
from dedup.attack.profiles import PROFILES, override
from dedup.attack.sets import PlanSettings, PlantedSample, SeedSet, draw, in_training_set, samples_table
from tests.shard_makers import picture

VIEW = ViewSettings(side=8, min_distance=0.0, min_contrast=0.0)
PLAN = PlanSettings(levels=(1, 3), exact=2, near=1, singles=4)

TINY = override(
    PROFILES["smoke"], {"levels": (1, 4), "singles": 6, "steps": 20, "generations": 60, "width": 32, "depth": 1}
)


def pool_of(count: int) -> Pool:
    pictures = [Picture(f"p{seed}", encode_png(picture(seed, 32, 32)), f"class {seed % 3}") for seed in range(count)]
    return Pool(tuple(pictures), {})


def seed_set(seed: int = 0, keep: Callable[[PlantedSample], bool] | None = None) -> SeedSet:
    """The set of PLAN; `keep` says which samples cleaning kept, by default the first of each group."""
    pool = pool_of(PLAN.needed)
    samples = draw(pool, PLAN, seed, VIEW.side)
    keep = keep or (lambda sample: sample.picture.key.endswith("-0000"))
    kept = {sample.picture.key for sample in samples if in_training_set(sample) and keep(sample)}
    outlier = dict.fromkeys((p.key for p in pool.pictures), 0.5)
    return SeedSet(samples_table(samples, kept, outlier, VIEW), VIEW.shape, seed)


def rows_of(seed_set: SeedSet, kind: str) -> set[int]:
    return set(np.flatnonzero(seed_set.kind == kind).tolist())


def no_training(*_: Any) -> Any:
    """In the place of what must not be reached."""
    raise AssertionError("trained before the input was checked")
