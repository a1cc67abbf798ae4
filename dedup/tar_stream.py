"""A tar read forwards only: its headers, one after the other, and on request the sha256 of the whole file.

POSIX.1-2001 (ustar, pax) and GNU tars, as tarfile's header parser knows them; strict about where they end.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, cast

from dedup.errors import ShardError

_CHUNK = 1 << 18  # bytes; larger ones leave the processor's cache between reading and hashing
_USTAR = struct.Struct("100s 24x 12s 12x 8s c 100x 5s 83x 167s")  # name, size, checksum, type, magic, prefix
_NO_PREFIX = bytes(167)
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd", b"PK\3\4": "zip"}


class ForwardStream:
    """A file read forwards only, by seeking past what nobody asks for; as much of a file object as tarfile's header
    parser needs."""

    def __init__(self, file: IO[bytes], url: str) -> None:
        self._file = file
        self._url = url
        self._chunk = memoryview(bytearray(_CHUNK))  # kept: fresh memory costs as much as reading
        self._buffer = self._chunk[:0]
        self.position = 0

    def tell(self) -> int:
        return self.position

    def read(self, size: int) -> bytes:
        """`size` bytes, fewer only at the end of the file."""
        if size < 0:
            raise ValueError(f"a length of {size} bytes")
        parts = [bytes(piece) for piece in self.pieces(size)]
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def pieces(self, size: int) -> Iterator[memoryview]:
        """What `read` would return, in pieces that are not copied: each holds until the next is asked for."""
        while size and self._filled():
            piece = self._buffer[:size]
            self._buffer = self._buffer[len(piece) :]
            self.position += len(piece)
            size -= len(piece)
            yield piece

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
                length = self._file.readinto(self._chunk)  # type: ignore[attr-defined]
            except Exception as error:  # each filesystem has errors of its own
                raise self._unreadable(error) from error
            self._buffer = self._chunk[:length]
            self._went_by(self._buffer)
        return bool(self._buffer)

    def _unreadable(self, error: Exception) -> ShardError:
        return ShardError(self._url, f"cannot be read on from byte {self.position}: {why(error)}")

    def _went_by(self, chunk: memoryview) -> None:
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

    def _went_by(self, chunk: memoryview) -> None:
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
    if len(block) < tarfile.BLOCKSIZE:
        return None
    name, size, checksum, kind, magic, prefix = _USTAR.unpack(block)
    name, digits = name.rstrip(b"\0"), checksum.rstrip(b"\0 ")
    if (
        magic != b"ustar"
        or kind != tarfile.REGTYPE
        or prefix != _NO_PREFIX  # of the name, or what GNU tar puts there
        or b"\0" in name
        or not name.isascii()
        or not size[:11].isdigit()
        or size[11:] not in (b"\0", b" ")
        or not digits.isdigit()
    ):
        return None
    try:
        # The checksum counts its own eight bytes as spaces.
        if int(digits, 8) != _sum(block) - sum(checksum) + 8 * 32:
            return None
        info = tarfile.TarInfo(name.decode())
        info.size = int(size[:11], 8)
    except ValueError:  # digits that are not octal
        return None
    return info


def _sum(block: bytes) -> int:
    """The sum of the bytes of a header block, six times as fast as `sum`: the lower half of Adler-32 is 1 + the sum,
    modulo 65521, which 256 bytes stay below."""
    return sum((zlib.adler32(half) & 0xFFFF) - 1 for half in (block[:256], block[256:]))


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
