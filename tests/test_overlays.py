"""What was put over one of two aligned pictures, told from things that are there in one of them alone."""

from __future__ import annotations

from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from dedup.looks import judge
from dedup.overlays import PERHAPS, covering, replaced
from dedup.transforms import TRANSFORMS
from dedup.views import Views
from pipelines.unseen_transforms import UNSEEN
from tests.verification import whole_photograph

SIDE = 256
NAMES = ("astronaut", "chelsea", "coffee", "immunohistochemistry", "brick")
ALL = np.ones((SIDE, SIDE), np.uint8)
Floats = npt.NDArray[np.float32]
Y, X = np.mgrid[:SIDE, :SIDE]


def photograph(name: str) -> Image.Image:
    return whole_photograph(name).convert("RGB").resize((SIDE, SIDE))


def grey(image: Image.Image) -> Floats:
    return np.asarray(image.convert("L"), np.float32)


def disc(x: int, y: int, radius: int) -> npt.NDArray[np.bool_]:
    return np.asarray((X - x) ** 2 + (Y - y) ** 2 < radius**2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["large words", "four stripes", "three patches"])
def test_what_was_put_over_a_photograph_is_found_and_little_else(kind: str, name: str) -> None:
    image = photograph(name)
    covered = UNSEEN[kind].change(image, np.random.default_rng(4))
    assert isinstance(covered, Image.Image)
    truth = np.abs(grey(image) - grey(covered)) > 30
    for pair in ((image, covered), (covered, image)):
        found = covering(*map(grey, pair), ALL)
        assert found is not None
        assert found[truth].mean() > 0.9
        near = np.asarray(Image.fromarray(truth).convert("L").resize((32, 32), Image.Resampling.BOX)) > 0
        spread = np.kron(near, np.ones((8, 8), bool))
        assert found[~spread].mean() < 0.25


def captioned(image: Image.Image, side: int) -> Image.Image:
    """With outlined words at top and bottom, and then reduced: the letters are not plain any more."""
    large = image.resize((640, 640))
    draw, font = ImageDraw.Draw(large), ImageFont.load_default(52)
    for text, y in (("ONE DOES NOT SIMPLY", 0.04), ("TRAIN ON DUPLICATES", 0.85)):
        draw.text((320, 640 * y), text, "white", font, "ma", stroke_width=4, stroke_fill="black")
    return large.resize((side, side)).resize((SIDE, SIDE))


@pytest.mark.parametrize("name", ["chelsea", "immunohistochemistry", "rocket"])
def test_outlined_words_are_taken_off(name: str) -> None:
    image, copy = photograph(name), captioned(photograph(name), 160)
    for pair in ((copy, image), (image, copy)):
        found = covering(*map(grey, pair), ALL)
        assert found is not None
        assert min(found[8:40].mean(), found[-40:-12].mean()) > 0.6
        assert found[90:170].mean() < 0.4


@pytest.mark.parametrize("side", [160, 640])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_copies_under_outlined_words_are_accepted_and_others_are_not(name: str, side: int) -> None:
    image, other = (whole_photograph(each).convert("RGB").resize((500, 500)) for each in (name, "china"))
    a, b = Views(np.asarray(image)), Views(np.asarray(captioned(image, side)))
    assert judge(a, b, np.eye(2, 3)) > 0.9
    assert judge(Views(np.asarray(captioned(other, side))), b, np.eye(2, 3)) < 0.3


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_over_a_copy_in_other_light(name: str) -> None:
    lighter = photograph(name).point(lambda value: 0.6 * value + 70)
    covered = UNSEEN["large words"].change(lighter, np.random.default_rng(4))
    assert isinstance(covered, Image.Image)
    assert covering(grey(photograph(name)), grey(covered), ALL) is not None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["recompress", "blur", "noise", "brightness", "contrast", "grey", "hue"])
def test_retouching_covers_nothing(kind: str, name: str) -> None:
    copy = TRANSFORMS[kind].change(photograph(name), np.random.default_rng(4))
    assert isinstance(copy, Image.Image)
    assert covering(grey(photograph(name)), grey(copy), ALL) is None


@pytest.mark.parametrize("name", NAMES)
def test_another_thing_before_the_same_background_covers_nothing(name: str) -> None:
    first, second = (grey(photograph(name)) for _ in range(2))
    for pixels, thing in ((first, "grass"), (second, "flower")):
        inside = disc(130, 120, 60)
        pixels[inside] = grey(photograph(thing))[inside]
    assert covering(first, second, ALL) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_drawing_in_the_frame_of_another_picture_covers_nothing(name: str) -> None:
    """Both end where the frame does."""
    drawn, other = photograph(name), photograph(name)
    drawn.paste((120, 130, 200), (60, 50, 180, 130))
    ImageDraw.Draw(drawn).ellipse((90, 60, 140, 120), fill=(230, 230, 40))
    other.paste(photograph("flower").resize((120, 80)), (60, 50))
    assert covering(grey(drawn), grey(other), ALL) is None


@pytest.mark.parametrize("name", NAMES)
def test_a_plain_thing_that_moved_covers_nothing(name: str) -> None:
    first, second = (grey(photograph(name)) for _ in range(2))
    first[disc(70, 120, 40)] = 128
    second[disc(180, 120, 40)] = 128
    assert covering(first, second, ALL) is None


def test_what_covers_more_than_a_quarter_is_a_picture_of_its_own() -> None:
    image = photograph("brick")
    for radius, covers in ((65, True), (80, False)):
        covered = image.copy()
        ImageDraw.Draw(covered).ellipse((128 - radius, 128 - radius, 128 + radius, 128 + radius), fill=(200, 30, 40))
        assert (covering(grey(image), grey(covered), ALL) is not None) is covers


def in_the_box(kind: str, width: int, height: int) -> Image.Image:
    if kind == "noise":
        return Image.fromarray(np.random.default_rng(5).integers(0, 256, (height, width, 3)).astype(np.uint8))
    return Image.new("RGB", (width, height), "gold") if kind == "gold" else photograph("coffee").resize((width, height))


@pytest.mark.parametrize("kind", ["gold", "noise", "a picture"])
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "immunohistochemistry"])
def test_a_box_may_cover_a_third_whatever_it_shows(name: str, kind: str) -> None:
    covered = photograph(name).copy()
    covered.paste(in_the_box(kind, 180, 110), (40, 70))
    for pair in ((photograph(name), covered), (covered, photograph(name))):
        found = covering(*map(grey, pair), ALL)
        assert found is not None
        assert found[70:180, 40:220].mean() > 0.97
        assert found.mean() < 0.45


def test_a_larger_box_is_a_picture_of_its_own() -> None:
    covered = photograph("astronaut").copy()
    covered.paste(in_the_box("noise", 180, 140), (40, 70))
    assert covering(grey(photograph("astronaut")), grey(covered), ALL) is None


@pytest.mark.parametrize("softened", [0, 3])
def test_two_boxes_in_one_place_cover_nothing(softened: int) -> None:
    for scene, inside in (("brick", "astronaut"), ("coffee", "chelsea"), ("astronaut", "immunohistochemistry")):
        mask = np.zeros((SIDE, SIDE), np.float32)
        mask[70:180, 60:170] = 1
        mask = cv2.GaussianBlur(mask, (0, 0), softened) if softened else mask
        first, second = (
            mask * np.roll(grey(photograph(one)), 50, axis=1) + (1 - mask) * grey(photograph(scene))
            for one in (inside, "coffee" if scene == "brick" else "brick")
        )
        assert covering(first, second, ALL) is None


def test_two_boxes_are_two_things_that_each_of_two_pictures_shows() -> None:
    background = photograph("brick")
    first, second = background.copy(), background.copy()
    first.paste(in_the_box("a picture", 100, 100), (10, 20))
    second.paste(photograph("chelsea").resize((100, 100)), (140, 130))
    assert covering(grey(first), grey(second), ALL) is None


def test_what_lies_outside_the_overlap_does_not_count() -> None:
    image = photograph("astronaut")
    covered = UNSEEN["three patches"].change(image, np.random.default_rng(4))
    assert isinstance(covered, Image.Image)
    truth = np.abs(grey(image) - grey(covered)) > 5
    assert covering(grey(image), grey(covered), (~truth).astype(np.uint8)) is None


def test_without_an_overlap_nothing_is_covered() -> None:
    image = grey(photograph("astronaut"))
    assert covering(image, image, np.zeros_like(ALL)) is None


def printed(scene: str, image: Image.Image) -> Image.Image:
    """As on a shirt, on 15 % of a photograph."""
    page = photograph(scene)
    page.paste(image.resize((110, 90)), (70, 80))
    return page


def test_most_other_prints_in_the_same_place_make_another_picture() -> None:
    found, perhaps = [], []
    for name in NAMES:
        for first, second in combinations(("flower", "rocket", "camera", "coins", "china", "cell"), 2):
            pair = [grey(printed(name, photograph(title))) for title in (first, second)]
            found.append(replaced(*pair, ALL))
            assert replaced(*pair[::-1], ALL) == found[-1]
            halves = [cv2.resize(each, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA) for each in pair]
            perhaps.append(replaced(*halves, cv2.resize(ALL, halves[0].shape[::-1]), PERHAPS))
    assert sum(found) > 0.6 * len(found)
    assert sum(now and not before for now, before in zip(found, perhaps, strict=True)) <= 0.05 * sum(found)


@pytest.mark.parametrize("name", NAMES)
def test_what_was_put_over_a_photograph_replaces_nothing(name: str) -> None:
    image = photograph(name)
    for kind in ("large words", "four stripes", "three patches", "four stickers"):
        for seed in range(3):
            covered = UNSEEN[kind].change(image, np.random.default_rng(seed))
            assert isinstance(covered, Image.Image)
            assert not replaced(grey(image), grey(covered), ALL), (kind, seed)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["recompress", "blur", "sharpen", "noise", "contrast", "hue", "veil", "watermark"])
def test_retouching_replaces_nothing(kind: str, name: str) -> None:
    copy = TRANSFORMS[kind].change(photograph(name), np.random.default_rng(4))
    assert isinstance(copy, Image.Image)
    assert not replaced(grey(photograph(name)), grey(copy), ALL)
