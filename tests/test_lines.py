"""What is thin: lines and fine words that agencies put all over their pictures."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps

from dedup.overlays import thin, without_thin
from pipelines.lookalikes import LOOKALIKES
from pipelines.rare_transforms import RARE
from pipelines.unseen_transforms import lines
from tests.verification import PHOTOGRAPHS, photograph, png, verified

ACCEPTS = 0.9
SIDE = 256


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


@pytest.mark.parametrize("name", ["products", "xrays"])
def test_lookalikes_are_no_copies_of_each_other_under_lines(name: str) -> None:
    """One of a pair alone has lines, or both have the same; without asking what is left under them, one in a crowd
    is."""
    images = LOOKALIKES[name](8, np.random.default_rng(5))
    files = {str(number): png(image) for number, image in enumerate(images)}
    files |= {f"{number} ruled": png(ruled(image, 1.0, dark=False)) for number, image in enumerate(images)}
    others = [(a, b) for a, b in combinations(files, 2) if a.split()[0] != b.split()[0]]
    assert verified(files, others, crowding=0.95).probability.max() < ACCEPTS
