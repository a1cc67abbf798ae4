"""Where a picture lies is found in an image of one size, and holds for the same image decoded at any other."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from dedup.borders import find_inner, without_borders
from dedup.images import MAX_PIXELS, decode, thumbnail
from dedup.inner import WHOLE, Inner, Part, inner_picture
from dedup.records import descriptor_schema
from dedup.rotation import Turn
from tests.verification import photograph

NAMES = ("chelsea", "coffee", "china")
SIZE = (801, 597)  # JPEG decodes it smaller, and then some pixels stand for lines that the image does not have


def turned(image: Image.Image, grew: bool) -> Image.Image:
    return image.rotate(-6, Image.Resampling.BICUBIC, expand=grew, fillcolor=(255, 255, 255))


AROUND = {
    "border": lambda image: ImageOps.expand(image, 60, (20, 90, 40)),
    "bars": lambda image: ImageOps.expand(image, (0, 120), (0, 0, 0)),
    "turned, canvas grown": lambda image: turned(image, True),
    "turned, canvas kept": lambda image: turned(image, False),
    "framed and turned": lambda image: turned(ImageOps.expand(image, 60, (20, 90, 40)), True),
    "turned and framed": lambda image: ImageOps.expand(turned(image, True), 50, (0, 0, 0)),
}
TURNED = {name for name in AROUND if "turned" in name}


def shown(name: str, around: str) -> tuple[Image.Image, bytes]:
    """A photograph, and the file of an image that shows it so."""
    picture = photograph(name).resize(SIZE, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    AROUND[around](picture).save(buffer, "JPEG", quality=85)
    return picture, buffer.getvalue()


def likeness(a: Image.Image, b: Image.Image) -> float:
    """Correlation of the thumbnails."""
    return float(np.corrcoef(thumbnail(a).ravel(), thumbnail(b).ravel())[0, 1])


@pytest.mark.parametrize(
    "inner",
    [
        Inner(Part(0.1, 1 / 3, 0.9, 2 / 3)),
        Inner(turn=Turn(-3.3, True)),
        Inner(Part(0.1, 0.0, 1.0, 1.0), Turn(41.7, False)),
        Inner(turn=Turn(2.1, False), after=Part(0.01, 0.02, 0.98, 0.97)),
    ],
)
def test_the_column_holds_all_of_it(inner: Inner) -> None:
    column = pa.array([None, inner.packed], descriptor_schema({}, 0).field("inner").type)
    assert Inner.unpacked(column[1].as_py()) == inner


@pytest.mark.parametrize("around", AROUND)
def test_in_the_image_that_it_was_found_in_it_gives_the_same_pixels(around: str) -> None:
    for name in NAMES:
        _, data = shown(name, around)
        image = decode(data, 128).rgb
        inner = find_inner(image)
        assert inner is not None, name
        assert (inner.turn is not None) == (around in TURNED)
        again = inner_picture(data, 128, MAX_PIXELS, inner.packed)
        assert again.size == without_borders(image).size
        assert again.tobytes() == without_borders(image).tobytes()


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize(("found_at", "applied_at"), [(128, 256), (128, 0), (0, 128)])
def test_at_another_size_it_gives_the_same_picture(around: str, found_at: int, applied_at: int) -> None:
    for name in NAMES:
        picture, data = shown(name, around)
        image, other = decode(data, found_at).rgb, decode(data, applied_at).rgb
        assert image.size != other.size
        inner = find_inner(image)
        assert inner is not None, name
        inside = inner.of(other)
        assert likeness(inside, inner.of(image)) > 0.995, name
        assert likeness(inside, picture) > 0.97, name
        share = np.array(inside.size) / other.width * AROUND[around](picture).width / np.array(SIZE)
        assert share == pytest.approx(1.0, abs=0.04), name


def test_lines_that_belong_half_to_an_edge_go() -> None:
    image = Image.new("RGB", (10, 10))
    assert Part(0.11, 0.3, 0.89, 0.7).crop(image).size == (6, 4)
    assert Part.of((3, 1, 9, 7), (10, 10)).crop(image).size == (6, 6)
    assert WHOLE.crop(image) is image


def test_shares_name_the_lines_that_they_were_made_from() -> None:
    for side in range(16, 2000, 7):
        image = Image.new("L", (side, 1))
        for line in range(1, side // 2, 5):
            assert Part.of((line, 0, side - line, 1), image.size).crop(image).width == side - 2 * line


def test_of_an_image_with_nothing_around_the_picture_all_is_taken() -> None:
    buffer = io.BytesIO()
    photograph("coffee").save(buffer, "PNG")
    assert find_inner(photograph("coffee")) is None
    assert inner_picture(buffer.getvalue(), 0, MAX_PIXELS, None).tobytes() == photograph("coffee").tobytes()


def test_the_stretch_is_that_of_the_picture_beside_its_image() -> None:
    """A square picture in an image of two squares side by side is half as wide for its height as the image is."""
    left_half = Part(0.0, 0.0, 0.5, 1.0)
    assert Inner(left_half).stretch == pytest.approx(0.5)
    assert Inner(after=Part(0.0, 0.25, 1.0, 0.5)).stretch == pytest.approx(4.0)
    assert Inner(left_half, after=left_half).stretch == pytest.approx(0.25)
