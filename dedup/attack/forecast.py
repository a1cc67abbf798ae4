"""How long an attack will take, measured on a few steps: to be known before hours of it are spent."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from dedup.attack.experiment import resolve_device
from dedup.attack.gan import GanTraining
from dedup.attack.profiles import AttackSettings
from dedup.attack.tasks import UNCONDITIONAL_ARMS
from dedup.attack.training import Training

_STEPS = 3
# A U-Net's time on a CPU is in proportion to the images, so a few of them do; an MLP's, and a GPU's, is not: they get
# whole batches.
_UNET_IMAGES_ON_CPU = 8


def hours(settings: AttackSettings, device: str) -> float:
    """Hours of one device (`auto`, `cpu` or `cuda` of the machine that asks; on a CPU, of one core) for all models of
    `settings`: training, sampling, losses, shadow models and GANs.

    Matching and the closed form take little beside these and are left out.
    """
    place = resolve_device(device)
    cost = _Costs(settings, place, conditional=settings.captions != "none")
    drawn = settings.train.checkpoints * settings.generations
    canaries = len(settings.plan.canaries())
    captions = min(settings.prompts, canaries) + canaries if settings.prompts else 0  # those of held-out pictures, too
    seconds = settings.seeds * len(settings.arms) * cost.model(drawn + captions * settings.prompt_generations)
    seconds += settings.seeds * settings.shadow_models * cost.model(0)
    if settings.unconditional_seeds:
        plain = _Costs(settings, place, conditional=False)
        seconds += settings.unconditional_seeds * len(UNCONDITIONAL_ARMS) * plain.model(drawn)
    if settings.gan_seeds:
        seconds += settings.gan_seeds * settings.gan.gan_steps * _gan_step(settings, place)
    return seconds / 3600


class _Costs:
    """Seconds of `step`, one training step, `draw`, one generation, and `look`, one denoised picture."""

    def __init__(self, settings: AttackSettings, device: str, *, conditional: bool) -> None:
        self._settings = settings
        few = device == "cpu" and settings.network.model == "unet"
        batch = min(_UNET_IMAGES_ON_CPU, settings.train.batch) if few else settings.train.batch
        train = replace(settings.train, batch=batch, steps=2 * _STEPS, checkpoints=1)
        images, labels = np.zeros((2, *settings.view.shape), np.float32), np.zeros(2, np.int64)
        training = Training(images, labels, int(conditional), settings.network, train, 0, device)
        training.run_to(_STEPS)  # the first steps are slower
        self.step = _seconds(lambda: training.run_to(2 * _STEPS), device) / _STEPS * settings.train.batch / batch
        model = training.generator(replace(settings.sampler, sample_batch=batch))
        given = np.zeros(batch, np.int64) if conditional else None
        self.draw = _seconds(lambda: model.sample(batch, 0, given), device) / batch
        # Heun's method evaluates the network twice at each noise level, and once at the last.
        self.look = self.draw / (2 * settings.sampler.sampler_steps - 1)

    def model(self, drawn: int) -> float:
        """Seconds of one model that is trained, draws so many pictures, and is asked for its loss on all."""
        settings = self._settings
        looks = settings.plan.needed * len(settings.membership.sigmas) * settings.membership.draws
        return settings.train.steps * self.step + drawn * self.draw + looks * self.look


def _gan_step(settings: AttackSettings, device: str) -> float:
    training = GanTraining(np.zeros((2, *settings.view.shape), np.float32), settings.gan, 0, device)
    training.run_to(_STEPS)
    return _seconds(lambda: training.run_to(2 * _STEPS), device) / _STEPS


def _seconds(work: Callable[[], object], device: str) -> float:
    started = time.perf_counter()
    work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - started
