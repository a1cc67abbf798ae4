"""Pictures that were turned are turned back; what is plain in its corners for other reasons stays as it is."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from test_verify import PHOTOGRAPHS, photograph

from dedup.borders import without_borders
from dedup.images import thumbnail
from dedup.rotation import LOOK_SIDE, MIN_SIDE, Turn, find_turn, turn_in, turned_back
from dedup.transforms import TRANSFORMS
from pipelines.lookalikes import LOOKALIKES

FULL_OF_PICTURE = ("chelsea", "coffee", "china", "flower", "camera")
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255), "green": (20, 200, 60)}
WIDTH, HEIGHT = 360, 270
Points = list[tuple[float, float]]


def turned(image: Image.Image, degrees: float, grew: bool, colour: str = "white") -> Image.Image:
    """By `degrees` clockwise, which Pillow counts the other way."""
    return image.rotate(-degrees, Image.Resampling.BICUBIC, expand=grew, fillcolor=COLOURS[colour])


def jpeg(image: Image.Image, quality: int = 75) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def straightened(image: Image.Image) -> Image.Image:
    turn = turn_in(image)
    return image if turn is None else turned_back(image, turn)


def found(image: Image.Image) -> Turn | None:
    scale = min(1.0, LOOK_SIDE / max(image.size))
    size = (round(image.width * scale), round(image.height * scale))
    return find_turn(cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_AREA))


def likeness(a: Image.Image, b: Image.Image) -> float:
    """Correlation of the thumbnails."""
    return float(np.corrcoef(thumbnail(a).ravel(), thumbnail(b).ravel())[0, 1])


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("grew", [True, False])
@pytest.mark.parametrize("degrees", [-31.0, -14.0, -5.5, -2.0, 3.0, 9.0, 24.0, 40.0])
def test_the_angle_is_found(degrees: float, grew: bool, colour: str) -> None:
    errors = []
    for name in FULL_OF_PICTURE:
        turn = found(jpeg(turned(photograph(name), degrees, grew, colour)))
        assert turn is not None, name
        assert turn.grew == grew
        errors.append(abs(turn.degrees - degrees))
    assert np.median(errors) < 0.15
    assert max(errors) < 0.5  # where the sky, say, has the colour of the corners


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("grew", [True, False])
def test_the_picture_is_as_it_was(grew: bool, colour: str) -> None:
    for number, name in enumerate(FULL_OF_PICTURE):
        image = photograph(name)
        copy = jpeg(turned(image, (-1) ** number * (4 + number), grew, colour))
        upright = straightened(copy)
        assert np.abs(np.array(upright.size) - image.size).max() <= 4, name
        assert likeness(upright, image) > (0.99 if grew else 0.97) > likeness(copy, image), name


@pytest.mark.parametrize("transform", ["rotate", "rotate+shrink"])
def test_copies_are_turned_back(transform: str) -> None:
    for number, name in enumerate(FULL_OF_PICTURE):
        copy = TRANSFORMS[transform](photograph(name), np.random.default_rng(number)).open()
        assert likeness(straightened(copy), photograph(name)) > 0.95, name


def test_framed_and_turned_in_any_order() -> None:
    image = photograph("chelsea")
    framed = ImageOps.expand(image, 30, COLOURS["green"])
    assert likeness(without_borders(jpeg(turned(framed, 6, True, "black"))), image) > 0.97
    for border in ((30, 30), (0, 60)):
        copy = jpeg(ImageOps.expand(turned(image, 6, True), border, COLOURS["black"]))
        assert likeness(without_borders(copy), image) > 0.97


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_an_upright_photograph_stays(name: str) -> None:
    assert straightened(photograph(name)) is photograph(name)


@pytest.mark.parametrize("name", LOOKALIKES)
def test_drawn_pictures_stay(name: str) -> None:
    for image in LOOKALIKES[name](6, np.random.default_rng(2)):
        assert straightened(image) is image


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if "rotate" not in name])
def test_other_copies_stay(name: str) -> None:
    for number, title in enumerate(("astronaut", "coffee")):
        copy = TRANSFORMS[name](photograph(title), np.random.default_rng(number)).open()
        assert straightened(copy) is copy


def _round(exponent: float) -> Points:
    """An ellipse (1), or a rectangle with round corners the more the smaller the exponent is."""
    angles = np.linspace(0, 2 * np.pi, 200)
    x, y = (np.sign(values) * np.abs(values) ** exponent for values in (np.cos(angles), np.sin(angles)))
    return list(zip((1 + x) / 2, (1 + y) / 2, strict=True))


def _cut(share: float) -> Points:
    """A rectangle whose corners are cut off."""
    rest = 1 - share
    return [(share, 0), (rest, 0), (1, share), (1, rest), (rest, 1), (share, 1), (0, rest), (0, share)]


OUTLINES: dict[str, Points] = {
    "disc": _round(1.0),
    "badge": _round(0.3),
    "plate": _round(0.1),
    "octagon": _cut(0.3),
    "cut corners": _cut(0.1),
    "diamond": [(0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)],
    "banner": [(0.1, 0), (1, 0), (0.9, 1), (0, 1)],
    "perspective": [(0.12, 0), (0.85, 0.03), (1, 1), (0, 0.96)],
    "skewed": [(0, 0), (1, 0.08), (1, 1), (0, 0.92)],
    "triangle": [(0.5, 0), (1, 1), (0, 1)],
    "thing": [(0.2, 0.3), (0.5, 0.15), (0.8, 0.35), (0.75, 0.8), (0.3, 0.85)],
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize("outline", OUTLINES)
def test_other_outlines_stay(outline: str, colour: str) -> None:
    mask = Image.new("L", (4 * WIDTH, 4 * HEIGHT), 0)
    ImageDraw.Draw(mask).polygon([(4 * WIDTH * x, 4 * HEIGHT * y) for x, y in OUTLINES[outline]], fill=255)
    mask = mask.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    plain = Image.new("RGB", (WIDTH, HEIGHT), COLOURS[colour])
    for name in FULL_OF_PICTURE[:3]:
        image = jpeg(Image.composite(photograph(name).resize(plain.size), plain, mask))
        assert straightened(image) is image


def test_a_tilted_thing_within_its_background_stays() -> None:
    image = ImageOps.expand(turned(photograph("coffee"), 7, True), 30, COLOURS["white"])
    assert straightened(image) is image


@pytest.mark.parametrize("power", [2, 4, 8])
def test_a_vignette_stays(power: int) -> None:
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j]
    light = np.clip(1.3 - (np.hypot(x, y) / 1.1) ** power, 0, 1)[..., None]
    pixels = np.asarray(photograph("coffee").resize((WIDTH, HEIGHT))) * light
    image = jpeg(Image.fromarray(pixels.astype(np.uint8)))
    assert straightened(image) is image


def test_a_skewed_page_stays() -> None:
    """White on white: there is no seam, and no side to tell the angle by but that of the lines of text."""
    for degrees in (-6.0, 2.0, 5.0):
        page = Image.new("RGB", (WIDTH, HEIGHT), "white")
        for row in range(30, HEIGHT - 30, 12):
            ImageDraw.Draw(page).line((30, row, WIDTH - 40, row), fill=(40, 40, 40), width=4)
        page = jpeg(turned(page, degrees, False))
        assert straightened(page) is page


def test_plain_and_tiny_and_narrow_pictures_stay() -> None:
    tiny = turned(photograph("chelsea").resize((MIN_SIDE - 14, MIN_SIDE - 20)), 5, False)
    for image in (Image.new("RGB", (300, 200), (200, 30, 30)), tiny, Image.new("RGB", (64, 4000), "white")):
        assert straightened(image) is image
