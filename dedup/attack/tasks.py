"""One unit of work of an attack: train one model on one arm of one seed, attack it, write down what it leaks.

    samples/seed-0.parquet ──▶ Task ──▶ results/seed-0/duplicated.json, matches/seed-0/duplicated.parquet

A task reads and writes files of the attack's folder alone, so that tasks run anywhere, in any order, and a finished one
need not run again; one that was interrupted goes on from its checkpoint. TASKS has the kinds of work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup.attack.arm_membership import membership_of_arm
from dedup.attack.closed_form import OptimalDenoiser
from dedup.attack.experiment import SAMPLING_SEED, Experiment, Task, resolve_device
from dedup.attack.extraction import copied_group, extract, match
from dedup.attack.gan import GanTraining
from dedup.attack.membership import NEEDS_SHADOWS
from dedup.attack.profiles import AttackSettings
from dedup.attack.prompts import answer_prompts
from dedup.attack.scoring import ArmScore
from dedup.attack.sets import ARMS
from dedup.attack.shadows import halves, losses_table
from dedup.attack.statistics import emission_test
from dedup.attack.training import Training, milestones
from dedup.run_folder import RunFolder

_EXPECTED_EMISSIONS = 8  # of an image that occurs once, from the closed form: 5 are the least that its test takes
_CLOSED_FORM_STEPS = 40  # its probability flow is steep where it decides between images
UNCONDITIONAL_ARMS = ("duplicated", "deduplicated")
UNCONDITIONAL = "unconditional-"  # before the arm's name, of models that are told no captions where others are


def tasks(settings: AttackSettings) -> list[Task]:
    """All units of work, longest first, so that the last ones to end are short."""
    arms = [Task("arm", seed, arm) for seed in range(settings.seeds) for arm in settings.arms]
    plain = [
        Task("unconditional", seed, UNCONDITIONAL + arm)
        for seed in range(settings.unconditional_seeds)
        for arm in UNCONDITIONAL_ARMS
    ]
    gans = [Task("gan", seed, "gan") for seed in range(settings.gan_seeds)]
    shadows = [
        Task("shadow", seed, f"shadow-{number}")
        for seed in range(settings.seeds)
        for number in range(settings.shadow_models)
    ]
    closed_form = [Task("closed_form", 0, "closed_form")] * settings.closed_form
    return arms + plain + shadows + gans + closed_form


def run_task(folder: RunFolder, settings: AttackSettings, task: Task, device: str = "auto") -> dict[str, Any]:
    """Does the work and writes its files, the result last; what is finished already is only read.

    Raises ConfigError where a checkpoint is damaged or of other settings, or this machine lacks the device.
    """
    name = task.file("results", "json")
    finished = folder.read_json(name)
    if finished is not None:
        return finished
    started = time.monotonic()
    experiment = Experiment(folder, settings, task.seed, resolve_device(device))
    result = TASKS[task.kind](experiment, task)
    result["seconds"] = round(time.monotonic() - started, 2)
    folder.write_json(name, result)
    folder.remove(task.file("checkpoints", "pt"))
    return folder.read_json(name) or {}  # as a later call would have it


def _train_and_attack(experiment: Experiment, task: Task) -> dict[str, Any]:
    settings = experiment.settings
    rows = ARMS[task.arm.removeprefix(UNCONDITIONAL)](experiment.set)
    training = Training(
        experiment.set.images[rows], experiment.labels[rows], experiment.label_count, settings.network, settings.train,
        task.seed, experiment.device,
    )  # fmt: skip
    curve: list[dict[str, Any]] = _resume(experiment.folder, task, training) or []
    for step in (milestone for milestone in settings.train.milestones() if milestone > training.step):
        training.run_to(step)
        model = training.generator(settings.sampler)
        attacked = experiment.attacked(model, rows)
        loss = experiment.held_out_loss(model.denoiser)
        curve.append({"steps": step, "held_out_loss": loss, **_curve_point(attacked.score)})
        if step < settings.train.steps:
            experiment.folder.write_bytes(task.file("checkpoints", "pt"), training.checkpoint(curve))
    experiment.save_matches(task, attacked)
    result = experiment.result(attacked, rows)
    result["utility"] |= {"held_out_loss": curve[-1]["held_out_loss"], "measured_with": experiment.measured_with}
    result["membership"] = _membership(experiment, task, experiment.losses(model.denoiser), attacked.present)
    if settings.prompts:
        result["prompts"] = answer_prompts(model, experiment.reference, experiment.settings, task.seed)
    return {**result, "curve": curve}


def _unconditional(experiment: Experiment, task: Task) -> dict[str, Any]:
    settings = replace(experiment.settings, captions="none", prompts=0, unconditional_seeds=0)
    return _train_and_attack(Experiment(experiment.folder, settings, task.seed, experiment.device), task)


def _membership(
    experiment: Experiment, task: Task, losses: npt.NDArray[np.float64], present: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """The attacks that need no shadow models; the losses are kept for those that do."""
    pictures = experiment.pictures
    member = present[experiment.set.group[pictures]]
    table = losses_table(pictures, member, losses)
    experiment.folder.write_table(task.file("losses", "parquet"), table)
    alone = [name for name in experiment.settings.inference if name not in NEEDS_SHADOWS]
    return {name: membership_of_arm(name, table, experiment.set.kind, ()) for name in alone}


def _curve_point(score: ArmScore) -> dict[str, Any]:
    content = score.to_json()
    return {name: content[name] for name in ("rates", "singles", "held_out")}


def _resume(folder: RunFolder, task: Task, training: Training | GanTraining) -> Any:
    """Goes on from the checkpoint that an interrupted task left, and gives its note; None where there is none."""
    name = task.file("checkpoints", "pt")
    checkpoint = folder.read_bytes(name)
    return None if checkpoint is None else training.resume(checkpoint, folder.path(name))


def _train(experiment: Experiment, task: Task, training: Training | GanTraining, steps: int) -> None:
    """Trains to the end, with a checkpoint now and then, from the last one that there is."""
    _resume(experiment.folder, task, training)
    for step in milestones(steps, experiment.settings.train.checkpoints):
        if step > training.step:
            training.run_to(step)
            if step < steps:
                experiment.folder.write_bytes(task.file("checkpoints", "pt"), training.checkpoint())


def _gan(experiment: Experiment, task: Task) -> dict[str, Any]:
    settings = experiment.settings
    rows = ARMS["duplicated"](experiment.set)
    training = GanTraining(experiment.set.images[rows], settings.gan, task.seed, experiment.device)
    _train(experiment, task, training, settings.gan.gan_steps)
    attacked = experiment.attacked(training.generator(settings.sampler.sample_batch), rows)
    experiment.save_matches(task, attacked)
    return experiment.result(attacked, rows)


def _closed_form(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Draws from the optimal denoiser of the set before cleaning: do emissions, as matched, follow the copies?"""
    settings = experiment.settings
    rows = ARMS["duplicated"](experiment.set)
    first, copies = np.unique(experiment.set.images[rows], axis=0, return_counts=True)
    sampler = replace(settings.sampler, sampler_steps=_CLOSED_FORM_STEPS)
    count = _EXPECTED_EMISSIONS * len(rows)
    generations = OptimalDenoiser(first, copies, sampler).sample(count, SAMPLING_SEED + task.seed)
    found = match(generations, experiment.reference, experiment.settings.match)
    extracted = extract(found, settings.attack, experiment.settings.match)
    groups = len(experiment.reference.groups)
    emitted = np.bincount(copied_group(found, settings.attack)[extracted], minlength=groups)
    weights = np.bincount(experiment.set.group[rows], minlength=groups).astype(np.float64)
    test = emission_test(emitted[weights > 0], weights[weights > 0])
    absent = int(emitted[weights == 0].sum())
    return {"seed": task.seed, "generations": count, "extracted": int(extracted.sum()), "absent": absent, **test}


def _shadow(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Trains one shadow model and writes its losses on all pictures; `task.arm` is shadow-<number>."""
    settings = experiment.settings
    number = int(task.arm.removeprefix("shadow-"))
    rows = experiment.pictures
    member = halves(settings.shadow_models, len(rows), task.seed)[number]
    images, labels = experiment.set.images[rows], experiment.labels[rows]
    training = Training(
        images[member], labels[member], experiment.label_count, settings.network, settings.train,
        1_000_003 * (task.seed + 1) + number, experiment.device,
    )  # fmt: skip
    _train(experiment, task, training, settings.train.steps)
    losses = experiment.losses(training.generator(settings.sampler).denoiser)
    experiment.folder.write_table(task.file("losses", "parquet"), losses_table(rows, member, losses))
    return {"seed": task.seed, "model": number, "members": int(member.sum())}


TASKS: Mapping[str, Callable[[Experiment, Task], dict[str, Any]]] = {
    "arm": _train_and_attack,
    "unconditional": _unconditional,
    "gan": _gan,
    "closed_form": _closed_form,
    "shadow": _shadow,
}
