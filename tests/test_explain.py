"""The story of one image, as a user reads it."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from dedup.decisions import DEFAULT_DECISION, DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.neighbors import SearchSettings
from dedup.shards import read_range
from pipelines import cli
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.explain import explain, show, text
from pipelines.run_state import Run
from pipelines.settings import RunSettings
from tests.shard_makers import jpeg, sample_members, write_tar

COPIES = ["00000/a0", "00001/b0", "00001/b1", "00002/c1"]


@pytest.fixture
def out(shards: Path, tmp_path: Path, cluster: ClusterSettings) -> str:
    """A finished run over `shards`, with so many candidates that some are rejected."""
    settings = RunSettings(DescribeSettings(embedder="none"), SearchSettings(candidate_bits=40))
    deduplicate([str(shards)], str(tmp_path / "run"), settings, cluster)
    return str(tmp_path / "run")


def test_a_removed_copy_names_its_keeper_its_evidence_and_its_bytes(out: str) -> None:
    story = explain(out, "00001/b0")
    assert [member["sample_id"] for member in story.members] == COPIES
    accepted = [(one.other, one.method, one.by_copy) for one in story.evidence if one.accepted]
    # b0 is in one pair only; those of the file that it is identical to are its own.
    assert sorted(accepted) == [
        ("00000/a0", "exact", None), ("00001/b1", "verified", "00000/a0"), ("00002/c1", "exact", "00000/a0"),
    ]  # fmt: skip
    rejected = [one.likelihood for one in story.evidence if not one.accepted]
    assert rejected
    assert rejected == sorted(rejected, reverse=True)
    data = read_range(story.shard.url, story.stored["offset"], story.stored["size"])
    assert data.startswith(b"\xff\xd8")
    told = text(story)
    assert told.startswith("00001/b0: removed, 00000/a0 stands for it (exact 1.000)\n")
    assert f"in {story.shard.url}" in told
    assert f"as b0.jpg, {len(data):,} bytes from byte {story.stored['offset']:,}" in told
    assert story.row["sha256"] in told


@pytest.mark.parametrize("name", COPIES)
def test_every_member_knows_the_whole_group(name: str, out: str) -> None:
    assert [member["sample_id"] for member in explain(out, name).members] == COPIES


def test_images_alone_and_images_that_failed(out: str) -> None:
    assert "group     none\n" in text(explain(out, "00000/a2"))
    failed = text(explain(out, "00001/b2"))
    assert failed.startswith("00001/b2: failed\n  error     damaged JPEG")
    with pytest.raises(ManifestError, match="00001/b2 cannot be shown: damaged JPEG"):
        show(out, explain(out, "00001/b2"))


def test_what_a_person_decided_is_told_and_what_is_still_to_be_applied(out: str, cluster: ClusterSettings) -> None:
    Path(out, "overrides.csv").write_text("sample_id,action\n00001/b1,keep\n")
    told = text(explain(out, "00001/b1"))
    assert told.startswith("00001/b1: removed")
    assert "`dedup decide` applies them" in told
    redecide(out, DEFAULT_DECISION, cluster)
    told = text(explain(out, "00001/b1"))
    assert told.startswith("00001/b1: kept, by hand\n")
    assert told.endswith("by hand   line 2: 00001/b1 keep")
    assert "by hand   line" not in text(explain(out, "00001/b0"))


def test_weights_and_pooled_captions_are_told(out: str, cluster: ClusterSettings) -> None:
    redecide(out, DecideSettings(weights="inverse"), cluster)
    assert text(explain(out, "00001/b1")).startswith("00001/b1: kept, of weight 0.25\n")
    assert [member["sample_id"] for member in explain(out, "00001/b1").members] == COPIES
    redecide(out, DecideSettings(captions="merge"), cluster)
    assert re.search(r"pooled    4 captions\n +picture 0\n +a copy\n", text(explain(out, "00000/a0")))


def test_other_parts_of_the_run_are_not_read(out: str) -> None:
    # 00000/a2 has no group, so that the other shards' parts tell nothing of it.
    for part in ("manifest", "descriptors"):
        for shard in ("00001", "00002"):
            Path(out, part, f"{shard}.parquet").write_bytes(b"")
    assert explain(out, "00000/a2").row["status"] == "kept"


def test_unknown_names_and_unfinished_runs(out: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no sample '00001/b9'; the nearest in its shard: 00001/b"):
        explain(out, "00001/b9")
    with pytest.raises(ConfigError, match=r"no sample '0001/b1'; a sample_id begins with its shard, .*00001"):
        explain(out, "0001/b1")
    with pytest.raises(ManifestError, match="no run folder"):
        explain(str(tmp_path), "a/b")
    Run.reopen(out).start("decide")
    with pytest.raises(ManifestError, match=r"`dedup decide .*` makes it"):
        explain(out, "00000/a2")


def test_the_command_prints_the_story_and_writes_the_sheet(
    out: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    with pytest.raises(SystemExit) as end:
        cli.main(["explain", out, "00001/b1", "--show", str(tmp_path / "sheet.png")])
    assert not end.value.code
    assert capsys.readouterr().out.startswith("00001/b1: removed, 00000/a0 stands for it (verified")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert min(sheet.size) > 2 * 256
    for wrong, message in (
        ("sheet.jpg", "give a file that ends in .png"),
        ("sheet.png", "is there already"),
        ("nowhere/sheet.png", f"there is no folder {tmp_path}/nowhere"),
    ):
        before = (tmp_path / "sheet.png").read_bytes()
        with pytest.raises(SystemExit) as end:
            cli.main(["explain", out, "00001/b1", "--show", str(tmp_path / wrong)])
        assert end.value.code == 1
        assert message in capsys.readouterr().err
        assert (tmp_path / "sheet.png").read_bytes() == before

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        cli.main(["explain", out, "00001/b1", "--show"])
    assert not end.value.code
    assert capsys.readouterr().out.endswith("  shown in  00001_b1.png\n")
    assert (tmp_path / "00001_b1.png").read_bytes() == before


def test_a_sheet_that_cannot_be_written_is_an_error_of_its_own(
    out: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(SystemExit, match="1"):
        cli.main(["explain", out, "00000/a2", "--show"])
    assert "show=00000_a2.png cannot be written: No space left" in capsys.readouterr().err


def test_a_shard_that_changed_is_not_shown(out: str, shards: Path) -> None:
    story = explain(out, "00001/b1")
    write_tar(shards / "00000.tar", sample_members("a0", jpeg(99)) + sample_members("a1", jpeg(98)))
    with pytest.raises(ShardError, match=r"00000\.tar.* changed since the run: 00000/a0 is no longer where it was"):
        show(out, story)


def test_overrides_that_are_gone_or_wrong_keep_nothing_from_being_told(
    out: str, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("00001/b1,keep\n")
    redecide(out, DecideSettings(overrides="mine.csv"), cluster)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert text(explain(out, "00001/b1")).endswith("by hand   line 1: 00001/b1 keep")
    assert Run.reopen(out).settings.decide.overrides == str(tmp_path / "mine.csv")
    redecide(out, Run.reopen(out).settings.decide, cluster)

    (tmp_path / "mine.csv").unlink()
    told = text(explain(out, "00001/b1"))
    assert told.startswith("00001/b1: kept, by hand\n")
    assert told.endswith(
        f"by hand   unknown: overrides={tmp_path}/mine.csv: no such file; "
        "give a CSV file with sample_id,action,other, or none"
    )


def test_a_reader_that_has_seen_enough_ends_the_command_quietly(out: str) -> None:
    closed, output = os.pipe()
    os.close(closed)
    command = [sys.executable, "-m", "pipelines.cli", "explain", out, "00001/b0"]
    done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, check=False)
    os.close(output)
    assert (done.returncode, done.stderr) == (141, b"")
