"""Decisions by hand: what a file may say, and how each mistake in it is named."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from dedup.errors import ConfigError
from dedup.overrides import ACTIONS, NO_OVERRIDES, Override, parse_overrides, read_overrides
from dedup.run_folder import RunFolder

ROWS = (Override(2, "a/1", "keep"), Override(3, "a/2", "remove"), Override(4, "a/3", "separate", "b/1"))
CSV = "sample_id,action,other\na/1,keep,\na/2,remove,\na/3,separate,b/1\n"


def test_a_row_of_each_action() -> None:
    overrides = parse_overrides(CSV.encode(), "mine.csv")
    assert overrides.rows == ROWS
    assert {row.action for row in overrides.rows} == set(ACTIONS)
    assert overrides.sample_ids("separate").to_pylist() == ["a/3", "b/1"]
    assert overrides.sample_ids().to_pylist() == ["a/1", "a/2", "a/3", "b/1"]
    assert overrides.touching("b/1") == [ROWS[2]]
    assert overrides.facts() == {
        "file": "mine.csv", "sha256": overrides.sha256, "keep": 1, "remove": 1, "separate": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        CSV.replace("\n", "\r\n"),
        "\ufeff" + CSV,
        CSV.replace(",", ", ").replace("keep", "Keep "),
        CSV.replace("a/1,keep,", '"a/1",keep'),
        CSV + "\n,,\n",
        "Sample_ID,Action\n" + CSV.split("\n", 1)[1],
    ],
    ids=["Windows line ends", "byte order mark", "blanks", "quotes", "blank lines", "short header"],
)
def test_the_same_rows_however_they_are_written(text: str) -> None:
    assert parse_overrides(text.encode()).rows == ROWS


def test_the_header_may_miss() -> None:
    assert parse_overrides(b"a/1,keep\n").rows == (Override(1, "a/1", "keep"),)


def test_names_with_commas_quotes_and_other_scripts() -> None:
    name = 'ü/a, "b" #2'
    quoted = '"' + name.replace('"', '""') + '"'
    assert parse_overrides(f"{quoted},keep\n".encode()).rows[0].sample_id == name


def test_no_file_and_an_empty_one_say_nothing_but_are_not_the_same() -> None:
    empty = parse_overrides(b"")
    assert empty.rows == NO_OVERRIDES.rows == ()
    assert empty.sha256 != NO_OVERRIDES.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/1,keep\na/2,drop\n", r"line 2: unknown action 'drop'; choose from keep, remove, separate"),
        ("sample_id;action;other\na/1;keep;\n", r"line 1: its columns are divided by semicolons; save it with commas"),
        ("a/1\tkeep\n", r"line 1: its columns are divided by tabs"),
        ("a/1\n", r"line 1: 1 columns; a row is sample_id,action,other"),
        ("a/1,keep,,\n", r"line 1: 4 columns"),
        (",keep\n", r"line 1: names no sample"),
        ("a/1,separate\n", r"line 1: `separate` needs the other sample"),
        ("a/1,separate,a/1\n", r"line 1: `separate` needs the other sample"),
        ("a/1,remove,a/2\n", r"line 1: `remove` takes no other sample, but got 'a/2'"),
        ("sample_id,action\na/1,keep\n\na/1,remove\n", r"line 4: says remove for 'a/1', but line 2 says keep"),
        ('a/1,keep\n"a/2,keep\n', r"line 2: is no CSV"),
        ("sample_id,action\nsample_id,action\n", r"line 2: unknown action 'action'"),
    ],
)
def test_mistakes_are_named_with_their_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"mine\.csv, {message}"):
        parse_overrides(text.encode(), "mine.csv")


def test_text_that_is_no_utf8() -> None:
    with pytest.raises(ConfigError, match=r"line 2: is no UTF-8"):
        parse_overrides("a/1,keep\nü,keep\n".encode("latin-1"))


def test_saying_the_same_twice_is_no_contradiction() -> None:
    assert len(parse_overrides(b"a/1,keep\na/1,keep\na/1,separate,a/2\n").rows) == 3


def test_names_are_checked_against_the_samples() -> None:
    overrides = parse_overrides(CSV.encode(), "mine.csv")
    everything = pa.array(["a/1", "a/2", "a/3", "b/1"])
    overrides.check(everything)
    overrides.check(everything, failed=pa.array(["a/2"]))
    with pytest.raises(ConfigError, match=r"mine\.csv, line 4: no sample of this run is called 'b/1'"):
        overrides.check(pa.array(["a/1", "a/2", "a/3"]))
    with pytest.raises(ConfigError, match=r"mine\.csv, line 4: 'b/1' could not be decoded"):
        overrides.check(everything, failed=pa.array(["b/1"]))


def test_where_they_are_read_from(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    assert read_overrides(folder, "auto") == NO_OVERRIDES
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "overrides.csv").write_text(CSV)
    (tmp_path / "other.csv").write_text("a/1,remove\n")
    assert read_overrides(folder, "auto").rows == ROWS
    assert read_overrides(folder, "none") == NO_OVERRIDES
    assert read_overrides(folder, str(tmp_path / "other.csv")).rows == (Override(1, "a/1", "remove"),)
    assert read_overrides(folder, f"file://{tmp_path}/other.csv").rows == (Override(1, "a/1", "remove"),)
    with pytest.raises(ConfigError, match=r"overrides=.*nowhere\.csv: no such file"):
        read_overrides(folder, str(tmp_path / "nowhere.csv"))
    with pytest.raises(ConfigError, match=r"overrides=.*run: cannot be read"):
        read_overrides(folder, str(tmp_path / "run"))
