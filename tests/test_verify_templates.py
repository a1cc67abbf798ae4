"""Templates, flat and two-toned pictures: they do not fall together, and their copies are still found."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from tests.verification import png, verified

ACCEPTS = VerifySettings().accepts_from
CROWDING = 0.9  # such pictures come in numbers
COPIES = ("recompress", "shrink", "enlarge", "brightness")


def _words(image: Image.Image, at: tuple[int, int], words: str, size: int, ink: tuple[int, int, int]) -> None:
    ImageDraw.Draw(image).multiline_text(at, words, fill=ink, font=ImageFont.load_default(size), spacing=4)


def placeholders() -> list[Image.Image]:
    """One icon on one grey, with other words below."""
    pictures = []
    for words in ("image not available", "Nothing to see here!", "404", "coming soon", "no photo yet"):
        image = Image.new("RGB", (320, 240), (225, 225, 225))
        draw = ImageDraw.Draw(image)
        draw.rectangle((110, 40, 210, 115), outline=(120, 120, 120), width=6)
        draw.ellipse((130, 55, 150, 75), fill=(120, 120, 120))
        _words(image, (40, 150), words, 26, (90, 90, 90))
        pictures.append(image)
    return pictures


def texts() -> list[Image.Image]:
    """Black words on white: pictures of two tones."""
    lines = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor labore".split()  # noqa: SIM905
    pictures = []
    for seed in range(5):
        order = np.random.default_rng(seed).choice(lines, (14, 6))
        image = Image.new("RGB", (380, 300), "white")
        _words(image, (15, 12), "\n".join(" ".join(row) for row in order), 14, (0, 0, 0))
        pictures.append(image)
    return pictures


def logos() -> list[Image.Image]:
    """One disc on white, with another sign in it."""
    signs = [((70, 70), (186, 186)), ((100, 60), (156, 196)), ((60, 110), (196, 146))]
    pictures = []
    for number, (start, end) in enumerate(signs):
        image = Image.new("RGB", (256, 256), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse((16, 16, 240, 240), fill=(200, 30, 40))
        (draw.rectangle if number % 2 else draw.ellipse)((start, end), fill="white")
        pictures.append(image)
    return pictures


def silhouettes() -> list[Image.Image]:
    """Bimodal: black shapes on white, other shapes on each."""
    pictures = []
    for seed in range(4):
        coarse = np.random.default_rng(seed).integers(0, 256, (7, 7)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((280, 280), Image.Resampling.BICUBIC)
        pictures.append(smooth.point([0] * 128 + [255] * 128).convert("RGB"))
    return pictures


def flags() -> list[Image.Image]:
    """Three bands of other colours each: outlines that agree to the pixel."""
    pictures = []
    for seed in range(5):
        colours = np.random.default_rng(seed).integers(0, 256, (3, 3))
        image = Image.new("RGB", (300, 200))
        for band, colour in enumerate(colours.tolist()):
            ImageDraw.Draw(image).rectangle((100 * band, 0, 100 * band + 99, 199), fill=tuple(colour))
        pictures.append(image)
    return pictures


def near_flat() -> list[Image.Image]:
    """Little more than one grey: soft clouds around it."""
    pictures = []
    for seed in range(4):
        coarse = np.random.default_rng(seed).normal(128, 14, (8, 8)).clip(0, 255).astype(np.uint8)
        pictures.append(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).convert("RGB"))
    return pictures


TEMPLATES: dict[str, Callable[[], list[Image.Image]]] = {
    make.__name__: make for make in (placeholders, texts, logos, silhouettes, near_flat)
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_pictures_of_one_template_are_no_copies_of_each_other(name: str) -> None:
    files = {str(number): png(image) for number, image in enumerate(TEMPLATES[name]())}
    pairs = [(a, b) for a in files for b in files if a < b]
    accepted = verified(files, pairs, CROWDING).probability >= ACCEPTS
    assert [pair for pair, wrong in zip(pairs, accepted, strict=True) if wrong] == []


@pytest.mark.parametrize("name", TEMPLATES)
def test_their_copies_are_found(name: str) -> None:
    files, pairs = {}, []
    for number, image in enumerate(TEMPLATES[name]()):
        files[str(number)] = png(image)
        for copy in COPIES:
            key = f"{number}/{copy}"
            files[key] = TRANSFORMS[copy](image, np.random.default_rng(0)).data
            pairs.append((str(number), key))
    accepted = verified(files, pairs, CROWDING).probability >= ACCEPTS
    assert [pair for pair, found in zip(pairs, accepted, strict=True) if not found] == []


@pytest.mark.parametrize("crowding", [0.0, CROWDING])
def test_flags_of_other_colours_are_no_copies(crowding: float) -> None:
    files = {str(number): png(image) for number, image in enumerate(flags())}
    pairs = [(a, b) for a in files for b in files if a < b]
    assert verified(files, pairs, crowding).probability.max() < ACCEPTS


def test_flat_pictures_are_no_copies_of_each_other_whatever_their_colour() -> None:
    colours = {"white": (255, 255, 255), "off-white": (253, 254, 254), "blue": (0, 0, 255), "black": (0, 0, 0)}
    files = {name: png(Image.new("RGB", (200, 200), colour)) for name, colour in colours.items()}
    pairs = [(a, b) for a in files for b in files if a < b]
    assert verified(files, pairs, CROWDING).probability.max() < ACCEPTS
