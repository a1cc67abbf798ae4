"""Pictures that were cut to a disc show their middle; round things before a plain ground stay as they are."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from test_verify import PHOTOGRAPHS, photograph

from dedup.borders import without_borders
from dedup.discs import LEAST_SIDE, disc_in
from dedup.transforms import TRANSFORMS
from pipelines.lookalikes import LOOKALIKES
from tests.verification import verified

ROUND = ("astronaut", "chelsea", "coffee", "china", "flower")


def cut(image: Image.Image, ground: str = "white", margin: int = 0) -> Image.Image:
    side = min(image.size)
    square = ImageOps.fit(image, (side, side))
    mask = Image.new("L", square.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, side - 1, side - 1), fill=255)
    return ImageOps.expand(Image.composite(square, Image.new("RGB", square.size, ground), mask), margin, ground)


@pytest.mark.parametrize("ground", ["teal", "hotpink"])
@pytest.mark.parametrize("name", ROUND)
def test_the_middle_of_a_disc_is_found(name: str, ground: str) -> None:
    disc = cut(photograph(name), ground)
    box = disc_in(disc)
    assert box is not None
    side = disc.width
    assert np.abs(np.array(box) - np.array([0.1464, 0.1464, 0.8536, 0.8536]) * side).max() < 0.02 * side
    assert without_borders(disc).size == (box[2] - box[0], box[3] - box[1])


def test_a_disc_may_be_squeezed_or_stand_on_a_wider_ground() -> None:
    disc = cut(photograph("chelsea"))
    squeezed = disc.resize((disc.width, round(0.8 * disc.height)))
    left, top, right, bottom = disc_in(squeezed) or (0, 0, 0, 0)
    assert (right - left) / (bottom - top) == pytest.approx(1 / 0.8, rel=0.03)
    beside = ImageOps.expand(disc, (100, 0), "white")
    left, top, right, bottom = disc_in(beside) or (0, 0, 0, 0)
    assert (left + right) / 2 == pytest.approx(beside.width / 2, abs=3)
    assert bottom - top == pytest.approx(disc.height / 2**0.5, rel=0.03)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_are_no_discs(name: str) -> None:
    assert disc_in(photograph(name)) is None


@pytest.mark.parametrize("name", LOOKALIKES)
def test_uniform_sets_are_none(name: str) -> None:
    assert [disc_in(image) for image in LOOKALIKES[name](4, np.random.default_rng(0))] == [None] * 4


def test_things_that_are_nearly_round_are_none() -> None:
    """An egg, a fruit: their rims leave the ellipse around them by a few hundredths of their size."""
    image = photograph("coffee").resize((300, 300))
    turn = np.linspace(0, 2 * np.pi, 200)
    for lobes, by in ((3, 0.04), (2, 0.2), (5, 0.03)):
        radius = 150 * (1 + by * np.cos(lobes * turn)) / (1 + by)
        mask = Image.new("L", image.size, 0)
        outline = zip(150 + radius * np.cos(turn), 150 + radius * np.sin(turn), strict=True)
        ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in outline], fill=255)
        assert disc_in(Image.composite(image, Image.new("RGB", image.size, "white"), mask)) is None, lobes


def test_things_on_a_ground_and_badges_stay_whole() -> None:
    on_ground = cut(photograph("coffee"), margin=60)
    assert disc_in(on_ground) is None
    badge = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(badge).ellipse((0, 0, 199, 199), fill="crimson", outline="gold", width=12)
    assert without_borders(badge) is badge


@pytest.mark.parametrize("name", ROUND)
def test_a_disc_of_few_pixels_is_found_from_some_size_on(name: str) -> None:
    sides = (LEAST_SIDE - 1, LEAST_SIDE)
    small = [disc_in(cut(photograph(name).resize((side, side)), "teal")) is not None for side in sides]
    assert small == [False, True]


@pytest.mark.parametrize("name", ROUND)
def test_a_disc_within_a_border_is_found(name: str) -> None:
    disc = cut(photograph(name), "teal")
    inside = without_borders(ImageOps.expand(disc, 20, "black"))
    assert inside.width == pytest.approx(disc.width / 2**0.5, rel=0.03)


def test_what_does_not_end_in_an_ellipse_is_no_disc() -> None:
    image = photograph("coffee").resize((240, 240))

    def shown(outline: str) -> Image.Image:
        mask = Image.new("L", image.size, 0)
        draw = ImageDraw.Draw(mask)
        if outline == "diamond":
            draw.polygon([(120, 0), (239, 120), (120, 239), (0, 120)], fill=255)
        elif outline == "rounded":
            draw.rounded_rectangle((0, 0, 239, 239), 60, fill=255)
        else:
            draw.ellipse((0, 60, 239, 179), fill=255)  # too flat
        return Image.composite(image, Image.new("RGB", image.size, "teal"), mask)

    assert [disc_in(shown(outline)) for outline in ("diamond", "rounded", "flat")] == [None] * 3
    disc = cut(image, "teal")
    disc.putpixel((0, 0), (255, 0, 0))
    assert disc_in(disc) is None  # the ground is not of one colour


def test_specks_on_the_ground_do_not_hide_a_disc() -> None:
    disc = cut(photograph("chelsea"), "teal")
    beside = ImageOps.expand(disc, (60, 0), "teal")
    for x, y in ((2, 40), (beside.width - 3, 80)):
        beside.putpixel((x, y), (0, 60, 60))
    assert disc_in(beside) is not None


@pytest.mark.parametrize("name", ROUND)
def test_a_disc_is_a_copy_of_its_picture_and_of_no_other(name: str) -> None:
    others = [other for other in ROUND if other != name]
    pictures = {other: photograph(other) for other in ROUND} | {"disc": cut(photograph(name), "teal")}
    jpeg, rng = TRANSFORMS["recompress"], np.random.default_rng(0)
    files = {key: jpeg(picture, rng).data for key, picture in pictures.items()}
    pairs = [tuple(sorted(("disc", other))) for other in (name, *others)]
    probability = verified(files, pairs, 0.0).probability
    assert probability[0] >= 0.9
    assert probability[1:].max() < 0.1
