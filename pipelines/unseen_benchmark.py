"""Copies by transforms that nothing was fitted on, and photographs that share what was put over them.

Are copies by `unseen_transforms.UNSEEN` and by `rare_transforms.RARE` found, and do the same quotation, poster,
badge, lines or desktop (SHARED) make copies of different photographs? Each set is cleaned by one `dedup run`.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from dedup.images import decode
from dedup.intervals import wilson
from dedup.manifest import read_manifest
from dedup.planting import Planted, Score, score
from dedup.records import Sample
from dedup.transforms import Encoded, Transform, as_jpeg
from pipelines.measured_run import dedup_run
from pipelines.multiplied import samples
from pipelines.rare_transforms import RARE
from pipelines.sample import write_planted
from pipelines.unseen_transforms import SHARED, UNSEEN

_SHARDS = 2


def plant_unseen(
    originals: Iterable[Sample], copies: int, seed: int, transforms: Mapping[str, Transform] = UNSEEN
) -> Iterator[Planted]:
    """Each original, followed by `copies` copies of it by the next of the transforms, round and round."""
    names = list(transforms)
    for number, (original, picture) in enumerate(pictures(originals)):
        yield original
        for name in (names[(copies * number + place) % len(names)] for place in range(copies)):
            key = f"{original.key}~{name.replace(' ', '-')}"
            rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
            yield Planted(key, transforms[name](picture, rng), original=original.key, transform=name)


def plant_shared(originals: Iterable[Sample], name: str, seed: int) -> Iterator[Planted]:
    """The same thing of SHARED over each original."""
    for original, picture in pictures(originals):
        rng = np.random.default_rng([seed, zlib.crc32(original.key.encode())])
        yield Planted(original.key, as_jpeg(SHARED[name](picture), rng))


def pictures(originals: Iterable[Sample]) -> Iterator[tuple[Planted, Image.Image]]:
    """Of each that has a picture: itself, to be planted, and the picture (RGB)."""
    for sample in originals:
        if sample.image is not None:
            whole = Encoded(sample.image.data, sample.image.extension)
            yield Planted(sample.key, whole), decode(whole.data, 0).rgb


def found(
    originals: Iterable[Sample],
    copies: int,
    folder: Path,
    seed: int,
    arguments: tuple[str, ...] = (),
    transforms: Mapping[str, Transform] = UNSEEN,
) -> Score:
    """What a run in `folder` makes of `plant_unseen`."""
    manifest, truth = run_planted(plant_unseen(originals, copies, seed, transforms), folder, seed, arguments)
    return score(manifest, truth)


def removed(
    originals: Iterable[Sample], name: str, folder: Path, seed: int, arguments: tuple[str, ...] = ()
) -> tuple[int, int]:
    """How many of `plant_shared` a run in `folder` removes, and how many there are."""
    manifest, _ = run_planted(plant_shared(originals, name, seed), folder, seed, arguments)
    return len(manifest) - manifest["keeper"].null_count, len(manifest)


def run_planted(
    planted: Iterable[Planted], folder: Path, seed: int, arguments: tuple[str, ...]
) -> tuple[pa.Table, pa.Table]:
    """The manifest of a run of them in `folder`, and the truth."""
    truth = write_planted(planted, folder / "shards", _SHARDS, seed)
    dedup_run(str(folder / "shards" / "*.tar"), folder / "run", *arguments)
    return read_manifest(str(folder / "run"), ["sample_id", "cluster", "keeper", "method", "score"]), truth


def report(photos: str, copies: int, seed: int) -> Iterator[str]:
    """The lines of the report."""
    for kind, transforms in (("unseen", UNSEEN), ("rare", RARE)):
        with tempfile.TemporaryDirectory() as folder:
            outcome = found(samples(photos), copies, Path(folder), seed, transforms=transforms)
        yield f"{kind} transforms\n{_table(outcome.by_transform)}"
        yield f"{outcome.wrong_originals} of {outcome.originals:,} photographs removed for another one"
    for name in SHARED:
        with tempfile.TemporaryDirectory() as folder:
            wrong, total = removed(samples(photos), name, Path(folder), seed)
        low, high = wilson(wrong, total)
        share = f"{wrong} of {total:,} removed = {wrong / total:.1%} ({low:.1%} to {high:.1%})"
        yield f"all with {name} over or around them: {share}"


def _table(by_transform: pd.DataFrame) -> str:
    rows = by_transform.sort_values(["recall", "transform"], ascending=[False, True])
    return "\n".join(
        f"{row.transform:24}{row.found:5.0f} of{row.copies:5.0f} = {row.recall:6.1%} ({row.low:.1%} to {row.high:.1%})"
        for row in rows.itertuples()
    )
