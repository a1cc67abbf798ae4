from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any
from zlib import crc32

import imagehash
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dedup.describe import DescribeSettings, DescribeStats, describe_batches, describe_shard, schema
from dedup.errors import ConfigError, ShardError
from dedup.images import MAX_PIXELS
from dedup.inner import inner_picture
from dedup.records import Shard
from dedup.shards import list_shards, read_range, write_shard
from dedup.transforms import TRANSFORMS
from tests.shard_makers import IMAGE_MAKERS, encode, jpeg, picture, sample_members, write_tar
from tests.verification import photograph, png

SETTINGS = DescribeSettings(embedder="none")


@dataclass
class MeanColour:
    """The tiniest embedder: a picture's mean colour, in batches of 3; it runs 2 batches ahead, and counts them."""

    name: str = "mean_colour"
    dim: int = 3
    image_size: int = 24
    batch_size: int = 3
    weights_sha256: str = "0" * 64
    device: str = "cpu"
    threshold: None = None
    sizes: list[int] = field(default_factory=list)

    def embed(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float32]]:
        ahead: list[npt.NDArray[np.float32]] = []
        for batch in batches:
            self.sizes.append(len(batch))
            assert batch.shape[1:] == (24, 24, 3)
            assert batch.dtype == np.uint8
            rows = batch.mean((1, 2)).astype(np.float32)
            ahead.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
            if len(ahead) > 2:
                yield ahead.pop(0)
        yield from ahead


def shard_of(path: Path, members: Iterable[tuple[str, bytes]]) -> Shard:
    write_tar(path, members)
    return list_shards([str(path)])[1][0]


def test_a_row_holds_what_later_steps_need(tmp_path: Path) -> None:
    image = jpeg(7, 300, 200)
    shard = shard_of(tmp_path / "00000.tar", sample_members("k", image, "a text", url="http://x/y.jpg", aesthetic=6.5))
    table = describe_shard(shard, SETTINGS, None)
    assert table.schema == schema(SETTINGS, None)
    [row] = table.to_pylist()
    assert (row["sample_id"], row["key"], row["member"]) == ("00000/k", "k", "k.jpg")
    assert read_range(shard.url, row["offset"], row["size"]) == image
    assert (row["sha256"], row["crc32"]) == (sha256(image).digest(), crc32(image))
    assert (row["width"], row["height"]) == (300, 200)
    assert (row["caption"], row["url"]) == ("a text", "http://x/y.jpg")
    assert json.loads(row["json"])["aesthetic"] == 6.5
    assert row["information"] > 2
    assert (row["note"], row["error"]) == (None, None)
    with Image.open(_bytes(image)) as reference:
        expected = imagehash.phash(reference).hash.flatten()
        small = np.asarray(reference.resize((32, 32), Image.Resampling.BOX), np.int16)
    bits = np.unpackbits(np.frombuffer(row["phash"], np.uint8)).astype(bool)
    assert (bits != expected).sum() <= 2
    thumbnail = np.frombuffer(row["thumbnail"], np.uint8).reshape(32, 32, 3).astype(np.int16)
    assert np.abs(thumbnail - small).mean() < 4


def test_a_row_says_where_in_the_image_the_picture_lies(tmp_path: Path) -> None:
    image = photograph("coffee")
    files = {"bare": png(image)}
    for name in ("border", "rotate", "mirror+border"):
        files[name] = TRANSFORMS[name](image, np.random.default_rng(0)).data
    files["damaged"] = files["border"][:200]
    members = [member for name, data in files.items() for member in sample_members(name, data)]
    rows = describe_shard(shard_of(tmp_path / "0.tar", members), SETTINGS, None).to_pylist()
    assert [row["inner"] and len(row["inner"]) for row in rows] == [None, 32, 80, 32, None]
    assert rows[-1]["error"]
    for row, data in zip(rows[:-1], files.values(), strict=False):
        inside = inner_picture(data, 0, MAX_PIXELS, row["inner"])
        assert np.array(inside.size) / np.array(image.size) == pytest.approx(1.0, abs=0.05)
    assert inner_picture(files["border"], 0, MAX_PIXELS, None).size > image.size


def _bytes(data: bytes) -> Any:
    import io

    return io.BytesIO(data)


@pytest.mark.parametrize("kind", IMAGE_MAKERS)
def test_every_format_gives_nearly_the_same_descriptors(kind: str, tmp_path: Path) -> None:
    original = picture(3, 256, 192)
    members = [
        *sample_members("png", encode(original, "PNG"), extension="png"),
        *sample_members("other", IMAGE_MAKERS[kind](original), extension="JPG"),
    ]
    table = describe_shard(shard_of(tmp_path / "a.tar", members), SETTINGS, None)
    png, other = table.to_pylist()
    assert other["error"] is None
    bits = np.unpackbits(np.frombuffer(png["phash"], np.uint8) ^ np.frombuffer(other["phash"], np.uint8)).sum()
    assert bits <= 6


def test_captions_come_from_text_else_from_json(tmp_path: Path) -> None:
    members = [
        ("a.jpg", jpeg(1)), ("a.txt", "Grüße".encode()), ("a.json", b'{"caption": "other"}'),
        ("b.jpg", jpeg(2)), ("b.json", b'{"caption": "of json", "url": 7}'),
        ("c.jpg", jpeg(3)), ("c.json", b"not json"),
        ("d.jpg", jpeg(4)), ("d.json", b"[1]"),
        ("e.jpg", jpeg(5)), ("e.txt", b"bad \xff byte"),
        ("f.jpg", jpeg(6)), ("f.json", b"[" * 200_000),
        ("g.jpg", jpeg(7)), ("g.json", b'{"caption": "half \\ud800", "url": "u"}'),
    ]  # fmt: skip
    rows = describe_shard(shard_of(tmp_path / "a.tar", members), SETTINGS, None).to_pylist()
    assert [row["caption"] for row in rows] == ["Grüße", "of json", None, None, "bad � byte", None, "half ?"]
    assert [row["url"] for row in rows] == [None] * 6 + ["u"]
    assert rows[2]["json"] == "not json"


def test_failed_samples_are_rows_with_a_reason_and_nothing_else(tmp_path: Path) -> None:
    members = [
        *sample_members("whole", jpeg(1)),
        *sample_members("cut", jpeg(2)[:700], "text"),
        *sample_members("none", None, "text"),
        *sample_members("empty", b""),
        *sample_members("large", encode(Image.new("L", (300, 300)), "PNG"), extension="png"),
    ]
    settings = DescribeSettings(embedder="none", max_pixels=50_000)
    stats = DescribeStats()
    shard = shard_of(tmp_path / "a.tar", members)
    [table] = describe_batches(shard, settings, MeanColour(), stats=stats)
    rows = {row["key"]: row for row in table.to_pylist()}
    assert rows["whole"]["error"] is None
    for key, reason in {
        "cut": "damaged JPEG",
        "none": "no image",
        "empty": "empty",
        "large": "over the limit of 50000 pixels",
    }.items():
        assert reason in rows[key]["error"]
        assert "\n" not in rows[key]["error"]
        for column in ("width", "phash", "embedding", "thumbnail", "information"):
            assert rows[key][column] is None
    assert (rows["cut"]["caption"], rows["cut"]["size"]) == ("text", 700)
    assert (stats.samples, stats.failed) == (5, 4)
    assert stats.sha256 == sha256((tmp_path / "a.tar").read_bytes()).hexdigest()
    assert stats.bytes == (tmp_path / "a.tar").stat().st_size


def test_several_images_in_a_sample_are_noted(tmp_path: Path) -> None:
    members = [("a.png", encode(picture(1), "PNG")), ("a.jpg", jpeg(2))]
    [row] = describe_shard(shard_of(tmp_path / "a.tar", members), SETTINGS, None).to_pylist()
    assert row["member"] == "a.png"
    assert "2 images" in row["note"]


@pytest.mark.parametrize("failing", [set(), {0, 1, 2}, {5}, {18, 19}, set(range(20))], ids=str)
def test_embeddings_stay_with_their_samples(failing: set[int], tmp_path: Path) -> None:
    embedder = MeanColour()
    members = []
    for number in range(20):
        data = (
            b"no image" if number in failing else encode(Image.new("RGB", (40, 40), (12 * number + 5, 90, 200)), "PNG")
        )
        members += sample_members(f"{number:02d}", data, extension="png")
    table = describe_shard(shard_of(tmp_path / "a.tar", members), SETTINGS, embedder, threads=3)
    assert [row["key"] for row in table.to_pylist()] == [f"{number:02d}" for number in range(20)]
    for number, row in enumerate(table.to_pylist()):
        if number in failing:
            assert row["embedding"] is None
            continue
        colour = np.array([12 * number + 5, 90, 200], np.float32)
        np.testing.assert_allclose(row["embedding"], colour / np.linalg.norm(colour), atol=1e-3)
    assert sum(embedder.sizes) == 20 - len(failing)
    assert all(size == 3 for size in embedder.sizes[:-1])


def test_the_number_of_threads_changes_nothing(tmp_path: Path) -> None:
    members = [member for n in range(30) for member in sample_members(f"{n}", jpeg(n) if n % 7 else b"bad")]
    shard = shard_of(tmp_path / "a.tar", members)
    one, four = (describe_shard(shard, SETTINGS, MeanColour(), threads=threads) for threads in (1, 4))
    assert one.equals(four)


def test_a_large_shard_comes_in_pieces(tmp_path: Path) -> None:
    write_shard(str(tmp_path / "a.tar"), [(f"{n:06d}.txt", b"") for n in range(3000)])
    shard = list_shards([str(tmp_path / "a.tar")])[1][0]
    sizes = [len(table) for table in describe_batches(shard, SETTINGS, None)]
    assert sum(sizes) == 3000
    assert max(sizes) < 2000


def test_other_hash_sizes_and_hashes(tmp_path: Path) -> None:
    settings = DescribeSettings(embedder="none", hashes=("phash", "ahash"), hash_size=16)
    shard = shard_of(tmp_path / "a.tar", sample_members("a", jpeg(1)))
    [row] = describe_shard(shard, settings, None).to_pylist()
    assert (len(row["phash"]), len(row["ahash"])) == (32, 32)
    assert "dhash" not in row


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hashes": ("phash", "nohash")}, "nohash"),
        ({"hashes": ()}, "none given"),
        ({"hash_size": 7}, "7"),
        ({"hash_size": 36}, "at most 32"),
        ({"max_pixels": 0}, "max_pixels=0"),
    ],
)
def test_unusable_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DescribeSettings(**values)


def test_a_vanished_shard_is_named(tmp_path: Path) -> None:
    missing = Shard(str(tmp_path / f"{uuid.uuid4().hex}.tar"), "x", 10, "1")
    with pytest.raises(ShardError, match=missing.url):
        describe_shard(missing, SETTINGS, None)
