"""How long an attack will take, measured on a few steps: to be known before hours of it are spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from dedup.attack.profiles import AttackSettings
from dedup.attack.training import Training

_STEPS = 3
# A U-Net's time on a CPU is in proportion to the images, so a few of them do; an MLP's, and a GPU's, is not: they get
# whole batches.
_UNET_IMAGES_ON_CPU = 8


def hours(settings: AttackSettings, device: str) -> float:
    """Hours of one `device` (cpu or cuda; on a CPU, of one core) for all models of `settings`: training and sampling.

    Matching, the GAN and the closed form take little beside these and are left out.
    """
    few = device == "cpu" and settings.network.model == "unet"
    batch = min(_UNET_IMAGES_ON_CPU, settings.train.batch) if few else settings.train.batch
    train = replace(settings.train, batch=batch, steps=2 * _STEPS, checkpoints=1)
    labels = int(settings.captions != "none")
    training = Training(
        np.zeros((2, *settings.view.shape), np.float32),
        np.zeros(2, np.int64),
        labels,
        settings.network,
        train,
        0,
        device,
    )
    training.run_to(_STEPS)  # the first steps are slower
    step = _seconds(lambda: training.run_to(2 * _STEPS), device) / _STEPS * settings.train.batch / batch
    sampler = replace(settings.sampler, sample_batch=batch)
    given = np.zeros(batch, np.int64) if labels else None
    draw = _seconds(lambda: training.generator(sampler).sample(batch, 0, given), device) / batch
    drawn = settings.train.checkpoints * settings.generations + 2 * settings.prompts * settings.prompt_generations
    models = settings.seeds * len(settings.arms)
    return (
        models * (settings.train.steps * step + drawn * draw) + settings.shadows * settings.train.steps * step
    ) / 3600


def _seconds(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
