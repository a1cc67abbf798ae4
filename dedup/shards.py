"""Webdataset shards: what is in them, one image back by its offset, and writing new ones.

Which shards there are is `listing.py`'s, how a tar is laid out `tar_stream.py`'s; this is the only user of webdataset.
A shard is read once, from front to back; that pass also takes the sha256 of the whole tar, and holds one sample.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, cast

from webdataset.tariterators import base_plus_ext

from dedup.errors import ShardError
from dedup.listing import list_shards, open_filesystem
from dedup.records import Member, Sample, Shard
from dedup.tar_stream import HashedStream, headers, why
from dedup.tar_writer import TarWriter, header

__all__ = [
    "IMAGE_EXTENSIONS", "MAX_MEMBER_BYTES", "SampleCounter", "ShardReader", "UniqueKeys", "list_shards", "open_to_read",
    "read_range", "write_shard",
]  # fmt: skip

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})

# Larger members are not read into memory: this is more than 200 megapixels of uncompressed 8-bit RGB.
MAX_MEMBER_BYTES = 1 << 30

_META = re.compile(r"__[^/]*__($|/)")  # as webdataset's tar_file_iterator


class ShardReader:
    """One sequential pass over a shard.

    Iterating yields every Sample in the tar's own order, as webdataset groups members: the key is the name up to the
    first dot after the last slash, the extension what follows that dot; consecutive members of one key are a sample,
    which ends where the key changes or an extension comes twice. Folders, links, `__meta__` members and names without
    extension are passed over.

    A member counts as image, text or json only if its whole extension says so, in any case: `7.JPG` is the image of
    sample 7, `7.seg.png` (a mask, say) is not. Everything else is left alone and not held in memory.

    After the last sample `sha256` (hex, of the whole file) and `bytes` are known.

    Raises ShardError, while iterating, for a shard that is missing, truncated, compressed, not a tar, or not as long
    as it was when listed.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self._sha256: str | None = None
        self._bytes = 0

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            raise RuntimeError(f"the sha256 of {self.shard.url} is known once its last sample was read")
        return self._sha256

    @property
    def bytes(self) -> int:
        if self._sha256 is None:
            raise RuntimeError(f"the length of {self.shard.url} is known once its last sample was read")
        return self._bytes

    def __iter__(self) -> Iterator[Sample]:
        with open_to_read(self.shard.url) as file:
            stream = HashedStream(file, self.shard.url)
            yield from _samples(stream, self.shard.url)
            if 0 <= self.shard.size != stream.position:
                lengths = f"{stream.position} bytes long, but {self.shard.size} when it was listed"
                raise ShardError(self.shard.url, lengths)
            self._sha256, self._bytes = stream.hexdigest(), stream.position


class SampleCounter:
    """Tells which sample of its shard a member belongs to, by the rules that ShardReader states.

    `number` counts the samples from 0; it is that of the last member placed, -1 before the first.
    """

    def __init__(self) -> None:
        self.number = -1
        self._key: str | None = None
        self._extensions: set[str] = set()

    def place(self, info: tarfile.TarInfo) -> tuple[str, str] | None:
        """Key and lower-case extension of the next member; None where it belongs to no sample."""
        placed = split_name(info)
        if placed is not None:
            self.count(*placed)
        return placed

    def count(self, key: str, extension: str) -> None:
        """The next member by its key and extension."""
        if key != self._key or extension in self._extensions:
            self.number += 1
            self._key = key
            self._extensions.clear()
        self._extensions.add(extension)


class UniqueKeys:
    """Names the samples of one shard in order: a key that occurs again gets `#2`, `#3`, and so on."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._last: dict[str, int] = {}

    def name(self, key: str) -> str:
        unique = base = _printable(key)
        while unique in self._taken:
            self._last[base] = self._last.get(base, 1) + 1
            unique = f"{base}#{self._last[base]}"
        self._taken.add(unique)
        return unique


def read_range(url: str, offset: int, size: int) -> bytes:
    """The `size` bytes at `offset` of a shard: one image back, without reading the rest.

    Raises ShardError where the shard is missing or ends earlier.
    """
    fs, path, local = open_filesystem(url)
    try:
        if local:
            with Path(path).open("rb") as file:
                file.seek(offset)
                data = file.read(size)
        else:
            data = bytes(fs.cat_file(path, start=offset, end=offset + size))
    except Exception as error:  # each filesystem has errors of its own
        raise ShardError(url, f"cannot be read: {why(error)}") from error
    if len(data) != size:
        raise ShardError(url, f"ends before byte {offset + size}: it is no longer the shard that was described")
    return data


def write_shard(url: str, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of `members`, (name, content) in that order, whose bytes depend on nothing else: no time, no owner.

    It appears under its name only when whole, and replaces what was there.
    """
    fs, path, local = open_filesystem(url)
    if local:
        final = Path(path)
        final.parent.mkdir(parents=True, exist_ok=True)
        aside = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
        try:
            _write_tar(aside, members)
            aside.replace(final)
        finally:
            aside.unlink(missing_ok=True)
    else:
        with tempfile.TemporaryDirectory() as spool:
            aside = Path(spool, "shard.tar")
            _write_tar(aside, members)
            fs.makedirs(path.rpartition("/")[0], exist_ok=True)
            fs.put_file(str(aside), path)


def _write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    with path.open("wb") as file, TarWriter(file) as tar:
        for name, content in members:
            tar.add(header(name, len(content)), [content])


def _samples(stream: HashedStream, url: str) -> Iterator[Sample]:
    names = UniqueKeys()
    counter = SampleCounter()
    current: _Gathered | None = None
    for info in headers(stream, url):
        placed = counter.place(info)
        if placed is None:
            continue
        key, extension = placed
        if current is None or current.number != counter.number:
            if current is not None:
                yield current.sample(names)
            current = _Gathered(key, counter.number)
        current.extensions.append(extension)
        if current.wants(extension):
            current.add(extension, info, _content(stream, info, url))
    if current is not None:
        yield current.sample(names)


def split_name(info: tarfile.TarInfo) -> tuple[str, str] | None:
    """(key, lower-case extension) by webdataset's rules; None for what webdataset passes over."""
    name = info.name
    if not info.isreg() or (name.startswith("__") and (_META.match(name) or (name.endswith("__") and "/" not in name))):
        return None
    key, extension = base_plus_ext(name)
    return None if key is None else (key, (extension or "").lower())


def _content(stream: HashedStream, info: tarfile.TarInfo, url: str) -> bytes | None:
    """The member's bytes; None for one too large to be read."""
    if info.issparse():
        raise ShardError(url, f"its member {info.name} is sparse: write the tar without --sparse")
    if info.size > MAX_MEMBER_BYTES:
        return None
    data = stream.read(info.size)
    if len(data) < info.size:
        raise ShardError(url, f"truncated: ends at byte {stream.position}, inside its member {info.name}")
    return data


class _Gathered:
    """The sample under way."""

    def __init__(self, key: str, number: int) -> None:
        self.key = key
        self.number = number
        self.extensions: list[str] = []
        self._image: Member | None = None
        self._read: dict[str, bytes] = {}
        self._notes: list[str] = []

    def wants(self, extension: str) -> bool:
        return extension in ("txt", "json") or (extension in IMAGE_EXTENSIONS and self._images() == 1)

    def add(self, extension: str, info: tarfile.TarInfo, data: bytes | None) -> None:
        if data is None:
            self._notes.append(f"{info.name} has {info.size} bytes, over the limit of {MAX_MEMBER_BYTES}: not read")
        elif extension in IMAGE_EXTENSIONS:
            self._image = Member(_printable(info.name), extension, info.offset_data, data)
        else:
            self._read[extension] = data

    def sample(self, names: UniqueKeys) -> Sample:
        images = self._images()
        if images == 0:
            self._notes.append(f"no image among its members: {', '.join(self.extensions)}")
        elif images > 1:
            self._notes.append(f"{images} images, the first in the tar counts")
        note = _printable("; ".join(self._notes)) or None
        return Sample(names.name(self.key), self._image, self._read.get("txt"), self._read.get("json"), note)

    def _images(self) -> int:
        return sum(extension in IMAGE_EXTENSIONS for extension in self.extensions)


def _printable(name: str) -> str:
    """Bytes of a name that are not UTF-8, which tarfile hands out as lone surrogates, as `\\xe9`: Parquet takes no
    surrogates."""
    return name if name.isascii() else name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def open_to_read(url: str) -> IO[bytes]:
    """A shard's bytes, unbuffered. Raises ShardError where it cannot be opened."""
    fs, path, local = open_filesystem(url)
    try:
        if local:
            return Path(path).open("rb", buffering=0)
        # 8 MiB a request: s3fs would take 50 MiB, for each of the shards being read.
        return cast(IO[bytes], fs.open(path, "rb", block_size=8 << 20))
    except Exception as error:  # each filesystem has errors of its own
        missing = isinstance(error, FileNotFoundError)
        raise ShardError(url, "does not exist" if missing else f"cannot be opened: {why(error)}") from error
