from __future__ import annotations

import uuid
from pathlib import Path

import pyarrow as pa
import pytest

from dedup.errors import ManifestError
from dedup.run_folder import RunFolder, fingerprint

TABLE = pa.table({"sample_id": ["a/0", "a/1"], "n": [1, 2]})


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run" if request.param == "local" else f"memory://{uuid.uuid4().hex}/run")


def test_what_is_written_is_read_back(folder: RunFolder) -> None:
    folder.write_table("manifest/deep/00000.parquet", TABLE)
    assert folder.read_table("manifest/deep/00000.parquet").equals(TABLE)
    assert folder.read_table("manifest/deep/00000.parquet", ["n"]).column_names == ["n"]
    folder.write_json("run.json", {"schön": 1})
    assert folder.read_json("run.json") == {"schön": 1}
    assert folder.read_json("other.json") is None


def test_names_lists_finished_files_only_sorted(folder: RunFolder) -> None:
    assert folder.names("pairs") == []
    for name in ("pairs/b.parquet", "pairs/a.parquet", "pairs/sub/c.parquet", "other/d.parquet"):
        folder.write_table(name, TABLE)
    assert folder.names("pairs") == ["pairs/a.parquet", "pairs/b.parquet", "pairs/sub/c.parquet"]
    folder.remove("pairs")
    assert folder.names("pairs") == []
    assert folder.names("other") == ["other/d.parquet"]


def test_a_failed_writer_leaves_the_old_file_and_no_other(folder: RunFolder) -> None:
    folder.write_table("manifest/0.parquet", TABLE)
    with pytest.raises(RuntimeError, match="half way"):
        _write_half(folder, "manifest/0.parquet")
    assert folder.read_table("manifest/0.parquet").equals(TABLE)
    if folder.is_local:
        assert [path.name for path in Path(folder.path("manifest")).iterdir()] == ["0.parquet"]


def _write_half(folder: RunFolder, name: str) -> None:
    with folder.table_writer(name, TABLE.schema) as writer:
        writer.write(TABLE)
        raise RuntimeError("half way")


def test_nothing_is_there_under_its_name_while_it_is_written(folder: RunFolder) -> None:
    with folder.table_writer("manifest/0.parquet", TABLE.schema) as writer:
        writer.write(TABLE)
        assert not folder.exists("manifest/0.parquet")
        assert folder.names("manifest") == []
    assert folder.exists("manifest/0.parquet")


def test_a_note_is_read_without_rows(folder: RunFolder) -> None:
    folder.write_table("a.parquet", TABLE, note={"fingerprint": "x", "facts": {"n": 1}})
    folder.write_table("b.parquet", TABLE)
    assert folder.note("a.parquet") == {"fingerprint": "x", "facts": {"n": 1}}
    assert folder.note("b.parquet") is None
    assert folder.note("c.parquet") is None


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        RunFolder(tmp_path).write_table(f"{name}.parquet", TABLE, note={"y": 1, "x": 2})
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with pytest.raises(ManifestError, match=r"0\.parquet is missing"):
        folder.read_table("0.parquet")
    (tmp_path / "0.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ManifestError, match=r"0\.parquet is unreadable"):
        folder.read_table("0.parquet")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ManifestError, match=r"run\.json is no JSON"):
        folder.read_json("run.json")


def test_fingerprints_tell_settings_apart() -> None:
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert len({fingerprint({"a": value}) for value in (1, 1.5, "1", None, True, [1])}) == 6


def test_content_is_what_lies_directly_in_the_folder(folder: RunFolder) -> None:
    assert folder.content() == []
    folder.write_table("pairs/0.parquet", TABLE)
    folder.write_json("run.json", {})
    folder.write_bytes(f".settings.json.{uuid.uuid4().hex}", b"left by a killed process")
    assert folder.content() == ["pairs", "run.json"]
    assert RunFolder(folder.path("run.json")).content() == ["run.json"]
