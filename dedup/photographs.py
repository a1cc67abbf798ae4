"""The photographs that the scikit-image and scikit-learn wheels hold: real pictures at hand without a download."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from dedup.errors import ConfigError
from dedup.images import decode

# File: caption.
SKIMAGE = {
    "astronaut.png": "an astronaut in an orange suit before a flag",
    "brick.png": "a brick wall",
    "camera.png": "a man with a camera on a tripod",
    "cell.png": "a cell under the microscope",
    "chelsea.png": "a tabby cat",
    "clock_motion.png": "a clock blurred by motion",
    "coffee.png": "a cup of coffee on a red saucer",
    "coins.png": "antique coins",
    "grass.png": "grass",
    "gravel.png": "gravel",
    "hubble_deep_field.jpg": "galaxies in the Hubble deep field",
    "ihc.png": "stained tissue",
    "logo.png": "a round logo in green and orange",
    "moon.png": "the surface of the moon",
    "motorcycle_left.png": "a red motorcycle in a garage",
    "page.png": "a page of a book",
    "retina.jpg": "a retina",
    "rocket.jpg": "a rocket on its launch pad at dusk",
    "text.png": "handwritten formulas",
}
SKLEARN = {"china.jpg": "a Chinese temple", "flower.jpg": "a pink flower"}


def embedded_photographs() -> Iterator[tuple[str, str, Image.Image]]:
    """Of each photograph its file name, a caption, and the picture (RGB), in a fixed order.

    Raises ConfigError where scikit-image or scikit-learn is not installed.
    """
    sources = [
        (_folder("skimage", "data", "scikit-image"), SKIMAGE),
        (_folder("sklearn", "datasets/images", "scikit-learn"), SKLEARN),
    ]
    for folder, captions in sources:
        for name, caption in captions.items():
            yield name, caption, decode((folder / name).read_bytes(), min_side=0).rgb


def _folder(package: str, inside: str, distribution: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ConfigError(f"the built-in pictures are those of {distribution}: pip install 'dedup[sample]'")
    return Path(spec.origin).parent / inside
