"""The optimal denoiser of a finite training set: a model that has memorized it perfectly, without training.

For a training set {x_i} with copies k_i the denoiser that minimizes the EDM loss is known (Karras et al. 2022, appendix
B.3): D(x, sigma) = sum_i w_i x_i, w the softmax of log k_i - |x - x_i|^2 / (2 sigma^2). Its sampler emits image i with
probability k_i / N, so it is the check of everything behind it: matching and scoring must reproduce that.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from dedup.attack.edm import Images, Labels, SamplerSettings, heun, sample_in_batches
from dedup.errors import ConfigError


class OptimalDenoiser:
    """`edm.Denoiser` and `edm.Generator` of `images` (N, C, S, S) in [0, 1], which occur `copies` (N,) times."""

    def __init__(self, images: Images, copies: npt.NDArray[Any], settings: SamplerSettings) -> None:
        if len(images) != len(copies) or not len(images) or copies.min() < 1:
            raise ConfigError(f"{len(images)} images need as many numbers of copies, each at least 1")
        self._shape = images.shape[1:]
        self._flat = torch.from_numpy(images * 2 - 1).double().flatten(1)
        self._log_copies = torch.from_numpy(copies).double().log()
        self._settings = settings

    def __call__(self, noisy: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:  # noqa: ARG002
        x = noisy.double().flatten(1)
        squares = torch.cdist(x, self._flat).square()
        weights = torch.softmax(self._log_copies - squares / (2 * sigma.double().square()[:, None]), 1)
        return (weights @ self._flat).to(noisy.dtype).view_as(noisy)

    def sample(self, count: int, seed: int, labels: Labels | None = None) -> Images:
        def draw(noise: Tensor, given: Tensor | None) -> Tensor:
            return heun(self, noise, given, self._settings)

        size = self._settings.sample_batch
        return sample_in_batches(draw, self._shape, count, seed, labels, size, torch.device("cpu"))
