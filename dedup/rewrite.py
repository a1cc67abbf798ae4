"""Cleaned shards: what stays of a run's shards by its manifest, byte for byte, in tars that reproduce.

plan ──▶ outputs, each of pieces of shards ──▶ members that stay, checked against the manifest ──▶ a tar
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.records import Shard
from dedup.shards import SampleCounter
from dedup.staying import StayingSamples
from dedup.tar_writer import TarWriter

_WRITE_BYTES = 1 << 16  # what is gathered of small members before it is written
_WRITTEN_CHANGED = "is not as it was written: {how}"


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
    """A shard that was written: `size` in bytes, and a checksum of all members but the images, whose checksums are in
    the manifest: the CRC-32 (8 hex digits) over that of each, in order."""

    name: str
    samples: int
    size: int
    others_crc32: str


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

    `manifest_of` gives a shard's part of the manifest, with `staying.manifest_columns`; `pools` says whether the run
    pooled captions.
    """

    def __init__(self, manifest_of: Callable[[Shard], pa.Table], settings: CleanSettings, pools: bool = False) -> None:
        self._manifest_of = manifest_of
        self._settings = settings
        self._pools = pools
        self._source: StayingSamples | None = None
        self._manifest: tuple[Shard, pa.Table, pa.ChunkedArray] | None = None  # the last one that was read

    def __enter__(self) -> Rewriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._source is not None:
            self._source.close()

    def write(self, output: Output, path: Path) -> Written:
        """Write `output` to the local file `path`. On the way every image must have the CRC-32 of its manifest row, and
        in the end there must be as many samples as stay.

        Raises ShardError where an input shard is not the one that the manifest describes, or cannot be cleaned;
        ManifestError where the manifest is not the one that the plan was made from.
        """
        counter = SampleCounter()
        others = 0
        with path.open("wb", _WRITE_BYTES) as file, TarWriter(file) as tar:
            for piece in output.pieces:
                others = self._write_piece(piece, tar, counter, others)
        return Written(output.name, counter.number + 1, tar.size, f"{others:08x}")

    def check(self, output: Output, written: Written, url: str) -> None:
        """Read the shard at `url`, which an earlier `write` of `output` made and told of in `written`: every image must
        have the CRC-32 of its manifest row, all other members that of then, and there must be as many samples.

        Raises ShardError where it is another or cannot be read, ManifestError as `write`.
        """
        parts = []
        for piece in output.pieces:
            manifest, stays = self._checked_manifest(piece)
            parts.append(manifest.filter(stays).slice(piece.first, piece.last - piece.first))
        rows = pa.concat_tables(parts)
        shard = Shard(url, output.name, written.size, "")
        samples = StayingSamples(shard, rows, pc.is_valid(rows["sample_id"]), False, _WRITTEN_CHANGED)
        images: dict[int, int] = {}
        others = 0
        try:
            for member in samples.take(0, len(rows)):
                crc32 = 0
                for data in member.content:
                    crc32 = zlib.crc32(data, crc32)
                if member.is_image:
                    images[member.place] = crc32
                else:
                    others = _added(others, crc32)
        finally:
            samples.close()
        samples.check(0, len(rows), images)
        if f"{others:08x}" != written.others_crc32:
            raise ShardError(url, _WRITTEN_CHANGED.format(how="members other than its images have changed"))

    def _write_piece(self, piece: Piece, tar: TarWriter, counter: SampleCounter, others: int) -> int:
        """`counter` tells which sample of the written shard a reader will take each member for. Gives the checksum
        `others` with that of the piece's members."""
        source = self._source_of(piece)
        first = counter.number + 1
        images: dict[int, int] = {}
        for place, placed, info, content, is_image in source.take(piece.first, piece.last):
            if placed is not None:
                counter.count(*placed)
                if counter.number < first + place - piece.first:
                    reason = (
                        f"once the samples before it are gone, its member {info.name} would join another "
                        f"sample of key {placed[0]}: rename one of the two"
                    )
                    raise ShardError(piece.shard.url, reason)
            crc32 = tar.add(info, content)
            if is_image:
                images[place] = crc32
            else:
                others = _added(others, crc32)
        source.check(piece.first, piece.last, images)
        if counter.number + 1 - first != piece.last - piece.first:
            found = f"{counter.number + 1 - first} samples instead of {piece.last - piece.first} were written"
            raise ManifestError(f"of shard {piece.shard.url} {found}")
        return others

    def _source_of(self, piece: Piece) -> StayingSamples:
        if self._source is None or self._source.shard != piece.shard:
            if self._source is not None:
                self._source.close()
            self._source = StayingSamples(piece.shard, *self._checked_manifest(piece), self._pools)
        return self._source

    def _checked_manifest(self, piece: Piece) -> tuple[pa.Table, pa.ChunkedArray]:
        """The manifest of the piece's shard, and of each row whether its sample stays."""
        if self._manifest is None or self._manifest[0] != piece.shard:
            manifest = self._manifest_of(piece.shard)
            self._manifest = piece.shard, manifest, self._settings.stays(manifest["status"])
        _, manifest, stays = self._manifest
        staying = pc.sum(stays).as_py() or 0
        if staying != piece.staying:
            raise ManifestError(
                f"by the manifest of shard {piece.shard.url} {staying} samples stay, {piece.staying} by the counts "
                "of the run: `dedup decide` writes both anew"
            )
        return manifest, stays


def _added(others: int, crc32: int) -> int:
    return zlib.crc32(crc32.to_bytes(4, "big"), others)
