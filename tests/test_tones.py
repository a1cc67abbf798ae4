"""One picture's grey levels brought to those of another."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import combinations

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from dedup.tones import curve
from dedup.verify import VerifySettings
from tests.verification import PHOTOGRAPHS, photograph, png, verified

Floats = npt.NDArray[np.float32]
LEVELS = np.arange(256)
ACCEPTS = VerifySettings().accepts_from
OTHERS = [name for name in PHOTOGRAPHS if name != "rocket"]  # hardly anything in the sky around it has an edge


def grey(image: Image.Image) -> Floats:
    return np.asarray(image.convert("L").resize((256, 192)), np.float32)


def everywhere(picture: Floats) -> npt.NDArray[np.uint8]:
    return np.ones(picture.shape, np.uint8)


def false_colours(image: Image.Image) -> Image.Image:
    return Image.fromarray(cv2.applyColorMap(np.asarray(image.convert("L")), cv2.COLORMAP_JET)[..., ::-1])


def blown_out(image: Image.Image) -> Image.Image:
    return image.point(lambda level: min(255, 2 * level + 40))


def solarized(image: Image.Image) -> Image.Image:
    return ImageOps.solarize(image, 128)


RETONED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "solarized": solarized,
    "solarized above": lambda image: ImageOps.solarize(image, 190),
    "false colours": false_colours,
}


@pytest.mark.parametrize(
    "became",
    [255 - LEVELS, np.where(LEVELS < 128, LEVELS, 255 - LEVELS), 127 + 100 * np.sin(LEVELS / 30)],
    ids=["inverted", "solarized", "waves"],
)
def test_the_curve_is_what_each_level_became(became: npt.NDArray[np.float64]) -> None:
    source = grey(photograph("china"))
    target = became[source.astype(np.uint8)].astype(np.float32)
    found = curve(source, target, everywhere(source))
    assert found.levels.dtype == np.uint8
    assert np.abs(found.levels[20:235] - np.rint(became[20:235])).max() <= 6
    assert found.explained > 0.99


def test_brightness_and_contrast_explain_what_is_linear_and_little_else() -> None:
    source = grey(photograph("coffee"))
    brighter = curve(source, 0.5 * source + 60, everywhere(source))
    assert brighter.linear == pytest.approx(1, abs=1e-3)
    assert brighter.explained == pytest.approx(1, abs=1e-2)
    folded = curve(source, np.abs(source - source.mean()), everywhere(source))
    assert folded.linear < 0.5
    assert folded.explained > 0.98


def test_another_picture_is_not_explained() -> None:
    for a, b in combinations(PHOTOGRAPHS, 2):
        found = curve(grey(photograph(a)), grey(photograph(b)), everywhere(grey(photograph(a))))
        assert found.explained < 0.5


def test_only_what_both_cover_has_a_say() -> None:
    source = grey(photograph("china"))
    target, mask = 255 - source, everywhere(source)
    target[:, 100:], mask[:, 100:] = 0, 0
    assert curve(source, target, mask).explained > 0.99
    assert curve(source, target, everywhere(source)).explained < 0.6


def test_of_nothing_and_of_one_level_nothing_is_explained() -> None:
    source = grey(photograph("china"))
    for target, mask in ((source, np.zeros_like(everywhere(source))), (np.full_like(source, 9), everywhere(source))):
        found = curve(source, target, mask)
        assert (found.explained, found.linear) == (0, 0)
        assert found.levels.tolist() == LEVELS.tolist()


@pytest.mark.parametrize("kind", RETONED)
def test_retoned_copies_are_found_and_no_other_pictures(kind: str) -> None:
    files = {name: png(photograph(name)) for name in OTHERS}
    for name in OTHERS:
        buffer = io.BytesIO()
        RETONED[kind](photograph(name)).save(buffer, "JPEG", quality=85)
        files[f"{name}~"] = buffer.getvalue()
    copies = [(name, f"{name}~") for name in OTHERS]
    found = verified(files, copies).probability >= ACCEPTS
    lost = [name for (name, _), accepted in zip(copies, found, strict=True) if not accepted]
    others = [pair for pair in combinations(files, 2) if pair not in copies]
    assert verified(files, others).probability.max() < ACCEPTS
    assert len(lost) <= 1, lost


def test_two_pictures_of_one_outline_are_others() -> None:
    rng = np.random.default_rng(1)

    def noise(sigma: float) -> npt.NDArray[np.float64]:
        made = cv2.GaussianBlur(rng.standard_normal((256, 256)), (0, 0), sigma)
        return np.asarray(made / made.std())

    for _ in range(8):
        outline = noise(20) > 0
        first = np.where(outline, 60, 180) + 10 * noise(2)
        second = np.where(outline, 200, 30) + 30 * (noise(25) > 0) + 10 * noise(2)
        files = {
            name: png(Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).convert("RGB"))
            for name, grey in (("a", first), ("b", second))
        }
        assert verified(files, [("a", "b")]).probability[0] < ACCEPTS


def test_in_a_crowd_nothing_is_retoned() -> None:
    files = {"as it is": png(photograph("china")), "solarized": png(solarized(photograph("china")))}
    pairs = [("as it is", "solarized")]
    assert verified(files, pairs).probability[0] >= ACCEPTS
    assert verified(files, pairs, crowding=(0.0, 0.9)).probability[0] < ACCEPTS
