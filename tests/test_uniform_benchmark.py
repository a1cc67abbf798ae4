"""The benchmark of uniform sets: what it counts, and what its contact sheet shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from PIL import Image

from dedup.errors import ConfigError
from dedup.images import decode
from dedup.manifest import read_manifest
from dedup.planting import TRUTH_SCHEMA, Score
from dedup.records import PAIR_SCHEMA
from dedup.run_folder import RunFolder
from pipelines import uniform_benchmark
from pipelines.uniform_benchmark import Outcome, _judged, _share, drawn, measure, reduced, report, write_sheet
from pipelines.unseen_transforms import SHARED

FEW = ("--embedder", "none", "--workers", "1")


def test_drawn_pictures_are_all_different_and_the_same_at_every_call() -> None:
    first, again = (list(drawn("dials", 3, seed=4)) for _ in range(2))
    assert [sample.image for sample in first] == [sample.image for sample in again]
    assert len({sample.image.data for sample in first if sample.image}) == 3
    assert all(decode(sample.image.data, 0).width == 300 for sample in first if sample.image)


def test_reduced_pictures_are_the_same_ones_of_at_most_64_pixels() -> None:
    for sample, small in zip(drawn("pages", 2, seed=4), reduced(drawn("pages", 2, seed=4)), strict=True):
        assert sample.key == small.key
        assert sample.image
        assert small.image
        whole, part = (decode(image.data, 0).rgb for image in (sample.image, small.image))
        assert max(part.size) == 64
        assert np.abs(np.asarray(whole.resize(part.size, Image.Resampling.BOX), int) - np.asarray(part)).mean() < 12


def test_a_row_gives_shares_with_intervals() -> None:
    counts = pd.DataFrame([{"transform": "all", "copies": 20, "found": 19, "recall": 0.95, "low": 0.76, "high": 0.99}])
    nothing = pd.DataFrame({"sample_id": [], "keeper": [], "method": [], "score": []})
    row = Outcome(Score(counts, nothing, 40, 1), 20, 18, {"search": 1.25}).row("dials")
    assert row["found"] == "19 = 95.0% (76.4% to 99.1%)"
    assert row["removed for another picture"] == "1 = 2.5% (0.4% to 12.9%)"
    assert row["proposed"] == "20 = 100.0% (83.9% to 100.0%)"
    assert row["accepted with their original"] == "18 = 90.0% (69.9% to 97.2%)"
    assert row["search"] == "1.2 s"


def test_only_pairs_of_a_copy_and_its_original_count(tmp_path: Path) -> None:
    truth = pa.Table.from_pylist(
        [{"sample_id": f"0/{name}~x", "original": f"0/{name}", "transform": "x"} for name in "abc"], TRUTH_SCHEMA
    )
    pairs = [("0/a", "0/a~x", True), ("0/b", "0/b~x", False), ("0/a", "0/b", False), ("0/a~x", "0/b~x", True)]
    rows = [
        {"a": a, "b": b, "method": "verified", "score": 0.5, "probability": 0.5, "accepted": accepted}
        for a, b, accepted in pairs
    ]
    folder = RunFolder(str(tmp_path))
    folder.write_table("pairs/0.parquet", pa.Table.from_pylist(rows, PAIR_SCHEMA))
    assert _judged(folder, truth) == (2, 1)


def test_a_run_is_scored_and_its_mistakes_are_shown(tmp_path: Path) -> None:
    outcome = measure(drawn("products", 3, seed=1), tmp_path, 1, 0, FEW)
    assert outcome.score.originals == 3
    assert outcome.score.by_transform.set_index("transform").loc["all", "copies"] == 3
    assert set(outcome.seconds) == {"describe", "search", "verify"}
    sheet = tmp_path / "sheets" / "products.jpg"
    right = replace(outcome, score=replace(outcome.score, wrong=outcome.score.wrong[:0]))
    assert not write_sheet(tmp_path, right, sheet, "products")
    assert not sheet.exists()
    ids = sorted(read_manifest(str(tmp_path / "run"))["sample_id"].to_pylist())
    wrong = pd.DataFrame([{"sample_id": ids[0], "keeper": ids[1], "method": "verified", "score": np.float32(0.9)}])
    assert write_sheet(tmp_path, replace(outcome, score=replace(outcome.score, wrong=wrong)), sheet, "products")
    with Image.open(sheet) as image:
        assert image.width > 2 * 112


def test_a_run_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dedup run failed"):
        measure(drawn("dials", 1, seed=0), tmp_path, 1, 0, ("--no-such-option",))


def test_the_report_asks_half_a_set_in_each_layout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    counts = pd.DataFrame([{"transform": "all", "copies": 4, "found": 4, "recall": 1.0, "low": 0.5, "high": 1.0}])
    nothing = pd.DataFrame({"sample_id": [], "keeper": [], "method": [], "score": []})
    outcome = Outcome(Score(counts, nothing, 4, 0), 4, 4, {"search": 1.0})
    monkeypatch.setattr(uniform_benchmark, "measure", lambda *_: outcome)
    monkeypatch.setattr(uniform_benchmark, "removed", lambda originals, *_: (1, len(originals)))
    *lines, table = report({"dials": drawn("dials", 8, 0)}, 1, 0, tmp_path)
    assert [line.split(":")[0] for line in lines[:2]] == ["dials", "dials_64"]
    assert lines[2:] == [f"dials, all with {name} over them: {_share(1, 4)} removed" for name in SHARED]
    assert table.split()[0] == "set"
    line, _ = report({"dials": drawn("dials", 8, 0)}, 1, 0, tmp_path, otherwise=False)
    assert line == lines[0]
