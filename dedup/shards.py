"""Webdataset shards: what is in them, one image back by its offset, and writing new ones.

The only user of webdataset and tarfile; which shards there are is `listing.py`'s. A shard is read once, from front to
back; that pass also takes the sha256 of the whole tar, and holds one sample at a time.
"""

from __future__ import annotations

import hashlib
import io
import re
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, NoReturn, cast

from webdataset.tariterators import base_plus_ext

from dedup.errors import ShardError
from dedup.listing import list_shards, open_filesystem
from dedup.records import Member, Sample, Shard

__all__ = ["IMAGE_EXTENSIONS", "ShardReader", "UniqueKeys", "list_shards", "read_range", "write_shard"]

IMAGE_EXTENSIONS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff"})

# Larger members are not read into memory: this is more than 200 megapixels of uncompressed 8-bit RGB.
MAX_MEMBER_BYTES = 1 << 30

_META = re.compile(r"__[^/]*__($|/)")  # as webdataset's tar_file_iterator
_CHUNK = 1 << 17  # bytes; larger ones leave the processor's cache between reading and hashing
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}


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
        with _open_to_read(self.shard.url) as file:
            stream = _HashedStream(file, self.shard.url)
            yield from _samples(stream, self.shard.url)
            if 0 <= self.shard.size != stream.position:
                _fail(self.shard.url, f"{stream.position} bytes long, but {self.shard.size} when it was listed")
            self._sha256, self._bytes = stream.hexdigest(), stream.position


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
        _fail(url, f"cannot be read: {_why(error)}", error)
    if len(data) != size:
        _fail(url, f"ends before byte {offset + size}: it is no longer the shard that was described")
    return data


def write_shard(url: str, members: Iterable[tuple[str, bytes]]) -> None:
    """Write a tar of `members`, (name, content) in that order, whose bytes depend on nothing else: no time, no owner.

    It appears under its name only when whole, and replaces what was there. The format is POSIX.1-2001 (pax), which is
    plain ustar wherever the name fits in there.
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
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)  # its defaults: mtime 0, mode 0644, uid and gid 0, no names
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


class _HashedStream:
    """A file read forwards only, hashed as it goes by; as much of a file object as tarfile's header parser needs."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._url = url
        self._hash = hashlib.sha256()
        self._buffer = memoryview(b"")
        self.position = 0

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the file."""
        if size < 0:
            raise ValueError(f"a length of {size} bytes")
        parts: list[memoryview] = []
        missing = size
        while missing and self._filled():
            parts.append(self._buffer[:missing])
            self._buffer = self._buffer[missing:]
            missing -= len(parts[-1])
        self.position += size - missing
        return b"".join(parts)

    def peek(self, size: int) -> bytes:
        """What `read` would return, left in place."""
        if len(self._buffer) < size:
            data = self.read(size)
            self.position -= len(data)
            self._buffer = memoryview(data + self._buffer)
        return bytes(self._buffer[:size])

    def skip_to(self, position: int) -> bool:
        """Go forwards to `position`; False where the file ends before it."""
        while self.position < position and self._filled():
            step = min(position - self.position, len(self._buffer))
            self._buffer = self._buffer[step:]
            self.position += step
        return self.position == position

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _filled(self) -> bool:
        if not self._buffer:
            try:
                chunk = self._file.read(_CHUNK)
            except Exception as error:  # each filesystem has errors of its own
                _fail(self._url, f"cannot be read on from byte {self.position}: {_why(error)}", error)
            self._hash.update(chunk)
            self._buffer = memoryview(chunk)
        return bool(self._buffer)


class _Headers(tarfile.TarFile):
    """Holds what `TarInfo.fromtarfile` asks for (offset, encoding, global pax headers)."""

    def next(self) -> None:  # TarFile's constructor would read the first member already
        return None


def _members(stream: _HashedStream, url: str) -> Iterator[tarfile.TarInfo]:
    """Every header of the tar; the stream stands at the member's content, and may be read on from there.

    TarFile itself is of no use: it ends in silence at a damaged header, and at an end of file that no end-of-archive
    block announces, which is what a download or a writer cut off between two members leaves. The format asks for two
    blocks of zeros there; one is accepted, as most programs do, and any number. Tars that were simply concatenated go
    on after them, and so does this.
    """
    tar = _Headers(fileobj=cast(IO[bytes], stream), encoding="utf-8")
    end_seen = False
    while True:
        start = stream.position
        block = stream.peek(tarfile.BLOCKSIZE)
        if not any(block):
            if len(block) < tarfile.BLOCKSIZE and not end_seen:
                _fail(url, f"truncated: ends at byte {start}, without an end-of-archive block" if start else "empty")
            stream.skip_to(start + len(block))
            if len(block) < tarfile.BLOCKSIZE:
                return
            end_seen = True
            continue
        try:
            info = tarfile.TarInfo.fromtarfile(tar)
        except ShardError:
            raise
        except Exception as error:  # a HeaderError, or what damaged pax records provoke
            _fail(url, _why_no_header(start, block, end_seen, error), error)
        if info.size < 0 or tar.offset < stream.position:
            _fail(url, f"damaged tar header at byte {start}: a member of {info.size} bytes")
        end_seen = False
        yield info
        if not stream.skip_to(tar.offset):
            _fail(url, f"truncated: ends at byte {stream.position}, inside its member {info.name}")


def _why_no_header(start: int, block: bytes, end_seen: bool, error: Exception) -> str:
    if start == 0:
        for magic, name in _COMPRESSED.items():
            if block.startswith(magic):
                return f"not a tar but {name}: shards are uncompressed tars"
        return "not a tar: its first block is no tar header"
    if end_seen:
        return f"what follows the end of the archive, at byte {start}, is not another tar"
    if len(block) < tarfile.BLOCKSIZE:
        return f"truncated: ends inside the tar header at byte {start}"
    return f"damaged tar header at byte {start}: {_why(error)}"


def _samples(stream: _HashedStream, url: str) -> Iterator[Sample]:
    names = UniqueKeys()
    current: _Gathered | None = None
    for info in _members(stream, url):
        key, extension = _split(info)
        if key is None:
            continue
        if current is None or current.key != key or extension in current.extensions:
            if current is not None:
                yield current.sample(names)
            current = _Gathered(key)
        current.extensions.append(extension)
        if current.wants(extension):
            current.add(extension, info, _content(stream, info, url))
    if current is not None:
        yield current.sample(names)


def _split(info: tarfile.TarInfo) -> tuple[str | None, str]:
    """(key, lower-case extension) by webdataset's rules; the key is None for what webdataset passes over."""
    name = info.name
    if not info.isreg() or _META.match(name) or (name.startswith("__") and name.endswith("__") and "/" not in name):
        return None, ""
    key, extension = base_plus_ext(name)
    return key, (extension or "").lower()


def _content(stream: _HashedStream, info: tarfile.TarInfo, url: str) -> bytes | None:
    """The member's bytes; None for one too large to be read."""
    if info.issparse():
        _fail(url, f"its member {info.name} is sparse: write the tar without --sparse")
    if info.size > MAX_MEMBER_BYTES:
        return None
    data = stream.read(info.size)
    if len(data) < info.size:
        _fail(url, f"truncated: ends at byte {stream.position}, inside its member {info.name}")
    return data


class _Gathered:
    """The sample under way."""

    def __init__(self, key: str) -> None:
        self.key = key
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


def _open_to_read(url: str) -> IO[bytes]:
    fs, path, local = open_filesystem(url)
    try:
        if local:
            return Path(path).open("rb", buffering=0)
        # 8 MiB a request: s3fs would take 50 MiB, for each of the shards being read.
        return cast(IO[bytes], fs.open(path, "rb", block_size=8 << 20))
    except Exception as error:  # each filesystem has errors of its own
        missing = isinstance(error, FileNotFoundError)
        _fail(url, "does not exist" if missing else f"cannot be opened: {_why(error)}", error)


def _why(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _fail(url: str, reason: str, error: Exception | None = None) -> NoReturn:
    raise ShardError(url, reason) from error
