"""Profiles of the attack, and what changes them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dedup.attack.forecast import hours
from dedup.attack.profiles import PROFILES, AttackSettings, override, profile_named
from dedup.attack.sets import ARMS
from dedup.errors import ConfigError
from pipelines.attack_options import AttackOptions


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_all_arms_and_is_plain_json(name: str) -> None:
    settings = profile_named(name)
    assert settings.arms == tuple(ARMS)
    assert json.loads(json.dumps(settings.to_json())) == settings.to_json()


def test_options_reach_the_part_that_has_the_field_and_leave_the_rest() -> None:
    before = PROFILES["standard"]
    after = override(before, {"side": 16, "levels": (1, 4), "steps": 7, "seeds": 2, "colour": None})
    assert (after.view.side, after.plan.levels, after.train.steps, after.seeds) == (16, (1, 4), 7, 2)
    assert after.view.colour is before.view.colour
    assert override(before, {}) == before
    assert override(before, dataclasses.asdict(AttackOptions())) == before


def test_every_option_is_a_setting() -> None:
    values: dict[str, Any] = {
        "side": 16, "colour": True, "levels": (1, 2), "exact": 2, "near": 2, "singles": 5, "seeds": 4,
        "arms": ("oracle",), "model": "unet", "width": 64, "depth": 2, "steps": 40, "batch": 9, "generations": 11,
        "attack": "l2", "captions": "unique", "gan_seeds": 2, "closed_form": False, "shadows": 8, "prompts": 3,
    }  # fmt: skip
    assert values.keys() == {field.name for field in dataclasses.fields(AttackOptions)}
    text = json.dumps(override(PROFILES["smoke"], values).to_json())
    for name, value in values.items():
        assert f'"{name}": {json.dumps(value)}' in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attack": "magic"}, "unknown attack 'magic'.*gap"),
        ({"model": "magic"}, "model=magic.*mlp, unet"),
        ({"arms": ("oracle", "magic")}, "unknown arms magic.*random-drop"),
        ({"captions": "magic"}, "captions=magic.*unique"),
        ({"seeds": 0, "gan_seeds": 0}, "seeds=0"),
        ({"gan_seeds": 9}, "gan_seeds=9"),
        ({"generations": 1}, "generations=1: must be at least 2"),
        ({"prompts": -1}, "prompts=-1: must be at least 0"),
        ({"shadows": 7}, "shadows=7"),
        ({"shadows": 2}, "even number from 6"),
        ({"prompts": 3}, "prompts=3 needs captions=unique"),
        ({"model": "unet", "depth": 4, "side": 12, "width": 32}, "multiple of 8"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        override(PROFILES["standard"], change)


def test_an_unknown_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match="profile=huge: known are smoke, standard, full"):
        profile_named("huge")


def test_the_forecast_grows_with_the_work() -> None:
    small: AttackSettings = override(PROFILES["smoke"], {"steps": 20, "generations": 20})
    assert 0 < hours(small, "cpu") < hours(override(small, {"seeds": 500}), "cpu")
