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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from distributed import Client, Future, as_completed

from dedup import __version__
from dedup.attack.experiment import Task, resolve_device, run_task, samples_name
from dedup.attack.extraction import MATCH_SCHEMA
from dedup.attack.forecast import hours
from dedup.attack.pool import as_floats
from dedup.attack.profiles import AttackSettings, override, profile_named
from dedup.attack.scoring import COMMON_COPIES, ArmScore, compare_arms, equivalences
from dedup.attack.sets import SeedSet
from dedup.attack.shadows import membership_curves, membership_report
from dedup.attack.verdict import cautions, verdict
from dedup.errors import ConfigError
from dedup.run_folder import RunFolder, fingerprint
from pipelines.attack_data import cleaning_settings, load_pool, outliers, prepare_seed
from pipelines.attack_options import AttackOptions
from pipelines.client import ClusterSettings, connect
from pipelines.progress import Progress

logger = logging.getLogger(__name__)

ATTACK_FILE = "attack.json"
_ASKED_FILE = "settings.json"
_UNLIKELY = 0.001  # p of the closed-form check below which it speaks against the scoring


def run_profile(
    run: str | None, out: str, profile: str, options: AttackOptions, cluster: ClusterSettings, device: str = "auto"
) -> dict[str, Any]:
    """`attack` by the settings of a profile, changed by `options`. Raises ConfigError for an unknown profile."""
    return attack(out, override(profile_named(profile), asdict(options)), cluster, run=run, device=device)


def attack(
    out: str,
    settings: AttackSettings,
    cluster: ClusterSettings,
    *,
    run: str | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Attack models before and after cleaning, or finish what was begun in `out`; returns attack.json.

    `run` is a finished run whose images are used; without one, embedded patches. Raises ConfigError where `out` holds
    another attack or the pictures are too few, ManifestError where the run does not match its shards: before anything
    is trained.
    """
    folder = RunFolder(out)
    started = time.monotonic()
    _refuse_other_settings(folder, settings, run)
    device = resolve_device(device)
    logger.info(
        "%s models, about %.2g hours of %s",
        len(tasks(settings)), hours(settings, device), "one GPU" if device == "cuda" else "one core",
    )  # fmt: skip
    cleaning = cleaning_settings(run)
    pool = load_pool(run, settings)
    logger.info("%s distinct pictures for %s", f"{len(pool):,}", settings.plan.parts())
    folder.write_json(_ASKED_FILE, _asked(settings, run))
    with connect(cluster) as client:
        on_it = ClusterSettings(scheduler=client.scheduler.address)
        missing = [seed for seed in range(settings.seeds) if not folder.exists(samples_name(seed))]
        scores = outliers(pool) if missing else {}
        with Progress("clean the planted sets", len(missing), "sets") as progress:
            for seed in missing:
                prepare_seed(folder, pool, scores, settings, cleaning, seed, on_it)
                progress.advance(1, 1)
        cleaned = time.monotonic()
        results = _run_tasks(client, folder, settings, tasks(settings), device)
    document = report(folder, settings, run, results)
    document["timings"] = {
        "clean_seconds": round(cleaned - started, 1),
        "attack_seconds": round(time.monotonic() - cleaned, 1),
        "device": device,
    }
    folder.write_json(ATTACK_FILE, document)
    _draw(folder, settings, document)
    return document


def text(document: Mapping[str, Any]) -> str:
    """What an attack tells its user: a table of rates by arm, the checks, and the verdict."""
    lines = [f"{'arm':20} {'images':>7}  {'copies >= 8':>11}  {'singles':>8}  {'held out':>8}  {'loss':>6}"]
    for name, content in document["arms"].items():
        lines.append(_row(name, content["seeds"]))
    if document["gan"]["seeds"]:
        lines.append(_row("GAN on duplicated", document["gan"]["seeds"]))
    if check := document["closed_form"]:
        lines.append(_emissions(check))
    for name in ("LiRA", "loss threshold"):
        if curve := document["membership"].get(name):
            lines.append(f"membership by {name}: {_membership(curve)}")
    lines += [_equality(row) for row in document["equivalence"] if row["near"] is None and row["against"] == "oracle"]
    lines += [f"caution: {caution}" for caution in document["cautions"]]
    lines.append(document["verdict"])
    return "\n".join(lines)


def _emissions(check: Mapping[str, Any]) -> str:
    test = f"chi-squared {check['chi2']:.0f} with {check['df']} degrees of freedom, p = {check['p']:.2g}"
    if check["p"] < _UNLIKELY:
        return f"closed form: emissions do NOT follow the copies, so this criterion misses or invents some: {test}"
    return f"closed form: emissions follow the copies, {test}"


def _row(name: str, seeds: Sequence[Mapping[str, Any]]) -> str:
    many = [rate for seed in seeds for rate in seed["rates"] if rate["k"] >= COMMON_COPIES]
    losses = [seed["utility"]["held_out_loss"] for seed in seeds if seed["utility"]["held_out_loss"] is not None]
    columns = (_share(many), _share([seed["singles"] for seed in seeds]), _share([seed["held_out"] for seed in seeds]))
    loss = f"{sum(losses) / len(losses):6.3f}" if losses else "     -"
    size = sum(seed["size"] for seed in seeds) / len(seeds)
    return f"{name:20} {size:7,.0f}  {columns[0]:>11}  {columns[1]:>8}  {columns[2]:>8}  {loss}"


def _equality(row: Mapping[str, Any]) -> str:
    shown = f"{row['arm']} against oracle, copies >= {row['k_min']}: {100 * row['difference']:+.0f} points"
    if row["low"] is None:
        return shown
    said = [f"95 % interval {100 * row['low']:+.0f} to {100 * row['high']:+.0f}"]
    said += [f"equal within {100 * row['margin']:.0f} points"] if row["equivalent"] else []
    said += ["differs"] if row["differs"] else []
    return f"{shown} ({', '.join(said)})"


def _share(counts: Sequence[Mapping[str, Any]]) -> str:
    groups = sum(count["groups"] for count in counts)
    return f"{sum(count['hit'] for count in counts) / groups:.1%}" if groups else "-"


def _membership(curve: Mapping[str, Any]) -> str:
    shown = [f"AUC {curve['auc']:.3f}"]
    shown += [f"{curve[at]:.1%} found {at[4:]} false" for at in ("tpr_at_1%", "tpr_at_0.1%") if curve[at] is not None]
    return ", ".join(shown)


def tasks(settings: AttackSettings) -> list[Task]:
    """All units of work, longest first, so that the last ones to end are short."""
    arms = [Task("arm", seed, arm) for seed in range(settings.seeds) for arm in settings.arms]
    gans = [Task("gan", seed, "gan") for seed in range(settings.gan_seeds)]
    shadows = [Task("shadow", 0, f"shadow-{number}") for number in range(settings.shadows)]
    return arms + shadows + gans + [Task("closed_form", 0, "closed_form")] * settings.closed_form


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


def report(
    folder: RunFolder, settings: AttackSettings, run: str | None, results: Mapping[Task, dict[str, Any]]
) -> dict[str, Any]:
    """attack.json, from the results of all tasks."""
    by_kind: dict[str, list[tuple[Task, dict[str, Any]]]] = {}
    for task, result in sorted(results.items(), key=lambda item: (item[0].kind, item[0].seed)):
        by_kind.setdefault(task.kind, []).append((task, result))
    arms: dict[str, dict[str, Any]] = {arm: {"seeds": []} for arm in settings.arms}
    for task, result in by_kind.get("arm", []):
        arms[task.arm]["seeds"].append(result)
    scores = {
        arm: {entry["seed"]: ArmScore.from_json(entry) for entry in content["seeds"]} for arm, content in arms.items()
    }
    comparisons = compare_arms(scores)
    return {
        "version": __version__,
        "run": run,
        "settings": settings.to_json(),
        "plan": {"needed": settings.plan.needed, "parts": settings.plan.parts()},
        "seeds": list(range(settings.seeds)),
        "arms": arms,
        "comparisons": comparisons,
        "equivalence": equivalences(comparisons),
        "gan": {"seeds": [result for _, result in by_kind.get("gan", [])]},
        "closed_form": next((result for _, result in by_kind.get("closed_form", [])), None),
        "membership": membership_report(_losses(folder, settings)) if settings.shadows else {},
        "cautions": cautions(scores),
        "verdict": verdict(scores),
    }


def _losses(folder: RunFolder, settings: AttackSettings) -> list[pa.Table]:
    return [folder.read_table(task.file("losses", "parquet")) for task in tasks(settings) if task.kind == "shadow"]


def _draw(folder: RunFolder, settings: AttackSettings, document: Mapping[str, Any]) -> None:
    """Writes plots/*.png and *.svg: all figures that the document has data for, a contact sheet per arm of seed 0."""
    from dedup.attack import plots  # here, because matplotlib comes with the extra `attack` alone

    figures = plots.figures(document)
    if settings.shadows:
        figures["membership"] = plots.roc(membership_curves(_losses(folder, settings))[0])
    reference = SeedSet(folder.read_table(samples_name(0)), settings.view.shape, 0).reference()
    for arm in settings.arms:
        table = folder.read_table(Task("arm", 0, arm).file("matches", "parquet"))
        made = as_floats(np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8))
        extracted = table["extracted"].to_numpy(zero_copy_only=False)
        made = made.reshape(len(table), *settings.view.shape)
        matches = table.select(MATCH_SCHEMA.names).cast(MATCH_SCHEMA)
        figures[f"contact-{arm}"] = plots.contact_sheet(made, reference, matches, extracted)
    for name, figure in figures.items():
        for file, content in plots.files(name, figure).items():
            with folder.whole_file(f"plots/{file}") as path:
                Path(path).write_bytes(content)


def _asked(settings: AttackSettings, run: str | None) -> dict[str, Any]:
    return {"run": run, "version": __version__, "settings": settings.to_json()}


def _refuse_other_settings(folder: RunFolder, settings: AttackSettings, run: str | None) -> None:
    """Raises ConfigError where the folder holds an attack with other settings, naming each difference."""
    before = folder.read_json(_ASKED_FILE)
    now = _asked(settings, run)
    if before is None or fingerprint(before) == fingerprint(now):
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
