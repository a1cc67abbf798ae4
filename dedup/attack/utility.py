"""What a model is still good for: an arm that leaks less because it learned less has won nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from dedup.attack.distances import pairwise_l2
from dedup.attack.edm import Denoiser, Images, Labels, denoising_loss, noise_like
from dedup.attack.statistics import t_interval
from dedup.errors import ConfigError

LOSS_SIGMAS = (0.1, 0.2, 0.5, 1.0, 2.0)  # where images of a few dozen pixels get their content
MEASURES = ("held_out_loss", "distribution_distance")  # both lower for better models
_NOISE_SEED = 0x10C5
_MOST = 1000  # images of either side of `energy_distance`: its time grows with their product


@torch.no_grad()
def held_out_loss(denoise: Denoiser, images: Images, labels: Labels | None, device: torch.device) -> float:
    """Mean EDM loss on `images` (N, C, S, S) in [0, 1] that were not trained on, under noise that is always the same.

    Lower is better; about 1 is what an untrained model has. Raises ConfigError for no images.
    """
    if not len(images):
        raise ConfigError("no held-out images to measure the loss on")
    clean = torch.from_numpy(images * 2 - 1).to(device)
    given = None if labels is None else torch.from_numpy(labels).to(device)
    losses = []
    for number, level in enumerate(LOSS_SIGMAS):
        noise = noise_like(images.shape[1:], range(len(images)), _NOISE_SEED + number).to(device)
        sigma = torch.full((len(images),), level, device=device)
        losses.append(denoising_loss(denoise, clean, sigma, noise, given).mean())
    return float(torch.stack(losses).mean())


def energy_distance(generations: Images, images: Images) -> float:
    """How far two sets of images are apart as distributions: 2 E|x - y| - E|x - x'| - E|y - y'|, with |.| the
    root-mean-square distance of pixels in [0, 1] (Székely and Rizzo 2013, "Energy statistics").

    0 for equal distributions, lower is closer; unbiased, so it may fall below 0. At most the first 1,000 of each count.
    Raises ConfigError for fewer than two on a side.
    """
    x, y = (torch.from_numpy(some[:_MOST]) for some in (generations, images))
    if min(len(x), len(y)) < 2:
        raise ConfigError("an energy distance needs two images on each side")
    between = pairwise_l2(x, y).mean()
    within = [pairwise_l2(some, some).fill_diagonal_(0).sum() / (len(some) * (len(some) - 1)) for some in (x, y)]
    return float(np.asarray(2 * between - within[0] - within[1]))


def compare_utility(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], against: str = "duplicated"
) -> list[dict[str, Any]]:
    """Every arm against `against`, paired by seed: attack.json's `utility`.

    `arms` has the entries of attack.json, by seed, with each of MEASURES under `utility`; where one is null or
    `against` was not run, there is no row. Returns arm, against, measure, seeds, value and base (means over the seeds
    that both have), difference (above 0: worse than `against`), low, high, method.
    """
    rows = []
    for arm in (name for name in arms if name != against):
        for measure in MEASURES:
            own, base = (
                {entry["seed"]: entry["utility"][measure] for entry in arms.get(name, ())} for name in (arm, against)
            )
            pairs = np.array([[own[seed], base[seed]] for seed in sorted(own.keys() & base.keys())], float)
            if not len(pairs) or not np.isfinite(pairs).all():
                continue
            difference = t_interval(pairs[:, 0] - pairs[:, 1])
            rows.append(
                {"arm": arm, "against": against, "measure": measure, "seeds": len(pairs)}
                | {"value": float(pairs[:, 0].mean()), "base": float(pairs[:, 1].mean())}
                | {**difference.to_json("difference"), "method": difference.method}
            )
    return rows
