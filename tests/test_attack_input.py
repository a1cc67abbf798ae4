"""`dedup attack` on a user's run, and what it refuses before anything is trained."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from dedup.attack.experiment import resolve_device
from dedup.attack.profiles import PROFILES, override
from dedup.decisions import DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, ManifestError
from pipelines import attack as attack_module
from pipelines.attack import attack
from pipelines.attack_data import cleaning_settings, run_pictures
from pipelines.cli import main
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.settings import RunSettings
from tests.attack_sets import TINY, no_training
from tests.shard_makers import Members, jpeg, sample_members, write_tar


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

    def test_a_device_that_the_workers_lack(self, tmp_path: Path, cluster: ClusterSettings) -> None:
        if torch.cuda.is_available():
            pytest.skip("this machine has a CUDA device")
        with pytest.raises(ConfigError, match=r"device=cuda: .* has 0 CUDA devices; take --device cpu, or auto"):
            attack(str(tmp_path / "out"), TINY, cluster, device="cuda")
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_holds_something_else(
        self, users_run: Path, cluster: ClusterSettings, tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match="holds a run of `dedup run`: choose another OUT"):
            attack(str(users_run / "run"), TINY, cluster)
        (tmp_path / "a").mkdir()
        (tmp_path / "a/notes.txt").write_text("mine")
        (tmp_path / "b").mkdir()
        (tmp_path / "b/settings.json").write_text("{}")
        for folder, name in (("a", "notes.txt"), ("b", "settings.json"), ("a/notes.txt", "notes.txt")):
            with pytest.raises(ConfigError, match=rf"holds {name}, which is of no attack: choose another OUT"):
                attack(str(tmp_path / folder), TINY, cluster)
        (tmp_path / "b/settings.json").write_text('{"run": null, "version": "0.1.0", "settings": {}}')
        with pytest.raises(ConfigError, match="an attack of an earlier state of this program: choose another OUT"):
            attack(str(tmp_path / "b"), TINY, cluster)
        assert (tmp_path / "a/notes.txt").read_text() == "mine"
        (tmp_path / "empty").mkdir()
        with pytest.raises(AssertionError, match="trained before"):  # an empty one is taken
            attack(str(tmp_path / "empty"), TINY, cluster)

    def test_no_run(self, tmp_path: Path, cluster: ClusterSettings) -> None:
        with pytest.raises(ManifestError, match="no run folder"):
            attack(str(tmp_path / "out"), TINY, cluster, run=str(tmp_path))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--profile", "huge"], "profile=huge: known are smoke, standard, full"),
            (["--attack", "magic"], "unknown attack 'magic': choose from gap, l2"),
            (["--attack", "lira", "--attack", "magic"], "adaptive_generation, loss_threshold, lira"),
            (["--attack", "l2", "--attack", "gap"], "attack=l2, gap: one of these decides"),
            (["--shadows", "8"], "add --attack lira"),
            (["--arms", "oracle", "--arms", "oracle"], "arms=oracle, oracle: name one at least, and each only once"),
            (["--device", "banana"], "device=banana: choose auto, cpu or cuda"),
            (["--device", "mps"], "device=mps: choose auto, cpu or cuda"),
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


def test_the_device_is_looked_for_where_models_are_trained(
    tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the driver has: here it would lack what the workers, processes of their own, have."""
    asked: list[str] = []
    monkeypatch.setattr(attack_module, "_run_tasks", lambda *given: asked.append(given[-1]) or no_training())
    monkeypatch.setattr(attack_module, "prepare_seed", lambda *_: None)
    monkeypatch.setattr(attack_module, "outliers", lambda _: {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    with pytest.raises(AssertionError, match="trained before"):
        attack(str(tmp_path / "out"), TINY, cluster)
    assert asked == ["auto"]
