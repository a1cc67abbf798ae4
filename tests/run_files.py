"""Runs without an embedder on a few pictures, and what tests look at of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from dedup.candidates import in_order
from dedup.describe import DescribeSettings
from dedup.manifest import read_manifest
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.run_state import Run
from pipelines.settings import RunSettings
from tests.shard_makers import encode, sample_members, write_tar


def files(run: Path, *folders: str) -> dict[str, bytes]:
    """Every file of these folders of the run, by name."""
    found = [path for folder in folders for path in sorted((run / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def rows(run: Path) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in read_manifest(str(run)).to_pylist()}


def run_on(folder: Path, shards: list[list[Image.Image]], cluster: ClusterSettings) -> tuple[Run, pa.Table]:
    """The run `folder`/run of the pictures, number n of shard m being "m/n", and its pairs in order."""
    for number, pictures in enumerate(shards):
        members = [sample_members(f"{n}", encode(image)) for n, image in enumerate(pictures)]
        write_tar(folder / "shards" / f"{number}.tar", [member for sample in members for member in sample])
    settings = RunSettings(describe=DescribeSettings(embedder="none"))
    run = deduplicate([str(folder / "shards")], str(folder / "run"), settings, cluster)
    return run, in_order(pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")]))


def accepted(pairs: pa.Table) -> list[tuple[str, str]]:
    found = pairs.filter(pairs["accepted"])
    return list(zip(found["a"].to_pylist(), found["b"].to_pylist(), strict=True))
