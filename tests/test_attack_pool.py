"""The pool of an attack: informative pictures, no two alike."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from dedup.attack.distances import pairwise_l2
from dedup.attack.patches import patches
from dedup.attack.pool import Picture, Pool, ViewSettings, as_floats, distinct, encode_png, view
from dedup.errors import ConfigError
from dedup.transforms import Encoded
from tests.shard_makers import picture

SETTINGS = ViewSettings(side=12, min_distance=0.08)


def pictures(*images: Image.Image) -> list[Picture]:
    return [Picture(str(number), encode_png(image)) for number, image in enumerate(images)]


def keys(pool: Pool) -> list[str]:
    return [picture.key for picture in pool.pictures]


@pytest.fixture(scope="module")
def embedded() -> list[Picture]:
    return list(patches())


def test_the_embedded_patches_suffice_for_the_default_plan_and_are_mutually_distinct(embedded: list[Picture]) -> None:
    pool = distinct(embedded, SETTINGS)
    assert len(pool) > 1000
    pixels = np.stack([view(Image.open(io.BytesIO(p.image.data)), SETTINGS) for p in pool.pictures])
    rows = torch.from_numpy(as_floats(pixels))
    assert float(pairwise_l2(rows, rows).fill_diagonal_(1).min()) >= 0.08
    assert float(pairwise_l2(rows, rows.flip(-1)).fill_diagonal_(1).min()) >= 0.08
    assert len(pool) + sum(pool.left_out.values()) == len(embedded)


def test_patches_are_the_same_each_time_and_share_no_pixel(embedded: list[Picture]) -> None:
    assert embedded[:20] == list(patches())[:20]
    names = [picture.key.rsplit("_", 2) for picture in embedded]
    places = {(stem, int(top), int(left)) for stem, top, left in names}
    assert len(places) == len(embedded)
    assert all(top % 64 == 0 and left % 64 == 0 for _, top, left in places)
    assert len({picture.caption for picture in embedded}) > 15


def test_copies_mirrored_ones_flat_ones_small_ones_and_broken_ones_are_left_out() -> None:
    a, b = picture(0), picture(1)
    flat = Image.new("RGB", (64, 64), (90, 90, 90))
    given = pictures(a, a.resize((80, 60)), ImageOps.mirror(a), flat, b.resize((8, 8)), b)
    given.append(Picture("broken", Encoded(b"\xff\xd8\xff", "jpg")))
    pool = distinct(given, SETTINGS)
    assert keys(pool) == ["0", "5"]
    assert pool.left_out == {"undecodable": 1, "smaller than 12 pixels": 1, "flat": 1, "like another one": 2}
    assert pool.why() == "1 undecodable, 1 smaller than 12 pixels, 1 flat, 2 like another one"


def test_likeness_reaches_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedup.attack.pool._BLOCK", 2)
    images = [picture(seed) for seed in range(5)]
    pool = distinct(pictures(*images, *images), SETTINGS)
    assert keys(pool) == ["0", "1", "2", "3", "4"]
    assert keys(distinct(pictures(*images), SETTINGS, enough=3)) == ["0", "1", "2"]


def test_a_view_is_the_mean_of_the_pixels_it_covers() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    seen = view(image, ViewSettings(side=8))
    assert seen.shape == (1, 8, 8)
    assert seen[0, 0, 0] == 9  # (0 + 1 + 16 + 17) / 4, rounded up
    assert view(picture(0), ViewSettings(side=8, colour=True)).shape == (3, 8, 8)
    with pytest.raises(ConfigError, match="16x16 cannot be scaled down to 32x32"):
        view(image, ViewSettings(side=32))


@pytest.mark.parametrize(
    ("change", "reason"), [({"side": 7}, "8 to 64"), ({"side": 65}, "8 to 64"), ({"min_distance": 1.0}, "below 1")]
)
def test_unusable_views_are_refused(change: dict[str, float], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        ViewSettings(**change)
