"""A collage is no copy of a picture that fills one of its cells; what lies on a page is one, and so is a crop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from dedup.collages import fills_a_cell, is_divided
from dedup.local_features import SIDE, grey_at
from dedup.transforms import TRANSFORMS
from pipelines.collage_benchmark import COLLAGES, row
from tests.verification import photograph, png, verified

NAMES = ("astronaut", "chelsea", "coffee", "china", "coins")
OTHERS = ("flower", "immunohistochemistry", "camera")
WHITE = (255, 255, 255)


def picture(name: str) -> Image.Image:
    return photograph(name).resize((360, 270), Image.Resampling.LANCZOS)


def cells(name: str) -> list[Image.Image]:
    return [picture(each) for each in (name, *OTHERS)]


def accepted(first: Image.Image, second: Image.Image) -> bool:
    verdicts = verified({"a": png(first), "b": png(second)}, [("a", "b")])
    swapped = verified({"a": png(second), "b": png(first)}, [("a", "b")])
    found = [bool(each.probability[0] >= 0.9) for each in (verdicts, swapped)]
    assert found[0] == found[1]
    return found[0]


@pytest.mark.parametrize("kind", COLLAGES)
def test_a_collage_is_no_copy_of_one_of_its_pictures(kind: str) -> None:
    """But where the seam is faint."""
    assert sum(accepted(picture(name), COLLAGES[kind](cells(name))) for name in NAMES) <= 1


@pytest.mark.parametrize("kind", COLLAGES)
def test_two_collages_that_share_a_picture_are_no_copies(kind: str) -> None:
    first, *rest = cells("chelsea")
    assert not accepted(COLLAGES[kind]([first, *rest]), COLLAGES[kind]([first, *cells("china")[:1], *rest]))


@pytest.mark.parametrize("copy", ["recompress", "shrink", "mirror", "crop_70", "grey", "overlay", "border"])
@pytest.mark.parametrize("kind", COLLAGES)
def test_a_collage_is_found_itself(kind: str, copy: str) -> None:
    collage = COLLAGES[kind](cells("coffee"))
    encoded = TRANSFORMS[copy](collage, np.random.default_rng(2)).data
    verdicts = verified({"a": png(collage), "b": encoded}, [("a", "b")])
    assert verdicts.probability[0] >= 0.9


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_what_shows_one_picture_twice_shows_no_other(name: str, mirrored: bool) -> None:
    image, other = picture(name), picture("flower")
    again = ImageOps.flip(image) if mirrored else image
    first = np.array([[0.5, 0, 0], [0, 1.0, 0]])
    assert fills_a_cell(whole_at_side(image), whole_at_side(row([image, other])), first)
    assert not fills_a_cell(whole_at_side(image), whole_at_side(row([image, again])), first)


def test_a_plain_cell_is_one_too() -> None:
    """Of a picture that is plain in the cell nothing is divided by its contrast."""
    plain = Image.new("RGB", (360, 270), (90, 120, 60))
    collage = row([plain, picture("coffee")])
    first = np.array([[0.5, 0, 0], [0, 1.0, 0]])
    assert fills_a_cell(whole_at_side(plain), whole_at_side(collage), first)


HALVES = {"left": (0, 0, 0.5, 1), "right": (0.5, 0, 1, 1), "top": (0, 0, 1, 0.5), "bottom": (0, 0.5, 1, 1)}


@pytest.mark.parametrize("side", HALVES)
@pytest.mark.parametrize("name", ["chelsea", "coffee", "china", "coins"])
def test_a_half_of_a_photograph_ends_in_no_seam(name: str, side: str) -> None:
    image, (left, top, right, bottom) = photograph(name), HALVES[side]
    width, height = image.size
    part = image.crop((int(left * width), int(top * height), int(right * width), int(bottom * height)))
    onto = np.array([[right - left, 0, left], [0, bottom - top, top]])
    assert not fills_a_cell(whole_at_side(part), whole_at_side(image), onto)


def whole_at_side(image: Image.Image) -> npt.NDArray[np.uint8]:
    return grey_at(np.asarray(image), SIDE)


def written(page: Image.Image, left: int, top: int, lines: int, apart: int, words: str, size: int) -> Image.Image:
    draw = ImageDraw.Draw(page)
    for line in range(lines):
        draw.text((left, top + apart * line), words, fill=(20, 20, 20), font=ImageFont.load_default(size))
    return page


def below_words(image: Image.Image) -> Image.Image:
    """As a post shows it: the words are textured, too, but on paper."""
    page = Image.new("RGB", (360, 480), WHITE)
    page.paste(image, (0, 210))
    return written(page, 12, 8, 7, 28, "many words that say next to nothing", 19)


def article(image: Image.Image) -> Image.Image:
    """Above fine words, which hold as much detail as a picture does."""
    page = Image.new("RGB", (600, 800), WHITE)
    page.paste(image.resize((600, 400)), (0, 0))
    return written(page, 20, 415, 18, 21, "the quick brown fox jumps over the lazy dog again and again and on", 17)


def tiled(image: Image.Image) -> Image.Image:
    page = Image.new("RGB", (2 * image.width, 2 * image.height))
    for place in ((0, 0), (image.width, 0), (0, image.height), image.size):
        page.paste(image, place)
    return page


def story(image: Image.Image) -> Image.Image:
    """Before itself, a little blurred."""
    square = ImageOps.fit(image, (480, 480))
    page = ImageOps.fit(image, (480, 854)).filter(ImageFilter.GaussianBlur(6))
    page.paste(square, (0, 187))
    return page


def before_itself(image: Image.Image) -> Image.Image:
    page = image.resize((720, 270)).filter(ImageFilter.GaussianBlur(20))
    page.paste(image, (180, 0))
    return page


def on_another(image: Image.Image) -> Image.Image:
    page = picture("flower").resize((540, 405))
    page.paste(image, (90, 70))
    return page


@pytest.mark.parametrize("name", ["china", "coins"])
@pytest.mark.parametrize("page", [below_words, article, tiled, story, before_itself, on_another])
def test_what_lies_on_a_page_is_no_collage(page: Callable[[Image.Image], Image.Image], name: str) -> None:
    assert accepted(picture(name), page(picture(name)))


@pytest.mark.parametrize("kind", COLLAGES)
def test_cells_are_found_by_geometry_and_seams(kind: str) -> None:
    """The same picture, elsewhere on the collage, fills no cell."""
    whole, part = (whole_at_side(image) for image in (COLLAGES[kind](cells("china")), picture("china")))
    assert is_divided(whole)
    assert not fills_a_cell(part, whole, np.array([[0.4, 0, 0.25], [0, 0.4, 0.2]]))


@pytest.mark.parametrize("size", [(256, 40), (40, 256), (256, 256), (33, 90)])
def test_any_map_of_any_part_is_answered(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(size))
    strips = [rng.integers(0, 256, (4, size[1])).repeat(size[0] // 8, 0) for _ in range(3)]
    whole = np.concatenate([rng.integers(0, 256, (size[0], size[1])), *strips])[: size[0]].astype(np.uint8)
    whole[: size[0] // 5] = rng.integers(0, 256, (size[0] // 5, size[1]))
    part = rng.integers(0, 256, (60, 200)).astype(np.uint8)
    for _ in range(200):
        onto = np.diag(rng.uniform(-1.2, 1.2, 2)) @ np.array(
            [[1, 0, rng.uniform(-0.5, 1)], [0, 1, rng.uniform(-0.5, 1)]]
        )
        assert fills_a_cell(part, whole, onto) in (True, False)
    for thin in (0.05, 0.1, 0.11, 0.12):
        assert fills_a_cell(part, whole, np.array([[1.0, 0, 0], [0, thin, 0]])) in (True, False)


def test_of_a_picture_that_is_plain_or_tiny_nothing_is_said() -> None:
    plain = np.full((256, 256), 90, np.uint8)
    assert not is_divided(plain)
    assert not is_divided(np.zeros((20, 256), np.uint8))
    for onto in (np.array([[0.5, 0, 0], [0, 1.0, 0]]), np.array([[0.4, 0.4, 0], [-0.4, 0.4, 0.4]]), np.zeros((2, 3))):
        assert not fills_a_cell(plain, plain, onto)
