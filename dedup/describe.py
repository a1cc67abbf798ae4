"""One shard -> one descriptor table: everything that later steps need of its pictures, in one pass over its bytes.

    tar ──read──▶ samples ──decode threads──▶ views ──▶ hashes (torch), embedding (embedder) ──▶ descriptor rows

Reading is sequential, decoding runs in threads ahead of it, inference overlaps both. Batches are cut by position in the
shard and padded to a fixed size, so that a row depends neither on the number of threads nor of workers.
"""

from __future__ import annotations

import functools
import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar
from zlib import crc32

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from PIL import Image

from dedup import images, records
from dedup.borders import find_inner
from dedup.embedders import Embedder
from dedup.errors import ConfigError, ImageError
from dedup.hashes import HASHES, INFORMATION_SIDE, MIN_INFORMATION, information
from dedup.images import MAX_PIXELS
from dedup.pages import picture_on_page
from dedup.records import PAGE, PAGE_SHARE, Sample, Shard
from dedup.shards import ShardReader

VERSION = 9  # counted up where the same shard gives other descriptors: older ones are then made anew
DECODE_SIDE = 128  # of the shorter side, in pixels; what is left then changes at most 2 bits of nearly every phash
_ROWS_PER_GROUP = 1024
_BATCH_WITHOUT_EMBEDDER = 64

_Greys = dict[tuple[int, int], npt.NDArray[np.uint8]]  # by (height, width)
_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(frozen=True)
class DescribeSettings:
    """What is computed of each picture. Raises ConfigError for values that no hash can have."""

    embedder: str = "auto"
    """auto, efficientnet_lite0, clip, clip:ARCHITECTURE/TAG, clip:ARCHITECTURE/FILE, sscd:FILE, timm:MODEL or none."""

    hashes: tuple[str, ...] = ("phash",)
    """Perceptual hashes to store, of phash, dhash, ahash, phash_simple, dhash_vertical, whash; one is searched."""

    hash_size: int = 8
    """Side of the hashes: 8 gives 64 bits."""

    max_pixels: int = MAX_PIXELS
    """Images with more pixels are not decoded but fail."""

    def __post_init__(self) -> None:
        unknown = [name for name in self.hashes if name not in HASHES]
        if unknown or not self.hashes:
            raise ConfigError(f"hashes: {', '.join(unknown) or 'none given'}; known: {', '.join(HASHES)}")
        for name in self.hashes:
            HASHES[name].grey_size(self.hash_size)  # raises for a size that the hash does not have
        if self.hash_size > DECODE_SIDE // 4:
            raise ConfigError(
                f"hash_size={self.hash_size}: at most {DECODE_SIDE // 4}, for pictures are decoded reduced"
            )
        if self.max_pixels < 1:
            raise ConfigError(f"max_pixels={self.max_pixels}: must be positive")

    @property
    def hash_bytes(self) -> dict[str, int]:
        """Width in bytes of each hash column."""
        return dict.fromkeys(self.hashes, self.hash_size**2 // 8)


@dataclass
class DescribeStats:
    """What one shard took. `seconds` are CPU seconds by step, summed over this process's threads."""

    samples: int = 0
    failed: int = 0
    bytes: int = 0
    sha256: str = ""  # of the whole shard
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("reading", "decoding", "hashing", "embedding"), 0.0)
    )


def schema(settings: DescribeSettings, embedder: Embedder | None) -> pa.Schema:
    """The schema of the tables that these settings give."""
    return records.descriptor_schema(settings.hash_bytes, embedder.dim if embedder else 0)


def describe_shard(
    shard: Shard, settings: DescribeSettings, embedder: Embedder | None, *, threads: int = 1
) -> pa.Table:
    """The descriptor table of `shard`: one row per sample in the shard's order, schema `records.descriptor_schema`.

    A picture that cannot be decoded is a row with `error` set. Raises ShardError when the shard itself is unreadable.
    """
    tables = list(describe_batches(shard, settings, embedder, threads=threads))
    return pa.concat_tables(tables) if tables else schema(settings, embedder).empty_table()


def describe_batches(
    shard: Shard,
    settings: DescribeSettings,
    embedder: Embedder | None,
    *,
    threads: int = 1,
    stats: DescribeStats | None = None,
) -> Iterator[pa.Table]:
    """`describe_shard` in pieces of about a thousand rows, which bound the memory. `stats` is filled on the way."""
    stats = stats if stats is not None else DescribeStats()
    started = time.process_time()
    batch_size = embedder.batch_size if embedder else _BATCH_WITHOUT_EMBEDDER
    plan = _ViewPlan(settings, embedder.image_size if embedder else 0)
    reader = ShardReader(shard)
    build = _TableBuilder(shard, settings, embedder)
    with ThreadPoolExecutor(max_workers=threads, thread_name_prefix="decode") as pool:
        prepared = _map_ahead(pool, plan.prepare, _timed(reader, stats), window=2 * batch_size)
        waiting: list[pa.Table] = []
        for batch, embedding in _embed(_batches(prepared, batch_size), embedder):
            waiting.append(build(batch, embedding, stats))
            if sum(table.num_rows for table in waiting) >= _ROWS_PER_GROUP:
                yield pa.concat_tables(waiting).combine_chunks()
                waiting = []
        if waiting:
            yield pa.concat_tables(waiting).combine_chunks()
    stats.sha256, stats.bytes = reader.sha256, reader.bytes
    # Inference runs in threads of its library, which only the process's clock sees.
    others = sum(stats.seconds[step] for step in ("reading", "decoding", "hashing"))
    stats.seconds["embedding"] = max(0.0, time.process_time() - started - others) if embedder else 0.0


@dataclass
class _Prepared:
    """A sample after decoding: its row so far, the views of its picture (None when it failed), and those of the picture
    inside (None where it lies on no page)."""

    row: dict[str, Any]
    greys: _Greys | None
    page: _Greys | None
    square: npt.NDArray[np.uint8] | None
    seconds: float


class _ViewPlan:
    """Decodes a sample and makes the small views that the hashes and the embedder look at."""

    def __init__(self, settings: DescribeSettings, embedder_side: int) -> None:
        sizes = {HASHES[name].grey_size(settings.hash_size) for name in settings.hashes}
        self._grey_sizes = sorted(sizes | {(INFORMATION_SIDE, INFORMATION_SIDE)})  # (height, width)
        self._pillow_sizes = [(width, height) for height, width in self._grey_sizes]
        self._side = embedder_side
        self._max_pixels = settings.max_pixels
        self._min_side = max(DECODE_SIDE, embedder_side)

    def prepare(self, sample: Sample) -> _Prepared:
        started = time.thread_time()
        row = _text_columns(sample)
        greys = page = square = None
        if sample.image is None:
            row["error"] = f"no image: {sample.note}" if sample.note else "no image"
        else:
            data = sample.image.data
            row |= {
                "member": sample.image.name,
                "offset": sample.image.offset,
                "size": len(data),
                "sha256": sha256(data).digest(),
                "crc32": crc32(data),
            }
            try:
                decoded = images.decode(data, self._min_side, self._max_pixels)
            except ImageError as error:
                row["error"] = str(error)
            else:
                greys = self._greys(decoded.rgb)
                # Hashes see the whole picture, as every implementation of them does.
                inner = find_inner(decoded.rgb)
                inside = decoded.rgb if inner is None else inner.of(decoded.rgb)
                square = images.square(inside, self._side) if self._side else None
                on_page = picture_on_page(decoded.rgb)
                if on_page is None and inner is not None:
                    on_page = inside
                if on_page is not None:
                    page = self._greys(on_page)
                    row[PAGE_SHARE] = _area(on_page) / _area(decoded.rgb)
                row |= {
                    "width": decoded.width,
                    "height": decoded.height,
                    "inner": None if inner is None else inner.packed,
                    "thumbnail": images.thumbnail(inside).tobytes(),
                }
        return _Prepared(row, greys, page, square, time.thread_time() - started)

    def _greys(self, image: Image.Image) -> _Greys:
        return dict(zip(self._grey_sizes, images.greys(image, self._pillow_sizes), strict=True))


def _area(image: Image.Image) -> int:
    return image.width * image.height


class _TableBuilder:
    """Turns prepared samples and their embedding into descriptor rows."""

    def __init__(self, shard: Shard, settings: DescribeSettings, embedder: Embedder | None) -> None:
        self._shard_id = shard.shard_id
        self._settings = settings
        self._device = torch.device(embedder.device if embedder else "cpu")
        self._schema = schema(settings, embedder)

    def __call__(self, batch: list[_Prepared], embedding: npt.NDArray[np.float32], stats: DescribeStats) -> pa.Table:
        decoded = [index for index, item in enumerate(batch) if item.greys is not None]
        started = time.thread_time()
        self._hash(batch)
        stats.seconds["hashing"] += time.thread_time() - started
        stats.seconds["decoding"] += sum(item.seconds for item in batch)
        stats.samples += len(batch)
        stats.failed += len(batch) - len(decoded)

        for item in batch:
            item.row["sample_id"] = records.sample_id(self._shard_id, item.row["key"])
        columns = []
        for column in self._schema:
            if column.name == "embedding":
                columns.append(_embedding_column(column.type, len(batch), decoded, embedding))
            else:
                columns.append(pa.array([item.row.get(column.name) for item in batch], column.type))
        return pa.Table.from_arrays(columns, schema=self._schema)

    def _hash(self, batch: list[_Prepared]) -> None:
        seen = [(item.row, item.greys) for item in batch if item.greys is not None]
        for (row, _), values in zip(seen, self._hashes([greys for _, greys in seen]), strict=True):
            row |= values
        inside = [(item.row, item.page) for item in batch if item.page is not None]
        for (row, _), values in zip(inside, self._hashes([page for _, page in inside]), strict=True):
            if values.pop("information") >= MIN_INFORMATION:
                row |= {f"{PAGE}{name}": code for name, code in values.items()}

    def _hashes(self, pictures: list[_Greys]) -> list[dict[str, Any]]:
        """Of each picture the hashes, by name, and its information."""

        @functools.cache
        def stack(size: tuple[int, int]) -> torch.Tensor:
            return torch.from_numpy(np.stack([greys[size] for greys in pictures])).to(self._device).unsqueeze(1)

        found: list[dict[str, Any]] = [{} for _ in pictures]
        if not pictures:
            return found
        size = self._settings.hash_size
        for name in self._settings.hashes:
            codes = HASHES[name].compute(stack(HASHES[name].grey_size(size)), size).cpu().numpy()
            for row, code in zip(found, codes, strict=True):
                row[name] = code.tobytes()
        levels = information(stack((INFORMATION_SIDE, INFORMATION_SIDE))).cpu().numpy()
        for row, level in zip(found, levels, strict=True):
            row["information"] = float(level)
        return found


def _embedding_column(
    kind: pa.DataType, rows: int, decoded: list[int], embedding: npt.NDArray[np.float32]
) -> pa.FixedSizeListArray:
    values = np.zeros((rows, kind.list_size), np.float16)
    values[decoded] = embedding
    failed = np.ones(rows, bool)
    failed[decoded] = False
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=kind, mask=pa.array(failed))


def _text_columns(sample: Sample) -> dict[str, Any]:
    """key, caption (of the txt, else of the json), url, json and note."""
    text = sample.text.decode("utf-8", "replace") if sample.text is not None else None
    raw = sample.json.decode("utf-8", "replace") if sample.json is not None else None
    try:
        fields = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):  # not json, or nested without end
        fields = {}
    if not isinstance(fields, dict):
        fields = {}
    caption, url = fields.get("caption"), fields.get("url")
    return {
        "key": sample.key,
        "caption": text if text is not None else _encodable(caption),
        "url": _encodable(url),
        "json": raw,
        "note": sample.note,
    }


def _encodable(value: object) -> str | None:
    """A string that Parquet can hold: JSON can spell halves of surrogate pairs, which no encoding has."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else None


def _batches(items: Iterable[_Prepared], size: int) -> Iterator[list[_Prepared]]:
    """Groups with `size` decoded pictures each, cut early where many fail, so that memory stays bounded."""
    batch: list[_Prepared] = []
    decoded = 0
    for item in items:
        batch.append(item)
        decoded += item.greys is not None
        if decoded == size or len(batch) == 8 * size:
            yield batch
            batch, decoded = [], 0
    if batch:
        yield batch


def _embed(
    batches: Iterable[list[_Prepared]], embedder: Embedder | None
) -> Iterator[tuple[list[_Prepared], npt.NDArray[np.float32]]]:
    """Each batch with the embedding (decoded, D) of its decoded pictures; the embedder may run ahead."""
    nothing = np.zeros((0, embedder.dim if embedder else 0), np.float32)
    if embedder is None:
        for batch in batches:
            yield batch, nothing
        return
    waiting: deque[tuple[list[_Prepared], bool]] = deque()

    def pictures() -> Iterator[npt.NDArray[np.uint8]]:
        for batch in batches:
            squares = [item.square for item in batch if item.square is not None]
            waiting.append((batch, bool(squares)))
            if squares:
                yield np.stack(squares)

    for embedding in embedder.embed(pictures()):
        while not waiting[0][1]:
            yield waiting.popleft()[0], nothing
        yield waiting.popleft()[0], embedding
    while waiting:
        yield waiting.popleft()[0], nothing


def _map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[_In], _Out], items: Iterable[_In], window: int
) -> Iterator[_Out]:
    """`map` in the pool, in order, with at most `window` items under way (Executor.map would read them all)."""
    pending: deque[Any] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) >= window:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()


def _timed(samples: Iterable[Sample], stats: DescribeStats) -> Iterator[Sample]:
    iterator = iter(samples)
    while True:
        started = time.thread_time()
        sample = next(iterator, None)
        stats.seconds["reading"] += time.thread_time() - started
        if sample is None:
            return
        yield sample
