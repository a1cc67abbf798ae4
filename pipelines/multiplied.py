"""More photographs than there are: each several times, re-encoded so that no bytes repeat."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image, JpegImagePlugin

from dedup.images import decode
from dedup.records import Sample
from dedup.shards import ShardReader, list_shards, write_shard


def samples(shards: str) -> Iterator[Sample]:
    """All samples that have a picture."""
    for shard in list_shards([shards])[1]:
        yield from (sample for sample in ShardReader(shard) if sample.image is not None)


def brightened(data: bytes, by: int) -> bytes:
    """The picture as a JPEG of about the same size in bytes, `by` steps of 255 brighter: other bytes for each `by`."""
    with Image.open(io.BytesIO(data)) as image:
        if isinstance(image, JpegImagePlugin.JpegImageFile) and image.mode in ("L", "RGB"):
            options: dict[str, Any] = {"qtables": image.quantization}  # its own quality
            subsampling = JpegImagePlugin.get_sampling(image)
            options["subsampling"] = max(subsampling, 0)
            picture: Image.Image = image.copy()
        else:
            options, picture = {"quality": 90}, decode(data, min_side=0).rgb
    buffer = io.BytesIO()
    picture.point([min(255, value + by) for value in range(256)] * len(picture.getbands())).save(
        buffer, "JPEG", **options
    )
    return buffer.getvalue()


def multiply(shards: str, out: Path, times: int) -> int:
    """Write the pictures `times` times, no bytes twice: out/shards/*.tar, and the same as files in out/files.

    Gives the number of pictures. What is already there is used again.
    """
    done = out / "done.json"
    recipe = {"shards": [[s.url, s.size, s.version] for s in list_shards([shards])[1]], "times": times}
    if done.exists() and (before := json.loads(done.read_text()))["recipe"] == recipe:
        return int(before["images"])
    done.unlink(missing_ok=True)
    files = out / "files"
    files.mkdir(parents=True, exist_ok=True)
    for stale in (*files.iterdir(), *(out / "shards").glob("*.tar")):
        stale.unlink()
    images = 0
    for number, shard in enumerate(list_shards([shards])[1]):
        pictures = [sample for sample in ShardReader(shard) if sample.image is not None]
        for again in range(times):
            members = []
            for position, sample in enumerate(pictures):
                data = brightened(sample.image.data if sample.image else b"", again)
                key = f"{number:03d}{again:03d}{position:06d}"
                members += [
                    (f"{key}.jpg", data),
                    (f"{key}.txt", sample.text or b""),
                    (f"{key}.json", sample.json or b"{}"),
                ]
                (files / f"{key}.jpg").write_bytes(data)
            write_shard(str(out / "shards" / f"{number:03d}_{again:03d}.tar"), members)
            images += len(pictures)
    done.write_text(json.dumps({"recipe": recipe, "images": images}))
    return images
