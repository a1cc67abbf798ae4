"""What stays of one shard by its manifest, member by member, in its order.

    shard ──headers──▶ members ──manifest──▶ those that stay, and the captions that are added

Samples are found by their position in the shard, never by key, since keys may occur twice.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import tarfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from typing import NamedTuple

import pyarrow as pa

from dedup.errors import ShardError
from dedup.records import Shard
from dedup.shards import IMAGE_EXTENSIONS, MAX_MEMBER_BYTES, SampleCounter, open_to_read
from dedup.tar_stream import ForwardStream, headers
from dedup.tar_writer import header

CHANGED = "is no longer the shard that the run read: {how}; run dedup again"
_CAPTIONS = "captions.json"  # extension of the member that is added where captions are pooled


def manifest_columns(pools: bool) -> tuple[str, ...]:
    """The columns of a manifest that StayingSamples needs, of a run that `pools` captions or not."""
    return ("sample_id", "status", "crc32", *(("captions", "caption") if pools else ()))


class StayingMember(NamedTuple):
    """A member to write, by a header that says nothing of when, where and by whom it was written.

    `place` is the number of its sample among those that stay in its shard, `placed` its key and extension, None where
    it belongs to no sample. `is_image`: it is the image that the manifest's `crc32` is of. `content` is in pieces.
    """

    place: int
    placed: tuple[str, str] | None
    info: tarfile.TarInfo
    content: Iterable[bytes | memoryview]
    is_image: bool = False


class StayingSamples:
    """One pass over what stays of a shard, taken part by part, in order. Holds no content.

    `manifest` is the shard's, with `manifest_columns`, `stays` (bool) says of each of its rows whether the sample
    stays. Where the run `pools` captions every sample that stays gets a list of them, since Hugging Face `datasets`
    reads a shard only if all its samples have the same members. `changed` words the errors for a shard that is not the
    one of the manifest.
    """

    def __init__(
        self, shard: Shard, manifest: pa.Table, stays: pa.ChunkedArray, pools: bool, changed: str = CHANGED
    ) -> None:
        self.shard = shard
        self._changed_words = changed
        self._rows = manifest.filter(stays)
        self._stays: list[bool] = stays.to_pylist()
        self._pooled: list[list[str] | None] = manifest["captions"].to_pylist() if pools else []
        self._own: list[str | None] = manifest["caption"].to_pylist() if pools else []
        self._members = self._read()
        self._next = next(self._members, None)

    def close(self) -> None:
        self._members.close()

    def check(self, first: int, last: int, images: Mapping[int, int]) -> None:
        """Compare the CRC-32 of the images of the samples `first` to `last` (exclusive) that stay, by place, with the
        manifest. Raises ShardError where one differs."""
        rows = self._rows.slice(first, last - first)
        expected = rows["crc32"].to_pylist()
        found = [images.get(place) for place in range(first, last)]
        if found == expected:
            return
        row = next(row for row, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
        name, now, then = rows["sample_id"][row].as_py(), found[row], expected[row]
        how = "is gone" if now is None else f"has CRC-32 {now:08x}, not {'none' if then is None else f'{then:08x}'}"
        raise self._changed(f"the image of sample {name} {how}")

    def take(self, first: int, last: int) -> Iterator[StayingMember]:
        """The members of the samples `first` to `last` (exclusive) that stay. Content is to be read before the next
        member is asked for."""
        while self._next is not None and self._next.place < max(last, 1):
            if self._next.place >= first:
                yield self._next
            self._next = next(self._members, None)

    def _read(self) -> Generator[StayingMember, None, None]:
        """Every member that stays. One that belongs to no sample has the place of the sample before it that stays, and
        0 where there is none."""
        url = self.shard.url
        places = list(itertools.accumulate(self._stays, initial=0))  # staying samples before each sample
        counter = SampleCounter()
        key = None  # of the last sample that stays
        has_image = has_captions = False
        with contextlib.closing(open_to_read(url)) as file:
            stream = ForwardStream(file, url)
            for info in headers(stream, url):
                before = counter.number
                placed = counter.place(info)
                number = counter.number
                if number == len(self._stays):
                    raise self._changed(f"it holds more than the {len(self._stays)} samples of the manifest")
                if number > before:
                    if not has_captions:
                        yield from self._captions(before, key, places)
                    has_image = has_captions = False
                is_image = False
                if placed is None:
                    place = max(0, places[number + 1] - 1)
                elif self._stays[number]:
                    key, extension = placed
                    place = places[number]
                    if extension == _CAPTIONS:
                        has_captions = True
                        self._refuse_second_captions(number, info)
                    elif extension in IMAGE_EXTENSIONS and not has_image:  # the first counts
                        has_image = True
                        is_image = info.size <= MAX_MEMBER_BYTES
                else:
                    continue
                written = _normalised(info, url)
                yield StayingMember(place, placed, written, _content(stream, written, url), is_image)
            if not has_captions:
                yield from self._captions(counter.number, key, places)
        if counter.number + 1 < len(self._stays):
            raise self._changed(f"it holds {counter.number + 1} samples, the manifest {len(self._stays)}")

    def _captions(self, number: int, key: str | None, places: list[int]) -> Iterator[StayingMember]:
        """The member that is added after the sample's own where the run pools captions: those pooled at it, else its
        own, if it has one."""
        if not self._pooled or number < 0 or key is None or not self._stays[number]:
            return
        own = self._own[number]
        captions = self._pooled[number]
        if captions is None:
            captions = [own] if own and not own.isspace() else []
        content = json.dumps(captions, ensure_ascii=False).encode()
        yield StayingMember(places[number], (key, _CAPTIONS), header(f"{key}.{_CAPTIONS}", len(content)), [content])

    def _refuse_second_captions(self, number: int, info: tarfile.TarInfo) -> None:
        if self._pooled and self._pooled[number] is not None:
            reason = (
                f"has a member {info.name} already, where pooled captions would go: decide again with "
                "--captions keep, or rename the member"
            )
            raise ShardError(self.shard.url, reason)

    def _changed(self, how: str) -> ShardError:
        return ShardError(self.shard.url, self._changed_words.format(how=how))


def _content(stream: ForwardStream, info: tarfile.TarInfo, url: str) -> Iterator[memoryview]:
    """A member's bytes as they lie in the shard, in pieces."""
    missing = info.size
    for piece in stream.pieces(missing):
        missing -= len(piece)
        yield piece
    if missing:
        raise ShardError(url, f"truncated: ends inside its member {info.name}")


def _normalised(info: tarfile.TarInfo, url: str) -> tarfile.TarInfo:
    """The same member by a header that says nothing of when, where and by whom it was written."""
    if info.issparse() or info.islnk():
        kind, option = ("a hard link", "with --hard-dereference") if info.islnk() else ("sparse", "without --sparse")
        raise ShardError(url, f"its member {info.name} is {kind}: write the tar {option}")
    if info.isreg():
        return header(info.name, info.size)
    new = header(info.name, info.size if info.type not in tarfile.SUPPORTED_TYPES else 0)
    new.type, new.linkname = info.type, info.linkname
    new.devmajor, new.devminor = info.devmajor, info.devminor
    if info.isdir():
        new.mode = 0o755
    return new
