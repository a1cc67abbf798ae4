"""`dedup attack` from pictures to attack.json, through the real deduplication."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from dedup.attack.experiment import Task, samples_name
from dedup.attack.gan import GanTraining
from dedup.attack.profiles import PROFILES, override
from dedup.attack.sets import ARMS, SAMPLES_SCHEMA
from dedup.attack.tasks import run_task
from dedup.attack.training import Training
from dedup.errors import ConfigError
from dedup.run_folder import RunFolder
from pipelines import attack as attack_module
from pipelines.attack import attack
from pipelines.attack_data import warn_of_errors
from pipelines.attack_report import report
from pipelines.attack_summary import text
from pipelines.client import ClusterSettings
from tests.attack_sets import no_training


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSettings) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("attack") / "smoke"
    return out, attack(str(out), PROFILES["smoke"], cluster)


def many(entry: dict[str, Any]) -> tuple[int, int]:
    """Hit and all canaries of exact copies at the highest level."""
    rate = max((rate for rate in entry["rates"] if not rate["near"]), key=lambda rate: rate["k"])
    return rate["hit"], rate["groups"]


def test_the_smoke_profile_shows_what_cleaning_does(smoke: tuple[Path, dict[str, Any]]) -> None:
    _, document = smoke
    entries = {arm: content["seeds"][0] for arm, content in document["arms"].items()}
    assert set(entries) == set(ARMS)
    assert many(entries["duplicated"]) == (2, 2)
    assert many(entries["oracle"]) == many(entries["deduplicated"]) == (0, 2)
    sizes = {arm: entry["size"] for arm, entry in entries.items()}
    assert sizes["duplicated"] == sizes["deduplicated+refill"] == 100 + 2 * (1 + 8 + 32) + 8 + 32
    assert sizes["oracle"] == 100 + 6 + 2
    assert sizes["oracle"] <= sizes["deduplicated"] == sizes["random-drop"] < 0.7 * sizes["duplicated"]
    for entry in entries.values():
        assert entry["held_out"]["hit"] == 0
        assert [point["steps"] for point in entry["curve"]] == [300, 600]
        assert entry["utility"]["held_out_loss"] < entry["curve"][0]["held_out_loss"] + 0.5
    assert document["closed_form"]["p"] > 1e-4
    assert document["closed_form"]["absent"] == 0
    assert document["gan"]["seeds"][0]["size"] == sizes["duplicated"]


def test_its_files_are_whole_and_agree(smoke: tuple[Path, dict[str, Any]]) -> None:
    out, document = smoke
    assert json.loads((out / "attack.json").read_text()) == document
    samples = pq.read_table(out / "samples/seed-0.parquet")
    assert samples.schema.equals(SAMPLES_SCHEMA)
    for arm in (*ARMS, "gan"):
        matches = pq.read_table(out / f"matches/seed-0/{arm}.parquet")
        assert len(matches) == PROFILES["smoke"].generations
        assert {len(image) for image in matches["image"].to_pylist()} == {64}
        entry = document["gan"]["seeds"][0] if arm == "gan" else document["arms"][arm]["seeds"][0]
        assert sum(matches["extracted"].to_pylist()) == entry["extracted_generations"]
    drawn = {path.name for path in (out / "plots").iterdir()}
    assert {
        "extraction.png",
        "extraction.svg",
        "ratios.png",
        "steps.png",
        "contact-duplicated.png",
        "contact-gan.png",
    } <= drawn
    assert not list((out / "checkpoints").rglob("*.pt"))


def test_its_text_has_every_arm_the_check_and_the_verdict(smoke: tuple[Path, dict[str, Any]]) -> None:
    _, document = smoke
    shown = text(document)
    for arm in ARMS:
        assert f"\n{arm} " in shown or shown.startswith(f"{arm} ")
    assert "GAN on duplicated" in shown
    assert document["prompts"] == []
    assert document["criterion"] == {"attack": "gap", "asked": 1 / 3, "by_seed": [1 / 3]}
    assert "counts up to" not in shown
    tight = {"attack": "l2", "asked": 0.15, "by_seed": [0.0812, 0.09]}
    assert "\nl2 counts up to 0.081 or 0.090, by seed, not to 0.15: beyond, more than 0.5% " in text(
        document | {"criterion": tight}
    )
    heads, row, *_ = shown.splitlines()
    assert heads.split()[-2:] == ["loss", "distance"]
    utility = document["arms"]["duplicated"]["seeds"][0]["utility"]
    assert row.split()[-2:] == [f"{utility['held_out_loss']:.3f}", f"{utility['distribution_distance']:.3f}"]
    assert "closed form: emissions follow the copies" in shown
    assert "\ncleaning missed 0 of 76 exact and " in shown
    assert "\nunique images extracted, GAN / diffusion on the same set: " in shown
    assert "\ncanaries never hit (of each: at most one in 134 generations is a copy of it, 95 %): duplicated " in shown
    assert "; false positives 0 % exact, 0 % near; " in document["verdict"]
    assert document["gan"]["against_diffusion"]["ratio"] < 1
    odd = document | {"closed_form": document["closed_form"] | {"p": 1e-9}, "cautions": ["too loose"]}
    assert "closed form: emissions do NOT follow the copies" in text(odd)
    assert "\ncaution: too loose\n" in text(odd)
    assert shown.splitlines()[-1] == document["verdict"]
    assert "copies >= 8: extraction" in document["verdict"]


def without_times(content: Any) -> Any:
    """What is left of attack.json without the seconds that its parts took."""
    if isinstance(content, dict):
        return {name: without_times(value) for name, value in content.items() if name not in ("seconds", "timings")}
    return [without_times(value) for value in content] if isinstance(content, list) else content


def test_a_second_call_only_reads_and_other_settings_are_refused(
    smoke: tuple[Path, dict[str, Any]], cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, document = smoke
    before = {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.json")}
    with monkeypatch.context() as patch:
        for unneeded in ("load_pool", "outliers", "prepare_seed", "hours"):
            patch.setattr(attack_module, unneeded, no_training)
        again = attack(str(out), PROFILES["smoke"], cluster)
    assert {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.json")} == before
    assert json.dumps(without_times(again)) == json.dumps(without_times(document))
    with pytest.raises(ConfigError, match=r"settings\.train\.steps: 600 in the folder, 601 asked"):
        attack(str(out), override(PROFILES["smoke"], {"steps": 601}), cluster)


@pytest.mark.timeout(900)
def test_the_command_goes_on_after_ctrl_c_to_the_same_results(
    smoke: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    out = tmp_path / "interrupted"
    command = [sys.executable, "-m", "pipelines.cli", "attack", "--profile", "smoke", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and not (left := list(out.glob("checkpoints/*/*.pt"))):
            time.sleep(0.02)
        checkpoints = {path: path.read_bytes() for path in left}
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command goes on from there" in said
    assert not (out / "attack.json").exists()
    for path, content in checkpoints.items():  # as if the workers had not had some seconds to finish what they did
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        (out / "results" / path.parent.name / f"{path.stem}.json").unlink(missing_ok=True)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "membership of canaries by loss_threshold" in done.stdout
    first, second = (json.loads((folder / "attack.json").read_text()) for folder in (smoke[0], out))
    assert json.dumps(without_times(first)) == json.dumps(without_times(second))


Run = Callable[[Any, int], None]


def interrupted_after(last: int, run_to: Run) -> Run:
    def interrupted(training: Any, step: int) -> None:
        if step > last:
            raise KeyboardInterrupt
        run_to(training, step)

    return interrupted


@pytest.mark.parametrize(
    ("task", "training"),
    [
        (Task("arm", 0, "oracle"), Training),
        (Task("shadow", 0, "shadow-3"), Training),
        (Task("gan", 0, "gan"), GanTraining),
    ],
)
def test_a_task_gives_the_same_result_again_and_goes_on_from_its_checkpoint(
    task: Task,
    training: type[Training] | type[GanTraining],
    smoke: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out, _ = smoke
    settings = override(
        PROFILES["smoke"], {"steps": 40, "gan_steps": 40, "generations": 50, "width": 32, "inference": ("lira",)}
    )
    samples = RunFolder(out).read_table(samples_name(0))
    results, written = {}, {}
    for name in ("whole", "interrupted"):
        folder = RunFolder(tmp_path / name)
        folder.write_table(samples_name(0), samples)
        if name == "interrupted":
            with monkeypatch.context() as patch:
                patch.setattr(training, "run_to", interrupted_after(20, training.run_to))
                with pytest.raises(KeyboardInterrupt):
                    run_task(folder, settings, task, "cpu")
            assert folder.exists(task.file("checkpoints", "pt"))
        results[name] = run_task(folder, settings, task, "cpu")
        results[name].pop("seconds")
        files = list((tmp_path / name).rglob("*.parquet"))
        written[name] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}
        assert not folder.exists(task.file("checkpoints", "pt"))
    assert results["whole"] == results["interrupted"]
    assert written["whole"] == written["interrupted"]


def test_refill_that_falls_short_is_told(
    smoke: tuple[Path, dict[str, Any]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out, document = smoke
    samples = RunFolder(out).read_table(samples_name(0))
    kept = pc.if_else(pc.equal(samples["kind"], "single"), False, samples["kept"])
    fewer = samples.set_column(samples.schema.get_field_index("kept"), samples.schema.field("kept"), kept)
    folder = RunFolder(tmp_path)
    folder.write_table(samples_name(0), fewer)
    results = {Task("arm", 0, arm): content["seeds"][0] for arm, content in document["arms"].items()}
    shown = report(folder, override(PROFILES["smoke"], {"gan_seeds": 0, "closed_form": False}), None, results)
    lacking = shown["cleaning"][0]["refill_missing"]
    assert lacking > 90
    assert f"deduplicated+refill lacks {lacking} pictures of the old size in 1 of 1 seeds" in text(shown)
    with caplog.at_level("WARNING"):
        warn_of_errors(shown["cleaning"][0])
        warn_of_errors(document["cleaning"][0])
    assert [record.message for record in caplog.records] == [
        f"seed 0: refill lacks {lacking} pictures of the old size; cleaning removed more than was planted"
    ]


def test_the_report_of_several_seeds_has_intervals(smoke: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    out, document = smoke
    settings = override(PROFILES["smoke"], {"seeds": 3, "gan_seeds": 0, "closed_form": False})
    for seed in range(3):
        RunFolder(tmp_path).write_table(samples_name(seed), RunFolder(out).read_table(samples_name(0)))
    results = {
        Task("arm", seed, arm): {**content["seeds"][0], "seed": seed}
        for arm, content in document["arms"].items()
        for seed in range(3)
    }
    shown = report(RunFolder(tmp_path), settings, None, results)
    rows = [row for row in shown["comparisons"] if row["arm"] == "deduplicated" and row["against"] == "duplicated"]
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows)
    assert shown["equivalence"]
    (unique,) = (row for row in shown["unique"] if row["arm"] == "deduplicated")
    assert unique["ratio_low"] <= unique["ratio"] <= unique["ratio_high"]
    assert {row["seeds"] for row in shown["outliers"]} == {3}
    assert "published, by another protocol: 0.86" in text(shown)
    aucs = [row for row in shown["membership"]["comparisons"] if row["measure"] == "auc"]
    assert {(row["of"], row["seeds"]) for row in aucs} == {("single", 3), ("canary", 3)}
    assert all(row["low"] <= row["difference"] <= row["high"] for row in aucs)
    assert "3 seeds" in shown["verdict"]
