"""Download a list of URLs into webdataset shards by img2dataset, in a process of its own, losslessly by default."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dedup.errors import ConfigError, DedupError
from dedup.listing import open_filesystem
from dedup.run_folder import RunFolder

logger = logging.getLogger(__name__)

INFO_FILE = "download.info"  # JSON, but not by name: img2dataset takes every .json in its folder for one of its own

_URL_COLUMNS = ("url", "image_url")
_CAPTION_COLUMNS = ("caption", "text", "txt")

# Columns that img2dataset writes itself and refuses to take over.
_RESERVED = frozenset({
    "key", "caption", "url", "width", "height", "original_width", "original_height", "status", "error_message", "exif",
    "md5", "sha256", "sha512",
})  # fmt: skip
# Options that need the images decoded. Where one is given, images are stored as img2dataset encodes them.
_DECODING = frozenset({
    "image_size", "resize_mode", "resize_only_if_bigger", "upscale_interpolation", "downscale_interpolation",
    "encode_quality", "encode_format", "skip_reencode", "bbox_col", "min_image_size", "max_image_area",
    "max_aspect_ratio",
})  # fmt: skip
# Options that say how to download, not what comes out.
_HOW = frozenset({
    "processes_count", "thread_count", "timeout", "retries", "max_shard_retry", "enable_wandb", "wandb_project",
})  # fmt: skip
_OURS = {
    "url_list": "URLS",
    "output_folder": "--out",
    "output_format": "nothing: dedup reads webdataset shards",
    "url_col": "--url-column",
    "caption_col": "--caption-column",
}
_REASONS_TOLD = 5
_LINES_TOLD = 15


def _parquet_schema(file: IO[bytes]) -> pa.Schema:
    return pq.read_schema(file)


def _csv_schema(delimiter: str) -> Callable[[IO[bytes]], pa.Schema]:
    return lambda file: pa.csv.open_csv(file, parse_options=pa.csv.ParseOptions(delimiter=delimiter)).schema


def _json_schema(lines: bool) -> Callable[[IO[bytes]], pa.Schema]:
    return lambda file: pa.Schema.from_pandas(
        pd.read_json(file, lines=lines, nrows=1000 if lines else None), preserve_index=False
    )


# How the columns of each input format are found; an extension may be followed by .gz, parquet's may not.
FORMATS: dict[str, Callable[[IO[bytes]], pa.Schema]] = {
    "parquet": _parquet_schema,
    "csv": _csv_schema(","),
    "tsv": _csv_schema("\t"),
    "json": _json_schema(lines=False),
    "jsonl": _json_schema(lines=True),
    "txt": lambda _: pa.schema([("url", pa.string())]),
}


@dataclass(frozen=True)
class DownloadSettings:
    """Which columns of the list mean what."""

    url_column: str | None = None
    """Column with the URLs; by default the one named url or image_url, in any case."""

    caption_column: str | None = None
    """Column with the captions; by default the one named caption, text or txt, in any case, if there is one."""


@dataclass(frozen=True)
class UrlList:
    """An input of img2dataset: a file or folder, its format, its columns, and what tells it from another."""

    url: str
    format: str
    schema: pa.Schema
    version: list[list[Any]]


def download(urls: str, out: str, options: Sequence[str], settings: DownloadSettings) -> dict[str, Any]:
    """Download the list `urls` into shards in `out`, or go on with what was begun there; gives counts by outcome.

    `options` are img2dataset's own (`--image_size=512`, `--timeout 5`). Raises ConfigError for a list or options that
    are unusable and a folder of something else, DedupError where img2dataset fails or no image came.
    """
    url_list = read_url_list(urls)
    arguments = img2dataset_arguments(url_list, out, options, settings)
    folder = RunFolder(out)
    _claim(folder, url_list, arguments)
    _run_img2dataset(url_list.url, arguments)
    counts = _outcome(folder)
    if not counts["success"]:
        raise DedupError(f"none of {counts.total():,} URLs in {urls} gave an image: {_reasons(counts)}")
    return dict(counts)


def text(counts: dict[str, int], out: str) -> str:
    """What came, for a terminal."""
    lines = [f"urls       {sum(counts.values()):>12,}", f"downloaded {counts['success']:>12,}"]
    if failed := sum(counts.values()) - counts["success"]:
        lines.append(f"failed     {failed:>12,}  {_reasons(Counter(counts))}")
    return "\n".join([*lines, f"shards     {out}", f"next: dedup run {out}"])


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
        with fs.open(first, "rb", compression="gzip" if name.endswith(".gz") else None) as file:
            schema = FORMATS[name.removesuffix(".gz")](cast(IO[bytes], file))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{first} cannot be read as {name}: {error}") from error
    version = [[info["name"], info["size"], str(info.get("mtime") or info.get("ETag") or "")] for info in infos]
    return UrlList(path if local else urls, name, schema, version)


def img2dataset_arguments(
    url_list: UrlList, out: str, options: Sequence[str], settings: DownloadSettings
) -> dict[str, str]:
    """The options of img2dataset by name: the user's, and for the rest those that keep every byte and column."""
    given = _parsed(options)
    columns = url_list.schema.names
    url_column = _column(columns, settings.url_column, _URL_COLUMNS)
    if url_column is None:
        raise ConfigError(f"{url_list.url} has no column url, but {', '.join(columns)}: name it with --url-column")
    caption = _column(columns, settings.caption_column, _CAPTION_COLUMNS)
    _, path, local = open_filesystem(out)
    arguments = {
        "input_format": url_list.format,
        "output_format": "webdataset",
        "output_folder": path if local else out,
        "url_col": url_column,
        "processes_count": str(os.cpu_count() or 1),
    }
    if caption is not None:
        arguments["caption_col"] = caption
    if others := _additional_columns(url_list.schema, {url_column, caption}):
        arguments["save_additional_columns"] = json.dumps(others, ensure_ascii=False)
    if not _DECODING & set(given):
        arguments["disable_all_reencoding"] = "True"
    return arguments | given


def _format_of(file: str) -> str | None:
    stem = file.removesuffix(".gz")
    name = stem.rpartition(".")[2]
    if name not in FORMATS or (stem != file and name == "parquet"):
        return None
    return f"{name}.gz" if stem != file else name


def _column(columns: Sequence[str], asked: str | None, usual: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in columns:
            raise ConfigError(f"no column {asked} in the list of URLs: it has {', '.join(columns)}")
        return asked
    return next((column for name in usual for column in columns if column.lower() == name), None)


def _additional_columns(schema: pa.Schema, used: set[str | None]) -> list[str]:
    """Every other column that img2dataset takes: it writes them as JSON."""
    others = []
    for field in schema:
        if field.name in used or field.name in _RESERVED:
            continue
        kind = field.type
        if pa.types.is_temporal(kind) or pa.types.is_decimal(kind) or pa.types.is_binary(kind):
            logger.warning("column %s is left out: JSON has no %s", field.name, kind)
        else:
            others.append(field.name)
    return others


def _parsed(options: Sequence[str]) -> dict[str, str]:
    """`--name=value`, `--name value` and the bare `--name` (True) by name."""
    parsed: dict[str, str] = {}
    name = None
    for token in options:
        if token.startswith("--"):
            name, is_value, value = token[2:].partition("=")
            name = name.replace("-", "_")
            if name in _OURS:
                raise ConfigError(f"--{name} is not for img2dataset here; use {_OURS[name]}")
            parsed[name] = value if is_value else "True"
            name = None if is_value else name
        elif name is not None:
            parsed[name], name = token, None
        else:
            raise ConfigError(f"{token}: options of img2dataset are --name=value")
    return parsed


def _claim(folder: RunFolder, url_list: UrlList, arguments: dict[str, str]) -> None:
    """Note in the folder what is downloaded into it. Raises ConfigError where it holds something else."""
    what = {name: value for name, value in arguments.items() if name not in _HOW | {"output_folder"}}
    info = {"urls": url_list.version, "options": what}
    try:
        before = folder.read_json(INFO_FILE)
        occupied = before is None and bool(folder.sizes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder.url} cannot hold shards ({type(error).__name__}: {error})") from error
    if occupied:
        raise ConfigError(f"{folder.url} is not empty and has no {INFO_FILE}: choose a new folder")
    for name, value in info.items():
        if before is not None and before.get(name) != value:
            raise ConfigError(
                f"{folder.url} holds a download of other {name} ({before.get(name)}, now {value}): choose a new folder"
            )
    folder.write_json(INFO_FILE, info)


def _run_img2dataset(url_list: str, arguments: dict[str, str]) -> None:
    # A process of its own: it takes over Ctrl-C, and starts more processes, which import the main module.
    command = [sys.executable, "-c", "from img2dataset.main import main; main()", url_list]
    command += [f"--{name}={value}" for name, value in arguments.items()]
    environment = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # a library that it uses asks the network otherwise
    last: deque[str] = deque(maxlen=200)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, text=True, errors="replace"
    ) as process:
        for line in cast(IO[str], process.stdout):
            last.append(line.rstrip())
            if line.startswith("total "):
                logger.info("img2dataset: %s", line.strip())
    if process.returncode:
        raise DedupError(f"img2dataset failed (exit code {process.returncode}):\n{_why(last)}")


def _why(lines: Sequence[str]) -> str:
    if any("No module named 'imghdr'" in line for line in lines):
        return "img2dataset needs the module imghdr, gone since Python 3.13: pip install standard-imghdr"
    errors = [line for line in lines if line.startswith("ERROR:")]  # of its command line, before a long usage
    return "\n".join(errors or list(lines)[-_LINES_TOLD:])


def _outcome(folder: RunFolder) -> Counter[str]:
    """URLs by what became of them, from the statistics that img2dataset leaves of each shard. Raises DedupError where
    it gave up on a shard."""
    names = folder.sizes()
    unfinished = [n for n in names if n.endswith(".tar") and f"{n.removesuffix('.tar')}_stats.json" not in names]
    if unfinished:
        first = folder.path(unfinished[0])
        raise DedupError(
            f"img2dataset gave up on {len(unfinished)} shards, the first is {first}: the same command tries them again"
        )
    counts: Counter[str] = Counter({"success": 0})
    for name in names:
        if name.endswith("_stats.json"):
            counts.update((folder.read_json(name) or {}).get("status_dict", {}))
    return counts


def _reasons(counts: Counter[str]) -> str:
    failed = Counter({reason: count for reason, count in counts.items() if reason != "success"})
    told = [f"{count:,} {reason}" for reason, count in failed.most_common(_REASONS_TOLD)]
    more = len(failed) - len(told)
    return ", ".join([*told, *([f"and {more} other reasons"] if more else [])])
