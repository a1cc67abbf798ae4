"""The manifest in other tools: opened directly, and exported."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

from dedup.errors import ConfigError, ManifestError
from dedup.export import EXPORTS, export
from dedup.manifest import manifest_name, read_manifest
from dedup.records import MANIFEST_SCHEMA
from dedup.run_folder import RUN_FILE, RunFolder
from pipelines import cli

ROWS = [
    {"sample_id": "a/00000/x", "key": "x", "status": "kept", "weight": 0.5, "captions": ["zwei", 'große, "so"\nlang']},
    {"sample_id": "a/00000/y", "key": "y", "status": "removed", "keeper": "a/00000/x", "method": "exact", "score": 1.0},
    {"sample_id": "00001/z", "key": "z", "status": "failed", "error": "empty file"},
]  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> str:
    folder = RunFolder(tmp_path / "run of 'mine'")
    for shard_id in ("a/00000", "00001"):
        unset = {
            **dict.fromkeys(MANIFEST_SCHEMA.names),
            "shard": f"{shard_id}.tar",
            "cluster_size": 1,
            "component_size": 1,
        }
        rows = [unset | row for row in ROWS if str(row["sample_id"]).startswith(shard_id)]
        folder.write_table(manifest_name(shard_id), pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    document = {
        "shards": [{"shard_id": "a/00000"}, {"shard_id": "00001"}],
        "steps": {"decide": {}},
        "counts": {"input": 3, "kept": 1, "removed": 1, "failed": 1},
        "settings": {"describe": {"embedder": "none"}, "decide": {"keep": "largest"}},
        "versions": {"dedup": "0.1.0"},
    }
    folder.write_json(RUN_FILE, document)
    return folder.url


def by_id(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def test_the_readme_opens_the_manifest_in_pandas_polars_duckdb_and_pyarrow(
    run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    [table] = re.findall(r"^\| opens the manifest \|.*?\n\n", readme, re.DOTALL | re.MULTILINE)
    expressions = re.findall(r"^\| \w+ \| `(.*)` \|$", table, re.MULTILINE)
    assert len(expressions) == 4
    RunFolder(run).write_json("note.json", {})  # a run folder holds other files, too
    monkeypatch.chdir(run)
    Path("OUT").symlink_to(".")
    expected = sorted(row["sample_id"] for row in read_manifest(run).to_pylist())
    for expression in expressions:
        opened = eval(expression, {"pd": pd, "pl": pl, "duckdb": duckdb, "ds": pyarrow.dataset})
        if isinstance(opened, pyarrow.dataset.Dataset):
            opened = opened.to_table()
        elif isinstance(opened, duckdb.DuckDBPyRelation):
            opened = opened.to_arrow_table()
        column = opened["sample_id"]
        assert sorted(column.to_pylist() if hasattr(column, "to_pylist") else column.to_list()) == expected


def test_pandas_polars_duckdb_and_pyarrow_open_the_manifest(run: str) -> None:
    expected = by_id(read_manifest(run).to_pylist())
    files = f"{run}/manifest/**/*.parquet"
    dataset = pyarrow.dataset.dataset(f"{run}/manifest", format="parquet")
    assert by_id(dataset.to_table().to_pylist()) == expected
    assert by_id(pl.read_parquet(files).to_dicts()) == expected
    query = duckdb.sql(f"SELECT * FROM read_parquet('{files.replace(chr(39), chr(39) * 2)}')")
    assert by_id(query.to_arrow_table().to_pylist()) == expected
    frame = pd.read_parquet(f"{run}/manifest").sort_values("sample_id")
    assert frame["sample_id"].tolist() == [row["sample_id"] for row in expected]
    assert frame["status"].tolist() == [row["status"] for row in expected]


def test_jsonl_reads_back_equal(run: str, tmp_path: Path) -> None:
    path = Path(export(run, "jsonl", str(tmp_path / "m.jsonl")))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert rows == read_manifest(run).to_pylist()


def test_csv_reads_back_with_lists_as_json(run: str, tmp_path: Path) -> None:
    path = Path(export(run, "csv", str(tmp_path / "m.csv")))
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == MANIFEST_SCHEMA.names
    assert [row["sample_id"] for row in rows] == [row["sample_id"] for row in ROWS]
    assert json.loads(rows[0]["captions"]) == ROWS[0]["captions"]
    assert (rows[1]["captions"], float(rows[1]["score"])) == ("", 1.0)


def test_the_views_run_in_duckdb(run: str, tmp_path: Path) -> None:
    path = Path(export(run, "duckdb-view", str(tmp_path / "m.sql")))
    with duckdb.connect() as connection:
        connection.execute(path.read_text(encoding="utf-8"))
        assert connection.sql("SELECT count(*) FROM manifest").fetchall() == [(3,)]
        assert connection.sql("SELECT sample_id FROM kept").fetchall() == [("a/00000/x",)]


def test_the_card_has_front_matter_counts_and_settings(run: str, tmp_path: Path) -> None:
    card = Path(export(run, "hf-dataset-card", str(tmp_path / "README.md"))).read_text(encoding="utf-8")
    _, front, text = card.split("---\n", 2)
    assert "data_files: manifest/**/*.parquet" in front
    assert "Of 3 samples in 2 shards, 1 are kept, 1 are removed" in text
    assert "| describe | `embedder=none` |\n| decide | `keep=largest` |\n" in text


@pytest.mark.parametrize("form", EXPORTS)
def test_a_file_that_exists_stays(form: str, run: str, tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="mine exists"):
        export(run, form, str(path))
    assert path.read_text() == "mine"


def test_a_url_is_written_to(run: str) -> None:
    assert export(run, "jsonl", "memory://exports/m.jsonl") == "memory://exports/m.jsonl"
    lines = fsspec.filesystem("memory").cat_file("/exports/m.jsonl").decode().splitlines()
    assert [json.loads(line)["sample_id"] for line in lines] == [row["sample_id"] for row in ROWS]
    assert not Path("memory:").exists()
    with pytest.raises(ConfigError, match=r"memory://exports/m\.jsonl exists"):
        export(run, "jsonl", "memory://exports/m.jsonl")


def test_what_cannot_be_written_is_named(run: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/m\.csv cannot be written"):
        export(run, "csv", str(tmp_path / "file" / "m.csv"))


def test_an_unknown_form_and_an_unfinished_run_are_refused(run: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="to=xml: known are csv"):
        export(run, "xml", str(tmp_path / "m"))
    RunFolder(run).write_json(RUN_FILE, {"shards": [], "steps": {}})
    with pytest.raises(ManifestError, match="unfinished"):
        export(run, "csv", str(tmp_path / "m"))
    with pytest.raises(ManifestError, match="no run folder"):
        export(str(tmp_path), "csv", str(tmp_path / "m"))
    assert not (tmp_path / "m").exists()


def test_the_command_line_says_what_it_wrote(run: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["export", run, "--to", "jsonl", "--out", str(tmp_path / "m.jsonl")])
    assert capsys.readouterr().out == f"{tmp_path}/m.jsonl\n"
