"""Nearest-neighbour extraction: which generations are copies of an image of the reference.

    matches = match(generations, reference, settings)     one row per generation
    extracted = extract(matches, "gap", settings)         (G,) bool: which count as a copy
    copied = copied_group(matches, "gap")                 (G,) int64: and of which group, if they do

Everything is asked of a generation's nearest group by the attack's own distance: l2, tiled or template, which need not
name the same one. The distance to a group is the least over its variants, and a gap is one between groups, never
between two variants of one group: else pictures planted twice would hide each other and cleaning a set would seem to
make things worse. To add an attack, add an entry to `ATTACKS`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from dedup.attack.distances import ROWS, contrast, l2, nearest_groups
from dedup.attack.reference import Reference
from dedup.attack.tile_search import nearest_by_tiles
from dedup.errors import ConfigError

Floats = npt.NDArray[np.float32]

MATCH_SCHEMA = pa.schema(
    [
        pa.field("generation", pa.int64(), nullable=False),  # its number, in the order given
        pa.field("group", pa.int64(), nullable=False),  # the nearest one by l2
        pa.field("variant", pa.int64(), nullable=False),  # the nearest of its images, a row of reference.images
        pa.field("distance", pa.float32(), nullable=False),  # l2 to that image; as all distances, lower is closer
        pa.field("second_group", pa.int64(), nullable=False),
        pa.field("second_distance", pa.float32(), nullable=False),
        pa.field("gap", pa.float32(), nullable=False),  # distance / second_distance, 0 to 1
        pa.field("adaptive_image", pa.float32(), nullable=False),  # R by the neighbours of the reference's image
        pa.field("adaptive_generation", pa.float32(), nullable=False),  # R by the neighbours of the generation
        pa.field("tiled", pa.float32(), nullable=False),  # greatest of the 16 tiles' l2, least over all images
        pa.field("tiled_group", pa.int64(), nullable=False),  # the nearest one by that
        pa.field("tiled_variant", pa.int64(), nullable=False),
        pa.field("template", pa.float32(), nullable=False),  # l2 that most tiles keep to, least over all images
        pa.field("template_group", pa.int64(), nullable=False),  # by that; `group` where template is infinite
        pa.field("template_variant", pa.int64(), nullable=False),
        pa.field("contrast", pa.float32(), nullable=False),  # of the generation; near 0 for flat ones
    ]
)


@dataclass(frozen=True)
class MatchSettings:
    """When a generation counts as a copy. Experiments tighten the threshold of their attack to the set, see
    thresholds.tightened. Raises ConfigError for values that make no sense."""

    max_gap: float = 1 / 3
    """Attack gap: below this ratio of the distances to the nearest and to the second-nearest group."""

    max_l2: float = 0.15
    """Attack l2: at most this distance, pixels in [0, 1]."""

    max_tiled_l2: float = 0.15
    """Attack tiled_l2: at most this distance in each of the 16 tiles."""

    max_template_l2: float = 0.1
    """Attack template: at most this distance in each of the tiles that must agree."""

    template_share: float = 0.75
    """Attack template: the share of the tiles that must agree, flat ones not counted; the others may hold anything."""

    max_adaptive: float = 1.0
    """Attacks adaptive_image and adaptive_generation: R below this."""

    adaptive_neighbors: int = 50
    """n in R: over how many neighbouring groups the mean is taken; all others where there are fewer."""

    adaptive_scale: float = 0.5
    """alpha in R: the scale of that mean."""

    # Of CIFAR-10's pictures 0.08 % (4 of the first 5,000) are flatter.
    min_contrast: float = 0.05
    """Flatter generations (standard deviation of the pixels about their mean) are no copies by any attack, and flatter
    tiles no evidence of a template."""

    device: str = "cpu"
    """The torch device that compares: cpu, cuda or any other with float64."""

    def __post_init__(self) -> None:
        for name in ("max_gap", "max_l2", "max_tiled_l2", "max_template_l2", "max_adaptive", "adaptive_scale"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name}={getattr(self, name)}: choose a number above 0")
        if self.max_gap >= 1:
            raise ConfigError(f"max_gap={self.max_gap}: no ratio exceeds 1, so choose a number below")
        if self.adaptive_neighbors < 1:
            raise ConfigError(f"adaptive_neighbors={self.adaptive_neighbors}: choose 1 or more")
        if not 0 < self.template_share <= 1:
            raise ConfigError(f"template_share={self.template_share}: choose a share above 0 and at most 1")


def match(generations: Floats, reference: Reference, settings: MatchSettings) -> pa.Table:
    """Compares each generation with all groups of the reference.

    `generations` (G, C, S, S) float32 in [0, 1], of the reference's C and S. Returns (G rows) MATCH_SCHEMA, in the
    order given. With d1 and d2 the distances to the nearest and second-nearest group:

    - gap = d1 / d2; 1 where both are 0 (Yoon et al. 2023, "Diffusion probabilistic models generalize when they fail to
      memorize").
    - adaptive_image = d1 / (alpha * mean distance of the nearest *image* to the n groups nearest to it), its own
      excepted: Carlini et al. 2023, section 5.1.
    - adaptive_generation = d1 / (alpha * mean distance of the *generation* to the n groups nearest to it), the nearest
      excepted: so some others compute it.
    - tiled and template are the least over all images of the reference, and their groups the nearest by them. template
      is the l2 that three quarters (`template_share`) of the tiles keep to: a model that has memorized a *template*
      fills in parts of it anew, and every other distance takes that for another picture (Webster 2023, arXiv
      2305.08694). It is infinite where no image has four tiles or more that are not flat.

    Raises ConfigError for generations of another shape or range.
    """
    if generations.ndim != 4 or generations.shape[1:] != reference.images.shape[1:]:
        raise ConfigError(
            f"generations of shape {generations.shape} cannot be compared with images of shape "
            f"{reference.images.shape}: all but the first number must be equal"
        )
    if len(generations) and not (generations.min() >= 0 and generations.max() <= 1):
        raise ConfigError("generations must lie in [0, 1]")
    device = torch.device(settings.device)
    made = torch.from_numpy(generations).to(device)
    images = torch.from_numpy(reference.images).to(device)
    group = torch.from_numpy(reference.group).to(device)
    rival = torch.from_numpy(reference.rivals).to(device)
    distances, groups = _nearest(made, images, group, rival, settings.adaptive_neighbors + 1)
    variant, first = _within_group(made, groups[:, 0], images, group)
    tiled, template = nearest_by_tiles(made, images, variant, settings.template_share, settings.min_contrast)
    columns = {
        "generation": torch.arange(len(made)),
        "group": groups[:, 0],
        "variant": variant,
        "distance": first,
        "second_group": groups[:, 1],
        "second_distance": distances[:, 1],
        "gap": _ratio(first, distances[:, 1]).clamp(max=1),
        "adaptive_image": _ratio(
            first, settings.adaptive_scale * _surroundings(variant, images, group, rival, settings)
        ),
        "adaptive_generation": _ratio(first, settings.adaptive_scale * distances[:, 1:].mean(1)),
        "tiled": tiled.distance,
        "tiled_group": group[tiled.row],
        "tiled_variant": tiled.row,
        "template": template.distance,
        "template_group": group[template.row],
        "template_variant": template.row,
        "contrast": contrast(made),
    }
    return pa.table({name: column.cpu().numpy() for name, column in columns.items()}).cast(MATCH_SCHEMA)


def _ratio(distance: torch.Tensor, yardstick: torch.Tensor) -> torch.Tensor:
    """distance / yardstick; infinite where the yardstick is 0, for then it tells nothing."""
    return torch.where(yardstick > 0, distance / yardstick, torch.inf)


def _nearest(
    made: torch.Tensor, images: torch.Tensor, group: torch.Tensor, rival: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`nearest_groups`, in which images that are no rivals bring their group to the first place, and to no other."""
    distances, groups = nearest_groups(made, images[rival], group[rival], count)
    if bool(rival.all()):
        return distances, groups
    distance, number = nearest_groups(made, images[~rival], group[~rival], 1)
    first = torch.where(distance < distances[:, :1], number, groups[:, :1])
    others, order = torch.where(groups == first, torch.inf, distances).sort(dim=1, stable=True)
    last = distances.shape[1] - 1
    nearest = torch.minimum(distance, distances[:, :1])
    return torch.cat([nearest, others[:, :last]], 1), torch.cat([first, groups.gather(1, order)[:, :last]], 1)


def _within_group(
    made: torch.Tensor, nearest: torch.Tensor, images: torch.Tensor, group: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compares each generation with every variant of its nearest group: the nearest of them and its l2, (G,) each."""
    order = torch.argsort(group, stable=True)
    sizes = torch.bincount(group)
    starts = torch.cumsum(sizes, 0) - sizes
    variant = torch.zeros(len(made), dtype=torch.int64, device=made.device)
    first = torch.full((len(made),), torch.inf, dtype=torch.float64, device=made.device)
    for place in range(int(sizes.max())):  # the place-th variant of each group that has so many
        for rows in torch.split(torch.nonzero(place < sizes[nearest])[:, 0], ROWS):
            candidate = order[starts[nearest[rows]] + place]
            distance = l2(made[rows], images[candidate])
            variant[rows] = torch.where(distance < first[rows], candidate, variant[rows])
            first[rows] = torch.minimum(first[rows], distance)
    return variant, first


def _surroundings(
    variant: torch.Tensor, images: torch.Tensor, group: torch.Tensor, rival: torch.Tensor, settings: MatchSettings
) -> torch.Tensor:
    """(G,): the mean distance of each given image to the groups nearest to it, its own excepted."""
    needed, row = torch.unique(variant, return_inverse=True)
    distances, groups = nearest_groups(images[needed], images[rival], group[rival], settings.adaptive_neighbors + 1)
    # Its own group is at distance 0, but an image that occurs in two groups has two at 0: hence by number.
    others = groups != group[needed][:, None]
    others[others.all(1), -1] = False
    return torch.where(others, distances, 0).sum(1).div(others.sum(1))[row]


def _column(matches: pa.Table, name: str) -> Floats:
    return np.asarray(matches[name].to_numpy())


@dataclass(frozen=True)
class Attack:
    """A criterion of copies: the column of MATCH_SCHEMA that it asks (lower is closer), the field of MatchSettings up
    to which a value counts, or below which where it is not `inclusive`, and the columns that name the group and the
    image that are nearest by it."""

    column: str
    limit: str
    inclusive: bool = True
    group: str = "group"
    variant: str = "variant"


ATTACKS: dict[str, Attack] = {
    "gap": Attack("gap", "max_gap", inclusive=False),
    "l2": Attack("distance", "max_l2"),
    "tiled_l2": Attack("tiled", "max_tiled_l2", group="tiled_group", variant="tiled_variant"),
    "template": Attack("template", "max_template_l2", group="template_group", variant="template_variant"),
    "adaptive_image": Attack("adaptive_image", "max_adaptive", inclusive=False),
    "adaptive_generation": Attack("adaptive_generation", "max_adaptive", inclusive=False),
}


def attack_named(attack: str) -> Attack:
    """The entry of ATTACKS. Raises ConfigError for a name that is not there."""
    if attack not in ATTACKS:
        raise ConfigError(f"unknown attack {attack!r}: choose from {', '.join(ATTACKS)}")
    return ATTACKS[attack]


def extract(matches: pa.Table, attack: str, settings: MatchSettings) -> npt.NDArray[np.bool_]:
    """Which generations count as extracted: MATCH_SCHEMA rows (G) -> (G,) bool.

    Flat generations never do: a flat grey image lies near to every image with a flat part, and a single flat training
    image would own them all. Raises ConfigError for an unknown attack.
    """
    criterion = attack_named(attack)
    value, limit = _column(matches, criterion.column), getattr(settings, criterion.limit)
    chosen = value <= limit if criterion.inclusive else value < limit
    return np.asarray(chosen & (_column(matches, "contrast") >= settings.min_contrast))


def copied_group(matches: pa.Table, attack: str) -> npt.NDArray[np.int64]:
    """Of which group each generation is a copy, if it is one: MATCH_SCHEMA rows (G) -> (G,) int64.

    The nearest by the attack's own distance. Raises ConfigError for an unknown attack.
    """
    return np.asarray(matches[attack_named(attack).group].to_numpy())
