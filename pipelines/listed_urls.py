"""A list of URLs as img2dataset reads it: its format, its columns, and a copy where these would be lost on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from dedup.errors import ConfigError
from dedup.listing import open_filesystem
from dedup.run_folder import RunFolder

# Columns that img2dataset writes itself and refuses to take over.
RESERVED = frozenset({
    "key", "caption", "url", "width", "height", "original_width", "original_height", "status", "error_message", "exif",
    "md5", "sha256", "sha512",
})  # fmt: skip
# A list that has these was made of an earlier download: its reserved columns are that one's, which this one renews.
_OF_A_DOWNLOAD = frozenset({"key", "status", "error_message"})
_COPY = "_list"  # in the folder of the shards, as img2dataset's own _tmp

_Batches = tuple[pa.Schema, Iterator[pa.RecordBatch]]


def _parquet(file: IO[bytes]) -> _Batches:
    parquet = pq.ParquetFile(file)
    return parquet.schema_arrow, parquet.iter_batches()


def _csv(delimiter: str) -> Callable[[IO[bytes]], _Batches]:
    def read(file: IO[bytes]) -> _Batches:
        reader = pa.csv.open_csv(file, parse_options=pa.csv.ParseOptions(delimiter=delimiter))
        return reader.schema, reader

    return read


def _json(file: IO[bytes]) -> _Batches:
    table = pa.Table.from_pandas(pd.read_json(file), preserve_index=False)
    return table.schema, iter(table.to_batches())


def _jsonl(file: IO[bytes]) -> _Batches:
    reader = pa.json.open_json(file)
    return reader.schema, reader


# Each reads as img2dataset does, in pieces where it can; an extension may be followed by .gz, parquet's may not.
FORMATS: dict[str, Callable[[IO[bytes]], _Batches]] = {
    "parquet": _parquet,
    "csv": _csv(","),
    "tsv": _csv("\t"),
    "json": _json,
    "jsonl": _jsonl,
    "txt": lambda _: (pa.schema([("url", pa.string())]), iter(())),
}


@dataclass(frozen=True)
class UrlList:
    """An input of img2dataset: a file or folder, its format, its columns, and what tells it from another."""

    url: str
    format: str
    schema: pa.Schema
    version: list[list[Any]]


@dataclass(frozen=True)
class Carried:
    """The columns that go into the samples' json: `names` there; `renamed` has the name in the list of those that
    img2dataset would refuse; `as_text` are those of the list that JSON has no type for; `left_out` the rest."""

    names: list[str] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)
    as_text: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def needs_copy(self) -> bool:
        return bool(self.renamed or self.as_text)


def read_url_list(urls: str) -> UrlList:
    """What kind of list it is, by its name, and its columns. Raises ConfigError where it cannot be read."""
    fs, path, local = open_filesystem(urls)
    try:
        files = sorted(fs.find(path)) if fs.isdir(path) else [path]
        infos = [fs.info(file) for file in files]
    except OSError as error:
        raise ConfigError(f"{urls}: no such list of URLs ({type(error).__name__})") from error
    formats = {name for file in files if (name := _format_of(file)) is not None}
    if len(formats) != 1:
        found = ", ".join(sorted(formats)) or "none of them"
        raise ConfigError(f"{urls}: {found}; a list of URLs is one of {', '.join(FORMATS)}, by its extension")
    [name] = formats
    first = next(file for file in files if _format_of(file) == name)
    try:
        with _open(fs, first, name) as file:
            schema, _ = FORMATS[name.removesuffix(".gz")](file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{first} cannot be read as {name}: {error}") from error
    version = [[info["name"], info["size"], str(info.get("mtime") or info.get("ETag") or "")] for info in infos]
    return UrlList(path if local else urls, name, schema, version)


def carried_columns(schema: pa.Schema, used: set[str | None]) -> Carried:
    """What becomes of every column but the `used` ones: reserved names get `list_` before them, and dates, times and
    decimals become text. Left out are binary columns, and what an earlier download wrote beside its images."""
    carried = Carried()
    of_a_download = set(schema.names) >= _OF_A_DOWNLOAD
    for column in schema:
        if column.name in used:
            continue
        is_text = _needs_text(column.type)
        if (column.name in RESERVED and of_a_download) or not (is_text or _is_json(column.type)):
            carried.left_out.append(column.name)
            continue
        name = column.name
        while name in RESERVED or (name != column.name and name in schema.names):
            name = f"list_{name}"
        if name != column.name:
            carried.renamed[name] = column.name
        if is_text:
            carried.as_text.append(column.name)
        carried.names.append(name)
    return carried


def write_copy(url_list: UrlList, carried: Carried, folder: RunFolder) -> str:
    """A copy of the list in the folder of the shards, with the columns as they are carried; gives its path.

    Its files and rows are in the order of the list, so that an interrupted download goes on where it was.
    Raises ConfigError where a file cannot be read.
    """
    fs, path, _ = open_filesystem(url_list.url)
    files = sorted(fs.glob(f"{path.rstrip('/')}/*.{url_list.format}")) if fs.isdir(path) else [path]
    folder.remove(_COPY)
    for number, name in enumerate(files):
        try:
            with _open(fs, name, url_list.format) as file:
                schema, batches = FORMATS[url_list.format.removesuffix(".gz")](file)
                empty = _carry(schema.empty_table(), carried)
                with folder.table_writer(f"{_COPY}/{number:05d}.parquet", empty.schema) as writer:
                    for batch in batches:
                        writer.write(_carry(pa.Table.from_batches([batch]), carried))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{name} cannot be read as {url_list.format}: {error}") from error
    _, copy, local = open_filesystem(folder.path(_COPY))
    return copy if local else folder.path(_COPY)


def remove_copy(folder: RunFolder) -> None:
    folder.remove(_COPY)


def _carry(table: pa.Table, carried: Carried) -> pa.Table:
    """The table with text for dates and the like, and with the renamed columns beside the others, which options of
    img2dataset may name."""
    names: Mapping[str, str] = dict(zip(table.column_names, table.column_names, strict=True)) | {
        name: old for name, old in carried.renamed.items() if old in table.column_names
    }
    columns = {name: table[old] for name, old in names.items()}
    for name, old in names.items():
        if old in carried.as_text:
            columns[name] = pc.cast(table[old], pa.string())
    return pa.table(columns)


def _open(fs: fsspec.AbstractFileSystem, path: str, format_name: str) -> IO[bytes]:
    return cast(IO[bytes], fs.open(path, "rb", compression="gzip" if format_name.endswith(".gz") else None))


def _format_of(file: str) -> str | None:
    stem = file.removesuffix(".gz")
    name = stem.rpartition(".")[2]
    if name not in FORMATS or (stem != file and name == "parquet"):
        return None
    return f"{name}.gz" if stem != file else name


def _needs_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_temporal(kind) or pa.types.is_decimal(kind))


def _is_json(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return all(_is_json(inner.type) for inner in kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _is_json(kind.value_type)
    if pa.types.is_dictionary(kind):
        return _is_json(kind.value_type)
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return bool(text or number or pa.types.is_boolean(kind) or pa.types.is_null(kind))
