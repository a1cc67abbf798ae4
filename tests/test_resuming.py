"""Runs that go on: after an interruption, with other shards, with other settings."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dedup import describe, verify
from dedup.decisions import DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, ManifestError
from dedup.manifest import read_manifest
from dedup.neighbors import SearchSettings
from dedup.rewrite import CleanSettings
from dedup.verification_model import OperatingPoint
from pipelines import deciding, describing, searching
from pipelines import deduplicate as deduplicating
from pipelines.clean import clean
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.judging import judge
from pipelines.run_state import Run
from pipelines.settings import RunSettings
from tests.run_files import files, rows
from tests.shard_makers import jpeg, sample_members, write_tar

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))
EMBEDDED = RunSettings(describe=DescribeSettings(embedder="efficientnet_lite0"), search=SearchSettings(min_cosine=0.9))


class StoppedError(Exception):
    """Stands for whatever ends a run half way."""


def _fail_after(function: Callable[..., Any], calls: int) -> Callable[..., Any]:
    count = 0

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > calls:
            raise StoppedError
        return function(*args, **kwargs)

    return wrapped


STOPS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "before any shard": lambda patch: patch.setattr(describing, "shard_entry", _fail_after(describing.shard_entry, 0)),
    "before the search": lambda patch: patch.setattr(searching, "find_exact", _fail_after(searching.find_exact, 0)),
    "within the search": lambda patch: patch.setattr(searching, "find_by_hash", _fail_after(searching.find_by_hash, 0)),
    "after the search": lambda patch: patch.setattr(Run, "finish", _fail_after(Run.finish, 1)),
    "while pairs are judged": lambda patch: patch.setattr(Run, "finish", _fail_after(Run.finish, 2)),
    "before the manifest": lambda patch: patch.setattr(deciding, "decide_rows", _fail_after(deciding.decide_rows, 0)),
    "after the manifest": lambda patch: patch.setattr(Run, "finish", _fail_after(Run.finish, 3)),
}


@pytest.mark.parametrize("where", STOPS)
def test_a_stopped_run_is_finished_by_the_next_one_to_the_same_bytes(
    where: str, shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deduplicate([str(shards)], str(tmp_path / "whole"), SETTINGS, cluster)
    with monkeypatch.context() as patch:
        STOPS[where](patch)
        with pytest.raises(StoppedError):
            deduplicate([str(shards)], str(tmp_path / "stopped"), SETTINGS, cluster)
    with pytest.raises(ManifestError, match="unfinished"):
        read_manifest(str(tmp_path / "stopped"))
    deduplicate([str(shards)], str(tmp_path / "stopped"), SETTINGS, cluster)
    whole, stopped = (files(tmp_path / name, "manifest", "pairs") for name in ("whole", "stopped"))
    assert stopped == whole


def test_a_killed_process_leaves_a_folder_that_the_next_run_finishes(
    shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "pipelines.cli", "run", str(shards), "--out", str(out), "--embedder", "none"]
    process = subprocess.Popen([*command, "--workers", "1"], start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("descriptors/*.parquet")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(out.glob("descriptors/*.parquet"))
    before = {path: path.stat().st_mtime_ns for path in out.glob("descriptors/*.parquet")}
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert {path: path.stat().st_mtime_ns for path in before} == before  # what was whole is not made again
    deduplicate([str(shards)], str(tmp_path / "whole"), SETTINGS, cluster)
    assert files(out, "manifest", "pairs") == files(tmp_path / "whole", "manifest", "pairs")


def test_a_finished_run_is_left_alone(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    run = deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert run.document["steps"]["describe"]["described"] == 0


def test_a_lost_manifest_part_is_written_again(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    before = files(out, "manifest")
    (out / "manifest" / "00001.parquet").unlink()
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert files(out, "manifest") == before


def test_a_changed_shard_is_described_again(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    write_tar(shards / "00001.tar", sample_members("new", jpeg(0)))
    run = deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert run.document["steps"]["describe"]["described"] == 1
    assert run.document["counts"]["input"] == 11
    assert rows(out)["00001/new"]["keeper"] == "00000/a0"


def test_a_run_of_a_version_with_other_descriptors_is_made_anew(
    shards: Path, out: Path, cluster: ClusterSettings, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(describe, "VERSION", describe.VERSION - 1)
        deduplicate([str(shards)], str(out), SETTINGS, cluster)
    before = files(out)
    with pytest.raises(ManifestError, match=r"another version of dedup.* start it again with the same settings"):
        clean(str(out), str(out.with_name("clean")), CleanSettings(), cluster)
    with pytest.raises(ManifestError, match="made by another version of dedup"):
        redecide(str(out), DecideSettings(), cluster)
    assert files(out) == before
    caplog.set_level(logging.WARNING)
    run = deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert "was made by another version of dedup: its shards are described anew" in caplog.text
    assert run.document["steps"]["describe"]["described"] == 16


@pytest.mark.parametrize("changed", ["evidence", "operating point"])
def test_pairs_of_a_version_with_other_verification_are_judged_anew(
    changed: str, shards: Path, out: Path, cluster: ClusterSettings
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if changed == "evidence":
            patch.setattr(verify, "VERSION", verify.VERSION - 1)
        else:
            patch.setitem(verify.OPERATING_POINTS, "copies", OperatingPoint(0.5, "elsewhere"))
        deduplicate([str(shards)], str(out), SETTINGS, cluster)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deduplicating, "AFTER_DESCRIBE", {"verify": _fail_after(judge, 0)})
        with pytest.raises(StoppedError):
            deduplicate([str(shards)], str(out), SETTINGS, cluster)


def test_more_and_fewer_shards_keep_the_ids(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    only = [str(shards / "00000.tar")]
    deduplicate(only, str(out), SETTINGS, cluster)
    assert rows(out)["00000/a1"]["status"] == "kept"
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert rows(out)["00000/a1"]["status"] == "removed"
    deduplicate(only, str(out), SETTINGS, cluster)
    assert list(rows(out)) == [f"00000/a{n}" for n in range(5)]
    assert [path.name for path in (out / "manifest").iterdir()] == ["00000.parquet"]


def test_other_settings_are_refused_and_named(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    before = files(out, ".")
    other = RunSettings(describe=SETTINGS.describe, search=SearchSettings(max_bits=3))
    with pytest.raises(ConfigError, match=r"search\.max_bits: 2 in the run, 3 asked"):
        deduplicate([str(shards)], str(out), other, cluster)
    other = RunSettings(describe=SETTINGS.describe, decide=DecideSettings(keep="first"))
    with pytest.raises(ConfigError, match=r"decide\.keep.*\n`dedup decide"):
        deduplicate([str(shards)], str(out), other, cluster)
    other = RunSettings(describe=DescribeSettings(embedder="efficientnet_lite0"))
    with pytest.raises(ConfigError, match="embedder name=none, now efficientnet_lite0"):
        deduplicate([str(shards)], str(out), other, cluster)
    with pytest.raises(ConfigError, match="sample ids would change"):
        deduplicate([str(shards)], str(out), SETTINGS, cluster, root=str(shards.parent))
    assert files(out, ".") == before


def test_auto_keeps_what_it_came_to(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    run = deduplicate([str(shards)], str(out), RunSettings(), cluster)
    assert run.document["embedder"]["name"] == "efficientnet_lite0"
    assert run.document["asked"]["describe"]["embedder"] == "auto"
    # As if the cluster had had the weights of something better by now.
    run.document["embedder"]["name"] = "none"
    run.document["embedder"]["weights_sha256"] = None
    run.document["embedder"]["dim"] = 0
    run.save()
    assert deduplicate([str(shards)], str(out), RunSettings(), cluster).settings.describe.embedder == "none"


def test_decide_redoes_only_the_decision(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    before = files(out, "pairs", "descriptors")
    assert rows(out)["00000/a0"]["status"] == "kept"
    redecide(str(out), DecideSettings(keep="longest_caption"), cluster)
    found = rows(out)
    assert found["00001/b1"]["status"] == "kept"
    # The class of identical files goes as a whole, by the one edge it has.
    for copy in ("00000/a0", "00001/b0", "00002/c1"):
        assert (found[copy]["keeper"], found[copy]["method"]) == ("00001/b1", "verified")
    assert files(out, "pairs", "descriptors") == before
    # From now on the folder is one of this policy.
    settings = RunSettings(describe=SETTINGS.describe, decide=DecideSettings(keep="longest_caption"))
    deduplicate([str(shards)], str(out), settings, cluster)
    with pytest.raises(ManifestError, match="no run folder"):
        redecide(str(out.parent / "other"), DecideSettings(), cluster)
