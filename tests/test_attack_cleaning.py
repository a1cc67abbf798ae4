"""What cleaning missed and removed wrongly, by hand."""

from __future__ import annotations

from dedup.attack.cleaning import cleaning_errors, cleaning_line
from dedup.attack.sets import PlantedSample
from tests.attack_sets import PLAN, seed_set


def test_ideal_cleaning_errs_nowhere() -> None:
    errors = cleaning_errors(seed_set())
    assert errors == {
        "seed": 0,
        "planted": {"exact": 4, "near": 2},
        "missed": {"exact": 0, "near": 0},
        "missed_by_transform": {},
        "pictures": 4 + 5,
        "lost": 0,
        "refill_missing": 0,
    }


def test_copies_that_stayed_and_pictures_that_went_are_counted() -> None:
    def keep(sample: PlantedSample) -> bool:
        """All of the near canary, and of the exact ones the second copy alone; no single at all."""
        if sample.kind == "single":
            return False
        return sample.near or sample.copies == 1 or sample.picture.key.endswith("-0001")

    planted = seed_set(keep=keep)
    errors = cleaning_errors(planted)
    assert errors["missed"] == {"exact": 0, "near": 2}
    assert sum(errors["missed_by_transform"].values()) == 2
    assert "exact" not in errors["missed_by_transform"]
    assert errors["lost"] == PLAN.singles == 4
    assert errors["refill_missing"] == 8 - 6  # all singles and four exact copies went, and there are six fresh pictures
    shown = cleaning_line([errors, cleaning_errors(seed_set(seed=1))])
    assert shown.startswith("cleaning missed 0 of 8 exact and 2 of 4 near copies (")
    assert shown.endswith("and removed 4 of 18 pictures wrongly")


def test_a_copy_that_stands_for_its_group_is_not_missed() -> None:
    planted = seed_set(keep=lambda sample: sample.copies == 1 or not sample.picture.key.endswith("-0000"))
    errors = cleaning_errors(planted)
    assert errors["missed"] == {"exact": 2, "near": 1}
    assert errors["lost"] == 0
