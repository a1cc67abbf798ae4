"""A small real set with a known answer: what `make dedup` cleans when it is given no shards.

The photographs are those that the scikit-image and scikit-learn wheels hold (nothing is downloaded), some of them cut
into parts that share no pixel, which makes them different pictures. Copies of each are planted among them, by every
transform there is; the truth lies beside the shards.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dedup.photographs import embedded_photographs
from dedup.planting import Planted, plant, truth_table
from dedup.records import Member, Sample
from dedup.shards import write_shard

TRUTH = "truth.parquet"
COPIES = 3
SHARDS = 4

# These are given as four quarters each, the others whole.
CUT = {
    "china.jpg",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "retina.jpg",
}
QUARTERS = ("upper left", "upper right", "lower left", "lower right")


def _sample(name: str, caption: str, picture: Image.Image) -> Sample:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=92)
    record = {"key": name, "caption": caption, "width": picture.width, "height": picture.height}
    member = Member(name=f"{name}.jpg", extension="jpg", offset=0, data=buffer.getvalue())
    return Sample(name, member, caption.encode(), json.dumps(record, sort_keys=True).encode())


def photographs() -> Iterator[Sample]:
    """The originals, 13 whole pictures and 8 times four quarters, as JPEG with text and json.

    Raises ConfigError where scikit-image or scikit-learn is not installed.
    """
    for name, caption, picture in embedded_photographs():
        stem = Path(name).stem
        if name not in CUT:
            yield _sample(stem, caption, picture)
            continue
        width, height = picture.width // 2, picture.height // 2
        for number, quarter in enumerate(QUARTERS):
            left, top = number % 2 * width, number // 2 * height
            part = picture.crop((left, top, left + width, top + height))
            yield _sample(f"{stem}_{number}", f"{caption}, {quarter}", part)


def write_planted(planted: Iterable[Planted], folder: Path, shards: int, seed: int = 0) -> pa.Table:
    """Write the mixture, shuffled by `seed`, as `folder`/00000.tar and so on; give the truth about it.

    The shuffle puts copies into other shards than their originals, as scraping does. Holds the mixture in memory.
    """
    mixture = list(planted)
    random.Random(seed).shuffle(mixture)
    folder.mkdir(parents=True, exist_ok=True)
    shard_ids: dict[str, str] = {}
    for number in range(shards):
        part = mixture[number::shards]
        write_shard(str(folder / f"{number:05d}.tar"), (member for p in part for member in p.members()))
        shard_ids.update((p.key, f"{number:05d}") for p in part)
    return truth_table(mixture, shard_ids)


def write_sample(folder: Path, copies: int = COPIES, shards: int = SHARDS, seed: int = 0) -> Path:
    """Write the sample set into `folder`; give the path of the truth about it.

    A folder that already holds this very sample is left as it is, so that a second run resumes the first.
    """
    recipe = json.dumps(
        {
            "copies": copies,
            "shards": shards,
            "seed": seed,
            "versions": {name: importlib.metadata.version(name) for name in ("pillow", "scikit-image", "scikit-learn")},
        }
    ).encode()
    path = folder / TRUTH
    if path.exists() and (pq.read_schema(path).metadata or {}).get(b"recipe") == recipe:
        return path
    path.unlink(missing_ok=True)
    for stale in folder.glob("*.tar"):
        stale.unlink()
    truth = write_planted(plant(photographs(), copies=copies, seed=seed), folder, shards, seed)
    pq.write_table(truth.replace_schema_metadata({b"recipe": recipe}), path)  # last: it marks the set as whole
    return path
