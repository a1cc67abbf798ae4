"""Download a list of URLs into webdataset shards by img2dataset, in a process of its own, losslessly by default."""

from __future__ import annotations

import ast
import difflib
import importlib.util
import json
import logging
import os
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from dedup.errors import ConfigError, DedupError
from dedup.listing import open_filesystem
from dedup.run_folder import RunFolder
from pipelines.listed_urls import (
    RESERVED,
    Carried,
    UrlList,
    carried_columns,
    read_url_list,
    remove_copy,
    write_copy,
)

logger = logging.getLogger(__name__)

INFO_FILE = "download.info"  # JSON, but not by name: img2dataset takes every .json in its folder for one of its own

_URL_COLUMNS = ("url", "image_url")
_CAPTION_COLUMNS = ("caption", "text", "txt")

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


@dataclass(frozen=True)
class DownloadSettings:
    """Which columns of the list mean what."""

    url_column: str | None = None
    """Column with the URLs; by default the one named url or image_url, in any case."""

    caption_column: str | None = None
    """Column with the captions; by default the one named caption, text or txt, in any case, if there is one."""


def download(urls: str, out: str, options: Sequence[str], settings: DownloadSettings) -> dict[str, Any]:
    """Download the list `urls` into shards in `out`, or go on with what was begun there; gives counts by outcome.

    `options` are img2dataset's own (`--image_size=512`, `--timeout 5`). Raises ConfigError for a list or options that
    are unusable and a folder of something else, DedupError where img2dataset fails or no image came.
    """
    url_list = read_url_list(urls)
    arguments = img2dataset_arguments(url_list, out, options, settings)
    _, _, carried = _carried(url_list, settings)
    _tell(carried)
    folder = RunFolder(out)
    _claim(folder, url_list, arguments)
    try:
        _run_img2dataset(write_copy(url_list, carried, folder) if carried.needs_copy else url_list.url, arguments)
    finally:
        remove_copy(folder)
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


def img2dataset_arguments(
    url_list: UrlList, out: str, options: Sequence[str], settings: DownloadSettings
) -> dict[str, str]:
    """The options of img2dataset by name: the user's, and for the rest those that keep every byte and column."""
    given = _parsed(options)
    _check_names(given)
    url_column, caption, carried = _carried(url_list, settings)
    _, path, local = open_filesystem(out)
    arguments = {
        "input_format": "parquet" if carried.needs_copy else url_list.format,
        "output_format": "webdataset",
        "output_folder": path if local else out,
        "url_col": url_column,
        "processes_count": str(os.cpu_count() or 1),
    }
    if caption is not None:
        arguments["caption_col"] = caption
    if carried.names:
        arguments["save_additional_columns"] = json.dumps(carried.names, ensure_ascii=False)
    if not _DECODING & set(given):
        arguments["disable_all_reencoding"] = "True"
    return arguments | given


def _column(columns: Sequence[str], asked: str | None, usual: Sequence[str]) -> str | None:
    if asked is not None:
        if asked not in columns:
            raise ConfigError(f"no column {asked} in the list of URLs: it has {', '.join(columns)}")
        return asked
    return next((column for name in usual for column in columns if column.lower() == name), None)


def _carried(url_list: UrlList, settings: DownloadSettings) -> tuple[str, str | None, Carried]:
    """The columns with URL and caption, and what becomes of all others."""
    columns = url_list.schema.names
    url_column = _column(columns, settings.url_column, _URL_COLUMNS)
    if url_column is None:
        raise ConfigError(f"{url_list.url} has no column url, but {', '.join(columns)}: name it with --url-column")
    caption = _column(columns, settings.caption_column, _CAPTION_COLUMNS)
    return url_column, caption, carried_columns(url_list.schema, {url_column, caption})


def _tell(carried: Carried) -> None:
    if carried.renamed:
        pairs = ", ".join(f"{old} as {name}" for name, old in carried.renamed.items())
        logger.warning("img2dataset has columns of these names itself, so yours get others in the json: %s", pairs)
    if carried.as_text:
        logger.info("columns that JSON has no type for go into it as text: %s", ", ".join(carried.as_text))
    written_anew = [name for name in carried.left_out if name in RESERVED]
    if written_anew:
        logger.info("columns of the earlier download are written anew: %s", ", ".join(written_anew))
    if binary := [name for name in carried.left_out if name not in RESERVED]:
        logger.warning("columns are left out, since JSON has no such type: %s", ", ".join(binary))


def known_options() -> frozenset[str]:
    """The names of img2dataset's options, from its source, since importing it takes seconds; none where it is not as
    it was."""
    spec = importlib.util.find_spec("img2dataset")
    try:
        [folder] = spec.submodule_search_locations or [] if spec else []
        tree = ast.parse(Path(folder, "main.py").read_text(encoding="utf-8"))
    except (ValueError, OSError, SyntaxError):
        return frozenset()
    found = [node.args for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "download"]
    return frozenset(arg.arg for args in found for arg in (*args.args, *args.kwonlyargs))


def _check_names(given: Iterable[str]) -> None:
    """img2dataset looks at the names of its options last, when all is downloaded."""
    known = known_options()
    for name in given:
        if known and not {name, name.removeprefix("no")} & known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean --{near[0]}?" if near else f"it has {', '.join(sorted(known))}"
            raise ConfigError(f"--{name} is no option of img2dataset; {hint}")


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
