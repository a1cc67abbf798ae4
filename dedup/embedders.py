"""Embedders: pictures in, unit rows out, behind one small protocol.

    embedder = resolve("auto")
    for rows in embedder.embed(batches): ...

Names: `auto`, `none`, `efficientnet_lite0`, `clip`, `clip:<architecture>/<tag or checkpoint>`, `sscd:<file>`,
`timm:<model>`, `timm:<model>/<checkpoint>`. A cosine of rows is a likeness, higher is closer.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dedup import efficientnet
from dedup.errors import ConfigError
from dedup.inference import OpenVinoRunner, Spec, Threshold, TorchRunner

logger = logging.getLogger(__name__)


class Embedder(Protocol):
    """One row for each picture; see `dedup.inference.Spec` for the attributes."""

    name: str
    dim: int
    image_size: int
    batch_size: int
    weights_sha256: str
    device: str
    threshold: Threshold | None

    def embed(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float32]]:
        """(n, S, S, 3) uint8 RGB each, 1 <= n <= batch_size -> (n, dim) float32 each, rows of length 1, in order.

        Runs ahead of the caller by a bounded number of batches. The same picture gives the same row on one kind of
        device, whatever the number of threads and workers. Raises ConfigError for a batch of another shape.
        """
        ...


def _efficientnet_lite0(argument: str, device: str) -> tuple[nn.Module, Spec]:
    if argument:
        raise ConfigError(f"efficientnet_lite0:{argument}: this embedder takes no argument")
    spec = Spec(
        name="efficientnet_lite0",
        dim=efficientnet.Features.DIM,
        image_size=128,
        batch_size=16 if device == "cpu" else 256,
        weights_sha256=_sha256(efficientnet.weights_path()),
        mean=efficientnet.MEAN,
        std=efficientnet.STD,
    )
    return efficientnet.Features(), spec


EMBEDDERS: dict[str, Callable[[str, str], tuple[nn.Module, Spec]]] = {
    "efficientnet_lite0": _efficientnet_lite0,
}


def resolve(name: str, device: str | None = None, threads: int | None = None) -> Embedder | None:
    """The embedder of that name, its weights loaded; None for `none`.

    `device` is a torch device, by default `cuda` where there is one, else `cpu`. `threads` is how many cores this
    process may use on a CPU, by default all; rows do not depend on it. Raises ConfigError for a name that is not
    known, EmbedderError where the weights cannot be had.
    """
    if name == "none":
        return None
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "auto":
        name = "efficientnet_lite0"
    family, _, argument = name.partition(":")
    if family not in EMBEDDERS:
        known = ", ".join(["auto", "none", *EMBEDDERS])
        raise ConfigError(f"no embedder is called {name!r}; known: {known}")
    network, spec = EMBEDDERS[family](argument, device)
    if device == "cpu":
        return OpenVinoRunner(network, spec, threads or len(os.sched_getaffinity(0)))
    return TorchRunner(network, spec, device, half=family != "efficientnet_lite0")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
