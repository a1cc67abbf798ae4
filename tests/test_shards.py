"""shards.py: every sample of a shard, and errors that name the shard."""

from __future__ import annotations

import hashlib
import io
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from shard_makers import BROKEN_SHARDS, END, Members, entry, jpeg, sample_members, shard, tar_bytes, write_tar
from webdataset.tariterators import group_by_keys, tar_file_iterator

from dedup import shards as shards_module
from dedup.errors import ShardError
from dedup.records import Sample, Shard
from dedup.shards import ShardReader, UniqueKeys, list_shards, read_range, write_shard

JPEG = jpeg(0, 32, 24)


def listed(path: Path | str) -> Shard:
    return list_shards([str(path)])[1][0]


def read(data: bytes, folder: Path) -> list[Sample]:
    path = folder / "shard.tar"
    path.write_bytes(data)
    return list(ShardReader(listed(path)))


# ---- reading


def test_samples_as_img2dataset_writes_them(tmp_path: Path) -> None:
    members = sample_members("000000000", JPEG, "a cat", url="http://x") + sample_members("000000001", None, "a dog")
    data = tar_bytes(members)
    first, second = read(data, tmp_path)
    assert first.key == "000000000"
    assert first.image is not None
    assert (first.image.name, first.image.extension, first.image.data) == ("000000000.jpg", "jpg", JPEG)
    assert data[first.image.offset : first.image.offset + len(JPEG)] == JPEG
    assert first.text == b"a cat"
    assert first.json == members[2][1]
    assert first.note is None
    assert second.image is None
    assert second.text == b"a dog"
    assert second.note == "no image among its members: txt, json"


@pytest.mark.parametrize("extension", ["jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "JPG", "Png", "TIFF"])
def test_image_extensions_in_any_case(tmp_path: Path, extension: str) -> None:
    (sample,) = read(tar_bytes([(f"7.{extension}", JPEG), ("7.TXT", b"t"), ("7.Json", b"{}")]), tmp_path)
    assert sample.image is not None
    assert (sample.image.name, sample.image.extension) == (f"7.{extension}", extension.lower())
    assert (sample.text, sample.json) == (b"t", b"{}")


def test_the_first_of_several_images_counts(tmp_path: Path) -> None:
    (sample,) = read(tar_bytes([("7.txt", b"t"), ("7.png", b"first"), ("7.jpg", b"second")]), tmp_path)
    assert sample.image is not None
    assert sample.image.data == b"first"
    assert sample.note == "2 images, the first in the tar counts"


def test_compound_extensions_are_no_images(tmp_path: Path) -> None:
    (sample,) = read(
        tar_bytes([("7.seg.png", b"mask"), ("7.jpg", JPEG), ("7.cls", b"3"), ("7.jpg.json", b"[]")]), tmp_path
    )
    assert sample.image is not None
    assert sample.image.data == JPEG
    assert sample.json is None
    assert sample.note is None
    (sample,) = read(tar_bytes([("7.seg.png", b"mask"), ("7.cls", b"3")]), tmp_path)
    assert sample.image is None
    assert sample.note == "no image among its members: seg.png, cls"


def their_keys(data: bytes) -> list[str]:
    """What webdataset itself makes of a tar."""
    files = ({**file, "__url__": ""} for file in tar_file_iterator(io.BytesIO(data)))
    return [sample["__key__"] for sample in group_by_keys(files)]


def test_keys_are_those_of_webdataset(tmp_path: Path) -> None:
    names = ["a/b.c/7.jpg", "a/b.c/7.seg.jpg", "./8.jpg", "x/9.v1.0.jpg", "plain", ".dot", "d/.dot.jpg", "10.jpg"]
    data = tar_bytes([(name, JPEG) for name in names])
    assert [sample.key for sample in read(data, tmp_path)] == their_keys(data) == ["a/b.c/7", "./8", "x/9", "d/", "10"]


def test_what_webdataset_passes_over_is_passed_over(tmp_path: Path) -> None:
    data = (
        entry("folder", b"", type=tarfile.DIRTYPE)
        + entry("1.jpg", b"", type=tarfile.SYMTYPE, linkname="2.jpg")
        + entry("__meta.json__", b"{}")
        + entry("__pkg__/1.jpg", JPEG)
        + tar_bytes([("2.jpg", JPEG)])
    )
    assert [sample.key for sample in read(data, tmp_path)] == their_keys(data) == ["2"]


def test_keys_that_occur_again_are_numbered(tmp_path: Path) -> None:
    keys = ["x", "y", "x", "x#2", "x", "y"]
    members = [(f"{key}.jpg", JPEG) for key in keys]
    assert [sample.key for sample in read(tar_bytes(members), tmp_path)] == ["x", "y", "x#2", "x#2#2", "x#3", "y#2"]
    # An extension that comes twice ends the sample, where webdataset raises.
    members = [("x.jpg", JPEG), ("x.txt", b"1"), ("x.JPG", JPEG), ("x.txt", b"2")]
    samples = read(tar_bytes(members), tmp_path)
    assert [(sample.key, sample.text) for sample in samples] == [("x", b"1"), ("x#2", b"2")]


def test_unique_keys_can_be_used_by_a_loader() -> None:
    keys = UniqueKeys()
    assert [keys.name(key) for key in ("a#2", "a", "a", "a")] == ["a#2", "a", "a#3", "a#4"]


def test_long_and_foreign_names(tmp_path: Path) -> None:
    long, umlaut = "d" * 90 + "/" + "k" * 200, "größe/写真"
    for tar_format in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as tar:
            for name in (long, umlaut):
                info = tarfile.TarInfo(f"{name}.jpg")
                info.size = len(JPEG)
                tar.addfile(info, io.BytesIO(JPEG))
        samples = read(buffer.getvalue(), tmp_path)
        assert [sample.key for sample in samples] == [long, umlaut]
        for sample in samples:
            assert sample.image is not None
            assert read_range(str(tmp_path / "shard.tar"), sample.image.offset, len(JPEG)) == JPEG


def test_names_that_are_not_utf8_can_be_stored(tmp_path: Path) -> None:
    block = bytearray(entry("XXXX.jpg", JPEG))
    block[:4] = b"caf\xe9"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    (sample,) = read(bytes(block) + END, tmp_path)
    assert sample.key == "caf\\xe9"
    assert sample.image is not None
    sample.image.name.encode()
    assert UniqueKeys().name("caf\udce9") == sample.key  # as a loader sees it


def test_the_checksum_is_that_of_the_whole_file(tmp_path: Path) -> None:
    for padding in (512, 1024, 10240, 700):
        data = tar_bytes(sample_members("1", JPEG, "t"), end=bytes(padding))
        path = tmp_path / "shard.tar"
        path.write_bytes(data)
        reader = ShardReader(listed(path))
        with pytest.raises(RuntimeError, match="once its last sample"):
            _ = reader.sha256
        with pytest.raises(RuntimeError, match="once its last sample"):
            _ = reader.bytes
        assert len(list(reader)) == 1
        assert reader.sha256 == hashlib.sha256(data).hexdigest()
        assert reader.bytes == len(data)


def test_an_empty_tar_has_no_samples(tmp_path: Path) -> None:
    assert read(END, tmp_path) == []
    assert read(bytes(10240), tmp_path) == []


def test_concatenated_tars_are_read_to_their_end(tmp_path: Path) -> None:
    data = tar_bytes([("1.jpg", JPEG)]) + tar_bytes([("2.jpg", JPEG)], end=bytes(10240))
    assert [sample.key for sample in read(data, tmp_path)] == ["1", "2"]
    with pytest.raises(ShardError, match="truncated"):
        read(data[:-10240], tmp_path)  # the first end of archive does not speak for the second


@pytest.mark.parametrize("kind", BROKEN_SHARDS)
def test_a_broken_shard_is_an_error_that_names_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ShardError) as caught:
        read(BROKEN_SHARDS[kind], tmp_path)
    assert caught.value.shard == str(tmp_path / "shard.tar")
    expected = {
        "empty file": "empty", "text": "not a tar", "gzip": "gzip", "damaged header": "damaged tar header at byte",
        "garbage at the end": "what follows the end of the archive",
    }.get(kind, "truncated")  # fmt: skip
    assert caught.value.reason.startswith(("not a tar but " if kind == "gzip" else "") + expected)


def test_no_cut_goes_unnoticed(tmp_path: Path) -> None:
    data = tar_bytes([*sample_members("1", JPEG[:600], "t"), ("2.jpg", b"x" * 512)])
    whole = len(data) - 512  # one block of zeros is enough
    for length in [*range(0, whole, 97), *range(0, whole, 512), whole - 1]:
        with pytest.raises(ShardError, match=r"truncated|empty|not a tar"):
            read(data[:length], tmp_path)
    for length in (whole, whole + 1, len(data)):
        assert len(read(data[:length], tmp_path)) == 2


def test_damaged_headers_never_pass_as_a_shorter_shard(tmp_path: Path) -> None:
    members = [(f"{number}.jpg", JPEG) for number in range(4)]
    data = tar_bytes(members)
    step = len(entry(*members[0]))
    for header in range(0, 4 * step, step):
        for position in (0, 124, 130, 148, 156, 257):
            damaged = bytearray(data)
            damaged[header + position] ^= 0x55
            with pytest.raises(ShardError):
                read(bytes(damaged), tmp_path)


def test_sizes_that_lead_backwards_are_an_error(tmp_path: Path) -> None:
    block = bytearray(entry("1.jpg", b""))
    block[124:136] = b"\xff" * 12  # minus one, in base 256
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    with pytest.raises(ShardError, match="damaged tar header at byte 0"):
        read(bytes(block) + END, tmp_path)


@pytest.mark.usefixtures("memory")
def test_a_vanished_or_changed_shard_is_an_error(tmp_path: Path) -> None:
    path = shard(tmp_path / "0.tar")
    known = listed(path)
    path.write_bytes(path.read_bytes() + bytes(512))
    with pytest.raises(ShardError, match=r"bytes long, but .* when it was listed"):
        list(ShardReader(known))
    path.unlink()
    with pytest.raises(ShardError, match=r"0\.tar: does not exist"):
        list(ShardReader(known))
    with pytest.raises(ShardError, match=r"0\.tar: cannot be read"):
        read_range(str(path), 0, 1)
    with pytest.raises(ShardError, match=r"memory://gone\.tar: does not exist"):
        list(ShardReader(Shard("memory://gone.tar", "gone", 1, "")))
    with pytest.raises(ShardError, match=r"gone\.tar: cannot be read"):
        read_range("memory://gone.tar", 0, 1)


def test_memory_is_bounded_by_a_sample(tmp_path: Path) -> None:
    big = b"x" * 1_000_000
    members = [(f"{number}.{extension}", big) for number in range(40) for extension in ("jpg", "bin")]
    known = listed(write_tar(tmp_path / "big.tar", members))
    tracemalloc.start()
    try:
        assert sum(1 for _ in ShardReader(known)) == 40
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()


def test_absurdly_large_members_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "MAX_MEMBER_BYTES", 100)
    sample, other = read(tar_bytes([("1.jpg", b"x" * 101), ("1.txt", b"t"), ("2.jpg", b"x" * 100)]), tmp_path)
    assert sample.image is None
    assert sample.text == b"t"
    assert sample.note == "1.jpg has 101 bytes, over the limit of 100: not read"
    assert other.image is not None


def test_reading_stops_in_the_middle_without_a_leak(tmp_path: Path) -> None:
    # An open file that is dropped would be a ResourceWarning, and so an error here.
    samples = iter(ShardReader(listed(shard(tmp_path / "0.tar"))))
    next(samples)
    samples.close()  # type: ignore[attr-defined]


def test_remote_shards_read_like_local_ones(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    path = shard(tmp_path / "0.tar")
    memory.pipe_file("/set/0.tar", path.read_bytes())
    local, remote = ShardReader(listed(path)), ShardReader(listed("memory://set/0.tar"))
    assert list(local) == list(remote)
    assert local.sha256 == remote.sha256
    image = next(iter(remote)).image
    assert image is not None
    for url in (str(path), f"file://{path}", "memory://set/0.tar"):
        assert read_range(url, image.offset, len(image.data)) == image.data
        with pytest.raises(ShardError, match="ends before byte"):
            read_range(url, path.stat().st_size - 5, 6)


def test_a_connection_that_breaks_is_an_error_that_names_the_shard(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(io.BytesIO):
        def readinto(self, buffer: Any, /) -> int:
            if self.tell():
                raise RuntimeError("connection\nreset")
            return super().readinto(buffer)

    data = tar_bytes([(f"{number}.jpg", b"x" * 100_000) for number in range(5)])
    memory.pipe_file("/0.tar", data)
    known = listed("memory://0.tar")
    monkeypatch.setattr(type(memory), "open", lambda *_, **__: Breaking(data))
    with pytest.raises(ShardError, match=r"memory:///0\.tar: cannot be read on from .*RuntimeError: connection reset"):
        list(ShardReader(known))


def test_a_sparse_member_is_an_error(tmp_path: Path) -> None:
    block = bytearray(entry("1.jpg", b"x" * 512))
    block[156:157] = tarfile.GNUTYPE_SPARSE
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    with pytest.raises(ShardError, match=r"1\.jpg is sparse"):
        read(bytes(block) + END, tmp_path)


# ---- writing


MEMBERS: Members = [*sample_members("1", JPEG, "t"), ("k" * 150 + ".jpg", JPEG), ("größe.txt", b"")]


def test_a_written_shard_reads_back_and_reproduces(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    path = tmp_path / "out" / "0.tar"
    write_shard(str(path), MEMBERS)
    with tarfile.open(path) as tar:
        assert [(info.name, tar.extractfile(info).read()) for info in tar] == MEMBERS  # type: ignore[union-attr]
        assert {(info.mtime, info.uid, info.uname, info.gname) for info in tar} == {(0, 0, "", "")}
    assert len(list(ShardReader(listed(path)))) == 3
    first = path.read_bytes()
    write_shard(str(path), iter(MEMBERS))
    assert path.read_bytes() == first
    write_shard("memory://out/deep/0.tar", MEMBERS)
    assert memory.cat_file("/out/deep/0.tar") == first
    assert [item.name for item in path.parent.iterdir()] == ["0.tar"]


def test_a_shard_appears_only_when_whole(tmp_path: Path, memory: fsspec.AbstractFileSystem) -> None:
    def failing() -> Iterator[tuple[str, bytes]]:
        yield "1.jpg", JPEG
        raise KeyboardInterrupt

    path = tmp_path / "0.tar"
    for before in (None, b"the former one"):
        if before is not None:
            path.write_bytes(before)
        with pytest.raises(KeyboardInterrupt):
            write_shard(str(path), failing())
        assert [item.name for item in tmp_path.iterdir()] == ([] if before is None else ["0.tar"])
    assert path.read_bytes() == b"the former one"
    with pytest.raises(KeyboardInterrupt):
        write_shard("memory://out/0.tar", failing())
    assert not memory.exists("/out/0.tar")
