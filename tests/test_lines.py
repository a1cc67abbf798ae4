"""What is thin: lines and fine words that agencies put all over their pictures."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
import skimage.data
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from dedup.evidence import compare
from dedup.local_features import SIDE
from dedup.looks import THIN_KEPT
from dedup.overlays import thin, without_thin
from dedup.transforms import TRANSFORMS
from dedup.views import Views
from pipelines.lookalikes import LOOKALIKES
from pipelines.rare_transforms import RARE
from pipelines.unseen_transforms import lines
from tests.verification import PHOTOGRAPHS, photograph, png, verified

ACCEPTS = 0.9


def page(level: int, drawn: int, width: int) -> np.ndarray:
    image = Image.new("L", (SIDE, SIDE), level)
    ImageDraw.Draw(image).line((40, 0, 200, SIDE), fill=drawn, width=width)
    return np.asarray(image)


@pytest.mark.parametrize(("level", "drawn"), [(60, 200), (200, 60)])
def test_a_line_is_taken_off_and_a_bar_is_not(level: int, drawn: int) -> None:
    brighter = drawn > level
    assert (without_thin(page(level, drawn, 4), brighter) == level).all()
    bar = page(level, drawn, 20)
    assert (without_thin(bar, brighter) == bar).mean() > 0.99
    amount = thin(page(level, drawn, 4))
    assert amount[not brighter] > 1 > 0.01 > amount[brighter]
    assert max(thin(bar)) < 0.2


def test_where_lines_cross_nothing_is_left() -> None:
    grey = np.full((SIDE, SIDE), 90, np.uint8)
    crossed = np.asarray(lines(Image.fromarray(grey), apart=40, width=3).convert("L"))
    assert (without_thin(crossed, brighter=True)[8:-8, 8:-8] == 90).mean() > 0.99


def ruled(image: Image.Image, opacity: float, *, dark: bool) -> Image.Image:
    under = ImageOps.invert(image) if dark else image
    over = lines(under, apart=min(image.size) // 6, width=max(2, min(image.size) // 100), opacity=opacity)
    return ImageOps.invert(over) if dark else over


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_copies_under_lines_are_found(name: str) -> None:
    """Whether only the copy is in a crowd, since all under the same lines look alike, or neither is."""
    files, image = {"original": png(photograph(name))}, photograph(name)
    for opacity in (0.35, 0.6, 1.0):
        for dark in (False, True):
            files[f"{opacity} {dark}"] = png(ruled(image, opacity, dark=dark))
    files["agency"] = RARE["an agency's lines"](image, np.random.default_rng(2)).data
    pairs = [("original", copy) for copy in files if copy != "original"]
    for crowding in (0.0, (0.5, 0.93)):
        accepted = verified(files, pairs, crowding).probability >= ACCEPTS
        assert accepted.mean() > 0.8, [pair[1] for pair, found in zip(pairs, accepted, strict=True) if not found]


@pytest.mark.parametrize("crowding", [0.0, (0.5, 0.93), 0.93])
def test_other_photographs_under_the_same_lines_are_others(crowding: float | tuple[float, float]) -> None:
    for opacity in (0.4, 1.0):
        files = {name: png(ruled(photograph(name).resize((400, 300)), opacity, dark=False)) for name in PHOTOGRAPHS}
        found = verified(files, list(combinations(files, 2)), crowding)
        assert found.probability.max() < ACCEPTS


@pytest.mark.parametrize("crowding", [0.0, (0.5, 0.95), 0.95])
@pytest.mark.parametrize("name", ["products", "xrays", "dials", "screenshots"])
def test_lookalikes_are_no_copies_of_each_other_under_lines(name: str, crowding: float | tuple[float, float]) -> None:
    """One of a pair alone has lines."""
    images = LOOKALIKES[name](8, np.random.default_rng(5))
    files = {str(number): png(image) for number, image in enumerate(images)}
    files |= {f"{number} ruled": png(ruled(image, 0.5, dark=False)) for number, image in enumerate(images)}
    others = [(a, f"{b} ruled") for a in map(str, range(8)) for b in map(str, range(8)) if a != b]
    assert (verified(files, others, crowding).probability >= ACCEPTS).mean() < 0.02


@pytest.mark.parametrize("name", ["products", "xrays"])
def test_lookalikes_under_the_same_lines_are_others(name: str) -> None:
    """Without asking what is left of them many of these pairs are accepted."""
    images = LOOKALIKES[name](10, np.random.default_rng(5))
    files = {str(number): png(ruled(image, 1.0, dark=False)) for number, image in enumerate(images)}
    assert verified(files, list(combinations(files, 2)), crowding=0.95).probability.max() < ACCEPTS


@pytest.mark.parametrize("crowding", [0.0, (0.5, 0.95), 0.95])
@pytest.mark.parametrize("name", ["grass", "gravel", "brick"])
def test_crops_of_fine_textures_are_found(name: str, crowding: float | tuple[float, float]) -> None:
    """Though what is thin in the crop is not in the original, at 256 pixels each."""
    image = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    files = {"original": png(image)}
    for copy in ("crop_50", "crop_70", "crop_70+mirror", "sharpen", "shrink", "blur"):
        files[copy] = TRANSFORMS[copy](image, np.random.default_rng(1)).data
    pairs = [("original", copy) for copy in files if copy != "original"]
    accepted = verified(files, pairs, crowding).probability >= ACCEPTS
    assert accepted.sum() >= len(pairs) - 1


def card(words: str, lines: int) -> Image.Image:
    """White words, as fine as a watermark's, on a soft background."""
    page = photograph("flower").filter(ImageFilter.GaussianBlur(8))
    draw = ImageDraw.Draw(page)
    for row in range(lines):
        draw.text((60, 40 + 26 * row), words[row:] + words[:row], fill="white", font=ImageFont.load_default(16))
    return page


def test_cards_with_other_words_are_no_copies_though_one_has_more_of_them() -> None:
    """Taken off both, words leave one background."""
    pair = {
        "a": png(card("the river never waits for those who stand", 3)),
        "b": png(card("let kindness be your word", 9)),
    }
    views = [Views(np.asarray(Image.open(io.BytesIO(data)))) for data in pair.values()]
    beneath = compare(*(each.without_thin(brighter=True).at(SIDE) for each in views))
    assert beneath.correlation > 0.95
    assert compare(*(each.at(SIDE) for each in views)).thin_kept(brighter=True) < THIN_KEPT
    assert verified(pair, [("a", "b")]).probability[0] < ACCEPTS
