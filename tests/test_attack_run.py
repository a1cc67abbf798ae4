"""`dedup attack` from pictures to attack.json, through the real deduplication."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dedup.attack.experiment import Task, run_task
from dedup.attack.profiles import PROFILES, AttackSettings, override
from dedup.attack.sets import ARMS, SAMPLES_SCHEMA
from dedup.attack.training import Training
from dedup.decisions import DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, ManifestError
from dedup.run_folder import RunFolder
from pipelines import attack as attack_module
from pipelines.attack import attack, report, tasks, text
from pipelines.attack_data import cleaning_settings, run_pictures
from pipelines.cli import main
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.settings import RunSettings
from tests.shard_makers import Members, jpeg, sample_members, write_tar

TINY = override(
    PROFILES["smoke"], {"levels": (1, 4), "singles": 6, "steps": 20, "generations": 60, "width": 32, "depth": 1}
)


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
    assert {"extraction.png", "extraction.svg", "ratios.png", "steps.png", "contact-duplicated.png"} <= drawn
    assert not list((out / "checkpoints").rglob("*.pt"))


def test_its_text_has_every_arm_the_check_and_the_verdict(smoke: tuple[Path, dict[str, Any]]) -> None:
    _, document = smoke
    shown = text(document)
    for arm in ARMS:
        assert f"\n{arm} " in shown or shown.startswith(f"{arm} ")
    assert "GAN on duplicated" in shown
    assert "closed form: emissions follow the copies" in shown
    odd = document | {"closed_form": document["closed_form"] | {"p": 1e-9}, "cautions": ["too loose"]}
    assert "closed form: emissions do NOT follow the copies" in text(odd)
    assert "\ncaution: too loose\n" in text(odd)
    assert shown.splitlines()[-1] == document["verdict"]
    assert "copies >= 8: extraction" in document["verdict"]


def test_a_second_call_only_reads_and_other_settings_are_refused(
    smoke: tuple[Path, dict[str, Any]], cluster: ClusterSettings
) -> None:
    out, document = smoke
    before = {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.json")}
    again = attack(str(out), PROFILES["smoke"], cluster)
    assert {name: again[name] for name in ("arms", "gan", "comparisons")} == {
        name: document[name] for name in ("arms", "gan", "comparisons")
    }
    assert {path: path.stat().st_mtime_ns for path in (out / "results").rglob("*.json")} == before
    with pytest.raises(ConfigError, match=r"settings\.train\.steps: 600 in the folder, 601 asked"):
        attack(str(out), override(PROFILES["smoke"], {"steps": 601}), cluster)


def interrupted_after(last: int, run_to: Callable[[Training, int], None]) -> Callable[[Training, int], None]:
    def interrupted(training: Training, step: int) -> None:
        if step > last:
            raise KeyboardInterrupt
        run_to(training, step)

    return interrupted


def test_a_task_gives_the_same_result_again_and_goes_on_from_its_checkpoint(
    smoke: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, _ = smoke
    settings = override(PROFILES["smoke"], {"steps": 40, "generations": 50, "width": 32})
    samples = RunFolder(out).read_table("samples/seed-0.parquet")
    results = {}
    for name in ("whole", "interrupted"):
        folder = RunFolder(tmp_path / name)
        folder.write_table("samples/seed-0.parquet", samples)
        task = Task("arm", 0, "oracle")
        if name == "interrupted":
            with monkeypatch.context() as patch:
                patch.setattr(Training, "run_to", interrupted_after(20, Training.run_to))
                with pytest.raises(KeyboardInterrupt):
                    run_task(folder, settings, task, "cpu")
            assert folder.exists("checkpoints/seed-0/oracle.pt")
        results[name] = run_task(folder, settings, task, "cpu")
        results[name].pop("seconds")
    assert results["whole"] == results["interrupted"]


def test_every_part_of_the_full_profile_runs_at_small_size(tmp_path: Path, cluster: ClusterSettings) -> None:
    settings = override(
        TINY,
        {
            "model": "unet", "captions": "unique", "shadows": 6, "prompts": 2, "colour": True, "gan_seeds": 0,
            "arms": ("duplicated", "deduplicated"), "closed_form": False, "steps": 4, "generations": 12, "batch": 4,
            "prompt_generations": 4, "sampler_steps": 2, "draws": 2,
        },
    )  # fmt: skip
    document = attack(str(tmp_path / "out"), settings, cluster)
    assert document["membership"]["models"] == 6
    pictures = settings.plan.needed
    assert document["membership"]["LiRA"]["members"] == document["membership"]["LiRA"]["non_members"] == 3 * pictures
    assert 0 <= document["membership"]["LiRA"]["auc"] <= 1
    answers = document["arms"]["duplicated"]["seeds"][0]["prompts"]
    assert [row["copies"] for row in answers["prompts"]] == [4, 4]
    assert answers["held_out"] == len(settings.plan.canaries())
    assert (tmp_path / "out/plots/membership.png").exists()
    assert "membership by LiRA: AUC" in text(document)


@pytest.fixture(scope="module")
def users_run(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSettings) -> Path:
    """A finished run over 60 pictures, of which five have a copy and one is tiny."""
    folder = tmp_path_factory.mktemp("users")
    pictures: Members = []
    for seed in range(60):
        pictures += sample_members(f"{seed:04d}", jpeg(seed, 96, 96), f"class {seed % 4}")
    for seed in range(5):
        pictures += sample_members(f"copy{seed}", jpeg(seed, 96, 96))
    pictures += sample_members("tiny", jpeg(99, 6, 6))
    write_tar(folder / "shards/00000.tar", pictures)
    settings = RunSettings(describe=DescribeSettings(embedder="none"))
    deduplicate([str(folder / "shards")], str(folder / "run"), settings, cluster)
    return folder


def test_a_run_gives_one_picture_of_each_natural_group(users_run: Path) -> None:
    found = Counter(picture.key.rsplit("/")[-1] for picture in run_pictures(str(users_run / "run"), 1000))
    assert max(found.values()) == 1
    assert len(found) == 61
    assert all((f"{seed:04d}" in found) != (f"copy{seed}" in found) for seed in range(5))
    assert len(list(run_pictures(str(users_run / "run"), 7))) == 7


def test_an_attack_on_a_users_run_uses_its_pictures_and_settings(
    users_run: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    settings = override(TINY, {"arms": ("duplicated", "deduplicated"), "gan_seeds": 0, "min_distance": 0.02})
    out = tmp_path / "out"
    document = attack(str(out), settings, cluster, run=str(users_run / "run"))
    assert document["run"] == str(users_run / "run")
    samples = pq.read_table(out / "samples/seed-0.parquet")
    assert {source.split("/")[0] for source in samples["source"].to_pylist()} == {"00000"}
    assert set(samples["caption"].to_pylist()) <= {f"class {number}" for number in range(4)} | {""}
    inner = json.loads((out / "sets/seed-0/run/run.json").read_text())
    assert inner["settings"]["describe"]["embedder"] == "none"


def test_sets_are_cleaned_by_the_runs_decision_and_a_run_that_weighs_is_refused(
    users_run: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    run = str(tmp_path / "run")
    shutil.copytree(users_run / "run", run)
    before = DecideSettings(grouping="components", keep_up_to=3, keep="longest_caption")
    redecide(run, before, cluster)
    assert cleaning_settings(run).decide == DecideSettings(grouping="components", keep_up_to=3)
    redecide(run, DecideSettings(weights="inverse"), cluster)
    with pytest.raises(ConfigError, match="weighs samples and removes none"):
        cleaning_settings(run)


def no_training(*_: Any) -> Any:
    raise AssertionError("trained before the input was checked")


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attack_module, "_run_tasks", no_training)
    monkeypatch.setattr(attack_module, "prepare_seed", no_training)


@pytest.mark.usefixtures("untrained")
class TestBadInputIsRefusedBeforeAnyTraining:
    def test_too_few_pictures(self, users_run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        with pytest.raises(ConfigError, match=r"1,0\d\d distinct pictures are needed .* these fit: --singles"):
            attack(str(tmp_path / "out"), PROFILES["standard"], cluster, run=str(users_run / "run"))
        assert not (tmp_path / "out").exists()

    def test_pictures_too_small_for_the_asked_side(
        self, users_run: Path, tmp_path: Path, cluster: ClusterSettings
    ) -> None:
        settings = override(PROFILES["standard"], {"side": 64})
        with pytest.raises(ConfigError, match="1 smaller than 64 pixels"):
            attack(str(tmp_path / "out"), settings, cluster, run=str(users_run / "run"))

    def test_a_manifest_that_is_not_of_the_shards(self, users_run: Path) -> None:
        shard = users_run / "shards/00000.tar"
        original = shard.read_bytes()
        try:
            changed = bytearray(original)
            for place in range(2000, len(changed), 512):
                changed[place] ^= 0xFF
            shard.write_bytes(bytes(changed))
            with pytest.raises(ManifestError, match=r"does not match the shards.*has other bytes"):
                list(run_pictures(str(users_run / "run"), 1000))
            shard.write_bytes(original[:5000])
            with pytest.raises(ManifestError, match="does not match the shards"):
                list(run_pictures(str(users_run / "run"), 1000))
        finally:
            shard.write_bytes(original)

    def test_no_run(self, tmp_path: Path, cluster: ClusterSettings) -> None:
        with pytest.raises(ManifestError, match="no run folder"):
            attack(str(tmp_path / "out"), TINY, cluster, run=str(tmp_path))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--profile", "huge"], "profile=huge: known are smoke, standard, full"),
            (["--attack", "magic"], "unknown attack 'magic'"),
            (["--model", "magic"], "model=magic: known are mlp, unet"),
        ],
    )
    def test_unknown_names_on_the_command_line(
        self, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as ended:
            main(["attack", "--out", str(tmp_path / "out"), *arguments])
        assert ended.value.code == 1
        assert message in capsys.readouterr().err


def test_tasks_are_all_seeds_by_arms_and_the_extras() -> None:
    settings: AttackSettings = override(TINY, {"seeds": 2, "shadows": 6, "gan_seeds": 1})
    kinds = Counter(task.kind for task in tasks(settings))
    assert kinds == {"arm": 10, "shadow": 6, "gan": 1, "closed_form": 1}
    assert len(set(tasks(settings))) == 18


def test_the_report_of_several_seeds_has_intervals(smoke: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    _, document = smoke
    settings = override(PROFILES["smoke"], {"seeds": 3, "gan_seeds": 0, "closed_form": False})
    results = {
        Task("arm", seed, arm): {**content["seeds"][0], "seed": seed}
        for arm, content in document["arms"].items()
        for seed in range(3)
    }
    shown = report(RunFolder(tmp_path), settings, None, results)
    rows = [row for row in shown["comparisons"] if row["arm"] == "deduplicated" and row["against"] == "duplicated"]
    assert all(row["low"] <= row["difference"] <= row["high"] for row in rows)
    assert shown["equivalence"]
    assert "3 seeds" in shown["verdict"]
