"""The sample of a calibration and the copies planted of it: a few shards of their own beside the user's.

    descriptors ──drawn by a hash of the sample_id──▶ sample ──read back by their offsets──▶ planted/00000.tar, ...

What is drawn, and each copy, depends on the settings and the shards alone; a larger sample holds the smaller one.
"""

from __future__ import annotations

import functools
import hashlib
import heapq
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client, as_completed

from dedup.calibrate import PlantSettings
from dedup.errors import ConfigError
from dedup.manifest import split_by_shard
from dedup.planting import TRUTH_SCHEMA, plant
from dedup.records import Member, Sample, Shard, sample_id
from dedup.run_folder import RUN_FILE, RunFolder, fingerprint
from dedup.shards import list_shards, read_range, write_shard
from pipelines.describing import descriptors_name
from pipelines.progress import Progress
from pipelines.run_state import Run

FOLDER = "planted"
PLAN = "plan.json"
_TRUTH = f"{FOLDER}/truth.parquet"
_SAMPLE = f"{FOLDER}/sample.parquet"
_DRAWN_COLUMNS = ["sample_id", "member", "offset", "size", "caption", "json"]


def open_plan(folder: RunFolder, settings: PlantSettings, shards: Sequence[Shard]) -> dict[str, Any]:
    """What this folder calibrates, and since which `date`: written at the first call, compared at every later one, once
    there are copies.

    Raises ConfigError where the folder holds another calibration, naming each difference, or anything else.
    """
    listing = fingerprint([(shard.shard_id, shard.size, shard.version) for shard in shards])
    asked = {**asdict(settings), "transforms": list(settings.transforms), "shards": listing}
    plan = folder.read_json(PLAN)
    if plan is None and (folder.exists(RUN_FILE) or folder.names("")):
        raise ConfigError(f"{folder.url} holds something else than a calibration: choose another folder (OUT=...)")
    if plan is None or not any(name.startswith(f"{FOLDER}/") for name in folder.sizes()):
        plan = {"asked": asked, "date": date.today().isoformat()}
        folder.write_json(PLAN, plan)
        return plan
    differences = [
        f"{name}: {plan['asked'].get(name)} in the folder, {value} asked" if name != "shards" else "the shards"
        for name, value in asked.items()
        if plan["asked"].get(name) != value
    ]
    if differences:
        raise ConfigError(
            f"{folder.url} holds another calibration:\n  " + "\n  ".join(differences) + "\n"
            "choose another output folder (OUT=...)"
        )
    return plan


def is_planted(folder: RunFolder) -> bool:
    """Whether the copies are there, all of them."""
    return folder.exists(_TRUTH)  # written last


def planted_shards(folder: RunFolder) -> list[Shard]:
    """The shards of the copies; none before they are planted."""
    if not is_planted(folder):
        return []
    _, shards = list_shards([folder.path(FOLDER)])
    return [replace(shard, shard_id=f"{FOLDER}/{shard.shard_id.rpartition('/')[2]}") for shard in shards]


def truth(folder: RunFolder) -> pa.Table:
    """Which sample is a copy of which (planting.TRUTH_SCHEMA)."""
    return folder.read_table(_TRUTH)


def drawn_sample(folder: RunFolder) -> list[str]:
    """The sample_ids that were drawn."""
    return list(folder.read_table(_SAMPLE)["sample_id"].to_pylist())


def plant_copies(run: Run, client: Client, settings: PlantSettings, folder: RunFolder) -> None:
    """Draw from the shards that the run described, and write the copies, a block of images a task.

    Raises ConfigError where too few images were decoded for every transform to occur.
    """
    sample = _draw(run, client, settings)
    settings.check_sample(len(sample))
    rows = _located(run, client, sample)
    block = len(settings.transforms)  # so many that each block holds every transform equally often
    blocks = [rows[start : start + block] for start in range(0, len(rows), block)]
    task = functools.partial(_plant_block, settings, folder, run.settings.describe.max_pixels)
    copies = []
    with Progress("plant", len(rows) * settings.copies, "copies") as progress:
        futures = client.map(task, list(enumerate(blocks)), pure=False)
        try:
            for _, planted in as_completed(futures, with_results=True):
                copies += planted
                progress.advance(len(planted), len(planted))
        finally:
            client.cancel(futures, force=True)
    folder.write_table(_SAMPLE, pa.table({"sample_id": sample}))
    ordered = sorted(copies, key=lambda row: row["sample_id"])
    folder.write_table(_TRUTH, pa.Table.from_pylist(ordered, schema=TRUTH_SCHEMA))


def _draw(run: Run, client: Client, settings: PlantSettings) -> list[str]:
    """The images with the smallest hashes, of all that were decoded."""
    decoded = sum(entry["samples"] - entry["failed"] for entry in run.document["shards"])
    # Twice as many as are needed come to the driver, not so many from each shard.
    below = min(1.0, 2 * (settings.images + 50) / max(decoded, 1))
    task = functools.partial(_hashed_below, run.folder, settings.sample_seed, below)
    smallest: list[tuple[float, str]] = []
    futures = client.map(task, [shard.shard_id for shard in run.shards], pure=False)
    for _, part in as_completed(futures, with_results=True):
        smallest = heapq.nsmallest(settings.images, [*smallest, *part])
    return [identity for _, identity in smallest]


def _hashed_below(folder: RunFolder, seed: int, below: float, shard_id: str) -> list[tuple[float, str]]:
    rows = folder.read_table(descriptors_name(shard_id), ["sample_id", "error"])
    ids = rows.filter(pc.is_null(rows["error"]))["sample_id"].to_pylist()
    hashed = ((_hash(seed, identity), identity) for identity in ids)
    return [entry for entry in hashed if entry[0] < below]


def _hash(seed: int, identity: str) -> float:
    digest = hashlib.sha256(f"{seed}\0{identity}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _located(run: Run, client: Client, sample: list[str]) -> list[dict[str, Any]]:
    """Of each drawn image where its bytes are, and what goes with it, in the order of the sample."""
    parts = split_by_shard(pa.table({"sample_id": sample}), run.shards)
    shards = {shard.shard_id: shard for shard in run.shards}
    futures = [
        client.submit(_rows_of, run.folder, shards[shard_id], part["sample_id"], pure=False)
        for shard_id, part in parts.items()
    ]
    rows = {row["sample_id"]: row for part in client.gather(futures) for row in part}
    return [{**rows[identity], "key": f"{number:06d}"} for number, identity in enumerate(sample)]


def _rows_of(folder: RunFolder, shard: Shard, sample_ids: pa.ChunkedArray) -> list[dict[str, Any]]:
    table = folder.read_table(descriptors_name(shard.shard_id), _DRAWN_COLUMNS)
    table = table.filter(pc.is_in(table["sample_id"], value_set=sample_ids.combine_chunks()))
    return [{**row, "url": shard.url} for row in table.to_pylist()]


def _plant_block(
    settings: PlantSettings, folder: RunFolder, max_pixels: int, block: tuple[int, list[dict[str, Any]]]
) -> list[dict[str, str]]:
    """One task: writes a shard of copies; gives the truth about them."""
    number, rows = block
    originals = {row["key"]: row["sample_id"] for row in rows}
    planted = plant(map(_read_back, rows), settings.transforms, settings.copies, settings.sample_seed, max_pixels)
    copies = [copy for copy in planted if copy.original is not None]
    name = f"{FOLDER}/{number:05d}"
    write_shard(folder.path(f"{name}.tar"), (member for copy in copies for member in copy.members()))
    return [
        {
            "sample_id": sample_id(name, copy.key),
            "original": originals[copy.original or ""],
            "transform": copy.transform or "",
        }
        for copy in copies
    ]


def _read_back(row: dict[str, Any]) -> Sample:
    data = read_range(row["url"], row["offset"], row["size"])
    extension = row["member"].rpartition(".")[2].lower()
    text, json = (None if row[name] is None else row[name].encode() for name in ("caption", "json"))
    return Sample(row["key"], Member(row["member"], extension, row["offset"], data), text, json)
