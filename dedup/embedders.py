"""Embedders: pictures in, unit rows out, behind one small protocol.

    embedder = resolve("auto")
    for rows in embedder.embed(batches): ...

    auto                             clip on a CUDA device where its weights can be had, else efficientnet_lite0
    none                             no embedder
    efficientnet_lite0               from a package, so it is always there
    clip[:<architecture>/<weights>]  open_clip; weights: a tag (ViT-L-14/openai) or a file (ViT-L-14//path/weights.pt)
    sscd:<file>                      copy detection, a TorchScript file (Pizzi et al. 2022, arXiv 2202.10261)
    timm:<model>[/<weights>]         any model of timm, its pooled features; weights: a file

The cosine of two rows is a likeness: higher is closer.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Protocol

import huggingface_hub
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from dedup import efficientnet
from dedup.errors import ConfigError, EmbedderError
from dedup.inference import Network, OpenVinoRunner, Spec, Threshold, TorchRunner

logger = logging.getLogger(__name__)

CLIP_DEFAULT = "ViT-B-32/laion2b_s34b_b79k"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SSCD_SIDE = 320  # of the squashed pictures, as SSCD's own README has it

_WAYS_OUT = "give a local file, or choose efficientnet_lite0, whose weights are installed"


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


def _efficientnet_lite0(argument: str, device: str) -> tuple[Network, Spec]:
    if argument:
        raise ConfigError(f"efficientnet_lite0:{argument}: this embedder has no variants; leave out {argument!r}")
    spec = Spec(
        name="efficientnet_lite0",
        dim=efficientnet.Features.DIM,
        image_size=efficientnet.Features.IMAGE_SIZE,
        batch_size=_batch_size(device),
        weights_sha256=_sha256(efficientnet.weights_path()),
        mean=efficientnet.MEAN,
        std=efficientnet.STD,
    )
    return efficientnet.Features, spec


class _ImageTower(nn.Module):
    def __init__(self, clip: nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        rows: torch.Tensor = self.clip.encode_image(pictures)  # type: ignore[operator]
        return rows


def _clip(argument: str, device: str) -> tuple[nn.Module, Spec]:
    import open_clip  # here, because it takes seconds that the other embedders need not spend

    argument = argument or CLIP_DEFAULT
    architecture, _, tag = argument.partition("/")
    if architecture not in open_clip.list_models():
        raise ConfigError(
            f"clip:{argument}: open_clip has no architecture {architecture!r}; see open_clip.list_models()"
        )
    if not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(architecture)) or "none"
        raise ConfigError(f"clip:{argument}: say which weights, clip:{architecture}/<tag or file>; tags: {tags}")
    config: dict[str, Any] = {}
    if tag in open_clip.list_pretrained_tags_by_model(architecture):
        config = open_clip.get_pretrained_cfg(architecture, tag)
        repository, _, file = config["hf_hub"].rpartition("/")
        names = [file] if file else ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
        weights = _from_hub(f"clip:{argument}", repository, names)
    else:
        weights = _local_file(f"clip:{argument}", tag)
    with _loading(f"clip:{argument}", weights):
        model = open_clip.create_model(
            architecture,
            pretrained=str(weights),
            require_pretrained=True,
            force_quick_gelu=bool(config.get("quick_gelu")),
        )
    preprocess = open_clip.get_model_preprocess_cfg(model)
    network = _ImageTower(model).eval()
    spec = _spec(
        f"clip:{argument}",
        network,
        device,
        weights=weights,
        image_size=_side(preprocess["size"]),
        mean=config.get("mean") or preprocess["mean"],
        std=config.get("std") or preprocess["std"],
    )
    return network, spec


def _sscd(argument: str, device: str) -> tuple[nn.Module, Spec]:
    if not argument:
        raise ConfigError("sscd: say where its TorchScript file is, sscd:<file>")
    weights = _local_file(f"sscd:{argument}", argument)
    with _loading(f"sscd:{argument}", weights), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, yet SSCD comes in it
        network: nn.Module = torch.jit.load(str(weights), map_location="cpu")  # type: ignore[no-untyped-call]
        network.eval()
    spec = _spec(
        f"sscd:{argument}",
        network,
        device,
        weights=weights,
        image_size=SSCD_SIDE,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
    )
    return network, spec


def _timm(argument: str, device: str) -> tuple[nn.Module, Spec]:
    import timm

    model, _, file = argument.partition("/")
    if not timm.is_model(model):
        raise ConfigError(f"timm:{argument}: timm has no model {model!r}; see timm.list_models()")
    if file:
        weights = _local_file(f"timm:{argument}", file)
    else:
        config = timm.get_pretrained_cfg(model)
        if config is None or not config.hf_hub_id:
            raise EmbedderError(f"timm:{argument}: timm knows no pretrained weights; {_WAYS_OUT}")
        weights = _from_hub(f"timm:{argument}", config.hf_hub_id, ["model.safetensors", "pytorch_model.bin"])
    with _loading(f"timm:{argument}", weights):
        # With its head at first: told to leave that out, timm also accepts a file that has none of the other weights.
        classifier = timm.create_model(model, pretrained=True, pretrained_cfg_overlay={"file": str(weights)})
        classifier.reset_classifier(0)
        network: nn.Module = classifier.eval()
    data = timm.data.resolve_model_data_config(network)
    spec = _spec(
        f"timm:{argument}",
        network,
        device,
        weights=weights,
        image_size=_side(data["input_size"][1:]),
        mean=data["mean"],
        std=data["std"],
    )
    return network, spec


# Each takes what follows the colon of a name, and the torch device.
EMBEDDERS: dict[str, Callable[[str, str], tuple[Network, Spec]]] = {
    "clip": _clip,
    "efficientnet_lite0": _efficientnet_lite0,
    "sscd": _sscd,
    "timm": _timm,
}


def resolve(name: str, device: str | None = None, threads: int | None = None) -> Embedder | None:
    """The embedder of that name, its weights loaded; None for `none`.

    `device` is a torch device, by default `cuda` where there is one, else `cpu`. `threads` is how many cores this
    process may use on a CPU, by default as many as torch; rows do not depend on it. The embedder's own `name` is
    resolved: for `auto` it says what was chosen. Raises ConfigError for a name that is not known, EmbedderError where
    the weights cannot be had.
    """
    if name == "none":
        return None
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if name == "auto":
        if device.startswith("cuda"):
            try:
                return resolve("clip", device, threads)
            except EmbedderError as error:
                logger.warning("auto: efficientnet_lite0 instead of clip: %s", error)
        name = "efficientnet_lite0"
    family, _, argument = name.partition(":")
    if family not in EMBEDDERS:
        raise ConfigError(f"no embedder is called {name!r}; there are auto, none, {', '.join(EMBEDDERS)}")
    network, spec = EMBEDDERS[family](argument, device)
    if device == "cpu":
        return OpenVinoRunner(network, spec, torch.get_num_threads() if threads is None else threads)
    return TorchRunner(network, spec, device, half=family != "efficientnet_lite0")


def _spec(
    name: str,
    network: nn.Module,
    device: str,
    *,
    weights: Path,
    image_size: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Spec:
    with torch.inference_mode():
        rows = network(torch.zeros(1, 3, image_size, image_size))
    if not isinstance(rows, torch.Tensor) or rows.ndim != 2:
        raise EmbedderError(f"{name}: gives no row for a picture; choose a model with pooled features")
    return Spec(
        name=name,
        dim=rows.shape[1],
        image_size=image_size,
        batch_size=_batch_size(device),
        weights_sha256=_sha256(weights),
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
    )


def _batch_size(device: str) -> int:
    return 16 if device == "cpu" else 256


def _side(size: int | Sequence[int]) -> int:
    return size if isinstance(size, int) else max(size)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _local_file(name: str, file: str) -> Path:
    path = Path(file)
    if not path.is_file():
        raise EmbedderError(f"{name}: {file} is neither a file nor a known tag; {_WAYS_OUT}")
    return path


def _from_hub(name: str, repository: str, files: Sequence[str]) -> Path:
    """The first of `files` that the Hugging Face Hub has, from its cache if it is there.

    Without a network the hub's client retries for most of a minute, so one quick request goes first.
    """
    for file in files:
        cached = huggingface_hub.try_to_load_from_cache(repository, file)
        if isinstance(cached, str):
            return Path(cached)
    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=5)
        for file in files:
            if huggingface_hub.file_exists(repository, file):
                return Path(huggingface_hub.hf_hub_download(repository, file))
    except Exception as error:  # the client's errors have no common base
        raise EmbedderError(
            f"{name}: cannot get the weights from {repository} ({shorten(str(error), 200)}); {_WAYS_OUT}"
        ) from error
    raise EmbedderError(f"{name}: {repository} has none of {', '.join(files)}; {_WAYS_OUT}")


class _loading:  # noqa: N801 (a context manager)
    """Turns whatever a library raises on loading `weights` into an EmbedderError that names them."""

    def __init__(self, name: str, weights: Path) -> None:
        self.message = f"{name}: {weights} does not hold the weights of this model"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            raise EmbedderError(f"{self.message} ({shorten(str(error), 200)}); {_WAYS_OUT}") from error
