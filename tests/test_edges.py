"""The pairs nearest to the threshold, their sheets, and the labels that judge them."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from PIL import Image

from dedup.errors import ConfigError
from dedup.labels import ANSWERS
from dedup.records import PAIR_SCHEMA
from dedup.run_folder import RunFolder
from pipelines import benchmark
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.edges import Edge, nearest, share
from pipelines.fit_small import given_labels
from pipelines.settings import RunSettings


def run_with(folder: Path, files: list[list[tuple[str, str, float, bool]]]) -> SimpleNamespace:
    """A run folder with these verified pairs (a, b, probability, accepted), file by file."""
    run = RunFolder(str(folder))
    for number, pairs in enumerate(files):
        rows = [
            {"a": a, "b": b, "method": "verified", "score": p, "probability": p, "accepted": accepted}
            for a, b, p, accepted in pairs
        ]
        exact = {"a": "x", "b": "y", "method": "exact", "score": 1.0, "probability": None, "accepted": True}
        run.write_table(f"pairs/{number}.parquet", pa.Table.from_pylist([*rows, exact], PAIR_SCHEMA))
    return SimpleNamespace(folder=run)


def test_the_nearest_of_all_files_are_found_on_either_side(tmp_path: Path) -> None:
    run = run_with(
        tmp_path,
        [
            [("a", "b", 0.99, True), ("a", "c", 0.875, False), ("b", "d", 0.5, False)],
            [("c", "d", 0.9375, True), ("b", "c", 0.75, False), ("d", "e", 0.96875, True)],
        ],
    )
    found = nearest(run, 2, {("c", "d"): "yes"})
    assert found["above"] == [Edge("c", "d", 0.9375, "yes"), Edge("d", "e", 0.96875, "")]
    assert found["below"] == [Edge("a", "c", 0.875, ""), Edge("b", "c", 0.75, "")]


def test_a_run_without_verified_pairs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no verified pairs"):
        nearest(run_with(tmp_path, [[]]), 5, {})


def test_shares_count_what_a_person_could_tell() -> None:
    said = ["yes"] * 9 + ["no"] + ["unsure"] * 3 + [""] * 2
    text = share([Edge("a", str(number), 0.9, same) for number, same in enumerate(said)])
    assert text == "9 of 10 the same (60% to 98%), 3 unsure, 2 not judged"


def test_sheets_and_a_list_to_fill_in_come_from_a_run(shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    out = tmp_path / "run"
    deduplicate([str(shards)], str(out), RunSettings(), cluster)
    benchmark.edges(str(out), out=tmp_path / "sheets")
    with Image.open(tmp_path / "sheets" / "above.jpg") as sheet:
        assert sheet.width > 2 * 96
    listed = (tmp_path / "sheets" / "edges.csv").read_text()
    assert "00000/a0,00001/b1,," in listed  # a recompressed copy
    filled = tmp_path / "filled.csv"
    filled.write_text(listed.replace("00000/a0,00001/b1,,", "00000/a0,00001/b1,yes,"))
    assert given_labels(filled) == {("00000/a0", "00001/b1"): "yes"}


@pytest.mark.parametrize("content", ["a,b\nx,y\n", "a,b,same\nx,y,maybe\n", "a,b,same\nx,,yes\n"])
def test_labels_that_cannot_be_read_are_errors(tmp_path: Path, content: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match="labels"):
        given_labels(path)
    with pytest.raises(ConfigError, match="no such file"):
        given_labels(tmp_path / "none.csv")


def test_the_labels_of_the_project_are_whole() -> None:
    labels = given_labels()
    assert all(a < b for a, b in labels)
    assert {answer: sum(same == answer for same in labels.values()) > 100 for answer in ANSWERS} == dict.fromkeys(
        ANSWERS, True
    )
