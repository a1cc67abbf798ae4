"""The nouns of the program: the Parquet datasets and the few dataclasses that travel between steps.

    shards ──describe──▶ descriptors ──search──▶ pairs ──group, decide──▶ manifest

Every dataset is keyed by `sample_id` = "<shard_id>/<key>", never by row position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

THUMBNAIL_SIDE = 32
PAGE = "page_"  # begins the columns that say of the picture inside what others say of the whole
PAGE_SHARE = f"{PAGE}share"


@dataclass(frozen=True)
class Shard:
    """One input tar.

    `url` is the shard as listed (a path or fsspec URL); `shard_id` its path relative to the root, without
    `.tar`; `size` in bytes; `version` the ETag, or else the modification time: with `size` it tells on resuming
    whether the shard is still the same, without reading it.
    """

    url: str
    shard_id: str
    size: int
    version: str


@dataclass(frozen=True)
class Member:
    """One file in a tar: its `name` there, `extension` (lower case, without the dot), the byte `offset` of its
    content in the tar, and the content."""

    name: str
    extension: str
    offset: int
    data: bytes


@dataclass(frozen=True)
class Sample:
    """The members of one webdataset sample that we read.

    `key` is unique in its shard: a key that occurs again carries `#2`, `#3`. `image` is None when the sample has
    none. `note` says in one line what a reader of the manifest should know ("2 images, the first counts").
    """

    key: str
    image: Member | None
    text: bytes | None
    json: bytes | None
    note: str | None = None


def sample_id(shard_id: str, key: str) -> str:
    """The identity of a sample over a whole run."""
    return f"{shard_id}/{key}"


def descriptor_schema(hash_bytes: Mapping[str, int], embedding_dim: int) -> pa.Schema:
    """One row per sample of one shard, in the shard's own order.

    `hash_bytes` maps the name of each hash column to its width in bytes; `embedding_dim` 0 means no embedding.
    Of a failed sample `error` is set and every column of the picture is null. The columns that begin with PAGE are null
    where nothing is around the picture, too, and the hashes among them where what lies there is flat.
    """
    fields = [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("member", pa.string()),  # name of the image member in the tar
        pa.field("offset", pa.int64()),  # of the image's bytes in the tar
        pa.field("size", pa.int64()),  # in bytes
        pa.field("sha256", pa.binary(32)),  # of the image's bytes
        pa.field("crc32", pa.int64()),  # of the same bytes, to compare them quickly
        pa.field("width", pa.int32()),  # as stored, before EXIF orientation
        pa.field("height", pa.int32()),
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
        pa.field("json", pa.string()),  # the sample's json as it stands, for keep policies on its fields
        pa.field("information", pa.float32()),  # of the picture; near 0 for flat ones, see hashes.information
        pa.field("inner", pa.binary()),  # where the picture lies: inner.Inner.packed; null where nothing is around it
        pa.field("thumbnail", pa.binary(THUMBNAIL_SIDE * THUMBNAIL_SIDE * 3)),  # RGB, row-major
        *(pa.field(name, pa.binary(width)) for name, width in hash_bytes.items()),
        # The same of the picture inside, where it seems to lie on a page or in a frame, and its share of the area.
        *(pa.field(f"{PAGE}{name}", pa.binary(width)) for name, width in hash_bytes.items()),
        pa.field(PAGE_SHARE, pa.float32()),
        *([pa.field("embedding", pa.list_(pa.float16(), embedding_dim))] if embedding_dim else []),
        pa.field("note", pa.string()),
        pa.field("error", pa.string()),
    ]
    return pa.schema(fields)


PAIR_SCHEMA = pa.schema(
    [
        pa.field("a", pa.string(), nullable=False),  # sample_id, a < b
        pa.field("b", pa.string(), nullable=False),
        pa.field("method", pa.string(), nullable=False),  # exact, hash, embedding or verified
        pa.field("score", pa.float32(), nullable=False),  # higher is closer
        pa.field("probability", pa.float32()),  # that the two are copies; null where nothing verified the pair
        pa.field("accepted", pa.bool_(), nullable=False),
    ]
)

MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # kept, removed or failed
        pa.field("cluster", pa.int64()),
        pa.field("cluster_size", pa.int32(), nullable=False),
        pa.field("component_size", pa.int32(), nullable=False),
        pa.field("keeper", pa.string()),
        pa.field("method", pa.string()),
        pa.field("score", pa.float32()),
        pa.field("error", pa.string()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("sha256", pa.string()),
        pa.field("crc32", pa.int64()),  # of the image's bytes, as sha256
        pa.field("caption", pa.string()),
        pa.field("url", pa.string()),
        pa.field("note", pa.string()),
        pa.field("weight", pa.float32()),  # null unless the run weighs instead of removing
        pa.field("captions", pa.list_(pa.string())),  # of a keeper, null unless captions are pooled there
    ]
)
