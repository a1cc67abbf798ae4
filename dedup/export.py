"""A finished run's manifest in the forms that other tools read: EXPORTS.

Rows are written shard by shard, so memory is bounded by one shard. The manifest itself stays what it is: a folder of
Parquet files: polars and DuckDB open `manifest/**/*.parquet`, pandas and pyarrow the folder `manifest`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
import pyarrow as pa
from pyarrow import csv

from dedup.errors import ConfigError, ManifestError
from dedup.listing import open_filesystem
from dedup.manifest import iter_manifest
from dedup.records import MANIFEST_SCHEMA
from dedup.run_folder import RUN_FILE, RunFolder

_CSV_SCHEMA = pa.schema(
    [pa.field(field.name, pa.string()) if pa.types.is_list(field.type) else field for field in MANIFEST_SCHEMA]
)

# Front matter as https://huggingface.co/docs/datasets/repository_structure describes it.
_CARD = jinja2.Template(
    """---
configs:
- config_name: manifest
  data_files: manifest/**/*.parquet
tags:
- deduplication
- image-text
---

# A cleaned manifest

Of {{ counts.input }} samples in {{ shards }} shards, {{ counts.kept }} are kept, {{ counts.removed }} are removed as
near-duplicates, and {{ counts.failed }} could not be decoded. Each row of the manifest says of one sample what becomes
of it (`status`), which image stands for it (`keeper`), and by what evidence (`method`, `score`).

| step | settings |
|---|---|
{% for step, values in settings.items() -%}
| {{ step }} | {% for name, value in values.items() %}`{{ name }}={{ value }}`{{ ", " if not loop.last }}{% endfor %} |
{% endfor %}
Made with dedup {{ versions.dedup }}.
""",
    keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined,
)


def export(run: str, form: str, out: str | None = None) -> str:
    """Write the manifest of the finished run in folder `run` (local or an fsspec URL) as `form`, a name of EXPORTS.

    `out` is a file, local or an fsspec URL, by default one of the form's own name in the current folder; gives its
    path. Lists (`captions`) are JSON in csv. Raises ConfigError for an unknown form, a file that exists or cannot be
    written, ManifestError where there is no finished run; then nothing is written.
    """
    if form not in EXPORTS:
        raise ConfigError(f"to={form}: known are {', '.join(EXPORTS)}")
    write, name = EXPORTS[form]
    path = out or name
    fs, inner, local = open_filesystem(path)
    target = RunFolder(str(Path(path).parent) if local else path.rpartition("/")[0])
    name = inner.rpartition("/")[2]
    if fs.exists(inner):
        raise ConfigError(f"{path} exists; choose another file with --out")
    folder = RunFolder(run)
    document = folder.read_json(RUN_FILE)
    if document is None:
        raise ManifestError(f"{run} is no run folder: it has no {RUN_FILE}")
    if "decide" not in document.get("steps", {}):
        raise ManifestError(f"the run in {run} is unfinished; start it again with the same settings to finish it")
    try:
        with target.whole_file(name) as aside:
            write(folder, document, Path(aside))
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error
    return path


def _csv(folder: RunFolder, document: dict[str, Any], path: Path) -> None:  # noqa: ARG001
    with csv.CSVWriter(path, _CSV_SCHEMA) as writer:
        for table in iter_manifest(folder.url):
            for name in _CSV_SCHEMA.names:
                if pa.types.is_list(table.schema.field(name).type):
                    texts = [value if value is None else _json(value) for value in table[name].to_pylist()]
                    table = table.set_column(table.column_names.index(name), name, pa.array(texts, pa.string()))
            writer.write_table(table)


def _jsonl(folder: RunFolder, document: dict[str, Any], path: Path) -> None:  # noqa: ARG001
    with path.open("w", encoding="utf-8") as file:
        for table in iter_manifest(folder.url):
            file.writelines(_json(row) + "\n" for row in table.to_pylist())


def _duckdb_view(folder: RunFolder, document: dict[str, Any], path: Path) -> None:  # noqa: ARG001
    """`.read manifest.sql` in DuckDB, or `connection.execute(...)`: the view reads the files where they are."""
    where = str(Path(folder.url).resolve()) if folder.is_local else folder.url
    files = f"{where}/manifest/**/*.parquet".replace("'", "''")
    path.write_text(
        f"CREATE OR REPLACE VIEW manifest AS SELECT * FROM read_parquet('{files}');\n"
        "CREATE OR REPLACE VIEW kept AS SELECT * FROM manifest WHERE status = 'kept';\n",
        encoding="utf-8",
    )


def _dataset_card(folder: RunFolder, document: dict[str, Any], path: Path) -> None:  # noqa: ARG001
    path.write_text(
        _CARD.render(
            counts=document["counts"],
            shards=len(document["shards"]),
            settings=document["settings"],
            versions=document["versions"],
        ),
        encoding="utf-8",
    )


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# Each writes one file, of this name unless the user gives another.
EXPORTS: dict[str, tuple[Callable[[RunFolder, dict[str, Any], Path], None], str]] = {
    "csv": (_csv, "manifest.csv"),
    "jsonl": (_jsonl, "manifest.jsonl"),
    "duckdb-view": (_duckdb_view, "manifest.sql"),
    "hf-dataset-card": (_dataset_card, "README.md"),
}
