"""`dedup attack`: how much less do models leak once their training set is cleaned?

pool ──draw, plant──▶ shards of a seed ──deduplicate──▶ samples ──train and attack, per seed and arm──▶ attack.json

Seeds and arms are independent tasks on Dask; each leaves its own files, so an interrupted attack goes on.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from distributed import Client, Future, as_completed

from dedup import __version__
from dedup.attack.attacks import by_kind
from dedup.attack.checkpoints import check as check_checkpoint
from dedup.attack.experiment import Task, check_device, resolve_device, samples_name
from dedup.attack.forecast import hours
from dedup.attack.profiles import AttackSettings, override, profile_named
from dedup.attack.tasks import run_task, tasks
from dedup.errors import ConfigError
from dedup.run_folder import RUN_FILE, RunFolder, fingerprint
from pipelines.attack_data import cleaning_settings, load_pool, outliers, prepare_seed
from pipelines.attack_options import AttackOptions
from pipelines.attack_report import draw, report
from pipelines.client import ClusterSettings, connect
from pipelines.progress import Progress

logger = logging.getLogger(__name__)

ATTACK_FILE = "attack.json"
_ASKED_FILE = "settings.json"
_FORMAT = 2  # of results and matches: those of another are not gone on with


def run_profile(
    run: str | None, out: str, profile: str, options: AttackOptions, cluster: ClusterSettings, device: str = "auto"
) -> dict[str, Any]:
    """`attack` by the settings of a profile, changed by `options`. Raises ConfigError for an unknown profile."""
    return attack(out, settings_of(profile, options), cluster, run=run, device=device)


def settings_of(profile: str, options: AttackOptions) -> AttackSettings:
    """The settings of a profile, changed by `options`. Raises ConfigError for unknown names and what contradicts."""
    values = asdict(options)
    names = values.pop("attack")
    before = profile_named(profile)
    named = by_kind(names or ())
    if "prompts" in named and (options.prompts is not None or before.prompts):
        del named["prompts"]  # how many is said
    settings = override(before, values | named)
    if options.shadows is not None and not settings.shadow_models:
        raise ConfigError(
            f"shadows={options.shadows} are for the attack lira, which is not asked for: add --attack lira"
        )
    return settings


def attack(
    out: str,
    settings: AttackSettings,
    cluster: ClusterSettings,
    *,
    run: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Attack models before and after cleaning, or finish what was begun in `out`; returns attack.json.

    `run` is a finished run whose images are used; without one, embedded patches. `device` is looked for where models
    are trained. Raises ConfigError where `out` holds something else, the pictures are too few or a worker lacks the
    device, ManifestError where the run does not match its shards: before anything is trained.
    """
    folder = RunFolder(out)
    started = time.monotonic()
    check_device(device)
    _refuse_other_content(folder, settings, run)
    cleaning = cleaning_settings(run)
    missing = [seed for seed in range(settings.seeds) if not folder.exists(samples_name(seed))]
    if missing:  # else all that is needed of the pictures is in the folder
        pool = load_pool(run, settings)
        logger.info("%s distinct pictures for %s", f"{len(pool):,}", settings.plan.parts())
    work = tasks(settings)
    for name in (task.file("checkpoints", "pt") for task in work):
        if (checkpoint := folder.read_bytes(name)) is not None:
            check_checkpoint(checkpoint, folder.path(name))
    with connect(cluster) as client:
        devices = sorted(set(client.run(resolve_device, device).values()))
        if not all(folder.exists(task.file("results", "json")) for task in work):
            _forecast(client, settings, device)
        folder.write_json(_ASKED_FILE, _asked(settings, run))
        on_it = ClusterSettings(scheduler=client.scheduler.address)
        scores = outliers(pool) if missing else {}
        with Progress("clean the planted sets", len(missing), "sets") as progress:
            for seed in missing:
                prepare_seed(folder, pool, scores, settings, cleaning, seed, on_it)
                progress.advance(1, 1)
        cleaned = time.monotonic()
        results = _run_tasks(client, folder, settings, work, device)
    document = report(folder, settings, run, results)
    document["timings"] = {
        "clean_seconds": round(cleaned - started, 1),
        "attack_seconds": round(time.monotonic() - cleaned, 1),
        "device": ", ".join(devices),
    }
    folder.write_json(ATTACK_FILE, document)
    draw(folder, settings, document)
    return document


def _forecast(client: Client, settings: AttackSettings, device: str) -> None:
    """Measured by a worker: it is there that models are trained."""
    needed = client.submit(hours, settings, device, pure=False).result()
    logger.info("%s models, about %.2g hours of one of the workers", len(tasks(settings)), needed)


def _run_tasks(
    client: Client, folder: RunFolder, settings: AttackSettings, work: Sequence[Task], device: str
) -> dict[Task, dict[str, Any]]:
    """One task at a time in each worker process, however many threads it has: training sets its process's threads and
    random state, and two models would share a GPU."""
    waiting = deque(work)
    running: dict[Future, tuple[Task, str]] = {}
    results: dict[Task, dict[str, Any]] = {}
    ended = as_completed()

    def start_next(worker: str) -> None:
        if waiting:
            task = waiting.popleft()
            future = client.submit(
                run_task, folder, settings, task, device, workers=[worker], allow_other_workers=True, pure=False
            )
            running[future] = task, worker
            ended.add(future)

    with Progress("train and attack", len(work), "models") as progress:
        for worker in client.nthreads():
            start_next(worker)
        for future in ended:
            task, worker = running.pop(future)
            results[task] = future.result()
            start_next(worker)
            progress.advance(1, 1)
    return results


def _asked(settings: AttackSettings, run: str | None) -> dict[str, Any]:
    return {"run": run, "version": __version__, "format": _FORMAT, "settings": settings.to_json()}


def _refuse_other_content(folder: RunFolder, settings: AttackSettings, run: str | None) -> None:
    """Raises ConfigError where the folder holds anything but an attack, or one with other settings, naming each
    difference."""
    content = folder.content()
    if not content:
        return
    before = folder.read_json(_ASKED_FILE) if _ASKED_FILE in content else None
    now = _asked(settings, run)
    if before is None or "settings" not in before:
        what = "a run of `dedup run`" if RUN_FILE in content else f"{content[0]}, which is of no attack"
        raise ConfigError(f"{folder.url} holds {what}: choose another OUT, a new or an empty folder")
    if before.get("format") != _FORMAT:
        raise ConfigError(f"{folder.url} holds an attack of an earlier state of this program: choose another OUT")
    if fingerprint(before) == fingerprint(now):
        return
    flat_before, flat_now = dict(_flat(before)), dict(_flat(now))
    differences = [
        f"{name}: {flat_before.get(name)!r} in the folder, {flat_now.get(name)!r} asked"
        for name in sorted(set(flat_before) | set(flat_now))
        if flat_before.get(name) != flat_now.get(name)
    ]
    raise ConfigError(
        f"{folder.url} holds an attack with other settings:\n  " + "\n  ".join(differences) + "\nchoose another OUT"
    )


def _flat(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in content.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]
    return found
