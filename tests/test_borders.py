"""What was put around a picture is left out; what belongs to it stays."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps
from test_verify import PHOTOGRAPHS, photograph

from dedup.borders import LEAST_SIDE, MIN_SIDE, picture_box, without_borders
from dedup.transforms import TRANSFORMS
from pipelines.lookalikes import LOOKALIKES

FULL_OF_PICTURE = ("astronaut", "chelsea", "coffee", "china", "camera")


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_photograph_stays_whole(name: str) -> None:
    image = photograph(name)
    assert without_borders(image) is image


@pytest.mark.parametrize("transform", ["border", "frame", "letterbox", "text_bar", "mirror+border"])
def test_what_was_added_goes(transform: str) -> None:
    bare = 0
    for number, name in enumerate(FULL_OF_PICTURE):
        image = photograph(name)
        inside = without_borders(TRANSFORMS[transform](image, np.random.default_rng(number)).open())
        left = np.array(inside.size) / np.array(image.size)
        assert left.min() > 0.95, name
        bare += int(left.max() <= 1.01)
    assert bare >= len(FULL_OF_PICTURE) - 1  # a band of a frame may have the picture's own colour


@pytest.mark.parametrize("colour", ["black", "white"])
@pytest.mark.parametrize("name", ["chelsea", "coffee", "china", "camera"])
def test_a_phone_shows_a_wide_picture_on_its_tall_screen(name: str, colour: str) -> None:
    image = photograph(name).resize((540, 360))
    screen, ink = Image.new("RGB", (540, 1170), colour), "white" if colour == "black" else "black"
    screen.paste(image, (0, 405))
    draw = ImageDraw.Draw(screen)
    draw.text((24, 14), "9:41", fill=ink, font=ImageFont.load_default(26))
    draw.ellipse((240, 1100, 300, 1160), outline=ink, width=4)
    inside = without_borders(screen)
    assert inside.width > 0.96 * image.width
    assert inside.height == pytest.approx(image.height, rel=0.04)


@pytest.mark.parametrize("colours", [("green", "crimson"), ("crimson", "crimson"), ("black", "white")])
def test_of_two_deep_bars_that_are_not_of_one_grey_one_stays(colours: tuple[str, str]) -> None:
    """As in a flag of three bands with arms on the middle one."""
    flag = Image.new("RGB", (300, 200), colours[0])
    flag.paste(colours[1], (0, 133, 300, 200))
    flag.paste(photograph("coffee").resize((300, 67)), (0, 66))
    assert without_borders(flag).height == 134


def test_the_box_is_that_of_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    framed = np.full((200, 256, 3), 240, np.uint8)
    framed[30:150, 40:200] = pixels
    assert picture_box(framed) == (40, 30, 200, 150)
    assert picture_box(pixels) == (0, 0, 160, 120)


def test_the_white_around_a_thing_stays() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 200, (300, 400, 3), np.uint8))
    mask = Image.new("L", image.size, 0)
    ImageDraw.Draw(mask).ellipse((60, 40, 340, 260), fill=255)
    on_white = Image.composite(image, Image.new("RGB", image.size, "white"), mask)
    assert without_borders(on_white) is on_white


@pytest.mark.parametrize("name", ["pages", "screenshots", "charts"])
def test_what_is_mostly_empty_stays(name: str) -> None:
    for image in LOOKALIKES[name](4, np.random.default_rng(5)):
        for width in (480, 150):
            small = image.resize((width, round(image.height * width / image.width)), Image.Resampling.BOX)
            assert without_borders(small) is small


def test_a_plain_picture_stays() -> None:
    image = Image.new("RGB", (300, 200), (200, 30, 30))
    assert without_borders(image) is image


@pytest.mark.parametrize("transform", ["border", "frame", "mirror+border"])
@pytest.mark.parametrize("side", [32, 45])
def test_what_was_added_around_a_small_picture_goes(transform: str, side: int) -> None:
    whole = 0
    for number, name in enumerate(PHOTOGRAPHS):
        image = photograph(name).resize((side, side), Image.Resampling.BOX)
        framed = TRANSFORMS[transform](image, np.random.default_rng(number)).open()
        assert min(framed.size) < MIN_SIDE
        inside = without_borders(framed)
        assert min(inside.size) >= side - 2, name
        whole += int(inside.width <= side)
    assert whole >= 0.5 * len(PHOTOGRAPHS)  # JPEG mixes bands of one or two pixels with each other and the picture


@pytest.mark.parametrize("side", [32, 45])
@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_small_photograph_stays_whole(name: str, side: int) -> None:
    """Where skies end straight, too, on one side or three."""
    image = photograph(name).resize((side, side), Image.Resampling.BOX)
    sky = ImageOps.expand(image, (0, 5, 0, 0), (90, 140, 220))
    for small in (image, sky, ImageOps.expand(sky, (4, 0, 4, 0), (90, 140, 220))):
        assert without_borders(small) is small


@pytest.mark.parametrize("name", ["icons", "pages", "charts", "screenshots"])
def test_what_is_mostly_empty_stays_when_small(name: str) -> None:
    for image in LOOKALIKES[name](4, np.random.default_rng(5)):
        small = image.resize((48, 40), Image.Resampling.BOX)
        assert without_borders(small) is small


def test_a_picture_of_hardly_any_pixels_stays() -> None:
    for side, cut in ((LEAST_SIDE - 1, 0), (LEAST_SIDE, 2)):
        image = ImageOps.expand(photograph("chelsea").resize((side - 4, side - 4)), 2, (0, 0, 0))
        assert without_borders(image).width == side - 2 * cut


def test_what_around_a_small_picture_ends_in_no_ring_or_lies_too_deep_stays() -> None:
    thing = Image.new("L", (48, 48), 0)
    ImageDraw.Draw(thing).ellipse((3, 9, 44, 38), fill=255)
    on_white = Image.composite(photograph("coffee").resize((48, 48)), Image.new("RGB", (48, 48), "white"), thing)
    deep = ImageOps.expand(photograph("coffee").resize((24, 24)), 12, (0, 0, 0))
    assert without_borders(on_white) is on_white
    assert without_borders(deep) is deep


def test_a_ring_that_mixes_border_and_picture_goes_with_the_border() -> None:
    framed = ImageOps.expand(photograph("coffee").resize((160, 160)), 14, (255, 255, 255))
    small = framed.resize((47, 47), Image.Resampling.BOX)
    inside = np.asarray(without_borders(small))
    assert 37 <= inside.shape[0] <= 41
    assert inside[:, 0].mean() < 245


def test_at_most_a_part_goes() -> None:
    """A strip between wide bars is as likely a picture of its own."""
    image = ImageOps.expand(photograph("chelsea").resize((300, 60)), (0, 120), (0, 0, 0))
    assert without_borders(image) is image


@pytest.mark.parametrize("size", [(64, 40_000), (40_000, 64), (64, 8_000), (8_000, 64)])
def test_a_long_strip_stays(size: tuple[int, int]) -> None:
    """At the size that borders and turns are looked for it is less than a line or two wide."""
    image = Image.new("RGB", size, "white")
    image.paste(photograph("chelsea").resize((40, 40)), (12, 12))
    assert without_borders(image) is image


def test_bands_within_bands_leave_something() -> None:
    """Of stripes one after the other may count as an edge, until hardly a line is left to ask."""
    striped = np.zeros((100, 80, 3), np.uint8)
    for number, start in enumerate((18, 33, 42, 46, 48, 52, 59, 73)):
        striped[start:] = ((60 + 97 * number) % 256, (200 + 61 * number) % 256, (30 + 151 * number) % 256)
    left, top, right, bottom = picture_box(striped)
    assert bottom > top
    assert right > left
