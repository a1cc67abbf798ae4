"""Collages: each photograph once alone and once beside others. None of them is a copy of another.

python -m pipelines.benchmark collages PHOTOS
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dedup.intervals import wilson
from dedup.planting import Planted
from dedup.transforms import as_jpeg
from pipelines.multiplied import samples
from pipelines.unseen_benchmark import pictures, run_planted

SIDE = 320  # pixels, of a cell
_WHITE = (255, 255, 255)
_MARK = "~beside"  # in the keys of collages

Cells = Sequence[Image.Image]


def row(cells: Cells, gap: int = 0) -> Image.Image:
    """From left to right, all as high as SIDE, `gap` pixels of white between them."""
    cells = [cell.resize((max(1, round(cell.width * SIDE / cell.height)), SIDE)) for cell in cells]
    page = Image.new("RGB", (sum(cell.width + gap for cell in cells) - gap, SIDE), _WHITE)
    left = 0
    for cell in cells:
        page.paste(cell, (left, 0))
        left += cell.width + gap
    return page


def column(cells: Cells, gap: int = 0) -> Image.Image:
    """From top to bottom, all as wide as SIDE."""
    turned = row([cell.transpose(Image.Transpose.TRANSPOSE) for cell in cells], gap)
    return turned.transpose(Image.Transpose.TRANSPOSE)


def cut(cells: Cells, width: int = SIDE) -> list[Image.Image]:
    """The middle of each, `width` by SIDE."""
    return [ImageOps.fit(cell, (width, SIDE)) for cell in cells]


# The first picture is that which is asked for; at most four are needed.
COLLAGES: dict[str, Callable[[Cells], Image.Image]] = {
    "two beside each other": lambda cells: row(cells[:2]),
    "two below each other": lambda cells: column(cells[:2]),
    "two with a gap": lambda cells: row(cells[:2], gap=8),
    "two below each other with a gap": lambda cells: column(cells[:2], gap=8),
    "two cut to squares": lambda cells: row(cut(cells[1::-1])),
    "two squares below each other": lambda cells: column(cut(cells[:2])),
    "two cut narrow": lambda cells: row(cut(cells[:2], 3 * SIDE // 4)),
    "three in a row": lambda cells: row([cells[1], cells[0], cells[2]]),
    "three in a column": lambda cells: column(cells[2::-1]),
    "four in a square": lambda cells: column([row(cut(cells[:2])), row(cut(cells[2:4]))]),
}


def plant_collages(photos: str, seed: int) -> Iterator[Planted]:
    """Each photograph, and a collage of it and others, the kinds round and round. Holds the photographs."""
    originals = list(pictures(samples(photos)))
    kinds = list(COLLAGES.values())
    for number, (original, _) in enumerate(originals):
        yield original
        cells = [originals[(number + step * step) % len(originals)][1] for step in range(4)]
        collage = kinds[number % len(kinds)](cells)
        yield Planted(f"{original.key}{_MARK}", as_jpeg(collage, np.random.default_rng([seed, number])))


def removed(photos: str, folder: Path, seed: int, arguments: tuple[str, ...] = ()) -> tuple[int, int, int]:
    """How many photographs and how many collages a run in `folder` removes, and how many there are of either."""
    manifest, _ = run_planted(plant_collages(photos, seed), folder, seed, arguments)
    gone = manifest.filter(manifest["keeper"].is_valid())["sample_id"].to_pylist()
    collages = sum(_MARK in name for name in gone)
    return len(gone) - collages, collages, len(manifest) // 2


def report(photos: str, seed: int) -> Iterator[str]:
    """The lines of the report."""
    with tempfile.TemporaryDirectory() as folder:
        *gone, total = removed(photos, Path(folder), seed)
    for what, count in zip(("photographs", "collages with them"), gone, strict=True):
        low, high = wilson(count, total)
        yield f"{count} of {total:,} {what} removed = {count / total:.1%} ({low:.1%} to {high:.1%})"
