"""How well a run finds copies of the user's own images, and what it takes for copies by mistake.

    sample ──planted copies──▶ mixture with the whole set ──a run──▶ pairs, manifest ──▶ Found

Of a sample of the images copies are planted (`planting`), and a run looks at them and the whole set. A *copy* is found
directly, by an accepted pair of it and its original, and in its group, where the two share one (a star's keeper may be
another copy). *Pairs of different pictures* are those of a sampled image and any other of the set; one counts once,
however many versions of the two pictures were joined, and byte-identical files are one picture.

A pair's *strength* is what the threshold is applied to: its probability, or its cosine where nothing is verified;
infinite where it was accepted without either (identical files; hashes; a cosine that the user set beside verification).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError, ManifestError
from dedup.groups import group
from dedup.intervals import wilson
from dedup.planting import check_transforms
from dedup.projection import possible_pairs
from dedup.transforms import TRANSFORMS

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PlantSettings:
    """The sample, and the copies of it. Raises ConfigError for values that cannot be."""

    images: int = 1000
    """How many images are drawn from the shards; all, where there are fewer."""

    copies: int = 2
    """Copies planted of each drawn image, each by another transform. More than 2 crowd out other candidates."""

    transforms: tuple[str, ...] = tuple(TRANSFORMS)
    """By which transforms; all occur equally often."""

    sample_seed: int = 0
    """Another seed draws other images and other copies."""

    def __post_init__(self) -> None:
        if self.images < 1:
            raise ConfigError(f"images={self.images}: a calibration needs at least 1")
        check_transforms(self.transforms, self.copies)
        if self.copies < 1:
            raise ConfigError(f"copies={self.copies}: without planted copies there is no recall to measure")

    def check_sample(self, drawn: int) -> None:
        """Raises ConfigError where `drawn` images are too few for every transform to occur."""
        if drawn * self.copies < len(self.transforms):
            raise ConfigError(
                f"{drawn} images x {self.copies} copies are fewer than the {len(self.transforms)} transforms, so that "
                "some would not be measured: take more --images, more --copies, or name fewer --transforms"
            )


@dataclass(frozen=True)
class Found:
    """What a run made of the mixture.

    `copies`: `sample_id`, `original`, `transform`, `strength` of the direct pair (-1 where the run looked at none) and
    `grouped` (shares the group of its original). `joined`: pairs of different pictures, as `a`, `b` (sample_id of the
    originals, a < b), `strength` (of the strongest pair of their versions), and `by_copy` (that pair has a planted copy
    in it). `sample` images of the `images` that the set holds were drawn; `removed` of the set's own are removed as
    near copies, identical files apart.
    """

    copies: pd.DataFrame
    joined: pd.DataFrame
    sample: int
    images: int
    removed: int

    @property
    def pairs(self) -> int:
        return possible_pairs(self.sample, self.images)


def strengths(pairs: pa.Table, verified: bool) -> Floats:
    """(N,) of rows of PAIR_SCHEMA; `verified` says whether the run verified its candidates."""
    method, accepted = pairs["method"].to_numpy(), pairs["accepted"].to_numpy().astype(bool)
    if verified:
        value = pc.fill_null(pairs["probability"], 0.0).to_numpy().astype(np.float64)
        certain = accepted & (method != "verified")
    else:
        value = np.where(method == "embedding", pairs["score"].to_numpy().astype(np.float64), 0.0)
        certain = accepted & (method != "embedding")
    return np.where(certain, math.inf, value)


def find(
    pairs: pa.Table, clusters: Mapping[str, int | None], truth: pa.Table, sample: Sequence[str], images: int,
    removed: int, *, verified: bool,
) -> Found:  # fmt: skip
    """Sort what the run found by what is known.

    `pairs`: rows of PAIR_SCHEMA, at least all that name one of the `sample` (sample_ids), a copy of `truth`
    (planting.TRUTH_SCHEMA), or the representative of identical files that stands for one of them. `clusters`: the
    manifest's, of the copies and their originals; raises ManifestError where one is missing.
    """
    copies = truth.to_pandas()
    missing = set(copies["sample_id"]).union(copies["original"]) - clusters.keys()
    if missing:
        raise ManifestError(f"the manifest lacks {len(missing)} samples of the calibration, {min(missing)} first")
    exact = pairs.filter(pc.equal(pairs["method"], "exact"))
    representative = dict(zip(exact["b"].to_pylist(), exact["a"].to_pylist(), strict=True))
    original = dict(zip(copies["sample_id"], copies["original"], strict=True))
    frame = pd.DataFrame({side: pairs[side].to_numpy() for side in "ab"} | {"strength": strengths(pairs, verified)})

    def stands_for(ids: pd.Series) -> pd.Series:
        return ids.map(lambda identity: representative.get(identity, identity))

    ends = pd.DataFrame({"a": stands_for(copies["sample_id"]), "b": stands_for(copies["original"])})
    direct = {frozenset(row[:2]): row[2] for row in frame.itertuples(index=False, name=None)}
    copies["strength"] = [math.inf if a == b else direct.get(frozenset((a, b)), -1.0) for a, b in ends.to_numpy()]
    own, its = copies["sample_id"].map(clusters), copies["original"].map(clusters)
    copies["grouped"] = (own == its) & own.notna()

    def picture(ids: pd.Series) -> pd.Series:
        """The one of all versions of a picture that stands for it: an original."""
        shown = stands_for(ids.map(lambda identity: original.get(identity, identity)))
        return shown.map(lambda identity: original.get(identity, identity))

    joined = pd.DataFrame({side: picture(frame[side]) for side in "ab"})
    joined["strength"] = frame["strength"]
    joined["by_copy"] = frame["a"].isin(original) | frame["b"].isin(original)
    ours = set(picture(pd.Series(list(sample), dtype=object)))
    joined = joined[(joined["a"] != joined["b"]) & (joined["a"].isin(ours) | joined["b"].isin(ours))]
    ordered = joined["a"] < joined["b"]
    first, second = joined["a"].where(ordered, joined["b"]), joined["b"].where(ordered, joined["a"])
    joined = joined.assign(a=first, b=second).sort_values(
        ["a", "b", "strength", "by_copy"], ascending=[True, True, False, True], kind="stable"
    )
    joined = joined.drop_duplicates(["a", "b"]).reset_index(drop=True)
    return Found(copies, joined, len(sample), images, removed)


def removed_near(pairs: pa.Table) -> int:
    """How many samples a star grouping of these accepted pairs removes, identical files apart."""
    ends = pa.chunked_array(pairs["a"].chunks + pairs["b"].chunks, type=pa.string())
    ids = pc.unique(ends).sort()
    decisions = group(pairs, ids, np.zeros(len(ids), np.int64))
    return int(pc.sum(pc.not_equal(decisions["method"], "exact")).as_py() or 0)


def recall_by_transform(found: Found, threshold: float) -> pd.DataFrame:
    """One row per transform, in the order of TRANSFORMS, and one named `all`: `copies`; how many were found `direct`
    and `grouped`; of each the share `..._recall` and its 95 % Wilson interval, `..._low` to `..._high`."""
    copies = found.copies.assign(direct=found.copies["strength"] >= threshold)
    counts = copies.groupby("transform")[["direct", "grouped"]].sum()
    counts.insert(0, "copies", copies.groupby("transform").size())
    counts = counts.loc[[name for name in ("exact", *TRANSFORMS) if name in counts.index]]
    counts.loc["all"] = counts.sum()
    for kind in ("direct", "grouped"):
        counts[f"{kind}_recall"] = counts[kind] / counts["copies"]
        intervals = [wilson(int(hits), int(total)) for hits, total in counts[[kind, "copies"]].to_numpy()]
        counts[f"{kind}_low"], counts[f"{kind}_high"] = zip(*intervals, strict=True)
    return counts.reset_index()
