"""What a person decided by hand: a CSV file that the grouping and the decision obey.

    sample_id,action,other
    00000/000123,keep,
    00000/000124,remove,
    00000/000125,separate,00007/000981

`keep`: the sample stays, whatever its group says; nothing else changes. `remove`: it goes, and stands for no other.
`separate`: the two are not the same picture, so that their pair counts no more.
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError
from dedup.listing import open_filesystem
from dedup.run_folder import RunFolder

OVERRIDES_FILE = "overrides.csv"
COLUMNS = ("sample_id", "action", "other")
ACTIONS = ("keep", "remove", "separate")


@dataclass(frozen=True)
class Override:
    """One row: `line` counts from 1, `other` is the second sample_id of `separate`, else empty."""

    line: int
    sample_id: str
    action: str
    other: str = ""

    def __str__(self) -> str:
        return f"line {self.line}: {self.sample_id} {self.action} {self.other}".rstrip()


@dataclass(frozen=True)
class Overrides:
    """The rows of one file; without a file there are none, and `sha256` is None."""

    rows: tuple[Override, ...] = ()
    source: str = OVERRIDES_FILE
    sha256: str | None = None

    def having(self, action: str) -> list[Override]:
        return [row for row in self.rows if row.action == action]

    def sample_ids(self, *actions: str) -> pa.Array:
        """Every sample_id that these actions name, or all actions where none is given; as often as named."""
        rows = [row for row in self.rows if row.action in (actions or ACTIONS)]
        return pa.array([name for row in rows for name in (row.sample_id, row.other) if name], pa.string())

    def touching(self, sample_id: str) -> list[Override]:
        return [row for row in self.rows if sample_id in (row.sample_id, row.other)]

    def facts(self) -> dict[str, Any]:
        """What run.json notes."""
        actions = Counter(row.action for row in self.rows)
        return {"file": self.source, "sha256": self.sha256, **{action: actions[action] for action in ACTIONS}}

    def told(self, row: Override, what: str) -> str:
        """What is to be said of a row, with its place."""
        return f"{self.source}, line {row.line}: {what}"

    def error(self, row: Override, reason: str) -> ConfigError:
        return ConfigError(self.told(row, reason))

    def check(self, sample_ids: pa.Array | pa.ChunkedArray, failed: pa.Array | None = None) -> None:
        """Raises ConfigError at the first row with a name not in `sample_ids`, or that keeps or separates a `failed`
        sample."""
        named = self.sample_ids()
        unknown = set(named.filter(pc.invert(pc.is_in(named, value_set=_whole(sample_ids)))).to_pylist())
        undecodable = set() if failed is None else set(failed.to_pylist())
        for row in self.rows:
            for name in filter(None, (row.sample_id, row.other)):
                if name in unknown:
                    raise self.error(row, f"no sample of this run is called {name!r}; nothing was decided")
                if name in undecodable and row.action != "remove":
                    raise self.error(
                        row, f"{name!r} could not be decoded, so it has no group; only `remove` applies to it"
                    )


NO_OVERRIDES = Overrides()


def absolute(where: str) -> str:
    """`where`, as `read_overrides` takes it, so that it means the same in every working folder."""
    if where in ("auto", "none"):
        return where
    _, path, local = open_filesystem(where)
    return os.path.abspath(path) if local else where  # noqa: PTH100 (links stay)


def read_overrides(folder: RunFolder, where: str) -> Overrides:
    """The overrides of a run: of the file or fsspec URL `where`; `auto` is the run folder's own, where there is one,
    `none` is none. Raises ConfigError, see `parse_overrides`, or where the file cannot be read."""
    if where == "none":
        return NO_OVERRIDES
    if where == "auto":
        data = folder.read_bytes(OVERRIDES_FILE)
        return NO_OVERRIDES if data is None else parse_overrides(data, folder.path(OVERRIDES_FILE))
    try:
        with fsspec.open(where, "rb") as file:
            data = file.read()
    except Exception as error:  # each filesystem has errors of its own
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise ConfigError(f"overrides={where}: {reason}; give a CSV file with {','.join(COLUMNS)}, or none") from error
    return parse_overrides(data, where)


def parse_overrides(data: bytes, source: str = OVERRIDES_FILE) -> Overrides:
    """Reads CSV in UTF-8 (RFC 4180; blanks after commas do not count): sample_id,action,other; the header may miss.

    Raises ConfigError, with the line number, for what is no CSV, an unknown action, a missing or needless second
    sample, a sample separated from itself, and one that is both kept and removed.
    """
    try:
        text = data.decode("utf-8-sig")  # spreadsheets write a byte order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{source}, line {line}: is no UTF-8; save the file as CSV in UTF-8") from error
    overrides = Overrides(tuple(_rows(text, source)), source, hashlib.sha256(data).hexdigest())
    said: dict[str, Override] = {}
    for row in overrides.rows:
        if row.action == "separate":
            continue
        before = said.setdefault(row.sample_id, row)
        if before.action != row.action:
            reason = f"says {row.action} for {row.sample_id!r}, but line {before.line} says {before.action}"
            raise overrides.error(row, reason)
    return overrides


def _rows(text: str, source: str) -> Iterator[Override]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    first = True
    try:
        for cells in reader:
            header = first and [cell.strip().lower() for cell in cells] in (list(COLUMNS), list(COLUMNS[:2]))
            if any(cells):
                first = False
                if not header:
                    yield _row(cells, reader.line_num, source)
    except csv.Error as error:
        raise ConfigError(f"{source}, line {reader.line_num}: is no CSV ({error})") from error


def _row(cells: list[str], line: int, source: str) -> Override:
    where = f"{source}, line {line}:"
    for delimiter, name in ((";", "semicolons"), ("\t", "tabs")):
        if len(cells) == 1 and any(f"{delimiter}{action}" in cells[0].lower() for action in ("action", *ACTIONS)):
            raise ConfigError(f"{where} its columns are divided by {name}; save it with commas, {','.join(COLUMNS)}")
    if not 2 <= len(cells) <= len(COLUMNS):
        raise ConfigError(f"{where} {len(cells)} columns; a row is {','.join(COLUMNS)}")
    sample_id, action, other = cells[0], cells[1].strip().lower(), "".join(cells[2:])
    if not sample_id:
        raise ConfigError(f"{where} names no sample; a row is {','.join(COLUMNS)}")
    if action not in ACTIONS:
        raise ConfigError(f"{where} unknown action {cells[1]!r}; choose from {', '.join(ACTIONS)}")
    if action == "separate" and other in ("", sample_id):
        raise ConfigError(f"{where} `separate` needs the other sample of the pair as its third column")
    if action != "separate" and other:
        raise ConfigError(f"{where} `{action}` takes no other sample, but got {other!r}")
    return Override(line, sample_id, action, other)


def _whole(values: pa.Array | pa.ChunkedArray) -> pa.Array:
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
