"""One unit of work of an attack: train one model on one arm of one seed, attack it, write down what it leaks.

    samples/seed-0.parquet ──▶ Task ──▶ results/seed-0/duplicated.json, matches/seed-0/duplicated.parquet

A task reads and writes files of the attack's folder alone, so that tasks run anywhere, in any order, and a finished one
need not run again. TASKS has the kinds of work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dedup.attack.closed_form import OptimalDenoiser
from dedup.attack.edm import Generator, Images, Labels
from dedup.attack.extraction import extract, match
from dedup.attack.gan import train_gan
from dedup.attack.membership import denoising_losses, roc_of
from dedup.attack.outliers import extraction_by_outlier
from dedup.attack.profiles import AttackSettings
from dedup.attack.prompts import answer_prompts
from dedup.attack.reference import Reference
from dedup.attack.scoring import ArmScore, generations_curve, score_arm
from dedup.attack.sets import ARMS, SeedSet
from dedup.attack.shadows import halves, losses_table
from dedup.attack.statistics import emission_test
from dedup.attack.training import DiffusionGenerator, Training
from dedup.attack.utility import energy_distance, held_out_loss
from dedup.run_folder import RunFolder

_EXPECTED_EMISSIONS = 8  # of an image that occurs once, from the closed form: 5 are the least that its test takes
_CLOSED_FORM_STEPS = 40  # its probability flow is steep where it decides between images
_SAMPLING_SEED = 0x5EED  # apart from the seeds of training, and the same for all arms


@dataclass(frozen=True)
class Task:
    """One unit of work. `arm` is the arm for kind `arm` and else the kind's own name."""

    kind: str
    seed: int
    arm: str

    def file(self, folder: str, extension: str) -> str:
        """Where in the attack's folder its results, matches or checkpoints lie."""
        return f"{folder}/seed-{self.seed}/{self.arm}.{extension}"


def samples_name(seed: int) -> str:
    """Where in the attack's folder the samples of a seed lie (sets.SAMPLES_SCHEMA)."""
    return f"samples/seed-{seed}.parquet"


class Experiment:
    """What all tasks of a seed share."""

    def __init__(self, folder: RunFolder, settings: AttackSettings, seed: int, device: str) -> None:
        self.folder = folder
        self.settings = replace(
            settings, match=replace(settings.match, device=device), cliques=replace(settings.cliques, device=device)
        )
        self.device = device
        self.seed = seed
        self.set = SeedSet(folder.read_table(samples_name(seed)), settings.view.shape, seed)
        self.reference: Reference = self.set.reference()
        self.labels, self.label_count = self.set.labels(settings.captions)
        self.held_out = self.set.rows("held_out")

    def prompts(self, count: int) -> Labels | None:
        """(count,) the labels of generations: those of the set before cleaning, in turn, the same for every arm."""
        if not self.label_count:
            return None
        return np.resize(np.unique(self.labels[ARMS["duplicated"](self.set)]), count)

    def attacked(self, generator: Generator, rows: npt.NDArray[np.int64]) -> Attacked:
        """Draw from a model that was trained on `rows`, and match."""
        count = self.settings.generations
        generations = generator.sample(count, _SAMPLING_SEED + self.seed, self.prompts(count))
        matches = match(generations, self.reference, self.settings.match)
        extracted = extract(matches, self.settings.attack, self.settings.match)
        present = self.set.present(rows)
        return Attacked(
            generations, matches, extracted, present, score_arm(matches, self.reference, extracted, present)
        )

    def result(self, attacked: Attacked, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The entry of attack.json for one seed of an arm, but for what only some models have."""
        hit = np.zeros(len(self.reference.groups), bool)
        hit[attacked.matches["group"].to_numpy()[attacked.extracted]] = True
        distance = energy_distance(attacked.generations, self.set.images[self.held_out])
        return {
            "seed": self.seed,
            "size": len(rows),
            **attacked.score.to_json(),
            "utility": {"held_out_loss": None, "distribution_distance": distance},
            "generations_curve": generations_curve(attacked.matches, attacked.extracted, attacked.present),
            "outliers": extraction_by_outlier(self.reference, hit),
        }

    def save_matches(self, task: Task, attacked: Attacked) -> None:
        """MATCH_SCHEMA with `extracted` and the generation itself as C*S*S bytes."""
        pixels = np.rint(attacked.generations * 255).astype(np.uint8)
        table = attacked.matches.append_column("extracted", pa.array(attacked.extracted))
        table = table.append_column("image", pa.array([image.tobytes() for image in pixels], pa.binary()))
        self.folder.write_table(task.file("matches", "parquet"), table)


@dataclass(frozen=True, eq=False)
class Attacked:
    """What came of an attack: `generations` (G, C, S, S), `matches` (G rows), `extracted` (G,), `present` (U,)."""

    generations: Images
    matches: pa.Table
    extracted: npt.NDArray[np.bool_]
    present: npt.NDArray[np.bool_]
    score: ArmScore


def run_task(folder: RunFolder, settings: AttackSettings, task: Task, device: str = "auto") -> dict[str, Any]:
    """Does the work and writes its files, the result last; what is finished already is only read.

    Raises ConfigError where a checkpoint is of other settings.
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


def resolve_device(device: str) -> str:
    """`auto` is cuda where there is a CUDA device, else the CPU."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def _train_and_attack(experiment: Experiment, task: Task) -> dict[str, Any]:
    settings = experiment.settings
    rows = ARMS[task.arm](experiment.set)
    training = Training(
        experiment.set.images[rows], experiment.labels[rows], experiment.label_count, settings.network, settings.train,
        task.seed, experiment.device,
    )  # fmt: skip
    curve: list[dict[str, Any]] = _resume(experiment.folder, task, training)
    held_out = experiment.held_out
    labels = experiment.labels[held_out] if experiment.label_count else None
    for step in (milestone for milestone in settings.train.milestones() if milestone > training.step):
        training.run_to(step)
        model = training.generator(settings.sampler)
        attacked = experiment.attacked(model, rows)
        loss = held_out_loss(model.denoiser, experiment.set.images[held_out], labels, training.device)
        curve.append({"steps": step, "held_out_loss": loss, **_curve_point(attacked.score)})
        if step < settings.train.steps:
            _write(experiment.folder, task.file("checkpoints", "pt"), training.checkpoint(curve))
    experiment.save_matches(task, attacked)
    result = experiment.result(attacked, rows)
    result["utility"]["held_out_loss"] = curve[-1]["held_out_loss"]
    result["membership"] = _threshold_attack(experiment, model, attacked.present)
    if settings.prompts:
        result["prompts"] = answer_prompts(model, experiment.reference, experiment.settings, task.seed)
    return {**result, "curve": curve}


def _threshold_attack(
    experiment: Experiment, model: DiffusionGenerator, present: npt.NDArray[np.bool_]
) -> dict[str, Any]:
    """Membership by loss alone: singles of the arm's set against the pictures that it has not seen."""
    seed_set = experiment.set
    first = seed_set.first_of_group()
    seen = present[seed_set.group]
    rows = np.flatnonzero(first & ((seed_set.kind == "single") & seen | ~seen))
    labels = experiment.labels[rows] if experiment.label_count else None
    settings = experiment.settings.membership
    losses = denoising_losses(model.denoiser, seed_set.images[rows], settings, labels, experiment.device)
    return roc_of(-losses.mean(1), seen[rows]).to_json()


def _curve_point(score: ArmScore) -> dict[str, Any]:
    content = score.to_json()
    return {name: content[name] for name in ("rates", "singles", "held_out")}


def _resume(folder: RunFolder, task: Task, training: Training) -> list[dict[str, Any]]:
    """The curve so far, of the checkpoint that an interrupted task left; [] where there is none."""
    name = task.file("checkpoints", "pt")
    checkpoint = folder.read_bytes(name)
    return [] if checkpoint is None else list(training.resume(checkpoint, folder.path(name)))


def _write(folder: RunFolder, name: str, content: bytes) -> None:
    with folder.whole_file(name) as path:
        Path(path).write_bytes(content)


def _gan(experiment: Experiment, task: Task) -> dict[str, Any]:
    settings = experiment.settings
    rows = ARMS["duplicated"](experiment.set)
    images = experiment.set.images[rows]
    gan = train_gan(images, settings.gan, task.seed, experiment.device, settings.sampler.sample_batch)
    attacked = experiment.attacked(gan, rows)
    experiment.save_matches(task, attacked)
    return experiment.result(attacked, rows)


def _closed_form(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Draws from the optimal denoiser of the set before cleaning: do emissions, as matched, follow the copies?"""
    settings = experiment.settings
    rows = ARMS["duplicated"](experiment.set)
    first, copies = np.unique(experiment.set.images[rows], axis=0, return_counts=True)
    sampler = replace(settings.sampler, sampler_steps=_CLOSED_FORM_STEPS)
    count = _EXPECTED_EMISSIONS * len(rows)
    generations = OptimalDenoiser(first, copies, sampler).sample(count, _SAMPLING_SEED + task.seed)
    found = match(generations, experiment.reference, experiment.settings.match)
    extracted = extract(found, settings.attack, experiment.settings.match)
    groups = len(experiment.reference.groups)
    emitted = np.bincount(found["group"].to_numpy()[extracted], minlength=groups)
    weights = np.bincount(experiment.set.group[rows], minlength=groups).astype(np.float64)
    test = emission_test(emitted[weights > 0], weights[weights > 0])
    absent = int(emitted[weights == 0].sum())
    return {"seed": task.seed, "generations": count, "extracted": int(extracted.sum()), "absent": absent, **test}


def _shadow(experiment: Experiment, task: Task) -> dict[str, Any]:
    """Trains one shadow model and writes its losses on all pictures; `task.arm` is shadow-<number>."""
    settings = experiment.settings
    number = int(task.arm.removeprefix("shadow-"))
    rows = np.flatnonzero(experiment.set.first_of_group())
    member = halves(settings.shadows, len(rows), task.seed)[number]
    images, labels = experiment.set.images[rows], experiment.labels[rows]
    training = Training(
        images[member], labels[member], experiment.label_count, settings.network, settings.train,
        1_000_003 * (task.seed + 1) + number, experiment.device,
    )  # fmt: skip
    training.run_to(settings.train.steps)
    model = training.generator(settings.sampler).denoiser
    given = labels if experiment.label_count else None
    losses = denoising_losses(model, images, settings.membership, given, experiment.device)
    experiment.folder.write_table(task.file("losses", "parquet"), losses_table(rows, member, losses))
    return {"seed": task.seed, "model": number, "members": int(member.sum())}


TASKS: Mapping[str, Callable[[Experiment, Task], dict[str, Any]]] = {
    "arm": _train_and_attack,
    "gan": _gan,
    "closed_form": _closed_form,
    "shadow": _shadow,
}
