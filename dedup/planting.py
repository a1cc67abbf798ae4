"""Planted copies: the test with a known answer that calibration, the sample run and the benchmarks share.

`plant` mixes copies of pictures among them, `truth_table` says which is a copy of what, `score` compares a manifest
with it. Nothing here looks at how copies are found.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from dedup.errors import ConfigError, ImageError
from dedup.images import MAX_PIXELS, decode
from dedup.intervals import wilson
from dedup.records import Sample, sample_id
from dedup.transforms import TRANSFORMS, Encoded

EXACT = "exact"  # not a transform of the picture: the same bytes under another key

TRUTH_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),  # of the copy
        pa.field("original", pa.string(), nullable=False),  # sample_id of what it is a copy of
        pa.field("transform", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Planted:
    """One sample of the mixture: an original (`original` and `transform` None), or a copy of the sample whose key is
    `original`."""

    key: str
    image: Encoded
    text: bytes | None = None
    json: bytes | None = None
    original: str | None = None
    transform: str | None = None

    def members(self) -> Iterator[tuple[str, bytes]]:
        """The sample's files as (name, content), the picture first."""
        yield f"{self.key}.{self.image.extension}", self.image.data
        if self.text is not None:
            yield f"{self.key}.txt", self.text
        if self.json is not None:
            yield f"{self.key}.json", self.json


def plant(
    originals: Iterable[Sample],
    transforms: Sequence[str] = (EXACT, *TRANSFORMS),
    copies: int = 3,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Planted]:
    """Each original as it is, followed by `copies` copies of it, each by another transform.

    The transforms come in a drawn order, round and round, so that each occurs equally often (by one more or less).
    The copy of a picture by a transform depends on `seed`, its key and the transform alone: a larger set keeps the
    copies of a smaller one where both use the transform. Text and json are handed on to the copies. A sample
    whose picture cannot be decoded (or has more than `max_pixels`) is passed on and has no copies; one without any is
    left out.

    Raises ConfigError as `check_transforms` does, and for a key that a copy needs too.
    """
    check_transforms(transforms, copies)
    order = list(transforms)
    random.Random(seed).shuffle(order)
    keys: set[str] = set()
    dealt = 0
    for sample in originals:
        if sample.image is None:
            continue
        whole = Encoded(sample.image.data, sample.image.extension)
        group = [Planted(sample.key, whole, sample.text, sample.json)]
        try:
            picture = decode(whole.data, 0, max_pixels).rgb
        except ImageError:
            names = []
        else:
            names = [order[(dealt + number) % len(order)] for number in range(copies)]
            dealt += copies
        for name in names:
            copy = whole if name == EXACT else TRANSFORMS[name](picture, _generator(seed, sample.key, name))
            group.append(Planted(f"{sample.key}~{name}", copy, sample.text, sample.json, sample.key, name))
        for planted in group:
            if planted.key in keys:
                raise ConfigError(f"two samples with the key {planted.key}: give each picture a key of its own")
            keys.add(planted.key)
        yield from group


def check_transforms(transforms: Sequence[str], copies: int) -> None:
    """Raises ConfigError for an unknown or repeated transform, or more copies than transforms."""
    unknown = sorted(set(transforms) - {EXACT, *TRANSFORMS})
    if unknown:
        raise ConfigError(f"unknown transforms {', '.join(unknown)}; there are {EXACT}, {', '.join(TRANSFORMS)}")
    if len(set(transforms)) < len(transforms):
        raise ConfigError(f"transforms {', '.join(transforms)}: each can be named once only")
    if not 0 <= copies <= len(transforms):
        raise ConfigError(f"{copies} copies of each picture by {len(transforms)} transforms: at most one by each")


def _generator(seed: int, key: str, transform: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\0{key}\0{transform}".encode()).digest()
    return np.random.default_rng(list(digest))


def truth_table(planted: Iterable[Planted], shard_ids: Mapping[str, str]) -> pa.Table:
    """Which sample is a copy of which (TRUTH_SCHEMA); `shard_ids` says in which shard each key was written."""
    rows = [
        {
            "sample_id": sample_id(shard_ids[copy.key], copy.key),
            "original": sample_id(shard_ids[copy.original], copy.original),
            "transform": copy.transform,
        }
        for copy in planted
        if copy.original is not None
    ]
    return pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA)


@dataclass(frozen=True)
class Score:
    """What a manifest made of planted copies.

    `by_transform`: one row per transform, and one named `all`: `copies`, `found` (in the group of their original),
    `recall` = found / copies, and `low`, `high`, its 95 % Wilson interval.
    `wrong`: the samples removed for a picture of another family (an original and its copies): `sample_id`, `keeper`,
    `method`, `score`. They are false, or true duplicates that the originals held before: to be looked at.
    `wrong_originals` counts those of them that are originals, of `originals` in all.
    """

    by_transform: pd.DataFrame
    wrong: pd.DataFrame
    originals: int
    wrong_originals: int

    def __str__(self) -> str:
        total = self.by_transform.set_index("transform").loc["all"]
        return (
            f"{total.found:.0f} of {total.copies:.0f} planted copies found ({total.recall:.1%}), "
            f"{self.wrong_originals} of {self.originals} originals removed for another picture"
        )


def score(manifest: pa.Table, truth: pa.Table) -> Score:
    """Compare a manifest (the columns sample_id, cluster, keeper, method and score) with the truth about it.

    Raises ConfigError where the manifest lacks a sample that the truth names.
    """
    rows = manifest.select(["sample_id", "cluster", "keeper", "method", "score"]).to_pandas().set_index("sample_id")
    copies = truth.to_pandas()
    missing = set(copies["sample_id"]).union(copies["original"]) - set(rows.index)
    if missing:
        raise ConfigError(f"the manifest lacks {len(missing)} planted samples, {min(missing)} first: another run's?")
    cluster = rows["cluster"]
    ours, theirs = cluster.loc[copies["sample_id"]].to_numpy(), cluster.loc[copies["original"]].to_numpy()
    copies["found"] = ours == theirs  # a null cluster is NaN here and equals nothing
    counts = copies.groupby("transform")["found"].agg(copies="size", found="sum")
    counts.loc["all"] = counts.sum()
    counts["recall"] = counts["found"] / counts["copies"]
    intervals = [wilson(int(row.found), int(row.copies)) for row in counts.itertuples()]
    counts["low"], counts["high"] = [low for low, _ in intervals], [high for _, high in intervals]

    family = pd.Series(rows.index, index=rows.index)
    family.loc[copies["sample_id"]] = copies["original"].to_numpy()
    removed = rows[rows["keeper"].notna()]
    wrong = removed[family.loc[removed.index].to_numpy() != family.loc[removed["keeper"]].to_numpy()].reset_index()
    originals = ~rows.index.isin(copies["sample_id"])
    return Score(
        by_transform=counts.reset_index(),
        wrong=wrong[["sample_id", "keeper", "method", "score"]],
        originals=int(originals.sum()),
        wrong_originals=int((~wrong["sample_id"].isin(copies["sample_id"])).sum()),
    )
