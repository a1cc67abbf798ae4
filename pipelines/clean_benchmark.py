"""What cleaning costs beside copying the same shards, and whether every member comes back."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from dedup.errors import ConfigError
from dedup.images import decode
from dedup.manifest import read_manifest
from dedup.rewrite import CleanSettings
from dedup.shards import ShardReader, list_shards, write_shard
from pipelines.clean import clean
from pipelines.client import ClusterSettings, connect

_TILES = 4  # on each side
_QUALITY = 98  # gives pictures of about 100 kB
_JPEG_BLOCK = 16  # pixels: tiles cut at its multiples compress as the whole picture does


def compare(photos: str, small: str, work: Path, times: int, rounds: int) -> Iterator[str]:
    """Lines of a report on the round trip of both sets, and on the time of each beside `cp`."""
    for name, shards in {"photographs": photos, "small pictures": small}.items():
        run = work / f"{name} run"
        _dedup("run", shards, "--out", str(run), "--embedder", "none")
        yield f"{name}, {round_trip(shards, run, work / f'{name} clean')}"
    shuffled = work / "shuffled"
    images, size = write_shuffled(photos, shuffled, times)
    _dedup("run", str(shuffled), "--out", str(work / "shuffled run"), "--embedder", "none")
    yield f"{images:,} photographs of {size / images / 1000:.0f} kB, tiles shuffled so that nearly all are kept:"
    yield from _times(str(shuffled), work / "shuffled run", work, rounds)
    yield "small pictures:"
    yield from _times(small, work / "small pictures run", work, rounds)


def round_trip(shards: str, run: Path, out: Path) -> str:
    """Clean, and compare every member by name, order and sha256, found by tarfile alone. Raises ConfigError where one
    differs."""
    counts = clean(str(run), str(out), CleanSettings(), ClusterSettings())["counts"]
    manifest = read_manifest(str(run), ["shard", "key", "status"])
    gone = {(row["shard"], row["key"]) for row in manifest.to_pylist() if row["status"] == "removed"}
    members = 0
    for shard in list_shards([shards])[1]:
        cleaned = list(_members(out / f"{shard.shard_id}.tar"))
        expected = [member for member in _members(Path(shard.url)) if (shard.url, _key(member[0])) not in gone]
        if cleaned != expected:
            raise ConfigError(f"{shard.url} did not come back as it was")
        members += len(cleaned)
    if counts["written"] + len(gone) != len(manifest):
        raise ConfigError(f"the counts {counts} are not those of the manifest")
    return f"round trip: {members:,} members of {counts['written']:,} samples equal, {len(gone):,} samples gone"


def write_shuffled(shards: str, out: Path, times: int) -> tuple[int, int]:
    """Each shard `times` times, the tiles of each picture in another order each time: as large in bytes, but no copies.

    Gives the number of pictures and their bytes.
    """
    rng = np.random.default_rng(0)
    images = size = 0
    for shard in list_shards([shards])[1]:
        samples = [sample for sample in ShardReader(shard) if sample.image is not None]
        for again in range(times):
            members = []
            for sample in samples:
                data = _shuffled(sample.image.data if sample.image else b"", rng)
                members += [(f"{sample.key}.jpg", data), (f"{sample.key}.txt", sample.text or b"")]
                members += [(f"{sample.key}.json", sample.json or b"{}")]
                size += len(data)
            write_shard(str(out / f"{shard.shard_id}_{again:03d}.tar"), members)
            images += len(samples)
    return images, size


def _shuffled(data: bytes, rng: np.random.Generator) -> bytes:
    picture = np.asarray(decode(data, min_side=0).rgb)
    height, width = (side // (_TILES * _JPEG_BLOCK) * _JPEG_BLOCK for side in picture.shape[:2])
    tiles = [
        picture[y * height : (y + 1) * height, x * width : (x + 1) * width]
        for y in range(_TILES)
        for x in range(_TILES)
    ]
    order = [tiles[index] for index in rng.permutation(len(tiles))]
    rows = [np.concatenate(order[start : start + _TILES], axis=1) for start in range(0, len(order), _TILES)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(rows)).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _times(shards: str, run: Path, work: Path, rounds: int) -> Iterator[str]:
    """Medians of `cp`, of cleaning on a running cluster, and of the whole command, each until all is on the disk."""
    copied, cleaned = work / "copied", work / "cleaned"
    with connect(ClusterSettings()) as client:
        running = ClusterSettings(scheduler=client.scheduler.address)
        ways: dict[str, Callable[[], object]] = {
            "cp --reflink=never": lambda: _run("cp", "-r", "--reflink=never", shards, str(copied)),
            "clean": lambda: clean(str(run), str(cleaned), CleanSettings(), running),
            "clean, whole command": lambda: _dedup("clean", str(run), "--out", str(cleaned)),
        }
        shutil.rmtree(cleaned, ignore_errors=True)
        ways["clean"]()  # so that the workers have imported what they need
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(rounds):
            for name, way in ways.items():
                for folder in (copied, cleaned):
                    shutil.rmtree(folder, ignore_errors=True)
                os.sync()
                started = time.perf_counter()
                way()
                os.sync()
                seconds[name].append(time.perf_counter() - started)
    size = sum(shard.size for shard in list_shards([shards])[1])
    base = statistics.median(seconds["cp --reflink=never"])
    for name, values in seconds.items():
        median = statistics.median(values)
        spread = " ".join(f"{value:.2f}" for value in values)
        yield f"  {name:22} {median:6.2f} s  {size / median / 1e6:5.0f} MB/s  {median / base:5.2f} x cp  ({spread})"


def _members(path: Path) -> Iterator[tuple[str, str]]:
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            file = tar.extractfile(info)
            yield info.name, hashlib.sha256(file.read() if file else b"").hexdigest()


def _key(name: str) -> str:
    folder, slash, base = name.rpartition("/")
    return folder + slash + base.partition(".")[0]


def _dedup(*arguments: str) -> None:
    _run(sys.executable, "-m", "pipelines.cli", *arguments)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{' '.join(command)} failed: {done.stderr.strip()[-500:]}")


def report(photos: str, small: str, times: int, rounds: int, where: Path | None) -> Iterator[str]:
    """`compare` in a folder of its own, which is removed at the end; `where` says on which disk."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        yield from compare(photos, small, Path(folder), times, rounds)
