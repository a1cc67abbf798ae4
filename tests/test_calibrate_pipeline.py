"""A calibration end to end, on a small set that holds one duplicate of its own."""

from __future__ import annotations

import csv
import json
import logging
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from dedup.calibrate import PlantSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError
from dedup.operating_curve import ProjectSettings
from dedup.shards import ShardReader, list_shards
from dedup.verify import VerifySettings
from pipelines import calibrate, cli, labelling
from pipelines.client import ClusterSettings
from pipelines.settings import RunSettings
from tests.shard_makers import encode, jpeg, picture, sample_members, write_tar

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))
PLANT = PlantSettings(images=100, copies=2, transforms=("recompress", "grey", "brightness", "mirror"))
OWN = ("00000/a0", "00001/b9")  # one picture, recompressed


def asked(shards: Path, plant: PlantSettings = PLANT, **project: float) -> calibrate.Asked:
    return calibrate.Asked((str(shards),), SETTINGS, plant, ProjectSettings(**project))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, cluster: ClusterSettings) -> Path:
    """A folder with shards of 20 images, one of them broken, and the calibration on them."""
    folder = tmp_path_factory.mktemp("calibrated")
    own = encode(picture(0), quality=60)
    samples = [
        [sample_members(f"a{n}", jpeg(n), f"picture {n}") for n in range(10)],
        [*(sample_members(f"b{n}", jpeg(100 + n)) for n in range(8)), sample_members("b8", b"broken"),
         sample_members("b9", own)],
    ]  # fmt: skip
    for number, part in enumerate(samples):
        write_tar(folder / "shards" / f"{number:05d}.tar", [member for sample in part for member in sample])
    calibrate.calibrate(asked(folder / "shards"), str(folder / "out"), cluster)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The finished calibration in a folder that the test may change."""
    return Path(shutil.copytree(finished / "out", tmp_path / "out"))


def labels_of(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (out / "labels.csv").open(newline="") as file:
        return {(row["a"], row["b"]): row for row in csv.DictReader(file)}


def test_the_report_tells_recall_by_transform_and_the_sets_own_duplicates(finished: Path) -> None:
    report = json.loads((finished / "out" / "calibration.json").read_text())
    recall = {row["transform"]: row for row in report["recall"]}
    assert sorted(row["copies"] for row in report["recall"]) == [9, 9, 10, 10, 38]
    assert recall["recompress"]["direct"] == recall["recompress"]["grouped"] == recall["recompress"]["copies"]
    assert recall["mirror"]["grouped"] == 0  # without an embedder nothing proposes them
    pairs = report["pairs"]
    assert (pairs["sample"], pairs["images"], pairs["possible"]) == (19, 19, 171)
    assert (pairs["false"], pairs["same"], pairs["open"]) == (0, 0, 1)
    assert pairs["rate_high"] == pytest.approx(5.5716 / 171, rel=1e-4)
    assert report["share"]["removed"] == 1
    assert report["share"]["value"] == pytest.approx(1 / 19 / recall["all"]["direct_recall"])
    assert {row["name"] for row in report["operating_points"]} == {"this run", "copies", "near", "exact"}
    assert report["threshold"]["value"] == SETTINGS.verify.accepts_from
    assert not (finished / "out" / "thresholds.toml").exists()


def test_the_copies_lie_in_shards_of_their_own_and_the_users_are_left_alone(finished: Path) -> None:
    assert sorted(path.name for path in (finished / "shards").iterdir()) == ["00000.tar", "00001.tar"]
    _, shards = list_shards([str(finished / "out" / "planted")])
    samples = [sample for shard in shards for sample in ShardReader(shard)]
    assert len(samples) == 38
    assert {sample.key.split("~")[1] for sample in samples} == set(PLANT.transforms)
    assert (samples[0].text or b"").startswith(b"picture") or samples[0].text is None


def test_the_page_shows_tables_curve_and_pictures(finished: Path) -> None:
    page = (finished / "out" / "calibration.html").read_text()
    for words in ("Calibration", "brightness", "Projected precision", "accepted pairs of drawn images", "labels.csv"):
        assert words in page
    assert len(re.findall(r'<img src="data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]{500,}"', page)) >= 2
    assert "None" not in page
    assert "nan" not in page
    with Image.open(finished / "out" / "sample-01.png") as sheet:
        assert sheet.width > 200
    with Image.open(finished / "out" / "curve.png") as curve:
        assert curve.width > 500
    markdown = (finished / "out" / "calibration.md").read_text()
    assert "| recompress | " in markdown
    assert "`dedup calibrate shards --images 19 --copies 2`" in markdown
    assert str(finished) not in markdown


def test_pairs_to_look_at_are_listed_with_their_place_on_the_sheets(finished: Path) -> None:
    rows = labels_of(finished / "out")
    row = rows[OWN]
    assert (row["same"], row["sample"], row["side"], row["sheet"], row["number"]) == (
        "", "sample", "above", "sample-01.png", "1",
    )  # fmt: skip
    assert float(row["strength"]) >= 0.9


def test_a_label_turns_an_open_pair_into_a_known_one_without_another_run(
    finished: Path, copy: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    before = {path: path.read_bytes() for path in (copy / "run" / "pairs").iterdir()}
    file = tmp_path / "mine.csv"
    file.write_text(f"a,b,same\n{OWN[1]},{OWN[0]},yes\n")
    shards = finished / "shards"
    report = calibrate.calibrate(asked(shards, target_precision=0.15), str(copy), cluster, labels=str(file))
    assert {path: path.read_bytes() for path in (copy / "run" / "pairs").iterdir()} == before
    assert (report["pairs"]["same"], report["pairs"]["open"]) == (1, 0)
    assert report["labels"][0]["yes"] == 1
    assert (copy / "thresholds.toml").exists()
    assert labels_of(copy)[OWN]["same"] == "yes"
    again = calibrate.calibrate(asked(shards), str(copy), cluster)  # the answer is kept, the picked threshold is not
    assert again["pairs"]["same"] == 1
    assert not (copy / "thresholds.toml").exists()


def test_a_picked_threshold_is_taken_up_by_a_run(
    finished: Path, copy: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    project = {"target_precision": 0.5, "duplicate_share": 0.9}
    report = calibrate.calibrate(asked(finished / "shards", **project), str(copy), cluster)
    assert report["picked"]["precision_low"] >= 0.5
    arguments = ["run", str(finished / "shards"), "--out", str(tmp_path / "run"), "--scheduler", str(cluster.scheduler)]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*arguments, "--config", str(copy / "thresholds.toml")])
    printed = capsys.readouterr().out
    assert f"at least {report['picked']['threshold']:g} (" in printed
    assert "dedup calibrate on 19 images of shards" in printed


def test_without_verification_a_cosine_is_picked(
    finished: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    settings = RunSettings(DescribeSettings(embedder="efficientnet_lite0"), verify=VerifySettings(verify=False))
    project = ProjectSettings(target_precision=0.5, duplicate_share=0.9, distinct=True)
    wanted = calibrate.Asked((str(finished / "shards"),), settings, PLANT, project)
    report = calibrate.calibrate(wanted, str(tmp_path / "out"), cluster)
    assert report["threshold"] == {
        "name": "min_cosine", "value": None, "text": "no verification, accepting by scores",
    }  # fmt: skip
    found = {row["transform"]: row["direct"] for row in report["recall"]}
    at = {row["threshold"]: row["found"] for row in report["curve"]}
    assert found["all"] < at[0.7]  # hashes alone find fewer than cosines with them
    arguments = ["run", str(finished / "shards"), "--out", str(tmp_path / "run"), "--scheduler", str(cluster.scheduler)]
    with pytest.raises(SystemExit, match="0"):
        cli.main([*arguments, "--config", str(tmp_path / "out" / "thresholds.toml")])
    assert f"accepts at cosine >= {report['picked']['threshold']:g} (set by you)" in capsys.readouterr().out


def test_a_target_that_is_out_of_reach_ends_with_the_reason_and_the_report(
    finished: Path, copy: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    (copy / "thresholds.toml").write_text("min_probability = 0.5\n")  # of an earlier call with another target
    transforms = [word for name in PLANT.transforms for word in ("--transforms", name)]
    arguments = ["calibrate", str(finished / "shards"), "--out", str(copy), "--images", "100", "--embedder", "none"]
    with pytest.raises(SystemExit, match="1"):
        cli.main([*arguments, *transforms, "--target-precision", "0.999", "--scheduler", str(cluster.scheduler)])
    printed = capsys.readouterr()
    assert "19 images are too few to support it" in printed.err
    assert f"report    {copy}/calibration.html" in printed.out
    assert "19 images are too few" in (copy / "calibration.html").read_text()
    assert not (copy / "thresholds.toml").exists()


def test_folders_of_something_else_are_refused(finished: Path, copy: Path, cluster: ClusterSettings) -> None:
    shards = finished / "shards"
    with pytest.raises(ConfigError, match=r"holds another calibration:\n  copies: 2 in the folder, 1 asked"):
        calibrate.calibrate(asked(shards, PlantSettings(100, 1, PLANT.transforms)), str(copy), cluster)
    with pytest.raises(ConfigError, match=r"holds another calibration:\n  the shards"):
        calibrate.calibrate(asked(shards / "00000.tar"), str(copy), cluster)
    with pytest.raises(ConfigError, match="holds something else"):
        calibrate.calibrate(asked(shards), str(copy / "run"), cluster)


def test_too_few_images_for_the_transforms_are_refused(
    finished: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    shards, out = finished / "shards", str(tmp_path / "out")
    with pytest.raises(ConfigError, match="3 images x 1 copies are fewer than the 4 transforms"):
        calibrate.calibrate(asked(shards, PlantSettings(3, 1, PLANT.transforms)), out, cluster)
    assert not Path(out).exists()
    with pytest.raises(ConfigError, match="19 images x 2 copies are fewer than the 42 transforms"):
        calibrate.calibrate(asked(shards, PlantSettings()), out, cluster)
    # What the message proposes can be done in the same folder, which holds no copies yet.
    report = calibrate.calibrate(asked(shards, PlantSettings(5, 1, ("recompress",))), out, cluster)
    assert report["pairs"]["sample"] == 5


def test_where_nothing_is_found_the_report_says_so(finished: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    settings = RunSettings(DescribeSettings(embedder="none"), verify=VerifySettings(strictness="exact"))
    wanted = calibrate.Asked((str(finished / "shards"),), settings, PLANT, ProjectSettings())
    text = calibrate.text(calibrate.calibrate(wanted, str(tmp_path / "out"), cluster), "out")
    assert "accepts   identical files only (exact)" in text
    assert "precision -, at least" in text


def test_labels_of_unknown_pairs_are_refused_and_nothing_changes(
    finished: Path, copy: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    before, file = (copy / "labels.csv").read_bytes(), tmp_path / "mine.csv"
    file.write_text("a,b,same\n00000/a1,00000/a2,no\n")
    with pytest.raises(ConfigError, match=r"mine\.csv, line 2: 00000/a1 and 00000/a2 are no pair that was shown"):
        calibrate.calibrate(asked(finished / "shards"), str(copy), cluster, labels=str(file))
    with pytest.raises(ConfigError, match="no such file"):
        calibrate.calibrate(asked(finished / "shards"), str(copy), cluster, labels=str(tmp_path / "nowhere.csv"))
    file.write_bytes("a,b,same\nä,ö,yes\n".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"mine\.csv is no CSV in UTF-8"):
        calibrate.calibrate(asked(finished / "shards"), str(copy), cluster, labels=str(file))
    assert (copy / "labels.csv").read_bytes() == before


def test_the_terminal_asks_until_all_is_answered_or_the_user_stops() -> None:
    rows = [
        {"a": f"a{n}", "b": f"b{n}", "same": "yes" if n == 0 else "", "sheet": "above-01.png", "number": n}
        for n in range(5)
    ]
    words = iter(["y", "what?", "N", "unsure", "q"])
    questions: list[str] = []
    answers: list[tuple[tuple[str, str], str]] = []

    def read(question: str) -> str:
        questions.append(question)
        return next(words)

    labelling.ask(rows, lambda name: f"out/{name}", lambda pair, answer: answers.append((pair, answer)), read)
    assert answers == [(("a1", "b1"), "yes"), (("a2", "b2"), "no"), (("a3", "b3"), "unsure")]
    assert "out/above-01.png, number 1 (a1 | b1)" in questions[0]
    assert len(questions) == 5


def test_the_end_of_the_input_ends_the_questions() -> None:
    def read(_: str) -> str:
        raise EOFError

    rows = [{"a": "a", "b": "b", "same": "", "sheet": "above-01.png", "number": 1}]
    labelling.ask(rows, str, lambda *_: pytest.fail("nobody answered"), read)
