"""The experiment of one seed, as every task of it sees it: what is planted, what a model gives away of it."""

from __future__ import annotations

import socket
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dedup.attack.edm import Denoiser, Generator, Images, Labels
from dedup.attack.extraction import attack_named, copied_group, extract, match
from dedup.attack.membership import Floats, denoising_losses
from dedup.attack.outliers import extraction_by_outlier
from dedup.attack.profiles import AttackSettings
from dedup.attack.reference import Reference
from dedup.attack.scoring import ArmScore, generations_curve, never_hit, score_arm
from dedup.attack.sets import ARMS, SeedSet
from dedup.attack.thresholds import tightened
from dedup.attack.utility import energy_distance, held_out_loss
from dedup.errors import ConfigError
from dedup.run_folder import RunFolder

SAMPLING_SEED = 0x5EED  # apart from the seeds of training, and the same for all arms


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
        self.device = device
        self.seed = seed
        self.set = SeedSet(folder.read_table(samples_name(seed)), settings.view.shape, seed)
        self.reference: Reference = self.set.reference()
        matching = tightened(self.reference, settings.attack, replace(settings.match, device=device))
        self.settings = replace(settings, match=matching, cliques=replace(settings.cliques, device=device))
        self.labels, self.label_count = self.set.labels(settings.captions)
        # One picture of each group: the copies that some twins have are there to be compared with generations alone.
        self.pictures = np.flatnonzero(self.set.first_of_group())
        self.held_out = np.intersect1d(self.set.rows("held_out"), self.pictures)

    @property
    def measured_with(self) -> str | None:
        """Under which label losses are measured: None for unconditional models, `shared` where all pictures have one
        caption, else `null`. A caption that was never trained would make any picture look unlike the training set."""
        if not self.label_count:
            return None
        return "shared" if self.settings.captions == "shared" else "null"

    def measuring_labels(self, count: int) -> Labels | None:
        """(count,) labels by `measured_with`."""
        if self.measured_with is None:
            return None
        return np.full(count, 0 if self.measured_with == "shared" else self.label_count, np.int64)

    def held_out_loss(self, model: Denoiser) -> float:
        """utility.held_out_loss of this seed's held-out pictures."""
        labels = self.measuring_labels(len(self.held_out))
        return held_out_loss(model, self.set.images[self.held_out], labels, torch.device(self.device))

    def losses(self, model: Denoiser) -> Floats:
        """membership.denoising_losses of all `pictures`."""
        labels = self.measuring_labels(len(self.pictures))
        images, settings = self.set.images[self.pictures], self.settings.membership
        return denoising_losses(model, images, settings, labels, self.device)

    def prompts(self, count: int) -> Labels | None:
        """(count,) the labels of generations: those of the set before cleaning, in turn, the same for every arm."""
        if not self.label_count:
            return None
        return np.resize(np.unique(self.labels[ARMS["duplicated"](self.set)]), count)

    def attacked(self, generator: Generator, rows: npt.NDArray[np.int64]) -> Attacked:
        """Draw from a model that was trained on `rows`, and match."""
        count = self.settings.generations
        generations = generator.sample(count, SAMPLING_SEED + self.seed, self.prompts(count))
        matches = match(generations, self.reference, self.settings.match)
        extracted = extract(matches, self.settings.attack, self.settings.match)
        copied = copied_group(matches, self.settings.attack)
        present = self.set.present(rows)
        score = score_arm(copied, self.reference, extracted, present)
        return Attacked(generations, matches, extracted, copied, present, score)

    def result(self, attacked: Attacked, rows: npt.NDArray[np.int64]) -> dict[str, Any]:
        """The entry of attack.json for one seed of an arm, but for what only some models have."""
        hit = np.zeros(len(self.reference.groups), bool)
        hit[attacked.copied[attacked.extracted]] = True
        distance = energy_distance(attacked.generations, self.set.images[self.held_out])
        return {
            "seed": self.seed,
            "size": len(rows),
            "threshold": getattr(self.settings.match, attack_named(self.settings.attack).limit),
            **attacked.score.to_json(),
            "never_hit": never_hit(attacked.score),
            "utility": {"held_out_loss": None, "distribution_distance": distance},
            "generations_curve": generations_curve(attacked.copied, attacked.extracted, attacked.present),
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
    """What came of an attack: `generations` (G, C, S, S), `matches` (G rows), which were `extracted` (G,), copies of
    which groups these are (`copied`, (G,)), and which groups were trained on (`present`, (U,))."""

    generations: Images
    matches: pa.Table
    extracted: npt.NDArray[np.bool_]
    copied: npt.NDArray[np.int64]
    present: npt.NDArray[np.bool_]
    score: ArmScore


NAMED_DEVICES = ("cpu", "cuda")


def check_device(device: str) -> None:
    """Raises ConfigError for what is neither `auto` nor a device that models can be trained on, whether or not this
    machine has it."""
    try:
        known = device == "auto" or torch.device(device).type in NAMED_DEVICES
    except RuntimeError:
        known = False
    if not known:
        raise ConfigError(f"device={device}: choose auto, {' or '.join(NAMED_DEVICES)}")


def resolve_device(device: str) -> str:
    """The device on the machine that asks: `auto` is cuda where there is a CUDA device, else the CPU.

    Raises ConfigError for one that this machine lacks.
    """
    check_device(device)
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    wanted = torch.device(device)
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise ConfigError(
            f"device={device}: {socket.gethostname()} has {torch.cuda.device_count()} CUDA devices; take --device cpu, "
            "or auto, which takes what there is"
        )
    return device
