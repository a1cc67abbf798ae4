"""Pictures in memory, verified as a run verifies those in shards."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
import pyarrow as pa
import skimage.data
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from dedup.borders import find_inner
from dedup.hashes import information
from dedup.images import decode, grey, thumbnail
from dedup.verify import Verdicts, VerifySettings, verify_pairs


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def described(files: dict[str, bytes]) -> pa.Table:
    """The descriptor columns that verification reads."""
    rows = []
    for sample_id, data in files.items():
        decoded = decode(data, 128)
        level = information(torch.from_numpy(grey(decoded.rgb, 32, 32).copy())[None, None])
        inner = find_inner(decoded.rgb)
        inside = decoded.rgb if inner is None else inner.of(decoded.rgb)
        rows.append(
            {
                "sample_id": sample_id,
                "inner": None if inner is None else inner.packed,
                "width": decoded.width,
                "height": decoded.height,
                "information": float(level[0]),
                "thumbnail": thumbnail(inside).tobytes(),
            }
        )
    return pa.Table.from_pylist(rows)


def verified(
    files: dict[str, bytes], pairs: list[tuple[str, str]], crowding: float | tuple[float, float] = 0.0
) -> Verdicts:
    """`crowding` of both pictures of each pair, or the lesser and the greater; thumbnails are as alike as that."""
    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    lesser, greater = crowding if isinstance(crowding, tuple) else (crowding, crowding)
    crowd = np.full((len(pairs), 3), (lesser, greater, greater), np.float32)
    return verify_pairs(table, described(files), files.__getitem__, VerifySettings(), crowd)


PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower", "camera", "coins")


@cache
def whole_photograph(name: str) -> Image.Image:
    """A photograph of scikit-image, or china or flower, as RGB."""
    pixels = load_sample_image(f"{name}.jpg") if name in ("china", "flower") else getattr(skimage.data, name)()
    return Image.fromarray(pixels).convert("RGB")


@cache
def photograph(name: str) -> Image.Image:
    """One of PHOTOGRAPHS, up to 480 pixels."""
    image = whole_photograph(name).copy()
    image.thumbnail((480, 480))
    return image
