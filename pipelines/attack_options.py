"""What the command line may change of an attack's profile. Apart, because what attacks needs seconds to import."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter


@dataclass(frozen=True)
class AttackOptions:
    """What a profile may be changed by; what is not given stays as the profile has it."""

    side: int | None = None
    """Pixels a side that models see, 8 to 64."""

    colour: bool | None = None
    """In colour; else grey."""

    levels: Annotated[tuple[int, ...] | None, Parameter(negative=())] = None
    """How often canaries occur; given once for each level."""

    exact: int | None = None
    """Canaries at each level whose copies are byte-identical."""

    near: int | None = None
    """Canaries at each level whose copies are near ones."""

    singles: int | None = None
    """Pictures that occur once."""

    seeds: int | None = None
    """How often everything is drawn and trained anew."""

    arms: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None
    """duplicated, deduplicated, deduplicated+refill, oracle, random-drop; given once for each arm."""

    model: str | None = None
    """mlp or unet."""

    width: int | None = None
    """Hidden units of the MLP, channels of the U-Net's first level."""

    depth: int | None = None
    """Blocks of the MLP, levels of the U-Net."""

    steps: int | None = None
    """Training steps."""

    batch: int | None = None
    """Images a training step."""

    generations: int | None = None
    """Images drawn from each model."""

    attack: Annotated[tuple[str, ...] | None, Parameter(negative=())] = None
    """Which generations count as extracted: gap, l2, tiled_l2, template, adaptive_image or adaptive_generation; by
    which attacks membership is inferred: loss_threshold, lira; and generate_and_filter, for models with captions
    unique. Given once for each; of a kind that is not named the profile's are taken. Tiles and templates are compared
    with every picture."""

    captions: str | None = None
    """What models are told of a picture: none, shared, own or unique."""

    gan_seeds: int | None = None
    """Of how many seeds a GAN is trained too."""

    closed_form: bool | None = None
    """Check the scoring with the optimal denoiser."""

    unconditional_seeds: int | None = None
    """Where captions are told: of how many seeds models without captions are trained too."""

    shadows: int | None = None
    """Shadow models of each seed, for the attack lira."""

    prompts: int | None = None
    """Captions answered many times (the attack generate_and_filter); needs captions unique."""
