"""A tar whose bytes depend on its members alone: no time, no owner.

POSIX.1-2001 (pax), which is plain ustar wherever a name and size fit in there.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterable
from typing import IO

_PADDING = bytes(tarfile.BLOCKSIZE)
_NAME_BYTES = 100  # in a ustar header
_LARGEST_IN_OCTAL = 8**11 - 1  # bytes


def header(name: str, size: int) -> tarfile.TarInfo:
    """The header of a file that says its name and size, and else the same for every file."""
    info = tarfile.TarInfo(name)  # its defaults: mtime 0, mode 0644, uid and gid 0, no names
    info.size = size
    return info


class TarWriter:
    """Writes members to `file`, one after the other, and the end of the archive where its block ends well.

    Then `size` is that of the whole tar, in bytes.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def __enter__(self) -> TarWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            end = 2 * tarfile.BLOCKSIZE
            self._write(bytes(end + -(self.size + end) % tarfile.RECORDSIZE))

    def add(self, info: tarfile.TarInfo, content: Iterable[bytes | memoryview] = ()) -> int:
        """Append a member by a header that `header` made; `content`, in pieces, must have as many bytes as that says.
        Gives the CRC-32 of the content.

        Raises EOFError where it has fewer, ValueError where it has more.
        """
        self._write(encoded(info))
        missing = info.size
        crc32 = 0
        for piece in content:
            missing -= len(piece)
            crc32 = zlib.crc32(piece, crc32)
            self._write(piece)
        if missing > 0:
            raise EOFError(f"the content of {info.name} ends {missing} bytes early")
        if missing < 0:
            raise ValueError(f"the content of {info.name} has {-missing} bytes more than its header says")
        self._write(_PADDING[: -info.size % tarfile.BLOCKSIZE])
        return crc32

    def _write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.size += len(data)


def encoded(info: tarfile.TarInfo) -> bytes:
    """The blocks of a header that `header` made.

    For a file with a plain name only what differs is filled in: tarfile's general way takes ten times as long, which
    would be half the time of copying a shard.
    """
    name = info.name
    if info.type != tarfile.REGTYPE or not name.isascii() or len(name) > _NAME_BYTES or info.size > _LARGEST_IN_OCTAL:
        return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    plain = name.encode()
    size = b"%011o\0" % info.size
    checksum = b"%06o\0 " % (_TEMPLATE_SUM + sum(plain) + sum(size))
    return b"".join((plain.ljust(_NAME_BYTES, b"\0"), _OWNER, size, _TIME, checksum, _REST))


def _template() -> bytes:
    block = bytearray(header("", 0).tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = bytes(12)  # the size
    block[148:156] = b" " * 8  # the checksum, as it counts in the sum
    return bytes(block)


_TEMPLATE = _template()
_TEMPLATE_SUM = sum(_TEMPLATE)
# What lies between name, size and checksum, and after them.
_OWNER, _TIME, _REST = _TEMPLATE[_NAME_BYTES:124], _TEMPLATE[136:148], _TEMPLATE[156:]
