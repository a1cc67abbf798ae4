"""Cleaned shards: what stays of a run's shards by its manifest, byte for byte, in tars that reproduce.

    plan ──▶ outputs, each of pieces of shards ──▶ members that stay, checked against the manifest ──▶ a tar

Samples are found by their position in the shard, never by key, since keys may occur twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import tarfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.records import Shard
from dedup.shards import IMAGE_EXTENSIONS, MAX_MEMBER_BYTES, SampleCounter, open_to_read
from dedup.tar_stream import ForwardStream, headers
from dedup.tar_writer import TarWriter, header

# The columns of a manifest that cleaning needs.
MANIFEST_COLUMNS = ("sample_id", "status", "sha256", "captions")

_WRITE_BYTES = 1 << 16  # what is gathered of small members before it is written
_CAPTIONS = "captions.json"  # extension of the member that is added where captions are pooled


@dataclass(frozen=True)
class CleanSettings:
    """What cleaned shards hold. Raises ConfigError for values that cannot be."""

    shard_size: int | None = None
    """Samples per shard, repacked in their order; by default shards keep their names and what stays in each."""

    drop_failed: bool = False
    """Leave out samples that could not be decoded, too."""

    def __post_init__(self) -> None:
        if self.shard_size is not None and self.shard_size < 1:
            raise ConfigError(f"shard_size={self.shard_size}: must be at least 1")

    def staying(self, counts: Mapping[str, int]) -> int:
        """How many samples stay, of a shard or run with these counts by status."""
        return counts["kept"] + (0 if self.drop_failed else counts["failed"])

    def stays(self, status: pa.ChunkedArray) -> pa.ChunkedArray:
        """For each status of a manifest whether its sample stays."""
        return pc.is_in(status, value_set=pa.array(["kept"] if self.drop_failed else ["kept", "failed"]))


@dataclass(frozen=True)
class Piece:
    """The samples `first` to `last` (exclusive), counted among the `staying` ones that stay in `shard`."""

    shard: Shard
    first: int
    last: int
    staying: int


@dataclass(frozen=True)
class Output:
    """A shard to write: its name without `.tar`, and what goes into it, in order."""

    name: str
    pieces: tuple[Piece, ...]

    @property
    def samples(self) -> int:
        return sum(piece.last - piece.first for piece in self.pieces)


@dataclass(frozen=True)
class Written:
    """A shard that was written: `size` in bytes. The checksums of its images are in the manifest."""

    name: str
    samples: int
    size: int


def plan(shards: Sequence[Shard], staying: Sequence[int], settings: CleanSettings) -> list[Output]:
    """The shards to write, of `shards` in each of which `staying` samples stay; a function of its arguments alone.

    With `shard_size` they are named 00000, 00001, ... and all but the last are full. A shard of which no sample stays
    has a piece nevertheless, for members that belong to no sample.
    """
    if settings.shard_size is None:
        return [
            Output(shard.shard_id, (Piece(shard, 0, count, count),))
            for shard, count in zip(shards, staying, strict=True)
        ]
    size = settings.shard_size
    outputs = max(1, -(-sum(staying) // size))
    pieces: list[list[Piece]] = [[] for _ in range(outputs)]
    before = 0  # samples that stay in earlier shards
    for shard, count in zip(shards, staying, strict=True):
        first = min(before // size, outputs - 1)
        for number in range(first, max(first, (before + count - 1) // size) + 1):
            start, end = max(0, number * size - before), min(count, (number + 1) * size - before)
            pieces[number].append(Piece(shard, start, end, count))
        before += count
    digits = max(5, len(str(outputs - 1)))
    return [Output(f"{number:0{digits}d}", tuple(parts)) for number, parts in enumerate(pieces)]


class Rewriter:
    """Writes outputs that follow one another in the plan, reading each shard once as far as they need it.

    `manifest_of` gives a shard's part of the manifest, with MANIFEST_COLUMNS.
    """

    def __init__(self, manifest_of: Callable[[Shard], pa.Table], settings: CleanSettings) -> None:
        self._manifest_of = manifest_of
        self._settings = settings
        self._source: _StayingSamples | None = None

    def __enter__(self) -> Rewriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def write(self, output: Output, path: Path) -> Written:
        """Write `output` to the local file `path`. On the way every image must have the sha256 of its manifest row, and
        in the end there must be as many samples as stay.

        Raises ShardError where an input shard is not the one that the manifest describes, or cannot be cleaned;
        ManifestError where the manifest is not the one that the plan was made from.
        """
        counter = SampleCounter()
        with path.open("wb", _WRITE_BYTES) as file, TarWriter(file) as tar:
            for piece in output.pieces:
                self._write_piece(piece, tar, counter)
        return Written(output.name, counter.number + 1, tar.size)

    def _write_piece(self, piece: Piece, tar: TarWriter, counter: SampleCounter) -> None:
        """`counter` tells which sample of the written shard a reader will take each member for."""
        source = self._source_of(piece)
        first = counter.number + 1
        images: dict[int, str] = {}
        for member in source.take(piece):
            if member.placed is not None:
                counter.count(*member.placed)
                if counter.number < first + member.place - piece.first:
                    reason = (
                        f"once the samples before it are gone, its member {member.info.name} would join another "
                        f"sample of key {member.placed[0]}: rename one of the two"
                    )
                    raise ShardError(piece.shard.url, reason)
            tar.add(member.info, member.content)
            if isinstance(member.content, _Image):
                images[member.place] = member.content.sha256
        source.check(piece, images)
        if counter.number + 1 - first != piece.last - piece.first:
            found = f"{counter.number + 1 - first} samples instead of {piece.last - piece.first} were written"
            raise ManifestError(f"of shard {piece.shard.url} {found}")

    def _source_of(self, piece: Piece) -> _StayingSamples:
        if self._source is None or self._source.shard != piece.shard:
            if self._source is not None:
                self._source.close()
            manifest = self._manifest_of(piece.shard)
            staying = pc.sum(self._settings.stays(manifest["status"])).as_py() or 0
            if staying != piece.staying:
                raise ManifestError(
                    f"by the manifest of shard {piece.shard.url} {staying} samples stay, {piece.staying} by the counts "
                    "of the run: `dedup decide` writes both anew"
                )
            self._source = _StayingSamples(piece.shard, manifest, self._settings)
        return self._source


@dataclass(frozen=True)
class _StayingMember:
    """A member to write; `place` is the number of its sample among those that stay in its shard, `placed` its key and
    extension, None where it belongs to no sample."""

    place: int
    placed: tuple[str, str] | None
    info: tarfile.TarInfo
    content: Iterable[bytes | memoryview]


class _StayingSamples:
    """One pass over what stays of a shard, taken piece by piece, in order. Holds no content."""

    def __init__(self, shard: Shard, manifest: pa.Table, settings: CleanSettings) -> None:
        self.shard = shard
        stays = settings.stays(manifest["status"])
        self._rows = manifest.filter(stays)
        self._stays: list[bool] = stays.to_pylist()
        self._captions: list[list[str] | None] = manifest["captions"].to_pylist()
        self._members = self._read()
        self._next = next(self._members, None)

    def close(self) -> None:
        self._members.close()

    def check(self, piece: Piece, images: Mapping[int, str]) -> None:
        """Compare the sha256 (hex) of the images that a piece has, by place, with the manifest."""
        rows = self._rows.slice(piece.first, piece.last - piece.first)
        for place, row in enumerate(rows.select(["sample_id", "sha256"]).to_pylist(), piece.first):
            if images.get(place) != row["sha256"]:
                found = f"has sha256 {images[place]}" if place in images else "is gone"
                raise self._changed(f"the image of sample {row['sample_id']} {found}, not {row['sha256']}")

    def take(self, piece: Piece) -> Iterator[_StayingMember]:
        """The members of a piece. Content is to be read before the next member is asked for."""
        while self._next is not None and self._next.place < max(piece.last, 1):
            if self._next.place >= piece.first:
                yield self._next
            self._next = next(self._members, None)

    def _read(self) -> Generator[_StayingMember, None, None]:
        """Every member that stays. One that belongs to no sample has the place of the sample before it that stays, and
        0 where there is none."""
        url = self.shard.url
        places = list(itertools.accumulate(self._stays, initial=0))  # staying samples before each sample
        counter = SampleCounter()
        key = None
        has_image = False
        with contextlib.closing(open_to_read(url)) as file:
            stream = ForwardStream(file, url)
            for info in headers(stream, url):
                before = counter.number
                placed = counter.place(info)
                if counter.number == len(self._stays):
                    raise self._changed(f"it holds more than the {len(self._stays)} samples of the manifest")
                if counter.number > before:
                    yield from self._pooled(before, key, places)
                    has_image = False
                content = _Content
                if placed is None:
                    place = max(0, places[counter.number + 1] - 1)
                elif self._stays[counter.number]:
                    key, extension = placed
                    place = places[counter.number]
                    self._refuse_second_captions(counter.number, info, extension)
                    if extension in IMAGE_EXTENSIONS and not has_image:  # the first counts
                        has_image = True
                        content = _Image if info.size <= MAX_MEMBER_BYTES else _Content
                else:
                    continue
                written = _normalised(info, url)
                yield _StayingMember(place, placed, written, content(stream, written, url))
            yield from self._pooled(counter.number, key, places)
        if counter.number + 1 < len(self._stays):
            raise self._changed(f"it holds {counter.number + 1} samples, the manifest {len(self._stays)}")

    def _pooled(self, number: int, key: str | None, places: list[int]) -> Iterator[_StayingMember]:
        """The member that is added after the sample's own where captions are pooled at it."""
        if number < 0 or key is None or not self._stays[number] or (captions := self._captions[number]) is None:
            return
        content = json.dumps(captions, ensure_ascii=False).encode()
        info = header(f"{key}.{_CAPTIONS}", len(content))
        yield _StayingMember(places[number], (key, _CAPTIONS), info, [content])

    def _refuse_second_captions(self, number: int, info: tarfile.TarInfo, extension: str) -> None:
        if extension == _CAPTIONS and self._captions[number] is not None:
            reason = (
                f"has a member {info.name} already, where pooled captions would go: decide again with "
                "--captions keep, or rename the member"
            )
            raise ShardError(self.shard.url, reason)

    def _changed(self, how: str) -> ShardError:
        return ShardError(self.shard.url, f"is no longer the shard that the run read: {how}; run dedup again")


class _Content:
    """A member's bytes as they lie in the shard, in pieces."""

    def __init__(self, stream: ForwardStream, info: tarfile.TarInfo, url: str) -> None:
        self._stream = stream
        self._info = info
        self._url = url

    def __iter__(self) -> Iterator[memoryview]:
        missing = self._info.size
        for piece in self._stream.pieces(missing):
            missing -= len(piece)
            yield piece
        if missing:
            raise ShardError(self._url, f"truncated: ends inside its member {self._info.name}")


class _Image(_Content):
    """The image of a sample, hashed as it goes by."""

    def __init__(self, stream: ForwardStream, info: tarfile.TarInfo, url: str) -> None:
        super().__init__(stream, info, url)
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def __iter__(self) -> Iterator[memoryview]:
        for piece in super().__iter__():
            self._hash.update(piece)
            yield piece


def _normalised(info: tarfile.TarInfo, url: str) -> tarfile.TarInfo:
    """The same member by a header that says nothing of when, where and by whom it was written."""
    if info.issparse() or info.islnk():
        kind, option = ("a hard link", "with --hard-dereference") if info.islnk() else ("sparse", "without --sparse")
        raise ShardError(url, f"its member {info.name} is {kind}: write the tar {option}")
    has_content = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
    new = header(info.name, info.size if has_content else 0)
    if not info.isreg():
        new.type, new.linkname = info.type, info.linkname
        new.devmajor, new.devminor = info.devmajor, info.devminor
    if info.isdir():
        new.mode = 0o755
    return new
