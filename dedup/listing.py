"""Which shards there are: braces, globs, folders and lists, on local disks and behind any fsspec URL.

A listing of tens of thousands of shards in an object store asks for folders, not for each shard.
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from braceexpand import braceexpand
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from dedup.errors import ConfigError, ShardError
from dedup.records import Shard

_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tar.lz4", ".tar.z")

# What tells one version of a remote file from the next, the best first.
_VERSIONS = ("ETag", "etag", "md5Hash", "mtime", "LastModified", "last_modified", "updated", "created")

_Info = Mapping[str, Any]  # of one file or folder, as fsspec gives it
_Found = dict[str, tuple[int, str]]  # url -> size, version


def list_shards(patterns: Sequence[str], root: str | None = None) -> tuple[str, list[Shard]]:
    """The root, and every shard that `patterns` name, sorted by shard_id and without repeats.

    A pattern is a path or fsspec URL of a `.tar` file or of a folder (every `.tar` below it), with braces
    (`{00000..00099}`, `{a,b}`) and globs (`*`, `?`, `[]`, `**`); `@list.txt` stands for the patterns in that file, one
    a line, `#` begins a comment. Relative paths start at the working directory, those in a list too.

    `root` defaults to the deepest folder that holds all shards. Local paths come back absolute, so that they mean the
    same in every process. Two shards cannot share a shard_id: it is their path below the one root.

    Raises ShardError for a named shard that does not exist; ConfigError for a pattern that matches nothing, for
    compressed tars and other files named as shards, and for shards outside `root` or on different filesystems.
    """
    found: _Found = {}
    explicit: dict[tuple[Any, str], list[str]] = defaultdict(list)
    remote: set[Any] = set()
    for pattern in _read_lists(patterns):
        fs, path, local = open_filesystem(pattern)
        if not local and fs not in remote:
            remote.add(fs)
            fs.invalidate_cache()  # s3fs keeps listings: a shard that changed in this process's time would go unseen
        if _is_glob(path, local):
            matches = _ask(pattern, lambda fs=fs, path=path: fs.glob(path, detail=True))  # type: ignore[misc]
            _add_all(found, fs, matches, pattern)
        else:
            explicit[fs, path.rstrip("/").rpartition("/")[0]].append(path)
    for (fs, parent), paths in explicit.items():
        for path, info in _info_of(fs, parent, paths):
            if info["type"] == "directory":
                _add_all(found, fs, {path: info}, path)
            else:
                _refuse_compressed(path)
                if not path.endswith(".tar"):
                    raise ConfigError(f"{path} is not named .tar: shards are uncompressed tars")
                _add(found, fs, path, info)
    if not found:
        raise ConfigError("no shards given: name tar files, folders, globs or @lists of them")
    base = _common_root(found) if root is None else _canonical(*open_filesystem(root)[:2])
    inside = base if base.endswith("/") else base + "/"
    shards = []
    for url, (size, version) in found.items():
        if not url.startswith(inside):
            raise ConfigError(f"shard {url} is not inside the root {base}: give a --root that holds every shard")
        shards.append(Shard(url, url[len(inside) : -len(".tar")], size, version))
    return base, sorted(shards, key=lambda shard: shard.shard_id)


def refuse_changed(shards: Sequence[Shard]) -> None:
    """Raises ShardError for a shard that vanished since it was listed, or has another size or version now."""
    by_folder: dict[tuple[Any, str], list[str]] = defaultdict(list)
    for shard in shards:
        fs, path, _ = open_filesystem(shard.url)
        by_folder[fs, path.rpartition("/")[0]].append(path)
    found: _Found = {}
    for (fs, folder), paths in by_folder.items():
        fs.invalidate_cache()
        for path, info in _info_of(fs, folder, paths):
            _add(found, fs, path, info)
    for shard in shards:
        size, version = found[shard.url]
        if (size, version) != (shard.size, shard.version):
            now, then = f"{size} bytes, version {version}", f"{shard.size} bytes, version {shard.version}"
            raise ShardError(shard.url, f"has changed: {now}; {then} when the run read it; run dedup again")


def open_filesystem(url: str) -> tuple[fsspec.AbstractFileSystem, str, bool]:
    """The filesystem of a path or fsspec URL, the path in it, and whether that is a path of the local disk.

    Raises ConfigError for a protocol that is unknown or whose package is not installed.
    """
    if "::" in url:
        raise ConfigError(f"{url}: chained URLs are not supported, name the shards on their own filesystem")
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        extra = " (pip install 'dedup[s3]')" if url.startswith("s3") else ""
        raise ConfigError(f"{url}: {error}{extra}") from error
    except ValueError as error:
        raise ConfigError(f"{url}: {error}") from error
    if isinstance(fs, LocalFileSystem):
        return fs, os.path.abspath(path), True  # noqa: PTH100 (links are to stay, `.` and `..` are not)
    return fs, path, False


def _read_lists(patterns: Iterable[str]) -> Iterator[str]:
    """The patterns with lists and braces resolved."""
    for pattern in patterns:
        if pattern.startswith("@"):
            yield from _read_lists(_lines_of(pattern[1:]))
            continue
        try:
            yield from braceexpand(pattern)
        except ValueError as error:
            raise ConfigError(f"{pattern}: unbalanced braces; {{00000..00099}} or {{a,b}} was expected") from error


def _lines_of(name: str) -> list[str]:
    fs, path, _ = open_filesystem(name)
    try:
        lines = fs.cat_file(path).decode("utf-8-sig").splitlines()
    except Exception as error:  # each filesystem has errors of its own
        raise ConfigError(f"list of shards {name} cannot be read: {error}") from error
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if any(line.startswith("@") for line in kept):
        raise ConfigError(f"list of shards {name} names another list: a list holds patterns only")
    return kept


def _is_glob(path: str, local: bool) -> bool:
    return glob.has_magic(path) and not (local and Path(path).exists())  # `a[1].tar` may be a file's plain name


def _info_of(fs: fsspec.AbstractFileSystem, parent: str, paths: Sequence[str]) -> Iterator[tuple[str, _Info]]:
    """What each of `paths`, all in one folder, is."""
    known: dict[str, _Info] = {}
    if len(paths) > 1 and parent and not isinstance(fs, LocalFileSystem):
        # Some filesystems cannot list, and what is missing in the list is asked for by name below.
        with contextlib.suppress(Exception):
            known = {info["name"].rstrip("/"): info for info in fs.ls(parent, detail=True)}

    def ask(path: str) -> _Info | None:
        try:
            return known.get(path) or fs.info(path)
        except FileNotFoundError:
            return None

    with ThreadPoolExecutor(max_workers=16) as pool:
        infos = list(_ask(parent, lambda: list(pool.map(ask, paths))))
    missing = [path for path, info in zip(paths, infos, strict=True) if info is None]
    if missing:
        others = f", and neither do {len(missing) - 1} more that were named" if len(missing) > 1 else ""
        raise ShardError(_canonical(fs, missing[0]), f"does not exist{others}")
    yield from zip(paths, infos, strict=True)


def _ask(what: str, question: Callable[[], Any]) -> Any:
    try:
        return question()
    except Exception as error:  # each filesystem has errors of its own: no credentials, no network, no such bucket
        raise ConfigError(f"{what} cannot be listed: {type(error).__name__}: {error}") from error


def _add_all(found: _Found, fs: fsspec.AbstractFileSystem, infos: Mapping[str, _Info], pattern: str) -> None:
    """Every tar of a glob or folder; folders that a glob matched are searched, other files left alone."""
    matched = False
    for path, info in infos.items():
        _refuse_compressed(path)
        if info["type"] == "directory":
            below = _ask(path, lambda path=path: fs.find(path, detail=True))  # type: ignore[misc]
        else:
            below = {path: info}
        for name, about in below.items():
            _refuse_compressed(name)
            if name.endswith(".tar"):
                _add(found, fs, name, about)
                matched = True
    if not matched:
        raise ConfigError(f"{pattern} matches no .tar file")


def _add(found: _Found, fs: fsspec.AbstractFileSystem, path: str, info: _Info) -> None:
    if isinstance(fs, LocalFileSystem):
        try:
            stat = Path(path).stat()
        except OSError as error:  # a dangling link, or gone since the folder was listed
            raise ShardError(path, f"cannot be read: {error}") from error
        found[path] = stat.st_size, str(stat.st_mtime_ns)
        return
    size = info.get("size")
    version = next((info[key] for key in _VERSIONS if info.get(key)), "")
    text = version.isoformat() if isinstance(version, datetime) else str(version).strip('"')
    found[_canonical(fs, path)] = -1 if size is None else int(size), text


def _refuse_compressed(path: str) -> None:
    if path.lower().endswith(_COMPRESSED):
        raise ConfigError(f"{path} is compressed: a shard is read by offset, so decompress it to .tar first")


def _canonical(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))


def _common_root(urls: Iterable[str]) -> str:
    """The deepest folder that holds all; the protocol, if any, counts as the first of the folders."""
    folders = [url.split("/")[:-1] for url in urls]
    shared = []
    for names in zip(*folders):  # noqa: B905 (as deep as the least deep)
        if len(set(names)) > 1:
            break
        shared.append(names[0])
    if not shared:
        raise ConfigError("the shards lie on different filesystems: run once for each")
    return "/".join(shared) or "/"
