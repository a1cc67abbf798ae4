"""All settings of an attack, and the profiles that name useful ones."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from dedup.attack.attacks import check_attacks
from dedup.attack.cliques import CliqueSettings
from dedup.attack.denoisers import NetworkSettings, check_shape
from dedup.attack.edm import SamplerSettings
from dedup.attack.extraction import MatchSettings
from dedup.attack.gan import GanSettings
from dedup.attack.membership import MIN_SHADOWS, NEEDS_SHADOWS, MembershipSettings
from dedup.attack.pool import ViewSettings
from dedup.attack.sets import ARMS, CAPTIONS, PlanSettings
from dedup.attack.training import TrainSettings
from dedup.errors import ConfigError


@dataclass(frozen=True)
class AttackSettings:
    """What an attack measures and how. Raises ConfigError for names that are not known and values that cannot be."""

    view: ViewSettings = field(default_factory=ViewSettings)
    plan: PlanSettings = field(default_factory=PlanSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    match: MatchSettings = field(default_factory=MatchSettings)
    gan: GanSettings = field(default_factory=GanSettings)
    membership: MembershipSettings = field(default_factory=MembershipSettings)
    cliques: CliqueSettings = field(default_factory=CliqueSettings)

    seeds: int = 3
    """How often everything is drawn and trained anew."""

    arms: tuple[str, ...] = tuple(ARMS)
    """Which arms are trained."""

    attack: str = "gap"
    """Which generations count as extracted (extraction.ATTACKS)."""

    inference: tuple[str, ...] = ("loss_threshold",)
    """By which attacks membership is inferred (membership.ATTACKS)."""

    generations: int = 4000
    """Images drawn from each model."""

    captions: str = "none"
    """What a model is told of a picture: none, shared, own or unique."""

    gan_seeds: int = 1
    """Of so many seeds a GAN is trained on the set before cleaning too."""

    closed_form: bool = True
    """Check the whole path with the optimal denoiser, which emits every image in proportion to its copies."""

    unconditional_seeds: int = 0
    """Where captions are told: of so many seeds models that are told none are trained, too, on the arms duplicated and
    deduplicated. Published curves are of such models."""

    shadows: int = 16
    """Models of each seed that are trained on random halves of its pictures, where lira is among `inference`."""

    prompts: int = 0
    """Canaries whose captions are answered many times (generate and filter); needs captions=unique. 0 leaves it out."""

    prompt_generations: int = 40
    """Generations of each prompt."""

    def __post_init__(self) -> None:
        check_attacks([self.attack], "extraction")
        check_attacks(self.inference, "membership")
        if unknown := sorted(set(self.arms) - set(ARMS)):
            raise ConfigError(f"unknown arms {', '.join(unknown)}: known are {', '.join(ARMS)}")
        if not self.arms or len(set(self.arms)) < len(self.arms):
            raise ConfigError(f"arms={', '.join(self.arms) or 'none'}: name one at least, and each only once")
        if self.captions not in CAPTIONS:
            raise ConfigError(f"captions={self.captions}: known are {', '.join(CAPTIONS)}")
        # Two generations: a distance between distributions needs them.
        for name, least in (("seeds", 1), ("generations", 2), ("prompt_generations", 1), ("prompts", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name}={getattr(self, name)}: must be at least {least}")
        for name in ("gan_seeds", "unconditional_seeds"):
            if not 0 <= getattr(self, name) <= self.seeds:
                raise ConfigError(f"{name}={getattr(self, name)}: must be 0 to seeds={self.seeds}")
        shadows = 2 * MIN_SHADOWS + 2  # of which one is attacked with the help of the others
        if self.shadows < shadows or self.shadows % 2:
            raise ConfigError(f"shadows={self.shadows}: must be an even number from {shadows}; half see each picture")
        if self.unconditional_seeds and self.captions == "none":
            raise ConfigError(f"unconditional_seeds={self.unconditional_seeds}: without captions every model is")
        if self.prompts and self.captions != "unique":
            raise ConfigError(f"prompts={self.prompts} needs captions=unique, not {self.captions}")
        if self.prompts and self.prompt_generations < self.cliques.min_clique:
            raise ConfigError(
                f"prompt_generations={self.prompt_generations}: no clique of min_clique={self.cliques.min_clique} can "
                "be among so few"
            )
        check_shape(self.view.shape, self.network)

    @property
    def shadow_models(self) -> int:
        """Shadow models of each seed; 0 where no attack asks for them."""
        return self.shadows if set(self.inference) & set(NEEDS_SHADOWS) else 0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))


PROFILES: dict[str, AttackSettings] = {
    "smoke": AttackSettings(
        view=ViewSettings(side=8),
        plan=PlanSettings(levels=(1, 8, 32), exact=2, near=1, singles=100),
        network=NetworkSettings(width=256, depth=2),
        train=TrainSettings(steps=600, batch=64, learning_rate=4e-3, ema=0.99, checkpoints=2),
        sampler=SamplerSettings(sampler_steps=10, sample_batch=200),
        gan=GanSettings(gan_steps=300, gan_width=64),
        seeds=1,
        generations=400,
    ),
    "standard": AttackSettings(
        view=ViewSettings(min_distance=0.08),
        network=NetworkSettings(width=384, depth=3),
        train=TrainSettings(steps=2400),
        sampler=SamplerSettings(sampler_steps=10),
        seeds=5,
    ),
    "full": AttackSettings(
        view=ViewSettings(side=32, colour=True),
        plan=PlanSettings(exact=16, near=8, singles=4000),
        network=NetworkSettings(model="unet", width=128, depth=3),
        train=TrainSettings(steps=40_000, batch=256, learning_rate=2e-4, ema=0.999, noise_mean=-1.2, checkpoints=4),
        gan=GanSettings(gan_steps=40_000, gan_width=1024),
        seeds=10,
        generations=65_536,
        inference=("loss_threshold", "lira"),
        captions="unique",
        unconditional_seeds=3,
        gan_seeds=3,
        prompts=64,
    ),
}
"""smoke shows in less than a minute that everything works; standard gives intervals on two cores; full is for GPUs."""


def profile_named(name: str) -> AttackSettings:
    """The entry of PROFILES. Raises ConfigError for a name that is not there."""
    if name not in PROFILES:
        raise ConfigError(f"profile={name}: known are {', '.join(PROFILES)}")
    return PROFILES[name]


def override(settings: AttackSettings, values: Mapping[str, Any]) -> AttackSettings:
    """`settings` with the fields named in `values` changed, wherever in its parts they lie; None changes nothing.

    Raises ConfigError as the parts do.
    """
    wanted = {name: value for name, value in values.items() if value is not None}
    parts: dict[str, Any] = {}
    for part in dataclasses.fields(settings):
        content = getattr(settings, part.name)
        if dataclasses.is_dataclass(content) and not isinstance(content, type):
            inside = {f.name: wanted.pop(f.name) for f in dataclasses.fields(content) if f.name in wanted}
            if inside:
                parts[part.name] = replace(content, **inside)
    return replace(settings, **parts, **wanted)
