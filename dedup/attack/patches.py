"""The set that is attacked where a user gives none: patches of real photographs that dependencies ship.

A grid over each photograph, so that no two patches share a pixel. Each patch's contrast is stretched to the full range:
out-of-focus corners and night skies are pictures too, but at the models' size they would be taken for each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dedup.attack.pool import Picture, encode_png
from dedup.photographs import embedded_photographs

PATCH_SIDE = 64
_MIN_SPREAD = 2.5  # standard deviation, of 255, of the patch at 12 pixels: below it stretching would show noise alone
_ORDER_SEED = 0
_CLIPPED = 0.5  # per cent of the pixels at each end that stretching may clip


def patches(side: int = PATCH_SIDE) -> Iterator[Picture]:
    """Patches of `side` x `side` pixels as PNG, shuffled, each with its photograph's caption.

    Raises ConfigError where scikit-image or scikit-learn is not installed.
    """
    photographs = list(embedded_photographs())
    places = [
        (number, top, left)
        for number, (_, _, photograph) in enumerate(photographs)
        for top in range(0, photograph.height - side + 1, side)
        for left in range(0, photograph.width - side + 1, side)
    ]
    for index in np.random.default_rng(_ORDER_SEED).permutation(len(places)):
        number, top, left = places[index]
        name, caption, photograph = photographs[number]
        patch = photograph.crop((left, top, left + side, top + side))
        if np.asarray(patch.convert("L").resize((12, 12), Image.Resampling.BOX), np.float32).std() < _MIN_SPREAD:
            continue
        stretched = ImageOps.autocontrast(patch, cutoff=_CLIPPED, preserve_tone=True)
        yield Picture(f"{Path(name).stem}_{top}_{left}", encode_png(stretched), caption)
