"""Pictures that share what is strong and differ in what is faint, and drawings that differ in a stroke."""

from __future__ import annotations

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageOps

from dedup.disagreement import (
    CONTESTED,
    CONTESTED_FAINT,
    CONTRADICTED,
    UNCONTESTED,
    UNSHARED,
    contested,
    contradiction,
    is_contested,
    unshared,
)
from dedup.drawings import is_drawn
from dedup.local_features import SIDE, grey_at
from dedup.looks import MUTUAL
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from pipelines.lookalikes import LOOKALIKES
from pipelines.unseen_transforms import SHARED, UNSEEN
from tests.templates import TEMPLATES
from tests.verification import png, verified, whole_photograph

ACCEPTS = VerifySettings().accepts_from
NAMES = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower", "immunohistochemistry", "brick")


# What lies over the picture; what lies around it contests nothing, and `test_pages` has it.
OVER = tuple(name for name in SHARED if name != "a desktop")


@cache
def photograph(name: str) -> Image.Image:
    return whole_photograph(name).resize((400, 400))


@pytest.mark.parametrize("name", OVER)
def test_photographs_that_share_what_was_put_over_them_are_no_copies(name: str) -> None:
    files = {title: png(SHARED[name](photograph(title))) for title in NAMES}
    pairs = list(combinations(NAMES, 2))
    accepted = verified(files, pairs).probability >= ACCEPTS
    assert [pair for pair, wrong in zip(pairs, accepted, strict=True) if wrong] == []


def test_photographs_on_one_desktop_hardly_ever_are() -> None:
    files = {title: png(SHARED["a desktop"](photograph(title))) for title in NAMES}
    assert (verified(files, list(combinations(NAMES, 2)), crowding=0.85).probability >= ACCEPTS).sum() <= 2


@pytest.mark.parametrize(("radius", "most"), [(126, 0), (103, 5), (88, 3)])
def test_different_things_before_one_background_hardly_ever_make_copies(radius: int, most: int) -> None:
    """They cover a third, a fifth or a seventh of the area; but for their common edge 0, 15 and all 24 would."""
    y, x = np.mgrid[:400, :400]
    inside = (x - 190) ** 2 + (y - 210) ** 2 < radius**2
    files, pairs = {}, []
    for background in NAMES[:4]:
        for thing in NAMES[4:]:
            pixels = np.array(photograph(background))
            pixels[inside] = np.asarray(photograph(thing))[inside]
            files[f"{background}/{thing}"] = png(Image.fromarray(pixels))
        pairs += [(f"{background}/{a}", f"{background}/{b}") for a, b in combinations(NAMES[4:], 2)]
    assert (verified(files, pairs).probability >= ACCEPTS).sum() <= most


@pytest.mark.parametrize("name", ["three patches", "four stripes", "four stickers", "large words"])
def test_copies_under_opaque_things_are_found(name: str) -> None:
    """All 24; without looking for what covers them 24, 22, 24 and 18."""
    files, pairs = {title: png(photograph(title)) for title in NAMES}, []
    for title in NAMES:
        for number in range(3):
            pairs.append((title, f"{title}/{number}"))
            files[pairs[-1][1]] = UNSEEN[name](photograph(title), np.random.default_rng(number)).data
    assert (verified(files, pairs).probability >= ACCEPTS).all()


@pytest.mark.parametrize("name", ["products", "xrays"])
def test_uniform_pictures_under_the_same_words_are_no_copies(name: str) -> None:
    images = LOOKALIKES[name](14, np.random.default_rng(0))
    words = UNSEEN["large words"]
    files = {str(number): words(image, np.random.default_rng(number)).data for number, image in enumerate(images)}
    assert verified(files, list(combinations(files, 2)), crowding=0.95).probability.max() < ACCEPTS


def in_a_layout(name: str, layout: str, count: int) -> list[Image.Image]:
    return [SHARED[layout](image) for image in LOOKALIKES[name](count, np.random.default_rng(3))]


@pytest.mark.parametrize("layout", OVER)
@pytest.mark.parametrize("name", ["products", "xrays"])
def test_uniform_pictures_in_one_layout_are_no_copies(name: str, layout: str) -> None:
    files = {str(number): png(image) for number, image in enumerate(in_a_layout(name, layout, 10))}
    assert verified(files, list(combinations(files, 2)), crowding=0.98).probability.max() < ACCEPTS


def test_one_at_the_edge_of_the_crowd_is_hardly_ever_a_copy_of_another() -> None:
    """Around it things are less alike than around the others; by that alone all 45 pairs are accepted."""
    files = {str(number): png(image) for number, image in enumerate(in_a_layout("products", "a quotation", 10))}
    assert (verified(files, list(combinations(files, 2)), crowding=(0.87, 0.98)).probability >= ACCEPTS).sum() <= 2


@pytest.mark.parametrize("layout", SHARED)
@pytest.mark.parametrize("name", ["products", "xrays"])
def test_copies_of_uniform_pictures_in_one_layout_are_found(name: str, layout: str) -> None:
    files, pairs = {}, []
    for number, image in enumerate(in_a_layout(name, layout, 2)):
        files[str(number)] = png(image)
        for copy in ("recompress", "shrink", "blur", "mirror", "crop_90", "gamma", "watermark"):
            if (layout, copy) == ("lines", "watermark"):
                continue  # one of these is lost: its strokes contradict the lines
            files[f"{number}/{copy}"] = TRANSFORMS[copy](image, np.random.default_rng(0)).data
            pairs.append((str(number), f"{number}/{copy}"))
    found = verified(files, pairs, crowding=0.98).probability >= ACCEPTS
    assert [pair for pair, accepted in zip(pairs, found, strict=True) if not accepted] == []


@pytest.mark.parametrize("name", SHARED)
def test_their_copies_are_found(name: str) -> None:
    files, pairs = {}, []
    for title in NAMES:
        image = SHARED[name](photograph(title))
        files[title] = png(image)
        for copy in ("recompress", "shrink", "blur", "mirror", "crop_90", "gamma"):
            files[f"{title}/{copy}"] = TRANSFORMS[copy](image, np.random.default_rng(0)).data
            pairs.append((title, f"{title}/{copy}"))
    found = verified(files, pairs).probability >= ACCEPTS
    assert [pair for pair, accepted in zip(pairs, found, strict=True) if not accepted] == []


def _grey(image: Image.Image) -> np.ndarray:
    return grey_at(np.asarray(image.convert("RGB")), SIDE).astype(np.float32)


def _everywhere(grey: np.ndarray) -> np.ndarray:
    return np.ones(grey.shape, np.uint8)


def test_words_over_a_photograph_contest_little_of_it_and_another_photograph_all() -> None:
    original, other = _grey(photograph("astronaut")), _grey(photograph("coffee"))
    captioned = _grey(TRANSFORMS["caption"](photograph("astronaut"), np.random.default_rng(1)).open())
    mask = _everywhere(original)
    assert contested(original, original, mask) == (0, 0)
    whole, faint = contested(original, captioned, mask)
    assert 0 < faint < UNCONTESTED < CONTESTED_FAINT
    assert 0 < whole < CONTESTED
    assert not is_contested(whole, faint)
    assert min(contested(original, other, mask)) > 0.7


@pytest.mark.parametrize("name", OVER)
def test_what_photographs_share_is_strong_and_what_is_faint_is_contested(name: str) -> None:
    first, second = (_grey(SHARED[name](photograph(title))) for title in ("astronaut", "coffee"))
    assert is_contested(*contested(first, second, _everywhere(first)))


def test_shading_contests_nothing() -> None:
    original = _grey(photograph("chelsea"))
    y, x = np.mgrid[-1 : 1 : original.shape[0] * 1j, -1 : 1 : original.shape[1] * 1j]
    shaded = (original * (1 - 0.35 * (x**2 + y**2))).astype(np.float32)
    assert max(contested(original, shaded, _everywhere(original))) < UNCONTESTED


@pytest.mark.parametrize("name", ["jpeg of quality 3-10", "posterized", "equalized", "salt and pepper"])
def test_copies_whose_faint_parts_are_lost_are_hardly_ever_contested(name: str) -> None:
    lost = []
    for title in NAMES:
        original = _grey(photograph(title))
        copy = _grey(UNSEEN[name](photograph(title), np.random.default_rng(0)).open())
        if is_contested(*contested(original, copy, _everywhere(original))):
            lost.append(title)
    assert len(lost) <= 1  # of what is dark two bits leave nothing


def test_noise_contests_nothing() -> None:
    """Not at half the size; of a dark sky it leaves nothing at any."""
    rng = np.random.default_rng(0)
    for title in set(NAMES) - {"rocket"}:
        original = photograph(title).convert("RGB")
        noisy = np.asarray(original, float) + rng.normal(0, 75, (400, 400, 3))
        copy = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
        first, second = _grey(original), _grey(copy)
        assert not is_contested(*contested(first, second, _everywhere(first), noise=True)), title
    flower, other = _grey(photograph("flower")), _grey(photograph("coffee"))
    assert contested(flower, other, _everywhere(flower), noise=True) == contested(flower, other, _everywhere(flower))


def test_what_lies_outside_the_overlap_does_not_count() -> None:
    original, other = _grey(photograph("astronaut")), _grey(photograph("coffee"))
    half = original.copy()
    half[:, 128:] = other[:, 128:]
    mask = _everywhere(original)
    assert min(contested(original, half, mask)) > CONTESTED
    mask[:, 120:] = 0
    assert max(contested(original, half, mask)) < 0.02
    assert contested(original, other, np.zeros_like(mask)) == (0, 0)


def _forms() -> list[Image.Image]:
    return list(TEMPLATES["forms"]())


def test_another_form_contradicts_however_blurred_it_is() -> None:
    first, second = _forms()[:2]
    blurred = TRANSFORMS["blur"](second, np.random.default_rng(0)).open()
    mask = _everywhere(_grey(first))
    for other in (second, blurred):
        assert contradiction(_grey(first), _grey(other), mask)[0] > CONTRADICTED
    assert contradiction(_grey(second), _grey(blurred), mask)[0] < CONTRADICTED / 2


def test_words_over_one_of_two_contradict_and_are_not_mutual() -> None:
    """Those of two products in one layout are."""
    first, second = LOOKALIKES["products"](2, np.random.default_rng(0))
    words = _grey(TRANSFORMS["caption"](first, np.random.default_rng(1)).open())
    contradicted, mutual = contradiction(_grey(first), words, _everywhere(words))
    assert contradicted > CONTRADICTED
    assert mutual < MUTUAL
    quoted = [_grey(SHARED["a quotation"](each)) for each in (first, second)]
    contradicted, mutual = contradiction(*quoted, _everywhere(quoted[0]))
    assert contradicted > CONTRADICTED
    assert mutual > MUTUAL


def test_what_is_left_of_a_border_contradicts_nothing() -> None:
    """Of which more was cut off in one of the two; anywhere else such a line does."""
    grey = _grey(photograph("astronaut"))
    line = np.where(np.arange(grey.shape[1]) // 20 % 2 == 0, 40, 220).astype(np.float32)
    for row, counted in ((0, False), (grey.shape[0] - 1, False), (120, True)):
        other = grey.copy()
        other[row] = line
        contradicted, _ = contradiction(grey, other, _everywhere(grey))
        assert contradicted > CONTRADICTED if counted else contradicted == 0, row


def test_an_empty_form_lacks_what_the_filled_one_has() -> None:
    filled = _forms()[0]
    empty = filled.copy()
    pixels = np.asarray(filled)
    colour = np.abs(pixels.astype(int) - pixels.mean(2, keepdims=True)).max(2) > 15  # entries are in blue
    assert colour.any()
    empty.paste("white", mask=Image.fromarray(255 * colour.astype(np.uint8)))
    noisy = TRANSFORMS["noise"](filled, np.random.default_rng(0)).open()
    mask = _everywhere(_grey(filled))
    assert unshared(_grey(filled), _grey(empty), mask) > UNSHARED
    assert unshared(_grey(empty), _grey(filled), mask) > UNSHARED
    for copy in (filled, noisy):
        assert unshared(_grey(filled), _grey(copy), mask) == 0


@pytest.mark.parametrize("name", ["forms", "pages", "receipts", "slides"])
def test_a_drawing_is_one_in_uneven_light(name: str) -> None:
    for image in TEMPLATES[name]():
        assert is_drawn(np.asarray(grey_at(_unevenly_lit(image), SIDE)), fine=name in ("pages", "receipts"))


def test_photographs_are_none() -> None:
    assert [title for title in NAMES if is_drawn(grey_at(np.asarray(photograph(title)), SIDE), False)] == []


def _unevenly_lit(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image.convert("RGB"), np.float32)
    height, width = pixels.shape[:2]
    light = np.linspace(1, 0.8, width)[None, :, None] * np.linspace(1, 0.9, height)[:, None, None]
    return np.rint(pixels * light).astype(np.uint8)


@pytest.mark.parametrize("name", ["forms", "pages", "receipts", "certificates", "posts"])
def test_scans_of_one_template_are_no_copies(name: str) -> None:
    files = {str(number): png(Image.fromarray(_unevenly_lit(image))) for number, image in enumerate(TEMPLATES[name]())}
    pairs = list(combinations(files, 2))
    assert verified(files, pairs).probability.max() < ACCEPTS


@pytest.mark.parametrize("retouched", ["blur", "shrink", "blur+noise", "gamma"])
@pytest.mark.parametrize("name", ["forms", "certificates", "slides", "cards", "pages"])
def test_a_copy_of_one_is_no_copy_of_another(name: str, retouched: str) -> None:
    files, pairs = {}, []
    for number, image in enumerate(TEMPLATES[name]()):
        files[str(number)] = png(image)
        files[f"{number}/copy"] = TRANSFORMS[retouched](image, np.random.default_rng(number)).data
        pairs += [(str(other), f"{number}/copy") for other in range(len(TEMPLATES[name]())) if other != number]
    accepted = verified(files, pairs).probability >= ACCEPTS
    assert [pair for pair, wrong in zip(pairs, accepted, strict=True) if wrong] == []


@pytest.mark.parametrize("name", ["chelsea", "coffee", "rocket", "china", "flower"])
def test_a_thing_that_is_nearly_its_own_mirror_image_is_compared_mirrored(name: str) -> None:
    left = np.asarray(photograph(name))[:, :200]
    symmetric = Image.fromarray(np.concatenate([left, left[:, ::-1]], axis=1))
    image = Image.blend(symmetric, photograph("brick"), 0.3 if name != "rocket" else 0.15)
    files = {"it": png(image), "mirrored": png(ImageOps.mirror(image))}
    assert verified(files, [("it", "mirrored")]).probability[0] >= ACCEPTS
