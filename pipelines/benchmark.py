"""The figures that the README gives, each by one command: python -m pipelines.benchmark COMMAND.

describe PHOTOS   images/s beside fastdup's on the same files, and where the time goes
phash PHOTOS      how near our hashes of reduced pictures are to ImageHash's of the full ones
cifar SHARDS      seconds, memory and counts of a whole run
clean PHOTOS SMALL   cleaning beside copying the same shards, and whether every member comes back
filter SHARDS     what the filter of a webdataset loader costs of its throughput
search            search in cells against exhaustive search: time and recall
peers PHOTOS      planted copies found and false pairs, beside other tools
edges RUN         the pairs nearest to the threshold, as contact sheets, and their labels
mixed PHOTOS SMALL   planted copies found among many small pictures, and whether anything joins the two
unseen PHOTOS     copies by transforms that nothing was fitted on, and photographs with the same words over them
collages PHOTOS   photographs, and collages with them: none is a copy of another
uniform LOOKALIKES   uniform sets: planted copies found, and what is removed that is no copy
calibration PHOTOS   recall of planted copies by transform, and false pairs, as `dedup calibrate` reports them
"""

from __future__ import annotations

import logging
import os
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import imagehash
import numpy as np
from cyclopts import App, Parameter

from dedup.calibrate import PlantSettings
from dedup.describe import DescribeSettings, describe_shard
from dedup.errors import ConfigError, DedupError
from dedup.images import decode
from dedup.operating_curve import ProjectSettings
from dedup.shards import ShardReader, list_shards
from pipelines import (
    calibrate,
    clean_benchmark,
    collage_benchmark,
    comparison,
    filter_benchmark,
    mixed_benchmark,
    peers,
    search_benchmark,
    uniform_benchmark,
    unseen_benchmark,
)
from pipelines import edges as edge_sheets
from pipelines.client import ClusterSettings
from pipelines.fit_small import LABELS
from pipelines.measured_run import dedup_run
from pipelines.multiplied import multiply, samples
from pipelines.settings import RunSettings

logger = logging.getLogger(__name__)

app = App(name="python -m pipelines.benchmark", help="The figures that the README gives.")

WITHOUT_EMBEDDER = ("--embedder", "none")
CPU_STEPS = ("reading", "decoding", "hashing", "embedding")


@app.command
def describe(
    photos: str, *, times: int = 10, rounds: int = 3, cache: Path = Path("runs/benchmark"), peer: bool = True
) -> None:
    """Images/s of describing, beside fastdup's on the same files in the same minutes.

    Each round runs all tools one after another; the medians are compared.

    Parameters
    ----------
    photos
        Shards of photographs.
    times
        How often each picture is written, re-encoded each time so that no bytes repeat.
    rounds
        How often everything is measured.
    cache
        Where the multiplied pictures are kept.
    peer
        Measure fastdup too.
    """
    images = multiply(photos, cache / "describe", times)
    files, shards = cache / "describe" / "files", str(cache / "describe" / "shards")
    size = sum(path.stat().st_size for path in files.iterdir()) / images
    print(f"{images:,} JPEG pictures of {size / 1000:.0f} kB, {os.cpu_count()} cores, {rounds} rounds")
    seconds: dict[str, list[float]] = {}
    documents: dict[str, Mapping[str, Any]] = {}
    for number in range(rounds):
        for name, arguments in {"default": (), "embedder none": WITHOUT_EMBEDDER}.items():
            with tempfile.TemporaryDirectory() as folder:
                measured = dedup_run(shards, Path(folder, "run"), *arguments)
            seconds.setdefault(f"{name}: describe", []).append(measured.describe_seconds)
            seconds.setdefault(f"{name}: whole run", []).append(measured.seconds)
            documents[name] = measured.document
            logger.info("round %d, %s: described in %.1f s", number + 1, name, measured.describe_seconds)
        if peer:
            extract = peers.run("fastdup", files, extract_only=True)
            whole = peers.run("fastdup", files)
            if whole.read != images:
                raise ConfigError(f"fastdup read {whole.read} of {images} pictures")
            logger.info("round %d, fastdup: described in %.1f s", number + 1, extract.seconds)
            seconds.setdefault("fastdup: describe", []).append(extract.seconds)
            seconds.setdefault("fastdup: whole run", []).append(whole.total_seconds)
    rate = {name: images / statistics.median(values) for name, values in seconds.items()}
    for name, values in seconds.items():
        spread = " ".join(f"{images / value:.0f}" for value in values)
        step = name.partition(": ")[2]
        ratio = f"{rate[name] / rate[f'fastdup: {step}']:6.2f} x fastdup" if peer else ""
        print(f"{name:26} {rate[name]:7.0f} images/s  {ratio}  ({spread})")
    for name, document in documents.items():
        print(f"{name}, last round: {by_step(document, images)}")


def by_step(document: Mapping[str, Any], images: int) -> str:
    """Where the time went: CPU milliseconds per image within describing, wall seconds of the steps."""
    steps = document["steps"]
    cpu = steps["describe"]["cpu_seconds"]
    inside = ", ".join(f"{step} {1000 * cpu[step] / images:.2f}" for step in CPU_STEPS)
    walls = ", ".join(f"{step} {content['wall_seconds']:.1f} s" for step, content in steps.items())
    return f"CPU ms per image: {inside}; wall: {walls}"


@app.command
def phash(photos: str, *, max_bits: int = 2) -> None:
    """How many pictures have a phash within MAX_BITS of ImageHash's on the fully decoded picture.

    Parameters
    ----------
    photos
        Shards of photographs.
    max_bits
        The distance that is asked for, of 64 bits.
    """
    distances = np.array(phash_distances(photos))
    near = (distances <= max_bits).mean()
    print(f"phash within {max_bits} bits of ImageHash's: {near:.2%} of {len(distances)} pictures")
    print("pictures by distance:", dict(enumerate(np.bincount(distances).tolist())))


def phash_distances(shards: str) -> list[int]:
    """For each picture that can be decoded: bits between our phash and ImageHash's of the full decode."""
    distances = []
    settings = DescribeSettings(embedder="none", hashes=("phash",))
    for shard in list_shards([shards])[1]:
        ours = describe_shard(shard, settings, None)
        hashes = dict(zip(ours["key"].to_pylist(), ours["phash"].to_pylist(), strict=True))
        for sample in ShardReader(shard):
            if sample.image is None or (code := hashes[sample.key]) is None:
                continue
            reference = np.packbits(imagehash.phash(decode(sample.image.data, min_side=0).rgb).hash.ravel())
            distances.append(int(np.unpackbits(reference ^ np.frombuffer(code, np.uint8)).sum()))
    return distances


@app.command
def cifar(shards: str, *, arguments: Annotated[tuple[str, ...], Parameter(allow_leading_hyphen=True)] = ()) -> None:
    """Seconds, memory and counts of a whole run on many small pictures.

    Parameters
    ----------
    shards
        The shards.
    arguments
        More options of `dedup run`.
    """
    with tempfile.TemporaryDirectory() as folder:
        measured = dedup_run(shards, Path(folder, "run"), *arguments)
    document = measured.document
    images = document["counts"]["input"]
    print(f"{images:,} pictures in {measured.seconds:.0f} s, {images / measured.seconds:.0f} images/s")
    print(f"most memory of a worker: {max(document['workers'].values()) / 2**30:.2f} GiB")
    print(f"counts: {document['counts']}")
    print(by_step(document, images))


@app.command
def clean(photos: str, small: str, *, times: int = 20, rounds: int = 5, where: Path | None = None) -> None:
    """Time of `dedup clean` beside that of `cp`, both until all is on the disk; and the round trip, member by member.

    Parameters
    ----------
    photos
        Shards of photographs.
    small
        Shards of small pictures.
    times
        How often the photographs are written, their tiles in another order each time.
    rounds
        How often everything is measured.
    where
        A folder on the disk that is measured; by default that of temporary files.
    """
    for line in clean_benchmark.report(photos, small, times, rounds, where):
        print(line, flush=True)


@app.command(name="filter")
def filter_loader(shards: str, *, rounds: int = 7) -> None:
    """Samples/s of a webdataset loader with and without `dedup.keep`, in turns, with nothing dropped by either.

    Parameters
    ----------
    shards
        Shards of small pictures, where a sample's share of the filter is largest.
    rounds
        How often everything is measured.
    """
    with tempfile.TemporaryDirectory() as folder:
        dedup_run(shards, Path(folder, "run"), *WITHOUT_EMBEDDER, "--strictness", "exact")
        for line in filter_benchmark.report([shard.url for shard in list_shards([shards])[1]], f"{folder}/run", rounds):
            print(line, flush=True)


@app.command
def search(*, rows: int = 200_000, dim: int = 320, cells: int = 256, seed: int = 0) -> None:
    """Cosine search in cells against exhaustive search, on random unit vectors with planted pairs.

    Parameters
    ----------
    rows
        Number of vectors; every tenth has a copy with a cosine of 0.9 to 1.
    dim
        Their length.
    cells
        Number of cells.
    seed
        Of the vectors.
    """
    for line in search_benchmark.report(rows, dim, cells, seed):
        print(line, flush=True)


@app.command
def edges(
    run: str,
    *,
    out: Path = Path("runs/edges"),
    each: int = 100,
    labels: Path = LABELS,
    columns: int = 5,
    side: int = 96,
) -> None:
    """Contact sheets of the pairs nearest to a run's threshold, and how many of them are one picture by the labels.

    Parameters
    ----------
    run
        A finished run.
    out
        Folder for the sheets.
    each
        How many pairs on either side.
    labels
        A CSV of a, b, same.
    columns
        Pairs in a row of the sheets.
    side
        Pixels of a picture.
    """
    for line in edge_sheets.report(run, out, each, labels, columns, side):
        print(line)


@app.command(name="peers")
def compare(photos: str, *, copies: int = 6, seed: int = 0, tools: tuple[str, ...] = tuple(comparison.TOOLS)) -> None:
    """Planted copies that each tool finds, by transform, and what it joins by mistake.

    Parameters
    ----------
    photos
        Shards of photographs that are all different.
    copies
        Planted of each.
    seed
        Of the planting.
    tools
        Which tools to measure.
    """
    print(comparison.compare(samples(photos), tools, copies, seed))


@app.command
def uniform(
    lookalikes: str | None = None,
    *,
    copies: int = 1,
    count: int = 240,
    seed: int = 0,
    sheets: Path = Path("runs/uniform"),
    as_they_are: bool = False,
) -> None:
    """Planted copies found in sets in which everything looks alike, and what is removed that is no copy.

    Parameters
    ----------
    lookalikes
        Shards of pictures that look alike, measured beside two drawn sets.
    copies
        Planted of each picture.
    count
        How many pictures are drawn for each of the drawn sets.
    seed
        Of the drawing and the planting.
    sheets
        Folder for the contact sheets of what was removed for another picture.
    as_they_are
        Measure neither at 64 pixels nor in one layout, as is enough for many drawn pictures.
    """
    sets = {} if lookalikes is None else {"lookalikes": samples(lookalikes)}
    sets |= {name: uniform_benchmark.drawn(name, count, seed) for name in uniform_benchmark.DRAWN}
    for line in uniform_benchmark.report(sets, copies, seed, sheets, otherwise=not as_they_are):
        print(line, flush=True)


@app.command
def mixed(photos: str, small: str, *, copies: int = 4, seed: int = 0) -> None:
    """Planted copies of photographs found among many small pictures, and pairs of the one and the other accepted.

    Parameters
    ----------
    photos
        Shards of photographs that are all different.
    small
        Shards of small pictures.
    copies
        Planted of each photograph.
    seed
        Of the planting.
    """
    for line in mixed_benchmark.report(photos, small, copies, seed):
        print(line, flush=True)


@app.command
def unseen(photos: str, *, copies: int = 4, seed: int = 0) -> None:
    """Copies by transforms that nothing was fitted on, found; and photographs with the same over them, removed.

    Parameters
    ----------
    photos
        Shards of photographs that are all different.
    copies
        Planted of each photograph.
    seed
        Of the planting.
    """
    for line in unseen_benchmark.report(photos, copies, seed):
        print(line, flush=True)


@app.command
def collages(photos: str, *, seed: int = 0) -> None:
    """Each photograph alone and in a collage with others: what is removed.

    Parameters
    ----------
    photos
        Shards of photographs that are all different.
    seed
        Of the planting.
    """
    for line in collage_benchmark.report(photos, seed):
        print(line, flush=True)


@app.command
def calibration(photos: str, *, copies: int = 4, images: int = 1_000_000, report: Path | None = None) -> None:
    """The report of `dedup calibrate` on photographs, as Markdown.

    Parameters
    ----------
    photos
        Shards of photographs that are all different, so that every accepted pair of them is false.
    copies
        Planted of each.
    images
        How many photographs are drawn to plant copies of; by default all.
    report
        Where the report goes; by default it is printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked = calibrate.Asked(
            (photos,),
            RunSettings(describe=DescribeSettings(embedder="efficientnet_lite0")),
            PlantSettings(images=images, copies=copies),
            ProjectSettings(distinct=True, duplicate_share=0.01),
        )
        calibrate.calibrate(asked, folder, ClusterSettings())
        text = Path(folder, calibrate.MARKDOWN).read_text(encoding="utf-8")
    if report is None:
        print(text)
    else:
        report.write_text(text, encoding="utf-8")


def main() -> None:
    """Entry point: errors of this project end with their message and exit code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        app()
    except DedupError as error:
        print(f"benchmark: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
