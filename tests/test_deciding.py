"""The decision of whole runs: other choices than one of each group, and overrides, redone without a new search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dedup.decisions import DEFAULT_DECISION, DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError
from pipelines import summary
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.run_state import Run
from pipelines.settings import RunSettings

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))
COPIES = ("00000/a0", "00001/b0", "00001/b1", "00002/c1")  # of picture 0; the first is kept


@pytest.fixture
def out(shards: Path, tmp_path: Path, cluster: ClusterSettings) -> Path:
    """The folder of a finished run over `shards`."""
    deduplicate([str(shards)], str(tmp_path / "run"), SETTINGS, cluster)
    return tmp_path / "run"


def rows(out: Path) -> dict[str, dict[str, Any]]:
    parts = [pq.read_table(path) for path in sorted((out / "manifest").iterdir())]
    return {row["sample_id"]: row for part in parts for row in part.to_pylist()}


def contents(out: Path, *folders: str) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for folder in folders
        for path in (out / folder).rglob("*")
        if path.is_file()
    }


def test_other_choices_are_redone_and_undone(out: Path, cluster: ClusterSettings) -> None:
    before, plain = rows(out), contents(out, "manifest")

    run = redecide(str(out), DecideSettings(keep_up_to=3), cluster)
    assert [name for name in COPIES if rows(out)[name]["status"] == "kept"] == list(COPIES[:3])
    assert run.document["counts"]["kept"] == before_counts(before, "kept") + 3
    assert "up to 3 of each group" in summary.text(run)

    run = redecide(str(out), DecideSettings(weights="inverse"), cluster)
    weights = {name: row["weight"] for name, row in rows(out).items()}
    assert [weights[name] for name in COPIES] == [0.25] * 4
    assert (weights["00000/a1"], weights["00000/a2"], weights["00001/b2"]) == (0.5, 1, None)
    assert run.document["counts"]["removed"] == 0
    assert run.document["steps"]["decide"]["weight_sum"] == before_counts(before, "kept")

    run = redecide(str(out), DecideSettings(captions="merge"), cluster)
    pooled = {name: row["captions"] for name, row in rows(out).items() if row["captions"]}
    assert pooled["00000/a0"] == [before[name]["caption"] for name in COPIES]
    assert set(pooled) == {"00000/a0", "00002/c0"}
    assert "captions pooled at 2 keepers (merge)" in summary.text(run)
    for row in rows(out).values():
        assert row | {"captions": None} == before[row["sample_id"]]

    redecide(str(out), DEFAULT_DECISION, cluster)
    assert contents(out, "manifest") == plain


def before_counts(found: dict[str, dict[str, Any]], status: str) -> int:
    return sum(row["status"] == status for row in found.values())


def test_overrides_of_the_run_folder_are_found_and_their_change_too(
    shards: Path, out: Path, cluster: ClusterSettings
) -> None:
    plain, searched = contents(out, "manifest"), contents(out, "pairs", "descriptors")
    file = out / "overrides.csv"

    file.write_text("sample_id,action,other\n00000/a0,remove,\n00001/b2,remove,\n00000/a1,separate,00002/c0\n")
    run = deduplicate([str(shards)], str(out), SETTINGS, cluster)
    found = rows(out)
    assert (found["00000/a0"]["status"], found["00000/a0"]["method"]) == ("removed", "override")
    assert found["00000/a0"]["keeper"] is None
    assert [name for name in COPIES if found[name]["status"] == "kept"] == ["00001/b0"]
    assert {found[name]["keeper"] for name in COPIES[2:]} == {"00001/b0"}
    assert (found["00001/b2"]["status"], found["00001/b2"]["error"] is not None) == ("removed", True)
    assert (found["00000/a1"]["status"], found["00002/c0"]["status"]) == ("kept", "kept")
    counts = run.document["counts"]
    assert counts["kept"] + counts["removed"] + counts["failed"] == counts["input"] == 16
    assert counts["removed:override"] == 2
    assert run.document["overrides"] | {"sha256": None} == {
        "file": str(file), "sha256": None, "keep": 0, "remove": 2, "separate": 1,
    }  # fmt: skip
    assert re_line("by hand", summary.text(run)) == f"by hand  0 kept, 2 removed, 1 pairs separated ({file})"

    file.write_text("00001/b0,keep\n")
    assert not Run.open(str(out), [str(shards)], SETTINGS).is_finished("decide")
    redecide(str(out), DEFAULT_DECISION, cluster)
    assert [name for name in COPIES if rows(out)[name]["status"] == "kept"] == ["00000/a0", "00001/b0"]

    file.unlink()
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert contents(out, "manifest") == plain
    assert contents(out, "pairs", "descriptors") == searched


def re_line(start: str, text: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith(start)]
    return line


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("00000/a0,drop\n", r"line 1: unknown action 'drop'"),
        ("00000/a0,keep\n00000/zz,keep\n", r"line 2: no sample of this run is called '00000/zz'"),
        ("elsewhere/a0,remove\n", r"line 1: no sample of this run is called 'elsewhere/a0'"),
        ("00001/b2,keep\n", r"line 1: '00001/b2' could not be decoded"),
        ("00000/a0,separate,00001/b0\n", r"line 1: '00000/a0' and '00001/b0' are identical files"),
    ],
)
def test_wrong_overrides_change_nothing(content: str, message: str, out: Path, cluster: ClusterSettings) -> None:
    before = contents(out, ".")
    file = out.parent / "mine.csv"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        redecide(str(out), replace(DEFAULT_DECISION, overrides=str(file)), cluster)
    assert contents(out, ".") == before


def test_wrong_overrides_are_found_before_anything_is_described(
    shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    settings = replace(SETTINGS, decide=DecideSettings(overrides=str(tmp_path / "nowhere.csv")))
    with pytest.raises(ConfigError, match=r"nowhere\.csv: no such file"):
        deduplicate([str(shards)], str(tmp_path / "new"), settings, cluster)
    assert not (tmp_path / "new").exists()


def test_other_choices_give_the_same_bytes_for_any_number_of_workers(
    shards: Path, out: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    (tmp_path / "mine.csv").write_text("00001/b0,keep\n00002/c0,remove\n")
    decision = DecideSettings(captions="longest", keep_up_to=2, overrides=str(tmp_path / "mine.csv"))
    redecide(str(out), decision, cluster)
    deduplicate([str(shards)], str(tmp_path / "one"), replace(SETTINGS, decide=decision), ClusterSettings(workers=1))
    assert contents(tmp_path / "one", "manifest") == contents(out, "manifest")
