"""What thumbnails settle of a pair, and what they leave to the pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageOps

from dedup import verify
from dedup.thumbnails import FEW_WINDOWS, MANY_WINDOWS, WINDOWS, likeness
from dedup.verify import VerifySettings, settle_pairs, verify_pairs
from pipelines.lookalikes import LOOKALIKES
from tests.verification import described, photograph, png

SETTINGS = VerifySettings()


def test_what_accepted_pairs_suggest_is_looked_at() -> None:
    image = photograph("astronaut")
    width, height = image.size
    boxes = ((0, 0, width * 7 // 10, height * 6 // 10), (width * 3 // 10, height * 2 // 10, width, height * 8 // 10))
    corners = [image.crop(box) for box in boxes]
    files = {"a": png(corners[0]), "b": png(corners[1])}
    table = pa.table({"a": ["a"], "b": ["b"], "method": ["embedding"]})
    assert settle_pairs(table, described(files)).settled.all()  # no window of the one shows the other
    suggested = table.set_column(2, "method", pa.array(["suggested"]))
    assert not settle_pairs(suggested, described(files)).settled.any()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "china", "coins"])
def test_what_is_hopeful_is_looked_at(name: str) -> None:
    """Turned and cropped, a picture fits no window of the thumbnail."""
    image = photograph(name)
    turned = image.rotate(25, Image.Resampling.BICUBIC)
    across, down = int(0.22 * image.width), int(0.22 * image.height)
    files = {"a": png(image), "b": png(turned.crop((across, down, image.width - across, image.height - down)))}
    table, samples = pa.table({"a": ["a"], "b": ["b"]}), described(files)
    assert settle_pairs(table, samples).settled.all()
    first = settle_pairs(table, samples, np.array([True]))
    assert not first.settled.any()
    verdicts = verify_pairs(table, samples, files.__getitem__, SETTINGS, first=first)
    assert (verdicts.probability >= SETTINGS.accepts_from).all()


def test_thumbnails_of_a_uniform_set_are_not_laid_on_each_other_exactly() -> None:
    """There all agree in what can be seen of them, so pixels decide; of small pictures there is no more to see."""
    for side, looked_at in ((300, True), (64, False)):
        drawn = LOOKALIKES["xrays"](2, np.random.default_rng(0))
        files = {name: png(image.resize((side, side))) for name, image in zip("ab", drawn, strict=True)}
        table, samples = pa.table({"a": ["a"], "b": ["b"]}), described(files)
        laid = settle_pairs(table, samples)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "dedup.verify.aligned_likeness", lambda *found: (np.full(len(found[1]), -1, np.float32), found[3])
            )
            uniform = settle_pairs(table, samples, uniform=np.array([True]))
        assert not laid.settled.any()
        assert uniform.settled.tolist() == [not looked_at]


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "flower"])
def test_half_of_each_side_of_a_small_picture_is_found_in_it(name: str) -> None:
    """Between the places where windows of larger pictures lie."""
    image = photograph(name).resize((64, 64), Image.Resampling.LANCZOS)
    files = {"a": png(image), "b": png(image.crop((19, 8, 51, 40)))}
    table = pa.table({"a": ["a"], "b": ["b"]})
    verdicts = verify_pairs(table, described(files), files.__getitem__, SETTINGS)
    assert (verdicts.probability >= SETTINGS.accepts_from).all()


@pytest.mark.parametrize("name", ["astronaut", "coffee", "china", "flower"])
def test_small_pictures_are_compared_where_their_thumbnails_lie_best(name: str) -> None:
    """No window is of nine tenths of a width and all of the height, far from the middle."""
    image = photograph(name).resize((320, 320), Image.Resampling.LANCZOS)
    truth = np.array([[1 / 0.84, 0.0, -0.02 / 0.84], [0.0, 1 / 0.93, -0.07 / 0.93]])
    cut = image.crop((round(0.02 * 320), round(0.07 * 320), round(0.86 * 320), 320)).resize((320, 320))
    corners = np.array([[0.1, 0.8, 0.1, 0.8], [0.1, 0.1, 0.9, 0.9], [1, 1, 1, 1]])
    missed = []
    for side in (48, 320):
        files = {label: png(picture.resize((side, side))) for label, picture in zip("ab", (image, cut), strict=True)}
        first = settle_pairs(pa.table({"a": ["a"], "b": ["b"]}), described(files))
        either_way = (
            truth,
            cv2.invertAffineTransform(truth),
        )  # which one is laid onto the other, their content decides
        missed.append(min(np.abs((first.guess[0] - way) @ corners).max() for way in either_way))
    assert missed[0] < 0.025 < missed[1]


def test_small_pictures_are_dismissed_for_their_thumbnails_however_hopeful() -> None:
    files = {name: png(photograph(name).resize((48, 48))) for name in ("chelsea", "coffee")}
    table = pa.table({"a": ["chelsea"], "b": ["coffee"]})
    assert settle_pairs(table, described(files), np.array([True])).settled.all()


def test_negatives_are_told_among_other_pairs() -> None:
    names = ("astronaut", "chelsea", "coffee")
    files = {name: png(photograph(name)) for name in names}
    files |= {f"{name}-negative": png(ImageOps.invert(photograph(name))) for name in names}
    pairs = [("astronaut", "chelsea"), ("chelsea", "chelsea-negative"), ("coffee", "coffee"), ("astronaut", "coffee")]
    pairs.append(("coffee", "coffee-negative"))
    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    assert settle_pairs(table, described(files)).inverted.tolist() == [False, True, False, False, True]


def test_more_windows_are_tried_where_one_may_be_cut_out_of_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    monkeypatch.setattr(verify, "likeness", lambda *given: tried.append(given[3]) or likeness(*given))
    for first, second, windows in ((64, 60, FEW_WINDOWS), (64, 36, MANY_WINDOWS), (128, 60, WINDOWS)):
        files = {
            name: png(photograph(name).resize((side, side)))
            for name, side in zip(("chelsea", "coffee"), (first, second), strict=True)
        }
        settle_pairs(pa.table({"a": ["chelsea"], "b": ["coffee"]}), described(files))
        assert tried.pop() is windows
        assert not tried
