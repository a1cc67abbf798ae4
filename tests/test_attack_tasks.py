"""Tasks of an attack and what they share, on small planted sets; every part of the full profile at small size."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from dedup.attack.experiment import Experiment, Task, samples_name
from dedup.attack.profiles import PROFILES, AttackSettings, override
from dedup.attack.sets import ARMS, CAPTIONS
from dedup.attack.tasks import run_task, tasks
from dedup.attack.thresholds import tightened
from dedup.errors import ConfigError
from dedup.run_folder import RunFolder
from pipelines.attack import attack
from pipelines.attack_summary import text
from pipelines.client import ClusterSettings, connect
from tests.attack_makers import Images, noise
from tests.attack_sets import PLAN, TINY, seed_set


@pytest.fixture
def planted(tmp_path: Path) -> RunFolder:
    """An attack's folder with the set of PLAN as that of seed 0."""
    folder = RunFolder(tmp_path / "planted")
    folder.write_table(samples_name(0), seed_set().table)
    return folder


def test_a_damaged_checkpoint_stops_the_attack_before_anything_is_trained(
    tmp_path: Path, cluster: ClusterSettings
) -> None:
    settings = override(TINY, {"gan_seeds": 0, "closed_form": False, "arms": ("duplicated", "deduplicated", "oracle")})
    out = tmp_path / "out"
    attack(str(out), settings, cluster)
    shutil.rmtree(out / "results")
    last = tasks(settings)[-1]
    RunFolder(out).write_bytes(last.file("checkpoints", "pt"), b"damaged")
    with (
        connect(ClusterSettings(workers=1)) as client,
        pytest.raises(ConfigError, match=rf"{last.arm}\.pt is no whole checkpoint"),
    ):
        attack(str(out), settings, ClusterSettings(scheduler=client.scheduler.address))
    assert not (out / "results").exists()


def test_a_damaged_checkpoint_is_named(planted: RunFolder) -> None:
    task = Task("arm", 0, "oracle")
    planted.write_bytes(task.file("checkpoints", "pt"), b"damaged")
    with pytest.raises(ConfigError, match=r"checkpoints/seed-0/oracle\.pt is no whole checkpoint: delete it"):
        run_task(planted, TINY, task, "cpu")


@pytest.mark.parametrize("captions", CAPTIONS)
def test_losses_are_measured_with_a_label_that_was_trained(captions: str, planted: RunFolder) -> None:
    """Those of held-out pictures never were, and would make any of them look unlike the training set."""
    settings = override(PROFILES["smoke"], {"captions": captions})
    experiment = Experiment(planted, settings, 0, "cpu")
    label = {"none": None, "shared": 0}.get(captions, experiment.label_count)  # the null label, by default
    asked: set[int | None] = set()

    def model(noisy: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:  # noqa: ARG001
        asked.update([None] if labels is None else labels.tolist())
        return noisy

    experiment.held_out_loss(model)
    experiment.losses(model)
    assert asked == {label}
    assert experiment.measured_with == {"none": None, "shared": "shared"}.get(captions, "null")


def test_each_held_out_picture_is_measured_once(planted: RunFolder) -> None:
    experiment = Experiment(planted, PROFILES["smoke"], 0, "cpu")
    assert len(experiment.held_out) == len(PLAN.canaries())
    assert len(experiment.set.rows("held_out")) > len(experiment.held_out)


class Drawn:
    """A generator that gives random pictures."""

    def sample(self, count: int, seed: int, labels: object = None) -> Images:  # noqa: ARG002
        return noise(count, seed)


@pytest.mark.parametrize("name", ["tiled_l2", "template"])
def test_an_arm_leaks_the_groups_that_its_attack_names(name: str, planted: RunFolder) -> None:
    """Not those that are nearest by l2."""
    settings = override(PROFILES["smoke"], {"attack": name, "max_tiled_l2": 0.6, "max_template_l2": 0.4})
    experiment = Experiment(planted, settings, 0, "cpu")
    experiment.settings = settings  # with thresholds that random pictures pass
    rows = ARMS["duplicated"](experiment.set)
    attacked = experiment.attacked(Drawn(), rows)
    own = attacked.matches[f"{name.removesuffix('_l2')}_group"].to_numpy()
    assert attacked.extracted.any()
    assert (attacked.copied == own).all()
    assert (own != attacked.matches["group"].to_numpy()).any()
    leaked = np.unique(own[attacked.extracted])
    entry = experiment.result(attacked, rows)
    assert entry["unique"]["extracted"] == attacked.present[leaked].sum()
    assert entry["generations_curve"][-1]["extracted"] == attacked.present[leaked].sum()
    singles = np.flatnonzero(experiment.reference.is_kind("single"))
    assert entry["singles"]["hits"] == tuple(np.flatnonzero(np.isin(singles, leaked)))


def test_the_threshold_of_the_attack_is_tightened_to_the_set(planted: RunFolder) -> None:
    settings = override(PROFILES["smoke"], {"attack": "l2", "max_l2": 0.9})
    experiment = Experiment(planted, settings, 0, "cpu")
    expected = tightened(experiment.reference, "l2", settings.match)
    assert experiment.settings.match == expected
    assert expected.max_l2 < 0.9
    rows = ARMS["oracle"](experiment.set)
    assert experiment.result(experiment.attacked(Drawn(), rows), rows)["threshold"] == expected.max_l2


def test_every_part_of_the_full_profile_runs_at_small_size(tmp_path: Path, cluster: ClusterSettings) -> None:
    settings = override(
        TINY,
        {
            "model": "unet", "captions": "unique", "inference": ("lira", "loss_threshold"), "shadows": 6, "prompts": 2,
            "colour": True, "gan_seeds": 0, "unconditional_seeds": 1, "arms": ("duplicated", "deduplicated"),
            "closed_form": False, "steps": 4, "generations": 12, "batch": 4, "prompt_generations": 4, "min_clique": 3,
            "sampler_steps": 2, "draws": 2,
        },
    )  # fmt: skip
    document = attack(str(tmp_path / "out"), settings, cluster)
    shadows = document["membership"]["shadows"]
    assert (shadows["models"], shadows["seeds"]) == (6, 1)
    pictures = settings.plan.needed
    assert shadows["lira"]["members"] == shadows["lira"]["non_members"] == 3 * pictures
    entry = document["arms"]["duplicated"]["seeds"][0]
    for attack_name in ("lira", "loss_threshold"):
        assert 0 <= shadows[attack_name]["auc"] <= 1
        assert entry["membership"][attack_name]["single"]["members"] == settings.plan.singles
    assert entry["utility"]["measured_with"] == "null"
    assert set(document["unconditional"]) == {"duplicated", "deduplicated"}
    assert document["unconditional"]["duplicated"]["seeds"][0]["utility"]["measured_with"] is None
    answers = document["arms"]["duplicated"]["seeds"][0]["prompts"]
    assert [row["copies"] for row in answers["prompts"]] == [4, 4]
    assert answers["held_out"] == len(settings.plan.canaries())
    assert (tmp_path / "out/plots/membership.png").exists()
    shown = text(document)
    assert "membership by lira, 6 shadow models of each of 1 seeds: AUC" in shown
    assert "membership of canaries by lira, duplicated -> deduplicated: AUC" in shown
    assert "measured with the null label" in shown
    assert [(row["arm"], row["captions"]) for row in document["prompts"]] == [("duplicated", 2), ("deduplicated", 2)]
    assert "\ngenerate and filter, duplicated: " in shown
    assert "\nuncaptioned, duplicated" in shown


def test_tasks_are_all_seeds_by_arms_and_the_extras() -> None:
    settings: AttackSettings = override(TINY, {"seeds": 2, "shadows": 6, "gan_seeds": 1})
    kinds = Counter(task.kind for task in tasks(settings))
    assert kinds == {"arm": 10, "gan": 1, "closed_form": 1}
    more = override(settings, {"inference": ("lira",), "captions": "own", "unconditional_seeds": 1})
    kinds = Counter(task.kind for task in tasks(more))
    assert kinds == {"arm": 10, "unconditional": 2, "shadow": 12, "gan": 1, "closed_form": 1}
    assert len(set(tasks(more))) == 26
