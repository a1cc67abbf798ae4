"""Second looks in crowds: they begin where the first one ended, and are not the last word against a pair."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from dedup.evidence import NO_DOUBTS, NO_EVIDENCE, Doubts, Evidence, compare, compare_as_laid, whole_on_whole
from dedup.local_features import GLANCE_SIDE, SIDE, Picture, picture
from dedup.looks import judge
from dedup.tile_looks import ALONE, UNLIKELY, UNSURE_IN_A_CROWD, Around, Told, _closer, by_tiles, uneven
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from dedup.views import Views
from pipelines.lookalikes import LOOKALIKES
from tests.verification import photograph

UInt8Array = npt.NDArray[np.uint8]

SETTINGS = VerifySettings()


@pytest.mark.parametrize("name", ["recompress", "crop_70", "mirror"])
def test_a_second_look_in_a_crowd_begins_where_the_first_one_ended(name: str) -> None:
    one, other = photograph("coffee"), photograph("chelsea")
    copy = TRANSFORMS[name](one, np.random.default_rng(0)).open()
    crowd = Around(0.95, 0.95, 0.0)
    for first, second in ((one, copy), (copy, one)):
        a, b = Views(np.asarray(first)), Views(np.asarray(second))
        assert judge(a, b, np.eye(2, 3), crowd) > SETTINGS.accepts_from
        assert a.at(SIDE)._features is None
        assert b.at(SIDE)._features is None
        glance, whole = (compare(a.at(side), b.at(side)) for side in (GLANCE_SIDE, SIDE))
        assert glance.laid is not None
        assert whole.laid is not None
        np.testing.assert_allclose(glance.laid.onto, whole.laid.onto, atol=0.02)
        closer = compare_as_laid(a.at(SIDE), b.at(SIDE), glance.laid.onto, inliers=glance.inliers, alone=False)
        assert closer.inliers == glance.inliers
        assert closer.correlation == pytest.approx(whole.correlation, abs=0.02)
    a, b = Views(np.asarray(one)), Views(np.asarray(other))
    assert judge(a, b, np.eye(2, 3), crowd) < UNSURE_IN_A_CROWD[0]


def test_where_nothing_speaks_against_a_pair_a_first_look_s_local_features_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dedup.tile_looks.MANY_INLIERS", 1000)
    crowd, products = Around(0.9, 0.92, 0.9), list(LOOKALIKES["products"](6, np.random.default_rng(2)))
    for number, product_ in enumerate(products):
        copy = TRANSFORMS["recompress"](product_, np.random.default_rng(0)).open()
        a, b = Views(np.asarray(product_)), Views(np.asarray(copy))
        other = Views(np.asarray(products[number - 1]))
        assert judge(a, b, np.eye(2, 3), crowd) > SETTINGS.accepts_from
        assert judge(a, other, np.eye(2, 3), crowd) < SETTINGS.accepts_from
        assert a.at(SIDE)._features is None


def test_what_speaks_against_a_pair_is_asked_of_an_exact_alignment(monkeypatch: pytest.MonkeyPatch) -> None:
    copy = TRANSFORMS["recompress"](photograph("coffee"), np.random.default_rng(0)).open()
    a, b = Views(np.asarray(photograph("coffee"))), Views(np.asarray(copy))
    asked = []

    def against(*arguments: object) -> float:
        told = arguments[-1]
        assert isinstance(told, Told)
        asked.append(told.by_first_look)
        return UNLIKELY if told.by_first_look else told.probability

    monkeypatch.setattr("dedup.looks._unless_otherwise", against)
    assert judge(a, b, np.eye(2, 3), Around(0.95, 0.95, 0.0)) > SETTINGS.accepts_from
    assert asked == [True, False]
    assert a.at(SIDE)._features is not None


@pytest.mark.parametrize("copy", ["blur+noise", "noise"])
def test_noise_hides_no_copy_in_a_crowd(copy: str) -> None:
    products = list(LOOKALIKES["products"](8, np.random.default_rng(2)))
    noisy = [Views(np.asarray(TRANSFORMS[copy](each, np.random.default_rng(0)).open())) for each in products]
    plain = [Views(np.asarray(each)) for each in products]
    crowd = Around(0.92, 0.94, 0.95)
    for number, other in product(range(len(products)), repeat=2):
        accepted = judge(plain[number], noisy[other], np.eye(2, 3), crowd) >= SETTINGS.accepts_from
        assert accepted == (number == other), (number, other)


def test_a_second_look_in_a_crowd_tries_the_alignment_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small part, few local features are left, and at twice the size they may be those of something else."""
    guesses: list[np.ndarray] = []

    def watched(*arguments: Any, **options: Any) -> Evidence:
        guesses.append(arguments[2])
        found.append(compare(*arguments, **options))
        return found[-1]

    found: list[Evidence] = []
    monkeypatch.setattr("dedup.tile_looks.compare", watched)
    monkeypatch.setattr("dedup.tile_looks._closer", lambda *_: None)
    copy = TRANSFORMS["crop_50"](photograph("coffee"), np.random.default_rng(0)).open()
    by_tiles(Views(np.asarray(photograph("coffee"))), Views(np.asarray(copy)), np.eye(2, 3), Around(0.9, 0.9, 0.0))
    assert len(guesses) == 2
    assert found[0].laid is not None
    np.testing.assert_array_equal(guesses[1], found[0].laid.onto)


@pytest.mark.parametrize(
    ("inliers", "surely", "closer", "told"),
    [
        (2, 0.8, 0.1, UNLIKELY),
        (2, 0.95, 0.1, None),  # the alignment may be what is wrong
        (3, 0.95, 0.1, UNLIKELY),  # not this one
        (2, 0.95, 0.39, 0.39),
        (2, 0.95, 0.45, None),
        (3, 0.95, 0.45, 0.45),
        (3, 0.95, 0.55, None),
    ],
)
def test_a_second_look_says_no_sooner_where_local_features_made_the_alignment(
    inliers: int, surely: float, closer: float, told: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (Views(np.asarray(photograph(name))) for name in ("coffee", "chelsea"))
    glance = replace(whole_on_whole(a.at(GLANCE_SIDE), b.at(GLANCE_SIDE)), inliers=inliers)
    monkeypatch.setattr("dedup.tile_looks.uneven", lambda *_: False)
    monkeypatch.setattr("dedup.tile_looks.compare_as_laid", lambda *_, **__: replace(NO_EVIDENCE, inliers=inliers))
    monkeypatch.setattr("dedup.tile_looks.probability_of", lambda found, _: surely if found is glance else closer)
    found = _closer(a, b, glance, 0.9)
    assert (found and found.probability) == told


@pytest.mark.parametrize("roughly", [True, False])
def test_of_two_alignments_only_what_is_not_roughly_hopeless_is_moved(
    roughly: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four local features say rightly that a crop lies in a corner, thumbnails that it is the whole."""
    moved: list[Evidence] = []

    def watched(found: Evidence, *_: object) -> Evidence:
        moved.append(found)
        return found

    image = photograph("coffee")
    corner = image.crop((0, 0, image.width // 2, image.height // 2))
    a, b = (picture(np.asarray(each), GLANCE_SIDE) for each in (image, corner))
    monkeypatch.setattr("dedup.evidence.align", lambda *_, **__: (4, np.array([[2.0, 0, 0.5], [0, 2.0, 0.5]])))
    monkeypatch.setattr("dedup.evidence._refined", watched)
    doubts = Doubts(roughly=lambda found: found.correlation < 0.5) if roughly else NO_DOUBTS
    assert compare(a, b, doubts=doubts).correlation > 0.5
    assert [found.correlation > 0.5 for found in moved] == ([True] if roughly else [True, False])


def skirt(seed: int, checked: bool) -> UInt8Array:
    """A dark skirt on a bright ground, plain, or with a fine check."""
    ground = 170 + np.random.default_rng(seed).normal(0, 8, (300, 300))
    cloth = np.full((300, 300), 22.0)
    if checked:
        cloth[::8] = cloth[:, ::8] = 90
    outline = np.array([[90, 50], [210, 50], [245, 250], [55, 250]], np.int32)
    inside = cv2.fillPoly(np.zeros((300, 300), np.uint8), [outline], 255, cv2.LINE_AA) / 255
    return np.repeat((ground * (1 - inside) + cloth * inside).astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("seed", range(3))
def test_one_outline_is_not_one_picture_if_it_holds_another_thing(seed: int) -> None:
    plain, checked = Views(skirt(seed, checked=False)), Views(skirt(seed + 10, checked=True))
    assert whole_on_whole(plain.at(GLANCE_SIDE), checked.at(GLANCE_SIDE)).agreeing == 1
    assert judge(plain, checked, np.eye(2, 3)) <= UNLIKELY
    noisier = skirt(seed + 10, checked=True) + np.random.default_rng(seed).normal(0, 8, (300, 300, 1))
    assert judge(checked, Views(np.clip(noisier, 0, 255).astype(np.uint8)), np.eye(2, 3)) > SETTINGS.accepts_from


def test_detail_that_only_one_of_two_pictures_has_makes_them_lopsided() -> None:
    rng = np.random.default_rng(0)
    smooth = np.full((128, 128), 90, np.uint8)
    busy = np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)
    half = np.where(np.arange(128) < 64, busy, smooth)
    pictures = {name: picture(grey, GLANCE_SIDE) for name, grey in (("none", smooth), ("all", busy), ("half", half))}

    def lopsided(one: str, other: str) -> float:
        return whole_on_whole(pictures[one], pictures[other]).lopsided()

    assert lopsided("all", "all") == lopsided("none", "none") == lopsided("half", "half") == 0
    assert lopsided("all", "none") == lopsided("none", "all") == 1
    assert lopsided("half", "none") == pytest.approx(0.5, abs=0.1)
    assert NO_EVIDENCE.lopsided() == 0


@pytest.mark.parametrize(("name", "beside"), [("crop_50", "part"), ("blur", "uneven")])
def test_what_half_the_size_shows_little_of_gets_a_second_look(
    name: str, beside: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = photograph("coffee")
    views = [Views(np.asarray(image)) for image in (one, TRANSFORMS[name](one, np.random.default_rng(0)).open())]
    assert uneven(*views) == (beside == "uneven")
    sides: list[int] = []

    def unsure(a: Picture, b: Picture, *others: Any, **named: Any) -> Evidence:
        sides.append(a.side)
        return compare(a, b, *others, **named)

    monkeypatch.setattr("dedup.tile_looks.compare", unsure)
    monkeypatch.setattr("dedup.tile_looks._as_laid", lambda *_: None)
    for probability, looks in ((0.03, [GLANCE_SIDE, SIDE]), (0.005, [GLANCE_SIDE])):
        monkeypatch.setattr("dedup.tile_looks.probability_of", lambda *_, said=probability: said)
        sides.clear()
        by_tiles(*views, np.eye(2, 3), ALONE)
        assert sides[:2] == looks
    monkeypatch.setattr("dedup.tile_looks.probability_of", lambda *_: 0.03)
    sides.clear()
    by_tiles(views[0], views[0], np.eye(2, 3), ALONE)
    assert sides == [GLANCE_SIDE]


@pytest.mark.parametrize(("inliers", "looks"), [(9, [GLANCE_SIDE, SIDE]), (10, [GLANCE_SIDE])])
def test_no_first_look_says_yes_by_few_local_features(
    inliers: int, looks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []

    def alike(*pictures: Any, **others: Any) -> Evidence:  # noqa: ARG001
        sides.append(pictures[0].side)
        return replace(NO_EVIDENCE, inliers=inliers, covered=1.0, covered_other=1.0)

    monkeypatch.setattr("dedup.tile_looks.compare", alike)
    monkeypatch.setattr("dedup.tile_looks._as_laid", lambda *_: None)
    monkeypatch.setattr("dedup.tile_looks.probability_of", lambda *_: 0.99)
    by_tiles(*(Views(np.asarray(photograph(name))) for name in ("coffee", "chelsea")), np.eye(2, 3), ALONE)
    assert sides == looks
