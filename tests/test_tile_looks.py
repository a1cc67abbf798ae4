"""Second looks in crowds: they begin where the first one ended, and are not the last word against a pair."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from dedup.evidence import Evidence, compare, compare_as_laid
from dedup.local_features import GLANCE_SIDE, SIDE
from dedup.looks import judge
from dedup.tile_looks import UNLIKELY, UNSURE_IN_A_CROWD, Around, Told, by_tiles
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from dedup.views import Views
from pipelines.lookalikes import LOOKALIKES
from tests.verification import photograph

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
