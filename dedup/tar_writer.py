"""A tar whose bytes depend on its members alone: no time, no owner; and its checksum on the way.

POSIX.1-2001 (pax), which is plain ustar wherever a name and size fit in there.
"""

from __future__ import annotations

import tarfile
import zlib
from typing import IO, Protocol

_COPY_BYTES = 1 << 20
_NAME = slice(0, 100)  # fields of a ustar header
_SIZE = slice(124, 136)
_CHECKSUM = slice(148, 156)
_LARGEST_IN_OCTAL = 8**11 - 1  # bytes


class Readable(Protocol):
    """What a member's content is read from: `size` bytes at a time, fewer only at its end."""

    def read(self, size: int, /) -> bytes: ...


def header(name: str, size: int) -> tarfile.TarInfo:
    """The header of a file that says its name and size, and else the same for every file."""
    info = tarfile.TarInfo(name)  # its defaults: mtime 0, mode 0644, uid and gid 0, no names
    info.size = size
    return info


class TarWriter:
    """Writes members to `file`, one after the other, and the end of the archive where its block ends well.

    Then `crc32` and `size` (bytes) are those of the whole tar.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0
        self.crc32 = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            end = 2 * tarfile.BLOCKSIZE
            self._write(bytes(end + -(self.size + end) % tarfile.RECORDSIZE))

    def add(self, info: tarfile.TarInfo, content: Readable | None) -> None:
        """Append a member by a header that `header` made; `content` must have as many bytes as that says."""
        self._write(encoded(info))
        missing = info.size if content is not None else 0
        while content is not None and missing:
            data = content.read(min(missing, _COPY_BYTES))
            if not data:
                raise EOFError(f"the content of {info.name} ends {missing} bytes early")
            self._write(data)
            missing -= len(data)
        self._write(bytes(-info.size % tarfile.BLOCKSIZE))

    def _write(self, data: bytes) -> None:
        self.crc32 = zlib.crc32(data, self.crc32)
        self._file.write(data)
        self.size += len(data)


def encoded(info: tarfile.TarInfo) -> bytes:
    """The blocks of a header that `header` made.

    For a file with a plain name only what differs is filled in: tarfile's general way takes ten times as long, which
    would be half the time of copying a shard.
    """
    name = info.name.encode("ascii", "replace")
    is_plain = info.type == tarfile.REGTYPE and info.name.isascii() and len(name) <= 100
    if not is_plain or info.size > _LARGEST_IN_OCTAL:
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    block = bytearray(_TEMPLATE)
    block[_NAME] = name.ljust(100, b"\0")
    block[_SIZE] = b"%011o\0" % info.size
    block[_CHECKSUM] = b"%06o\0 " % (_TEMPLATE_SUM + sum(name) + sum(block[_SIZE]))
    return bytes(block)


def _template() -> bytes:
    block = bytearray(header("", 0).tobuf(tarfile.USTAR_FORMAT))
    block[_SIZE] = bytes(12)
    block[_CHECKSUM] = b" " * 8  # as it counts in the sum
    return bytes(block)


_TEMPLATE = _template()
_TEMPLATE_SUM = sum(_TEMPLATE)
