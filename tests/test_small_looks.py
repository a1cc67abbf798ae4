"""What is asked of a pair of small images, and what decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dedup import looks
from dedup.looks import ALIKE, CONTESTED_OF_SMALL, LEAST_ACCEPTED, SURE_OF_SMALL, judge
from dedup.small_evidence import NO_SMALL_EVIDENCE, SmallEvidence, compare_small, small_view
from dedup.tile_looks import ALONE, UNLIKELY, Around
from dedup.verification_model import OPERATING_POINTS
from dedup.views import Views
from tests.verification import photograph

Judged = Callable[[float, float, Around], tuple[float, bool]]
WHOLE = np.eye(2, 3)
UNIFORM = Around(0.95, 0.95, ALIKE)
AS_LARGE = 0.2  # what the evidence of larger pictures says here: 9 times these odds are 0.69


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Judged:
    """Judges two small pictures of which small evidence says that probability, and that so much is contested; gives the
    pair's probability, and whether the evidence of larger pictures was asked."""
    picture = np.asarray(photograph("chelsea").resize((48, 48)))
    pair = Views(picture), Views(picture[:, ::-1])

    def of(probability: float, contested: float, around: Around) -> tuple[float, bool]:
        asked: list[bool] = []

        def compared(*given: Any) -> SmallEvidence:
            counts = given[3] is not None and given[3](NO_SMALL_EVIDENCE)
            return replace(NO_SMALL_EVIDENCE, contested=contested if counts else 0.0)

        def large(*_: Any) -> float:
            asked.append(True)
            return AS_LARGE

        monkeypatch.setattr(looks, "compare_small", compared)
        monkeypatch.setattr(looks, "_of_small", lambda _: probability)
        monkeypatch.setattr(looks, "_judge_large", large)
        return judge(*pair, WHOLE, around), bool(asked)

    return of


def test_alone_small_evidence_decides(judged: Judged) -> None:
    for probability in (0.05, 0.5, 0.95):
        assert judged(probability, 1.0, ALONE) == (probability, False)


def test_what_no_strictness_accepts_is_asked_no_more(judged: Judged) -> None:
    assert min(point.min_probability for point in OPERATING_POINTS.values()) == LEAST_ACCEPTED
    assert judged(LEAST_ACCEPTED - 0.01, 0.0, UNIFORM) == (UNLIKELY, False)
    assert judged(UNLIKELY / 2, 0.0, UNIFORM) == (UNLIKELY / 2, False)
    assert judged(LEAST_ACCEPTED, 0.0, UNIFORM) == (LEAST_ACCEPTED, True)


def test_where_all_is_alike_larger_evidence_is_asked_unless_small_is_sure_and_hardly_contested(judged: Judged) -> None:
    assert judged(SURE_OF_SMALL, CONTESTED_OF_SMALL, UNIFORM) == (SURE_OF_SMALL, False)
    for probability, contested in ((SURE_OF_SMALL, CONTESTED_OF_SMALL + 0.01), (SURE_OF_SMALL - 0.01, 0.0)):
        found, asked = judged(probability, contested, UNIFORM)
        assert asked
        assert found == pytest.approx(0.692, abs=0.001)


def test_what_is_contested_is_asked_where_that_counts() -> None:
    a, b = (small_view(np.asarray(photograph(name).resize((48, 48)))) for name in ("chelsea", "coffee"))
    asked = compare_small(a, b, WHOLE, lambda _: True)
    assert asked.contested > 0.1
    for contest in (None, lambda _: False):
        left = compare_small(a, b, WHOLE, contest)
        assert left.contested == 0
        assert left.directions == asked.directions
