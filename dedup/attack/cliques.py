"""Generate and filter: which prompts a model answers with one and the same image, without its training set.

Many generations of one prompt are compared with each other. A model that has memorized an image for the prompt emits it
again and again, so its generations form a clique of near-equal images; one that has not draws something new each time
(Carlini et al. 2023, section 4.2, with 500 generations per prompt and cliques of 10).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import networkx as nx
import numpy as np
import numpy.typing as npt
import torch

from dedup.attack.distances import contrast, pairwise_tiled_l2
from dedup.errors import ConfigError

# A nearly complete graph has more maximal cliques than can be listed; each is large then, so the first ones tell.
MAX_CLIQUES = 10_000

Images = npt.NDArray[np.float32]


@dataclass(frozen=True)
class CliqueSettings:
    """When a prompt is flagged. Raises ConfigError for values that make no sense."""

    max_tiled_l2: float = 0.15
    """Two generations are joined where their tiled l2 is at most this; `calibrate` measures it for a model."""

    min_clique: int = 10
    """The prompt is flagged where so many generations are all joined with each other."""

    min_contrast: float = 0.05
    """Flatter generations (standard deviation of the pixels about their mean) are joined with none."""

    device: str = "cpu"
    """The torch device that compares: cpu, cuda or any other with float64."""

    def __post_init__(self) -> None:
        if self.min_clique < 2:
            raise ConfigError(f"min_clique={self.min_clique}: choose 2 or more")
        if not self.max_tiled_l2 >= 0:
            raise ConfigError(f"max_tiled_l2={self.max_tiled_l2}: choose 0 or more")


def largest_clique(generations: Images, settings: CliqueSettings) -> npt.NDArray[np.int64]:
    """The largest set of generations of one prompt that are all near to each other.

    `generations` (n, C, S, S) float32 in [0, 1]. Returns their numbers, ascending, one number where no two are joined
    (none where there is no generation). Of several largest cliques the first in order of these numbers is taken. Where
    the graph has more than MAX_CLIQUES maximal cliques, the largest of the first so many.
    """
    return _largest_clique(_distances(generations, settings), settings.max_tiled_l2)


def flagged(clique: npt.NDArray[np.int64], settings: CliqueSettings) -> bool:
    """Whether a clique is large enough to say that the prompt's image is memorized."""
    return len(clique) >= settings.min_clique


def calibrate(prompts: Sequence[Images], settings: CliqueSettings, max_false_positives: float = 0.01) -> float:
    """The largest `max_tiled_l2` at which at most this share of the given prompts is flagged.

    `prompts`: for each of some prompts whose images the model has never seen, its generations (n, C, S, S), of which
    there are to be as many as in the attack. The threshold is one of the observed distances, or the next smaller
    number where that one flags too many. Raises ConfigError where prompts are too few to tell such a share: 1 / share
    at least.
    """
    allowed = int(len(prompts) * max_false_positives + 1e-9)  # 49 / 49 comes to a little less than 1
    if allowed < 1:
        raise ConfigError(
            f"{len(prompts)} prompts cannot tell a false-positive rate of {max_false_positives}: "
            f"give {int(np.ceil(1 / max_false_positives))} or more"
        )
    needed = np.sort([_least_threshold(_distances(made, settings), settings.min_clique) for made in prompts])
    first_too_many = needed[allowed] if allowed < len(needed) else np.inf
    return float(min(np.nextafter(first_too_many, 0), 1.0))


def _distances(generations: Images, settings: CliqueSettings) -> npt.NDArray[np.float64]:
    """(n, n) tiled distances, infinite for flat generations and on the diagonal."""
    made = torch.from_numpy(generations).to(settings.device)
    distance: npt.NDArray[np.float64] = pairwise_tiled_l2(made, made).cpu().numpy()
    flat = (contrast(made) < settings.min_contrast).cpu().numpy()
    distance[flat] = np.inf
    distance[:, flat] = np.inf
    np.fill_diagonal(distance, np.inf)
    return distance


def _largest_clique(distance: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.int64]:
    if not len(distance):
        return np.zeros(0, np.int64)
    cliques = islice(nx.find_cliques(nx.from_numpy_array(distance <= threshold)), MAX_CLIQUES)
    largest = min((sorted(clique) for clique in cliques), key=lambda clique: (-len(clique), clique))
    return np.array(largest, np.int64)


def _least_threshold(distance: npt.NDArray[np.float64], size: int) -> float:
    """The least threshold at which there is a clique of `size`, by bisection over the distances that occur."""
    levels = np.unique(distance[np.isfinite(distance)])
    low, high = 0, len(levels)
    while low < high:
        middle = (low + high) // 2
        if len(_largest_clique(distance, levels[middle])) >= size:
            high = middle
        else:
            low = middle + 1
    return float(levels[low]) if low < len(levels) else np.inf
