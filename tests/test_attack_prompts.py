"""Generate and filter on models of which it is known what they have memorized."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dedup.attack.attacks import ATTACKS, PROMPTS
from dedup.attack.profiles import PROFILES, AttackSettings, override
from dedup.attack.prompts import answer_prompts, compare_answers
from dedup.attack.reference import Reference
from dedup.errors import ConfigError
from pipelines.attack import settings_of
from pipelines.attack_options import AttackOptions
from pipelines.attack_summary import _prompts
from tests.attack_makers import Images, group_table, near_to, noise

# Groups 0 to 3: canaries of 32, 8, 8 (near) and 1 copies; 4 to 9: singles; 10 to 29: held out.
KINDS = [*["canary"] * 4, *["single"] * 6, *["held_out"] * 20]
COPIES = [32, 8, 8, 1, *[1] * 6, *[0] * 20]
REFERENCE = Reference(noise(30, 0), np.arange(30), group_table(KINDS, COPIES, [n == 2 for n in range(30)]))
SETTINGS: AttackSettings = override(
    PROFILES["smoke"], {"captions": "unique", "prompts": 3, "prompt_generations": 8, "min_clique": 4}
)


class Memory:
    """A model that answers some captions with some picture, and all others with something new each time."""

    def __init__(self, answers: dict[int, int]) -> None:
        self.answers = answers

    def sample(self, count: int, seed: int, labels: npt.NDArray[np.int64] | None = None) -> Images:
        assert labels is not None
        made = noise(count, seed)
        for row, label in enumerate(labels.tolist()):
            if label in self.answers:
                picture = self.answers[label]
                made[row] = near_to(REFERENCE.images[picture : picture + 1], 0.02, seed + row)[0]
        return made


def asked(answers: dict[int, int], settings: AttackSettings = SETTINGS) -> dict[str, Any]:
    return answer_prompts(Memory(answers), REFERENCE, settings, seed=1)


def test_what_is_memorized_is_flagged_and_confirmed_and_nothing_else() -> None:
    answers = asked({0: 0, 2: 2, 3: 3})
    assert [(row["group"], row["copies"], row["near"]) for row in answers["prompts"]] == [
        (0, 32, False),
        (1, 8, False),
        (2, 8, True),
    ]  # those of most copies; the one of 3 is not asked for
    assert [(row["flagged"], row["confirmed"]) for row in answers["prompts"]] == [
        (True, True),
        (False, False),
        (True, True),
    ]
    assert [row["clique"] for row in answers["prompts"][::2]] == [8, 8]
    assert (answers["held_out"], answers["held_out_flagged"]) == (20, 1)  # where the threshold is set
    assert answers["max_tiled_l2"] > 0.1  # above the noise of copies


def test_answers_that_repeat_another_picture_are_not_confirmed() -> None:
    (first, *_) = asked({0: 5})["prompts"]
    assert (first["flagged"], first["confirmed"]) == (True, False)


def test_the_threshold_is_set_where_captions_never_seen_are_hardly_flagged() -> None:
    """A model that answers everything with one picture: no threshold tells memory, so nothing is flagged."""
    answers = asked(dict.fromkeys(range(30), 5))
    assert answers["held_out_flagged"] <= 1
    assert sum(row["flagged"] for row in answers["prompts"]) <= 1


def entry(leaked: list[int], seed: int = 0, held_out_flagged: int = 0) -> dict[str, Any]:
    rows = [
        {"group": n, "copies": 8 if n else 32, "near": n == 2, "flagged": n in leaked, "confirmed": n in leaked}
        for n in range(3)
    ]
    return {"seed": seed, "prompts": {"held_out": 20, "held_out_flagged": held_out_flagged, "prompts": rows}}


def test_arms_are_compared_caption_by_caption() -> None:
    before = [entry([0, 1, 2], seed) for seed in range(3)]
    after = [entry([1] if seed == 2 else [], seed, held_out_flagged=1) for seed in range(3)]
    after[0]["prompts"]["prompts"][0]["flagged"] = True  # but not confirmed
    base, row = compare_answers({"duplicated": before, "deduplicated": after, "oracle": [{"seed": 0}]})
    assert (base["arm"], base["captions"], base["flagged"], base["leaked"], base["rate"]) == ("duplicated", 9, 9, 9, 1)
    assert "difference" not in base
    assert (row["arm"], row["captions"], row["flagged"], row["leaked"]) == ("deduplicated", 9, 2, 1)
    assert (row["held_out"], row["held_out_flagged"]) == (60, 3)
    assert row["difference"] == pytest.approx(-8 / 9)
    assert -1 <= row["difference_low"] < -8 / 9 < row["difference_high"] < 0
    assert row["by_copies"] == [
        {"near": False, "k": 8, "captions": 3, "flagged": 1, "leaked": 1},
        {"near": False, "k": 32, "captions": 3, "flagged": 1, "leaked": 0},
        {"near": True, "k": 8, "captions": 3, "flagged": 0, "leaked": 0},
    ]
    before_said, said = _prompts([base, row])
    assert before_said == (
        "generate and filter, duplicated: 9 of 9 captions give their picture away; "
        "threshold set where 0 of 60 captions never seen are flagged"
    )
    assert "1 of 9 captions give their picture away; 1 more repeat another one; threshold set where 3 of 60 " in said
    assert "difference -89 points, 95 % interval " in said


def test_it_is_an_attack_like_others() -> None:
    assert ATTACKS["generate_and_filter"] == "prompts"
    named = ("generate_and_filter",)
    assert settings_of("smoke", AttackOptions(attack=named, captions="unique")).prompts == PROMPTS
    assert settings_of("smoke", AttackOptions(attack=named, captions="unique", prompts=5)).prompts == 5
    assert settings_of("full", AttackOptions(attack=named)) == PROFILES["full"]
    with pytest.raises(ConfigError, match=f"prompts={PROMPTS} needs captions=unique, not none"):
        settings_of("smoke", AttackOptions(attack=named))


def test_too_few_answers_for_a_clique_are_refused() -> None:
    with pytest.raises(ConfigError, match="prompt_generations=3: no clique of min_clique=4"):
        replace(SETTINGS, prompt_generations=3)
