"""The pictures of an attack, embedded ones or those of a finished run; and each seed's set, cleaned by a run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup.attack.cleaning import cleaning_errors
from dedup.attack.experiment import samples_name
from dedup.attack.outliers import outlier_scores
from dedup.attack.patches import patches
from dedup.attack.pool import Picture, Pool, distinct
from dedup.attack.profiles import AttackSettings
from dedup.attack.sets import SeedSet, check, draw, samples_table, shard_members
from dedup.decisions import DecideSettings
from dedup.embedders import Embedder, resolve
from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.images import decode, square
from dedup.manifest import read_manifest
from dedup.run_folder import RunFolder
from dedup.shards import read_range, write_shard
from dedup.transforms import Encoded
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.run_state import Run
from pipelines.settings import RunSettings

logger = logging.getLogger(__name__)

_SHARDS = 4
_SPARE = 4  # so many times the pictures that are needed are looked at, at most: some will be flat or alike
_OUTLIER_EMBEDDER = "efficientnet_lite0"


def load_pool(run: str | None, settings: AttackSettings) -> Pool:
    """The distinct pictures of the finished run `run`, or without one the embedded patches.

    Raises ConfigError, with a plan that fits, where they are too few; ManifestError or ShardError where the manifest is
    not that of the shards.
    """
    source = patches() if run is None else run_pictures(run, _SPARE * settings.plan.needed)
    pool = distinct(source, settings.view, enough=settings.plan.needed)
    check(pool, settings.plan)
    return pool


def run_pictures(run: str, count: int) -> Iterator[Picture]:
    """At most `count` images of a finished run, drawn evenly (by a hash of their sample_id) and shard by shard.

    At most one of each natural group: samples without likeness, and keepers of groups that are whole components.
    Raises ManifestError where an image's bytes are not those that the manifest describes, ShardError where a shard
    cannot be read.
    """
    columns = ["sample_id", "shard", "key", "status", "cluster_size", "component_size", "sha256", "caption"]
    manifest = read_manifest(run, columns)
    alone = pc.equal(manifest["cluster_size"], manifest["component_size"])
    rows = manifest.filter(pc.and_(pc.equal(manifest["status"], "kept"), alone)).to_pylist()
    if not rows:
        raise ManifestError(f"{run}: no kept image stands alone or for a whole group; nothing can be drawn from it")
    rows.sort(key=lambda row: hashlib.sha256(row["sample_id"].encode()).digest())
    chosen = sorted(rows[:count], key=lambda row: row["sample_id"])
    places = _places(run, {row["shard"] for row in chosen})
    order = np.random.default_rng(0).permutation(len(chosen))
    for row in (chosen[index] for index in order):
        yield _picture(run, row, places)


def _places(run: str, shards: set[str]) -> dict[str, tuple[str, int, int]]:
    """sample_id -> member, offset and size of its image."""
    folder = RunFolder(run)
    document = Run.reopen(run).document
    places: dict[str, tuple[str, int, int]] = {}
    for entry in document["shards"]:
        if entry["url"] in shards:
            name = f"descriptors/{entry['shard_id']}.parquet"
            table = folder.read_table(name, ["sample_id", "member", "offset", "size"])
            places.update((row["sample_id"], (row["member"], row["offset"], row["size"])) for row in table.to_pylist())
    return places


def _picture(run: str, row: dict[str, Any], places: dict[str, tuple[str, int, int]]) -> Picture:
    if row["sample_id"] not in places:
        raise ManifestError(f"{run}: its descriptors lack {row['sample_id']}, which its manifest has; run it again")
    member, offset, size = places[row["sample_id"]]
    try:
        data = read_range(row["shard"], offset, size)
    except ShardError as error:
        raise ManifestError(f"{run}: its manifest does not match the shards: {error}") from error
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise ManifestError(
            f"{run}: its manifest does not match the shards: {row['sample_id']} in {row['shard']} has other bytes; "
            "run dedup on the shards as they are now"
        )
    return Picture(row["sample_id"], Encoded(data, member.rsplit(".", 1)[-1].lower()), row["caption"] or "")


def cleaning_settings(run: str | None) -> RunSettings:
    """How the sets are cleaned: as the run was, without its overrides, and by no field that planted samples lack;
    without a run by the defaults. Raises ConfigError for a run that weighs samples instead of removing them."""
    if run is None:
        return RunSettings()
    before = Run.reopen(run).settings
    if before.decide.weighs:
        raise ConfigError(f"{run} weighs samples and removes none; `dedup decide {run} --weights none` removes them")
    decide = DecideSettings(grouping=before.decide.grouping, keep_up_to=before.decide.keep_up_to)
    return RunSettings(before.describe, before.search, before.verify, decide)


def outliers(pool: Pool) -> dict[str, float]:
    """How far each of the pool's pictures stands from all others, by its key; see outliers.outlier_scores."""
    embedder = resolve(_OUTLIER_EMBEDDER)
    if embedder is None:
        raise ConfigError(f"{_OUTLIER_EMBEDDER} is no embedder")
    rows = np.concatenate(list(embedder.embed(_squares(pool, embedder))))
    scores = outlier_scores(rows).tolist()
    return {picture.key: score for picture, score in zip(pool.pictures, scores, strict=True)}


def _squares(pool: Pool, embedder: Embedder) -> Iterator[np.ndarray[Any, Any]]:
    side = embedder.image_size
    for first in range(0, len(pool), embedder.batch_size):
        some = pool.pictures[first : first + embedder.batch_size]
        yield np.stack([square(decode(picture.image.data, min_side=side).rgb, side) for picture in some])


def prepare_seed(
    folder: RunFolder,
    pool: Pool,
    scores: dict[str, float],
    settings: AttackSettings,
    cleaning: RunSettings,
    seed: int,
    cluster: ClusterSettings,
) -> None:
    """Draws a seed's set, writes its shards, cleans them by a run of their own, and writes samples/seed-<n>.parquet."""
    samples = draw(pool, settings.plan, seed, settings.view.side)
    shards, run = folder.path(f"sets/seed-{seed}/shards"), folder.path(f"sets/seed-{seed}/run")
    for number, members in enumerate(shard_members(samples, _SHARDS, seed)):
        write_shard(f"{shards}/{number:05d}.tar", members)
    deduplicate([shards], run, cleaning, cluster)
    manifest = read_manifest(run, ["key", "status"])
    kept = manifest.filter(pc.equal(manifest["status"], "kept"))["key"].to_pylist()
    _check_complete(run, manifest["key"], samples)
    table = samples_table(samples, set(kept), scores, settings.view)
    warn_of_errors(cleaning_errors(SeedSet(table, settings.view.shape, seed)))
    folder.write_table(samples_name(seed), table)


def warn_of_errors(errors: Mapping[str, Any]) -> None:
    """Says before anything is trained where `cleaning_errors` leave refill short of pictures."""
    if missing := errors["refill_missing"]:
        logger.warning(
            "seed %d: refill lacks %d pictures of the old size; cleaning removed more than was planted",
            errors["seed"], missing,
        )  # fmt: skip


def _check_complete(run: str, keys: pa.ChunkedArray, samples: Sequence[Any]) -> None:
    expected = {sample.picture.key for sample in samples if sample.kind in ("single", "canary")}
    if set(keys.to_pylist()) != expected:
        raise ManifestError(
            f"{run}: its manifest does not match the shards that were written; delete the folder's sets"
        )
