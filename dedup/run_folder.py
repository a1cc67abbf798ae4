"""The run folder: where a run keeps its datasets, on a local disk or any fsspec URL.

    run.json                       settings, versions, input, counts, timings
    descriptors/<shard_id>.parquet
    candidates/*.parquet           what the searches proposed (internal)
    pairs/*.parquet                what was decided of each candidate
    manifest/<shard_id>.parquet

A file appears under its final name only when it is whole: local files are written aside and renamed, remote ones are
spooled to a local file and put, which object stores make visible at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup.errors import ManifestError

RUN_FILE = "run.json"
METADATA_KEY = "dedup"
# Readers of Parquet see the version in created_by only; a fixed codec and no statistics on wide binary columns keep
# the same rows the same bytes.
_COMPRESSION = "zstd"
_ASIDE = re.compile(r"(^|/)\.[^/]+\.[0-9a-f]{32}$")  # what `whole_file` writes to, left behind by a killed process


def fingerprint(*parts: object) -> str:
    """16 hex digits that are equal if and only if the JSON forms of `parts` are (up to collisions of SHA-256)."""
    canonical = json.dumps(parts, sort_keys=True, default=str, ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


class TableWriter:
    """Appends record batches to one Parquet file; what `RunFolder.table_writer` hands out."""

    def __init__(self, path: str, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(path, schema, compression=_COMPRESSION, write_statistics=False)
        self.rows = 0

    def write(self, table: pa.Table) -> None:
        """Append `table` as one row group."""
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        self.rows += table.num_rows

    def annotate(self, note: Mapping[str, Any]) -> None:
        """Store `note` (JSON) in the file's metadata, where `RunFolder.note` reads it without reading rows."""
        self._writer.add_key_value_metadata({METADATA_KEY: json.dumps(note, sort_keys=True)})

    def close(self) -> None:
        self._writer.close()


class RunFolder:
    """Named files under `url`. Instances are small and picklable, so that tasks carry them."""

    def __init__(self, url: str | Path, storage_options: Mapping[str, Any] | None = None) -> None:
        self.url = str(url).rstrip("/")
        self._storage_options = dict(storage_options or {})

    def __repr__(self) -> str:
        return f"RunFolder({self.url!r})"

    @property
    def _fs(self) -> tuple[fsspec.AbstractFileSystem, str]:
        # url_to_fs caches instances, so that this costs a dictionary look-up.
        fs, path = fsspec.core.url_to_fs(self.url, **self._storage_options)
        return fs, path

    @property
    def is_local(self) -> bool:
        return "file" in _protocols(self._fs[0])

    def path(self, name: str) -> str:
        """The full path or URL of a file, as a person would open it."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        fs, root = self._fs
        return bool(fs.exists(f"{root}/{name}"))

    def version(self, name: str) -> str:
        """Changes where the file is replaced, as far as its filesystem tells; empty where there is none."""
        fs, root = self._fs
        fs.invalidate_cache()
        try:
            return repr(sorted((key, str(value)) for key, value in fs.info(f"{root}/{name}").items()))
        except FileNotFoundError:
            return ""

    def names(self, folder: str) -> list[str]:
        """Names of all finished Parquet files under `folder`, relative to the run folder, sorted."""
        fs, root = self._fs
        fs.invalidate_cache()
        found = fs.find(f"{root}/{folder}") if fs.exists(f"{root}/{folder}") else []
        prefix = fs._strip_protocol(root).rstrip("/") + "/"
        names = (str(path)[len(prefix) :] for path in found)
        return sorted(name for name in names if name.endswith(".parquet") and not Path(name).name.startswith("."))

    def sizes(self) -> dict[str, int]:
        """Every finished file in the folder, by its name there, with its size in bytes."""
        fs, root = self._fs
        fs.invalidate_cache()
        found = fs.find(root, detail=True) if fs.exists(root) else {}
        prefix = fs._strip_protocol(root).rstrip("/") + "/"
        sizes = {str(path)[len(prefix) :]: int(info["size"]) for path, info in found.items()}
        return {name: size for name, size in sizes.items() if not _ASIDE.search(name)}

    def content(self) -> list[str]:
        """Names of the files and folders directly in the folder, sorted; its own where it is a file, [] where it does
        not exist. What a killed process left aside does not count."""
        fs, root = self._fs
        fs.invalidate_cache()
        if not fs.exists(root):
            return []
        names = (str(path).rstrip("/").rsplit("/", 1)[-1] for path in fs.ls(root, detail=False))
        return sorted(name for name in names if not _ASIDE.search(name))

    def remove(self, name: str) -> None:
        fs, root = self._fs
        if fs.exists(f"{root}/{name}"):
            fs.rm(f"{root}/{name}", recursive=True)

    @contextlib.contextmanager
    def whole_file(self, name: str) -> Iterator[str]:
        """A local path to write to; where the block succeeds its content becomes the file `name`, else nothing does."""
        fs, root = self._fs
        target = f"{root}/{name}"
        if self.is_local:
            final = Path(target)
            final.parent.mkdir(parents=True, exist_ok=True)
            aside = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
            try:
                yield str(aside)
                aside.replace(final)
            finally:
                aside.unlink(missing_ok=True)
        else:
            with tempfile.TemporaryDirectory() as spool:
                aside = Path(spool) / "file"
                yield str(aside)
                fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
                fs.put_file(str(aside), target)

    @contextlib.contextmanager
    def table_writer(self, name: str, schema: pa.Schema) -> Iterator[TableWriter]:
        """Write a Parquet file piece by piece; it exists once the block ends without an exception."""
        with self.whole_file(name) as path:
            writer = TableWriter(path, schema)
            try:
                yield writer
            finally:
                writer.close()

    def write_table(self, name: str, table: pa.Table, note: Mapping[str, Any] | None = None) -> None:
        with self.table_writer(name, table.schema) as writer:
            writer.write(table)
            if note is not None:
                writer.annotate(note)

    def read_table(
        self, name: str, columns: Sequence[str] | None = None, where: pc.Expression | None = None
    ) -> pa.Table:
        """The rows `where` holds, or all, which takes no more memory than one row group and the result.

        Raises ManifestError when the file is missing, not Parquet, or without one of `columns`.
        """
        fs, root = self._fs
        try:
            with fs.open(f"{root}/{name}", "rb") as file:
                parquet = pq.ParquetFile(file)
                missing = set(columns or ()) - set(parquet.schema_arrow.names)
                if missing:
                    raise ManifestError(
                        f"{self.path(name)} has no column {', '.join(sorted(missing))}: another version of dedup wrote "
                        "it, or it was rewritten since; make it again with this version"
                    )
                wanted = list(columns) if columns is not None else None
                if where is None:  # without the machinery of data sets, which takes five times as long for small files
                    return parquet.read(wanted)
                file.seek(0)
                return pq.read_table(file, columns=wanted, filters=where)
        except FileNotFoundError as error:
            raise ManifestError(f"{self.path(name)} is missing: the run is unfinished; run it again") from error
        except pa.ArrowInvalid as error:
            raise ManifestError(f"{self.path(name)} is unreadable ({error}); delete it and run again") from error

    def note(self, name: str) -> dict[str, Any] | None:
        """What `TableWriter.annotate` stored, from the footer alone; None when there is no file or note."""
        fs, root = self._fs
        try:
            with fs.open(f"{root}/{name}", "rb") as file:
                metadata = pq.read_metadata(file).metadata or {}
        except (FileNotFoundError, pa.ArrowInvalid):
            return None
        stored = metadata.get(METADATA_KEY.encode())
        return dict(json.loads(stored)) if stored else None

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        with self.whole_file(name) as path:
            Path(path).write_text(text, encoding="utf-8")

    def write_bytes(self, name: str, content: bytes) -> None:
        with self.whole_file(name) as path:
            Path(path).write_bytes(content)

    def read_bytes(self, name: str) -> bytes | None:
        """None when the file does not exist."""
        fs, root = self._fs
        try:
            return bytes(fs.cat_file(f"{root}/{name}"))
        except FileNotFoundError:
            return None

    def read_json(self, name: str) -> dict[str, Any] | None:
        """None when the file does not exist; raises ManifestError when it is not JSON."""
        text = self.read_bytes(name)
        if text is None:
            return None
        try:
            return dict(json.loads(text))
        except ValueError as error:
            raise ManifestError(f"{self.path(name)} is no JSON ({error}); restore it or use another folder") from error


def _protocols(fs: fsspec.AbstractFileSystem) -> tuple[str, ...]:
    return (fs.protocol,) if isinstance(fs.protocol, str) else tuple(fs.protocol)
