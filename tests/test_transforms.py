"""One contract for every transform: reproducible, a real change, and still a copy."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage
from PIL import Image, ImageOps

from dedup.transforms import TRANSFORMS, Transform, compose

FORMATS = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF"}
LOSSLESS = {"png"}
PARTIAL = {
    "crop_70",
    "crop_50",
    "crop_70+mirror",
    "crop_70+text_bar",
}  # the rest keeps most of the picture in its place


def picture(name: str) -> Image.Image:
    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return image.convert("RGB")


@pytest.fixture(scope="module")
def cat() -> Image.Image:
    return picture("chelsea.png")


def features(image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    points, descriptors = cv2.SIFT_create(400).detectAndCompute(np.asarray(image.convert("L")), None)
    return np.float32([point.pt for point in points]), descriptors


@functools.cache
def features_of_the_cat() -> tuple[np.ndarray, np.ndarray]:
    return features(picture("chelsea.png"))


def agreeing_features(copy: Image.Image) -> int:
    """How many local features one affine map carries from the cat to `copy`, or to its mirror image."""
    counts = []
    here, described_here = features_of_the_cat()
    for other in (copy, ImageOps.mirror(copy)):
        there, described_there = features(other)
        pairs = [
            m for m, n in cv2.BFMatcher().knnMatch(described_here, described_there, 2) if m.distance < 0.8 * n.distance
        ]
        if len(pairs) < 4:
            continue
        sources, targets = here[[m.queryIdx for m in pairs]], there[[m.trainIdx for m in pairs]]
        counts.append(int(cv2.estimateAffine2D(sources, targets, ransacReprojThreshold=3)[1].sum()))
    return max(counts, default=0)


@pytest.mark.parametrize("name", TRANSFORMS)
class TestEveryTransform:
    def test_equal_seeds_give_equal_bytes(self, name: str, cat: Image.Image) -> None:
        first, second = (TRANSFORMS[name](cat, np.random.default_rng(5)) for _ in range(2))
        assert first == second

    def test_gives_a_whole_file_of_the_format_that_its_extension_says(self, name: str, cat: Image.Image) -> None:
        copy = TRANSFORMS[name](cat, np.random.default_rng(1))
        with Image.open(io.BytesIO(copy.data)) as image:
            image.load()
            assert image.format == FORMATS[copy.extension]
        assert copy.open().mode == "RGB"

    def test_is_no_copy_of_another_picture(self, name: str) -> None:
        copy = TRANSFORMS[name](picture("coffee.png"), np.random.default_rng(1)).open()
        assert agreeing_features(copy) < 15

    def test_leaves_the_picture_that_it_is_given_as_it_was(self, name: str, cat: Image.Image) -> None:
        before = cat.tobytes()
        TRANSFORMS[name](cat, np.random.default_rng(2))
        assert cat.tobytes() == before

    def test_changes_the_pixels_and_keeps_the_picture(self, name: str, cat: Image.Image) -> None:
        for seed in range(2):
            copy = TRANSFORMS[name](cat, np.random.default_rng(seed)).open()
            if name in LOSSLESS:
                assert copy.tobytes() == cat.tobytes()
                continue
            assert copy.size != cat.size or copy.tobytes() != cat.tobytes()
            assert copy.width >= 0.29 * cat.width
            assert copy.height >= 0.29 * cat.height
            assert agreeing_features(copy) >= 15, f"seed {seed}"

    @pytest.mark.parametrize("size", [(1, 1), (8, 300), (33, 32)])
    def test_works_on_the_smallest_pictures(self, name: str, size: tuple[int, int]) -> None:
        noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
        copy = TRANSFORMS[name](Image.fromarray(noise), np.random.default_rng(3)).open()
        assert min(copy.size) >= 1


DRAWN = [name for name in TRANSFORMS if name not in ("png", "mirror", "grey", "sepia")]


@pytest.mark.parametrize("name", DRAWN)
def test_parameters_are_drawn(name: str, cat: Image.Image) -> None:
    assert len({TRANSFORMS[name](cat, np.random.default_rng(seed)).data for seed in range(5)}) > 1


@pytest.mark.parametrize(("name", "share"), [("crop_90", 0.9), ("crop_70", 0.7), ("crop_50", 0.5)])
def test_a_crop_is_a_part_of_the_picture_of_the_size_that_its_name_says(name: str, share: float) -> None:
    image = picture("astronaut.png")
    copy = TRANSFORMS[name].change(image, np.random.default_rng(0))
    assert copy.size == (round(512 * share), round(512 * share))
    whole, part = np.asarray(image), np.asarray(copy)
    side = copy.width
    corners = (whole[: 513 - side, : 513 - side] == part[0, 0]).all(axis=2)
    assert any(
        np.array_equal(whole[y : y + side, x : x + side], part) for y, x in zip(*np.nonzero(corners), strict=True)
    )


def test_a_border_goes_around_an_untouched_picture(cat: Image.Image) -> None:
    copy = TRANSFORMS["border"].change(cat, np.random.default_rng(0))
    width = (copy.width - cat.width) // 2
    assert 0.03 * cat.height < width < 0.16 * cat.height
    assert np.array_equal(np.asarray(copy)[width:-width, width:-width], np.asarray(cat))


def test_a_text_bar_is_added_beside_the_picture(cat: Image.Image) -> None:
    copy = np.asarray(TRANSFORMS["text_bar"].change(cat, np.random.default_rng(0)))
    bar = len(copy) - cat.height
    assert bar >= 0.11 * cat.height
    pieces = {"below": (copy[:-bar], copy[-bar:]), "above": (copy[bar:], copy[:bar])}
    text = [words for kept, words in pieces.values() if np.array_equal(kept, np.asarray(cat))]
    assert len(text) == 1
    assert len(np.unique(text[0].reshape(-1, 3), axis=0)) > 1  # there are letters in it


@pytest.mark.parametrize(
    ("name", "least", "most"), [("overlay", 0.02, 0.2), ("veil", 0.08, 0.4), ("caption", 0.005, 0.3)]
)
def test_what_is_laid_over_covers_a_part(name: str, least: float, most: float) -> None:
    image = picture("coffee.png")
    for seed in range(5):
        copy = TRANSFORMS[name].change(image, np.random.default_rng(seed))
        share = (np.asarray(copy) != np.asarray(image)).any(axis=2).mean()
        assert least < share < most


def test_grey_has_no_colour_and_hue_keeps_the_lightness(cat: Image.Image) -> None:
    grey = np.asarray(TRANSFORMS["grey"].change(cat, np.random.default_rng(0)))
    assert (grey == grey[..., :1]).all()
    turned = TRANSFORMS["hue"].change(cat, np.random.default_rng(0))
    before, after = np.asarray(cat.convert("HSV")), np.asarray(turned.convert("HSV"))
    assert np.abs(before[..., 2].astype(int) - after[..., 2]).max() <= 1
    assert np.abs(np.asarray(cat, int) - np.asarray(turned, int)).mean() > 10


def test_composing_applies_the_second_to_what_the_first_wrote(cat: Image.Image) -> None:
    combined = compose(TRANSFORMS["recompress"], TRANSFORMS["png"])
    copy = combined(cat, np.random.default_rng(7))
    alone = TRANSFORMS["recompress"](cat, np.random.default_rng(7))
    assert copy.extension == "png"
    assert copy.open().tobytes() == alone.open().tobytes() != cat.tobytes()


def test_combinations_do_what_their_names_say() -> None:
    for name in TRANSFORMS:
        for part in name.split("+"):
            assert part in TRANSFORMS
    assert sum("+" in name for name in TRANSFORMS) >= 8
    assert all(isinstance(transform, Transform) for transform in TRANSFORMS.values())
