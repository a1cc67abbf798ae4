"""One `dedup run` in a process of its own, for the benchmarks."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup.errors import ConfigError
from dedup.run_folder import RUN_FILE

STEPS = ("describe", "search", "verify")


@dataclass(frozen=True)
class Measured:
    """One `dedup run` in a process of its own: `seconds` from its start to its end, and its run.json."""

    seconds: float
    document: Mapping[str, Any]

    @property
    def step_seconds(self) -> dict[str, float]:
        """Of STEPS."""
        return {step: float(self.document["steps"][step]["wall_seconds"]) for step in STEPS}

    @property
    def describe_seconds(self) -> float:
        return self.step_seconds["describe"]


def dedup_run(shards: str, out: Path, *arguments: str) -> Measured:
    """Run the command line as a user does. Raises ConfigError with what it said last where it fails."""
    command = [sys.executable, "-m", "pipelines.cli", "run", shards, "--out", str(out), *arguments]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise ConfigError(f"dedup run failed: {done.stderr.strip()[-500:]}")
    return Measured(seconds, json.loads((out / RUN_FILE).read_text()))
