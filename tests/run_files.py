"""What tests look at of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dedup.manifest import read_manifest


def files(run: Path, *folders: str) -> dict[str, bytes]:
    """Every file of these folders of the run, by name."""
    found = [path for folder in folders for path in sorted((run / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in found}


def rows(run: Path) -> dict[str, dict[str, Any]]:
    return {row["sample_id"]: row for row in read_manifest(str(run)).to_pylist()}
