"""Product shots: things before white, which are neither drawings nor pictures between white bars."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from PIL import Image, ImageDraw

from dedup.borders import without_borders
from dedup.looks import judge
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from dedup.views import Views
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

    red, blue = (224, 0, 0), (0, 60, 140)
    ten, nine = Views(np.asarray(card(10, red))), Views(np.asarray(card(9, blue)))
    assert min(ten.strength, nine.strength) < 10
    assert judge(ten, nine, np.eye(2, 3)) < ACCEPTS
    assert judge(ten, Views(np.asarray(card(10, red).resize((110, 160)))), np.eye(2, 3)) >= ACCEPTS
