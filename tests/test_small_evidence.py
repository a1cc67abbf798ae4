"""Small pictures: evidence from pixels alone, on real photographs reduced to a few dozen pixels."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageEnhance, ImageOps

from dedup.pair_features import small_features
from dedup.small_evidence import SMALL_SIDE, SmallEvidence, compare_small, small_view
from dedup.verification_model import MODELS, OPERATING_POINTS

WHOLE = np.eye(2, 3)
MIRRORED = np.array([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)()).convert("RGB")


def small(image: Image.Image, size: tuple[int, int] = (32, 32)) -> Image.Image:
    return image.resize(size, Image.Resampling.BOX)


def compared(a: Image.Image, b: Image.Image, guess: np.ndarray = WHOLE) -> SmallEvidence:
    return compare_small(small_view(np.asarray(a)), small_view(np.asarray(b)), guess)


def probability(evidence: SmallEvidence) -> float:
    return float(MODELS["small"](small_features(evidence)[None])[0])


ACCEPTED = OPERATING_POINTS["copies"].min_probability


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_a_picture_agrees_with_itself_in_everything(name: str) -> None:
    image = small(photograph(name))
    evidence = compared(image, image)
    assert evidence.directions > 0.5
    assert (evidence.centre, evidence.outline, evidence.colour) == (0, 0, 0)
    assert probability(evidence) > 0.99


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (64, 40), (18, 64), (8, 32)])
def test_pictures_of_any_shape_are_compared(size: tuple[int, int]) -> None:
    cat, cup = (small(photograph(name), size) for name in ("chelsea", "coffee"))
    brighter = ImageEnhance.Brightness(cat).enhance(0.8)
    assert compared(cat, brighter).directions > 0.7
    assert compared(cat, cup).directions < 0.3


@pytest.mark.parametrize("size", [(2, 96), (96, 1), (1, 1)])
def test_a_line_of_pixels_is_no_error(size: tuple[int, int]) -> None:
    """96 pixels are VIEW_SIDE, at which nothing else would have to be resized."""
    assert probability(compared(small(photograph("chelsea"), size), small(photograph("coffee")))) < ACCEPTED


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_another_crop_is_laid_onto_the_picture(name: str) -> None:
    """A crop by a tenth, of which the guess knows nothing, is found; the guess is two pixels off."""
    image = photograph(name)
    width, height = image.size
    crop = image.crop((width // 14, height // 20, width - width // 30, height - height // 20))
    evidence = compared(small(image), small(crop))
    assert evidence.directions > 0.7 * compared(small(image), small(image)).directions
    assert probability(evidence) >= ACCEPTED


def test_the_guess_is_where_the_search_for_a_better_place_begins() -> None:
    image = small(photograph("chelsea"))
    mirrored = ImageOps.mirror(image)
    assert compared(image, mirrored, WHOLE).directions < 0.4
    assert compared(image, mirrored, MIRRORED).directions > 0.7


def test_brightness_and_contrast_change_nothing_but_colour() -> None:
    image = small(photograph("astronaut"))
    faded = image.point(lambda level: 60 + 0.6 * level)
    evidence = compared(image, faded)
    assert evidence.centre < 2
    assert evidence.outline < 2
    assert evidence.colour > 25
    assert probability(evidence) >= ACCEPTED


def test_a_grey_version_is_the_same_picture() -> None:
    image = small(photograph("coffee"))
    assert probability(compared(image, ImageOps.grayscale(image).convert("RGB"))) >= ACCEPTED


def test_different_photographs_are_no_copies() -> None:
    images = [small(photograph(name)) for name in PHOTOGRAPHS]
    found = [probability(compared(a, b)) for i, a in enumerate(images) for b in images[i + 1 :]]
    assert max(found) < 0.1


def test_one_frame_around_two_pictures_makes_no_copies() -> None:
    def framed(name: str) -> Image.Image:
        return ImageOps.expand(small(photograph(name), (22, 22)), 5, "black")

    evidence = compared(framed("chelsea"), framed("coffee"))
    assert evidence.centre > compared(framed("chelsea"), framed("chelsea")).centre + 20
    assert probability(evidence) < 0.5


def test_the_same_thing_before_another_background_is_another_picture() -> None:
    """What is looked at agrees, the faint gradients around it do not."""
    rng = np.random.default_rng(0)
    ramps = [np.linspace(150, 190, 32)[:, None, None] * np.ones((32, 32, 3)) + rng.normal(0, 1, (32, 32, 3))]
    ramps.append(ramps[0][::-1].copy())
    for ramp in ramps:
        ramp[10:22, 8:24] = np.asarray(small(photograph("astronaut"), (16, 12)), float)
    first, second = (Image.fromarray(np.clip(ramp, 0, 255).astype(np.uint8)) for ramp in ramps)
    assert compared(first, second).directions < 0.5 * compared(first, first).directions
    assert probability(compared(first, second)) < ACCEPTED


def test_flat_pictures_say_nothing() -> None:
    grey, white = (Image.new("RGB", (32, 32), (level,) * 3) for level in (128, 255))
    evidence = compared(grey, white)
    assert (evidence.directions, evidence.tiles) == (0, 0)
    assert probability(evidence) < 0.1


def test_where_nothing_overlaps_nothing_agrees() -> None:
    image = small(photograph("rocket"))
    away = np.array([[1.0, 0.0, 5.0], [0.0, 1.0, 0.0]])
    assert probability(compared(image, image, away)) < 0.01


def test_a_large_picture_is_compared_with_its_small_version() -> None:
    image = photograph("chelsea")
    assert max(image.size) > 4 * SMALL_SIDE
    reduced = image.resize((48, 32), Image.Resampling.LANCZOS)
    assert probability(compared(image, reduced)) >= ACCEPTED


def test_evidence_is_the_same_to_the_bit_whatever_came_before() -> None:
    a, b = (small(photograph(name)) for name in ("astronaut", "rocket"))
    before = asdict(compared(a, b))
    compared(b, a)
    assert asdict(compared(a, b)) == before
