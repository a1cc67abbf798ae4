"""attack.json and the figures, from what the tasks of an attack left in its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dedup import __version__
from dedup.attack.arm_membership import compare_membership, membership_of_arm
from dedup.attack.cleaning import cleaning_errors
from dedup.attack.experiment import Task, samples_name
from dedup.attack.extraction import MATCH_SCHEMA, attack_named
from dedup.attack.membership import NEEDS_SHADOWS
from dedup.attack.outliers import pooled_terciles
from dedup.attack.pool import as_floats
from dedup.attack.profiles import AttackSettings
from dedup.attack.prompts import compare_answers
from dedup.attack.scoring import ArmScore, compare_arms, compare_unique, equivalences
from dedup.attack.sets import SeedSet
from dedup.attack.shadows import membership_curves, membership_report
from dedup.attack.tasks import UNCONDITIONAL, tasks
from dedup.attack.utility import compare_utility
from dedup.attack.verdict import cautions, learned_less, verdict
from dedup.run_folder import RunFolder

Entries = dict[str, dict[str, list[dict[str, Any]]]]


def report(
    folder: RunFolder, settings: AttackSettings, run: str | None, results: Mapping[Task, dict[str, Any]]
) -> dict[str, Any]:
    """attack.json, from the results of all tasks and the sets and losses in the folder."""
    by_kind: dict[str, list[tuple[Task, dict[str, Any]]]] = {}
    for task, result in sorted(results.items(), key=lambda item: (item[0].kind, item[0].seed)):
        by_kind.setdefault(task.kind, []).append((task, result))
    arms: Entries = {arm: {"seeds": []} for arm in settings.arms}
    for task, result in by_kind.get("arm", []):
        arms[task.arm]["seeds"].append(result)
    unconditional: Entries = {}
    for task, result in by_kind.get("unconditional", []):
        unconditional.setdefault(task.arm.removeprefix(UNCONDITIONAL), {"seeds": []})["seeds"].append(result)
    gans = [result for _, result in by_kind.get("gan", [])]
    sets = [seed_set(folder, settings, seed) for seed in range(settings.seeds)]
    shadows = shadow_losses(folder, settings)
    _ask_shadows(folder, settings, arms, sets, shadows)
    scores = {arm: _scores(content["seeds"]) for arm, content in arms.items()}
    comparisons, cleaned = compare_arms(scores), [cleaning_errors(one) for one in sets]
    utility = compare_utility({arm: content["seeds"] for arm, content in arms.items()})
    against_gan = compare_unique(scores, others={"GAN": _scores(gans)})
    return {
        "version": __version__,
        "run": run,
        "settings": settings.to_json(),
        "plan": {"needed": settings.plan.needed, "parts": settings.plan.parts()},
        "seeds": list(range(settings.seeds)),
        "criterion": {
            "attack": settings.attack,
            "asked": getattr(settings.match, attack_named(settings.attack).limit),
            "by_seed": [seed["threshold"] for seed in next(iter(arms.values()))["seeds"]],
        },
        "arms": arms,
        "unconditional": unconditional,
        "comparisons": comparisons,
        "equivalence": equivalences(comparisons),
        "unique": compare_unique(scores),
        "utility": utility,
        "outliers": [
            {"arm": arm, **row}
            for arm, content in arms.items()
            for row in pooled_terciles([seed["outliers"] for seed in content["seeds"]])
        ],
        "gan": {
            "seeds": gans,
            "against_diffusion": next((row for row in against_gan if row["arm"] == "GAN"), None),
        },
        "closed_form": next((result for _, result in by_kind.get("closed_form", [])), None),
        "membership": {
            "comparisons": compare_membership({arm: content["seeds"] for arm, content in arms.items()}),
            "shadows": membership_report(shadows) if shadows else None,
        },
        "prompts": compare_answers({arm: content["seeds"] for arm, content in arms.items()}),
        "cleaning": cleaned,
        "cautions": cautions(scores) + learned_less(utility, comparisons) + _short_of_refill(cleaned, settings),
        "verdict": verdict(scores),
    }


def seed_set(folder: RunFolder, settings: AttackSettings, seed: int) -> SeedSet:
    """The planted set of a seed, as it was cleaned."""
    return SeedSet(folder.read_table(samples_name(seed)), settings.view.shape, seed)


def shadow_losses(folder: RunFolder, settings: AttackSettings) -> list[list[pa.Table]]:
    """By seed the losses of each shadow model; [] where none were asked for."""
    by_seed: dict[int, list[pa.Table]] = {}
    for task in tasks(settings):
        if task.kind == "shadow":
            by_seed.setdefault(task.seed, []).append(folder.read_table(task.file("losses", "parquet")))
    return list(by_seed.values())


def _ask_shadows(
    folder: RunFolder,
    settings: AttackSettings,
    arms: Entries,
    sets: Sequence[SeedSet],
    shadows: Sequence[Sequence[pa.Table]],
) -> None:
    """Adds to each entry's `membership` the attacks that need the shadow models of its seed."""
    if not shadows:
        return
    for arm, content in arms.items():
        for entry in content["seeds"]:
            seed = entry["seed"]
            table = folder.read_table(Task("arm", seed, arm).file("losses", "parquet"))
            for name in (name for name in settings.inference if name in NEEDS_SHADOWS):
                entry["membership"][name] = membership_of_arm(name, table, sets[seed].kind, shadows[seed])


def _short_of_refill(cleaned: Sequence[Mapping[str, Any]], settings: AttackSettings) -> list[str]:
    short = {row["seed"]: row["refill_missing"] for row in cleaned if row["refill_missing"]}
    if "deduplicated+refill" not in settings.arms or not short:
        return []
    return [
        f"deduplicated+refill lacks {max(short.values())} pictures of the old size in {len(short)} of {len(cleaned)} "
        "seeds: cleaning removed more than was planted"
    ]


def _scores(entries: Sequence[Mapping[str, Any]]) -> dict[int, ArmScore]:
    return {entry["seed"]: ArmScore.from_json(entry) for entry in entries}


def draw(folder: RunFolder, settings: AttackSettings, document: Mapping[str, Any]) -> None:
    """Writes plots/*.png and *.svg: all figures that the document has data for, a contact sheet of seed 0 of each arm
    and of the GAN."""
    from dedup.attack import plot_style, plots  # here, because matplotlib comes with the extra `attack` alone

    figures = plots.figures(document)
    if settings.shadow_models:
        figures["membership"] = plots.roc(membership_curves(shadow_losses(folder, settings))[0])
    reference = seed_set(folder, settings, 0).reference()
    drawn = [Task("arm", 0, arm) for arm in settings.arms] + [Task("gan", 0, "gan")] * bool(settings.gan_seeds)
    for task in drawn:
        table = folder.read_table(task.file("matches", "parquet"))
        made = as_floats(np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8))
        extracted = table["extracted"].to_numpy(zero_copy_only=False)
        made = made.reshape(len(table), *settings.view.shape)
        matches = table.select(MATCH_SCHEMA.names).cast(MATCH_SCHEMA)
        figures[f"contact-{task.arm}"] = plots.contact_sheet(made, reference, matches, extracted, settings.attack)
    for name, figure in figures.items():
        for file, content in plot_style.files(name, figure).items():
            with folder.whole_file(f"plots/{file}") as path:
                Path(path).write_bytes(content)
