"""Headers by the short way are those of tarfile, both written and read."""

from __future__ import annotations

import io
import tarfile
import zlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dedup.tar_stream import ForwardStream, headers
from dedup.tar_writer import TarWriter, encoded, header

NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=120)


@given(NAMES, st.integers(0, 2**40))
@example("a" * 100, 8**11 - 1)
@example("a" * 101, 8**11)
@example("ä.jpg", 0)
@example("d/" * 60 + "x", 5)
def test_a_header_is_written_as_tarfile_does(name: str, size: int) -> None:
    info = header(name, size)
    assert encoded(info) == info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@given(st.lists(st.tuples(st.sampled_from(["read", "peek", "pieces"]), st.integers(0, 700_000)), max_size=6))
@example([("read", 600_000)])
def test_a_stream_gives_the_bytes_of_its_file(calls: list[tuple[str, int]]) -> None:
    data = np.random.default_rng(0).bytes(1_500_000)  # several times what it reads at once
    stream, position = ForwardStream(io.BytesIO(data), "x.tar"), 0
    for call, size in calls:
        expected = data[position : position + size]
        found = (
            b"".join(bytes(piece) for piece in stream.pieces(size)) if call == "pieces" else getattr(stream, call)(size)
        )
        assert found == expected
        position += 0 if call == "peek" else len(expected)
        assert stream.tell() == position


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@given(st.lists(st.tuples(NAMES, st.binary(max_size=1100), st.integers(0, 2**31)), max_size=4))
def test_headers_are_read_as_tarfile_does(form: int, members: list[tuple[str, bytes, int]]) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, content, number in members:
            info = header(name if form != tarfile.USTAR_FORMAT else f"{number:090d}.jpg", len(content))
            info.mtime, info.uid, info.mode = number, number % 1000, number % 0o777
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        expected = [(i.name, i.type, i.size, i.offset, i.offset_data) for i in tar]
    buffer.seek(0)
    found = headers(ForwardStream(buffer, "x.tar"), "x.tar")
    assert [(i.name, i.type, i.size, i.offset, i.offset_data) for i in found] == expected


def test_a_tar_is_padded_as_tarfile_does_and_its_size_known() -> None:
    buffer = io.BytesIO()
    with TarWriter(buffer) as tar:
        assert tar.add(header("a.jpg", 3), [b"ab", b"c"]) == zlib.crc32(b"abc")
    expected = io.BytesIO()
    with tarfile.open(fileobj=expected, mode="w", format=tarfile.PAX_FORMAT) as other:
        other.addfile(header("a.jpg", 3), io.BytesIO(b"abc"))
    assert buffer.getvalue() == expected.getvalue()
    assert tar.size == len(buffer.getvalue())


def test_content_that_ends_early_is_an_error() -> None:
    with pytest.raises(EOFError, match=r"a\.jpg ends 2 bytes early"), TarWriter(io.BytesIO()) as tar:
        tar.add(header("a.jpg", 5), [b"abc"])


def test_content_that_goes_on_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"a\.jpg has 1 bytes more"), TarWriter(io.BytesIO()) as tar:
        tar.add(header("a.jpg", 2), [b"abc"])
