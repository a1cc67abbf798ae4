"""A tar read forwards only: its headers, one after the other, and on request the sha256 of the whole file.

POSIX.1-2001 (ustar, pax) and GNU tars, as tarfile's header parser knows them; strict about where they end.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Iterator
from typing import IO, cast

from dedup.errors import ShardError

_CHUNK = 1 << 17  # bytes; larger ones leave the processor's cache between reading and hashing
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}


class ForwardStream:
    """A file read forwards only, by seeking past what nobody asks for; as much of a file object as tarfile's header
    parser needs."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._url = url
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
        if position - self.position > len(self._buffer):
            self._buffer = memoryview(b"")
            end = self._seek(0, os.SEEK_END)
            self.position = self._seek(min(position, end), os.SEEK_SET)
        else:
            self._buffer = self._buffer[position - self.position :]
            self.position = position
        return self.position == position

    def _seek(self, offset: int, whence: int) -> int:
        try:
            return self._file.seek(offset, whence)
        except Exception as error:  # each filesystem has errors of its own
            raise self._unreadable(error) from error

    def _filled(self) -> bool:
        if not self._buffer:
            try:
                chunk = self._file.read(_CHUNK)
            except Exception as error:  # each filesystem has errors of its own
                raise self._unreadable(error) from error
            self._went_by(chunk)
            self._buffer = memoryview(chunk)
        return bool(self._buffer)

    def _unreadable(self, error: Exception) -> ShardError:
        return ShardError(self._url, f"cannot be read on from byte {self.position}: {why(error)}")

    def _went_by(self, chunk: bytes) -> None:
        """Called with every byte of the file that is read, in order."""


class HashedStream(ForwardStream):
    """A ForwardStream that reads every byte, and hashes it as it goes by."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        super().__init__(file, url)
        self._hash = hashlib.sha256()

    def skip_to(self, position: int) -> bool:
        while self.position < position and self._filled():
            step = min(position - self.position, len(self._buffer))
            self._buffer = self._buffer[step:]
            self.position += step
        return self.position == position

    def hexdigest(self) -> str:
        return self._hash.hexdigest()

    def _went_by(self, chunk: bytes) -> None:
        self._hash.update(chunk)


class _Headers(tarfile.TarFile):
    """Holds what `TarInfo.fromtarfile` asks for (offset, encoding, global pax headers)."""

    def next(self) -> None:  # TarFile's constructor would read the first member already
        return None


def headers(stream: ForwardStream, url: str) -> Iterator[tarfile.TarInfo]:
    """Every header of the tar, so far as name, type, size, link and offsets go; the stream stands at the member's
    content, and may be read on from there.

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
                reason = f"truncated: ends at byte {start}, without an end-of-archive block"
                raise ShardError(url, reason if start else "empty: 0 bytes")
            stream.skip_to(start + len(block))
            if len(block) < tarfile.BLOCKSIZE:
                return
            end_seen = True
            continue
        plain = None if tar.pax_headers else _plain_file(block)
        try:
            info = plain or tarfile.TarInfo.fromtarfile(tar)
        except ShardError:
            raise
        except Exception as error:  # a HeaderError, or what damaged pax records provoke
            raise ShardError(url, _why_no_header(start, block, end_seen, error)) from error
        if plain is not None:
            stream.skip_to(start + tarfile.BLOCKSIZE)
            info.offset, info.offset_data = start, stream.position
            tar.offset = stream.position + info.size + -info.size % tarfile.BLOCKSIZE
        if info.size < 0 or tar.offset < stream.position:
            raise ShardError(url, f"damaged tar header at byte {start}: a member of {info.size} bytes")
        end_seen = False
        yield info
        if not stream.skip_to(tar.offset):
            raise ShardError(url, f"truncated: ends at byte {stream.position}, inside its member {info.name}")


def _plain_file(block: bytes) -> tarfile.TarInfo | None:
    """The header of a file with a short ASCII name, which nearly all are; None for anything else.

    tarfile decodes every field of a header, which takes ten times as long, and half of the time of copying a shard.
    """
    name, _, padding = block[:100].partition(b"\0")
    size, kind, checksum = block[124:136], block[156:157], block[148:156].rstrip(b"\0 ")
    if (
        len(block) < tarfile.BLOCKSIZE
        or block[257:262] != b"ustar"
        or kind != tarfile.REGTYPE
        or any(block[345:])  # a prefix of the name, or what GNU tar puts there
        or padding.strip(b"\0")
        or not name.isascii()
        or not size[:11].isdigit()
        or size[11:] not in (b"\0", b" ")
        or not checksum.isdigit()
    ):
        return None
    try:
        # The checksum counts its own eight bytes as spaces.
        if int(checksum, 8) != sum(block) - sum(block[148:156]) + 8 * 32:
            return None
        info = tarfile.TarInfo(name.decode())
        info.size = int(size[:11], 8)
    except ValueError:  # digits that are not octal
        return None
    return info


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
    return f"damaged tar header at byte {start}: {why(error)}"


def why(error: Exception) -> str:
    """An error on one line, with its kind: many messages of filesystems say little without."""
    return " ".join(f"{type(error).__name__}: {error}".split())
