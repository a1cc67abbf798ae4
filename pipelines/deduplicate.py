"""From shards to a cleaned manifest.

shards ──describe──▶ descriptors ──search──▶ candidates ──judge──▶ pairs ──decide──▶ manifest
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from distributed import Client

from dedup.decisions import DecideSettings
from pipelines.client import ClusterSettings, connect
from pipelines.deciding import decide
from pipelines.describing import describe_shards
from pipelines.judging import judge
from pipelines.run_state import Run
from pipelines.searching import search
from pipelines.settings import RunSettings

# Describing has its own account of what is finished, shard by shard, so it is always asked.
AFTER_DESCRIBE: dict[str, Callable[[Run, Client], None]] = {"search": search, "verify": judge, "decide": decide}


def deduplicate(
    patterns: Sequence[str],
    out: str,
    settings: RunSettings,
    cluster: ClusterSettings,
    *,
    root: str | None = None,
    skip_bad_shards: bool = False,
) -> Run:
    """Clean the shards that `patterns` list into the run folder `out`, or finish what was begun there.

    Raises ConfigError where the folder holds a run with other settings, ShardError where a shard is unreadable,
    ClusterError where all workers are lost.
    """
    run = Run.open(out, patterns, settings, root=root, skip_bad_shards=skip_bad_shards)
    with connect(cluster) as client:
        finish(run, client)
    return run


def finish(run: Run, client: Client) -> None:
    """Every step of the run that is not finished, in order."""
    _timed(run, "describe", describe_shards, client)
    for step, function in AFTER_DESCRIBE.items():
        if not run.is_finished(step):
            _timed(run, step, function, client)


def redecide(out: str, decision: DecideSettings, cluster: ClusterSettings) -> Run:
    """Only the decision again, with other settings, or after the overrides changed. Raises ManifestError where the run
    is not described, searched and verified, or another version of dedup did it."""
    run = Run.reopen(out)
    if run.of_other_version():
        raise run.unfinished()
    run.set_decision(decision)
    with connect(cluster) as client:
        _timed(run, "decide", decide, client)
    return run


def _timed(run: Run, step: str, function: Callable[[Run, Client], None], client: Client) -> None:
    started = time.monotonic()
    function(run, client)
    run.document["steps"][step]["wall_seconds"] = round(time.monotonic() - started, 3)
    run.save()
