"""Profiles of the attack, and what changes them."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from dedup.attack import forecast
from dedup.attack.attacks import ATTACKS
from dedup.attack.forecast import hours
from dedup.attack.membership import MIN_NON_MEMBERS
from dedup.attack.profiles import PROFILES, AttackSettings, override, profile_named
from dedup.attack.sets import ARMS
from dedup.errors import ConfigError
from pipelines.attack import settings_of
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
        "attack": ("l2", "lira"), "captions": "unique", "gan_seeds": 2, "closed_form": False, "shadows": 8,
        "prompts": 3, "unconditional_seeds": 1,
    }  # fmt: skip
    assert values.keys() == {field.name for field in dataclasses.fields(AttackOptions)}
    text = json.dumps(settings_of("smoke", AttackOptions(**values)).to_json())
    values |= {"attack": "l2", "inference": ("lira",)}
    for name, value in values.items():
        assert f'"{name}": {json.dumps(value)}' in text


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attack": "magic"}, "unknown extraction attack 'magic'.*gap"),
        ({"model": "magic"}, "model=magic.*mlp, unet"),
        ({"arms": ("oracle", "magic")}, "unknown arms magic.*random-drop"),
        ({"captions": "magic"}, "captions=magic.*unique"),
        ({"seeds": 0, "gan_seeds": 0}, "seeds=0"),
        ({"gan_seeds": 9}, "gan_seeds=9"),
        ({"generations": 1}, "generations=1: must be at least 2"),
        ({"prompts": -1}, "prompts=-1: must be at least 0"),
        ({"shadows": 7}, "shadows=7"),
        ({"shadows": 2}, "even number from 6"),
        ({"attack": "lira"}, "unknown extraction attack 'lira'.*gap"),
        ({"inference": ("gap",)}, "unknown membership attack 'gap'.*lira"),
        ({"arms": ("oracle", "oracle")}, "arms=oracle, oracle.*only once"),
        ({"arms": ()}, "name one at least"),
        ({"unconditional_seeds": 1}, "without captions every model is"),
        ({"captions": "own", "unconditional_seeds": 9}, "unconditional_seeds=9"),
        ({"drop_labels": 0.0}, "drop_labels=0"),
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


def test_the_forecast_is_positive_on_this_machine() -> None:
    small: AttackSettings = override(PROFILES["smoke"], {"steps": 20, "generations": 20, "batch": 8, "gan_steps": 10})
    assert 0 < hours(small, "cpu") < 1
    assert hours(small, "auto") > 0


def test_the_forecast_counts_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a second for each measurement: three training steps, a batch of generations, three steps of the GAN."""
    monkeypatch.setattr(forecast, "_seconds", lambda work, device: 1.0)  # noqa: ARG005
    one: AttackSettings = override(
        PROFILES["smoke"],
        {
            "steps": 300, "checkpoints": 1, "generations": 640, "batch": 64, "gan_steps": 30, "arms": ("oracle",),
            "singles": 2, "levels": (1,), "exact": 1, "near": 0, "sigmas": (1.0,), "draws": 76,
        },
    )  # fmt: skip
    assert one.plan.needed == 4
    losses = 4 * 76 / (64 * 19)  # of 19 evaluations for each generation
    model, gan = 100 + 10 + losses, 10
    assert 3600 * hours(one, "cpu") == pytest.approx(model + gan)
    more = override(
        one,
        {"seeds": 3, "gan_seeds": 2, "inference": ("lira",), "shadows": 6, "captions": "own", "unconditional_seeds": 2},
    )
    answered = override(one, {"captions": "unique", "prompts": 5, "prompt_generations": 64})
    # There is one canary, and its held-out twin is asked, too.
    assert 3600 * hours(answered, "cpu") == pytest.approx(model + 2 + gan)
    shadow = 100 + losses
    assert 3600 * hours(more, "cpu") == pytest.approx(3 * model + 2 * 2 * model + 3 * 6 * shadow + 2 * gan)


def test_attacks_named_on_the_command_line_replace_those_of_their_kind_alone() -> None:
    full = PROFILES["full"]
    assert set(ATTACKS.values()) == {"extraction", "membership", "prompts"}
    assert settings_of("full", AttackOptions(attack=("l2",))) == override(full, {"attack": "l2"})
    only = settings_of("full", AttackOptions(attack=("loss_threshold",)))
    assert (only.attack, only.inference, only.shadow_models) == (full.attack, ("loss_threshold",), 0)
    both = settings_of("smoke", AttackOptions(attack=("lira", "template", "loss_threshold"), shadows=6))
    assert (both.attack, both.inference, both.shadow_models) == ("template", ("lira", "loss_threshold"), 6)


def test_the_full_profile_has_models_without_captions_to_stand_beside_published_ones() -> None:
    full = PROFILES["full"]
    assert full.captions != "none"
    assert full.unconditional_seeds >= 3
    assert full.plan.redundant >= MIN_NON_MEMBERS  # which refill's pictures are, for most arms
