"""Product shots: things before white, of which colours and grain say something else than of drawings and noise."""

from __future__ import annotations

from typing import NamedTuple, cast

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw

from dedup.borders import without_borders
from dedup.drawings import is_drawn, plainness
from dedup.inner import Inner, Part
from dedup.looks import judge
from dedup.tile_looks import as_grainy
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings, _reshaped
from dedup.views import Views, both_drawn
from tests.verification import photograph, png, verified

ACCEPTS = VerifySettings().accepts_from


def fruit(seed: int, tint: tuple[float, float, float] = (1.0, 0.85, 0.15)) -> Image.Image:
    """A shaded ball with pores, egg-shaped, each with others."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:220j, -1:1:220j]
    wide, high, lean = rng.uniform(0.6, 0.85), rng.uniform(0.5, 0.7), rng.uniform(-0.2, 0.2)
    radius = np.hypot((x + lean * y) / wide, y / high * (1 + 0.15 * x))
    pores = cv2.GaussianBlur(rng.standard_normal(x.shape), (0, 0), 1.5) * 25
    shade = 225 - 60 * np.clip((x + y) / 2 + 0.4, 0, 1) + np.where(radius < 0.95, pores, 0)
    pixels = np.where((radius < 1)[..., None], shade[..., None] * np.array(tint), 255)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def carton(seed: int) -> Image.Image:
    """Upright before white, filling the height: its sides are straight lines."""
    image = Image.new("RGB", (240, 240), "white")
    image.paste(photograph(("coffee", "china")[seed]).resize((84, 240)), (78, 0))
    return image


@pytest.mark.parametrize("transform", ["grey", "hue", "sepia", "mirror+hue", "recompress"])
def test_copies_of_a_shaded_thing_before_white_are_found(transform: str) -> None:
    for seed in range(4):
        copy = TRANSFORMS[transform](fruit(seed), np.random.default_rng(seed)).data
        probability = verified({"a": png(fruit(seed)), "b": copy}, [("a", "b")], 0.0).probability
        assert probability[0] >= ACCEPTS, seed


def test_other_things_of_one_kind_are_others() -> None:
    files = {str(seed): png(fruit(seed)) for seed in range(5)}
    pairs = [(a, b) for a in files for b in files if a < b]
    assert verified(files, pairs, 0.0).probability.max() < ACCEPTS


@pytest.mark.parametrize("seed", [0, 1])
def test_white_beside_a_carton_may_belong_to_it(seed: int) -> None:
    """Its sides are taken for bars, but not those of copies with words above or below."""
    whole, words = carton(seed), TRANSFORMS["text_bar"](carton(seed), np.random.default_rng(seed))
    assert without_borders(whole).width < 100
    files = {"a": png(whole), "b": words.data, "c": png(carton(1 - seed))}
    probability = verified(files, [("a", "b"), ("a", "c"), ("b", "c")], 0.0).probability
    assert probability[0] >= ACCEPTS
    assert probability[1:].max() < ACCEPTS


def test_a_mark_that_is_missing_is_missed_in_other_colours() -> None:
    """As on the ten and the nine of one suit, of which one was turned to another hue, fainter than red on black."""

    def card(marks: int, ink: tuple[int, int, int]) -> Image.Image:
        image = Image.new("RGB", (220, 320), "black")
        draw = ImageDraw.Draw(image)
        places = [(x, y) for y in (50, 120, 190, 260) for x in (70, 150)] + [(110, 85), (110, 225)]
        for x, y in places[:marks]:
            draw.polygon([(x, y - 28), (x + 20, y), (x, y + 28), (x - 20, y)], fill=ink)
        return image

    red, blue = (255, 110, 90), (0, 60, 140)
    ten, nine = Views(np.asarray(card(10, red))), Views(np.asarray(card(9, blue)))
    assert nine.strength < 10 < ten.strength
    assert judge(ten, nine, np.eye(2, 3)) < ACCEPTS
    assert judge(ten, Views(np.asarray(card(10, red).resize((110, 160)))), np.eye(2, 3)) >= ACCEPTS


def pear(stripes: bool = False) -> Image.Image:
    """Small before white, shaded from dark to bright; with a few stripes of its own colour."""
    y, x = np.mgrid[-1:1:240j, -1:1:240j]
    shade = 130 + 240 * x + 100 * y
    if stripes:
        shade = np.where(np.sin(40 * (x + 0.5 * y)) > 0.4, 150.0, 190.0)
    pixels = np.where(np.hypot(x / 0.42, y / 0.5)[..., None] < 1, shade[..., None] * np.array([1, 0.9, 0.4]), 255)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def test_a_shaded_thing_before_white_is_no_drawing() -> None:
    """White alone makes it as plain as a drawing; stripes of two colours make it one."""
    grey = np.asarray(pear().convert("L"))
    one, three = plainness(grey[None])[0]
    assert three > 0.85
    assert three - one < 0.5 * (1 - one)
    assert not is_drawn(grey, fine=False)
    assert is_drawn(grey, fine=True)  # as print would be
    assert is_drawn(np.asarray(pear(stripes=True).convert("L")), fine=False)


def test_drawings_have_strokes_or_are_as_flat_as_flags() -> None:
    soft, striped = Views(np.asarray(fruit(0))), Views(np.asarray(pear(stripes=True)))
    flag = np.full((200, 300, 3), 200, np.uint8)
    flag[:, 100:200] = 204  # of one brightness: no stroke is seen
    assert soft.drawn
    assert not both_drawn(soft, soft)
    assert both_drawn(soft, striped)
    assert both_drawn(Views(flag), Views(flag))


class Grain(NamedTuple):
    lost: float
    noise: float


@pytest.mark.parametrize(
    ("other", "as_much"),
    [(Grain(0.11, 0.1), True), (Grain(0.12, 0.1), False), (Grain(0.1, 0.3), False), (Grain(0.1, 0.15), True)],
)
def test_grain_is_as_much_in_both(other: Grain, as_much: bool) -> None:
    one = Grain(0.1, 0.1)
    assert as_grainy(cast(Views, one), cast(Views, other)) is as_much
    assert as_grainy(cast(Views, other), cast(Views, one)) is as_much


def test_noise_all_over_is_no_grain() -> None:
    assert not as_grainy(cast(Views, Grain(0.1, 3.0)), cast(Views, Grain(0.1, 3.0)))


def test_thumbnails_dismiss_no_pair_of_which_one_changed_its_shape() -> None:
    """A carton between what was taken for bars, and a copy that shows them."""
    upright = Inner(Part(0.3, 0.0, 0.7, 1.0)).packed
    table = pa.table({"inner": pa.array([None, upright, upright, Inner(Part(0.1, 0.1, 0.9, 0.9)).packed], pa.binary())})
    pairs = np.array([(0, 1), (1, 0), (1, 2), (0, 3), (1, 3), (0, 0)])
    assert _reshaped(table, pairs[:, 0], pairs[:, 1]).tolist() == [True, True, False, False, True, False]
