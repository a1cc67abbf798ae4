"""Templates, flat and two-toned pictures: they do not fall together, and their copies are still found."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest
from PIL import Image, ImageDraw

from dedup.describe import DescribeSettings, describe_shard
from dedup.embedders import resolve
from dedup.in_memory import decide, find_pairs
from dedup.listing import list_shards
from dedup.looks import judge
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from dedup.views import Views
from tests.shard_makers import sample_members, write_tar
from tests.templates import TEMPLATES
from tests.verification import png, verified

ACCEPTS = VerifySettings().accepts_from
CROWDS = [0.0, 0.9]  # such pictures come alone, and in numbers
COPIES = ("recompress", "shrink", "enlarge", "brightness")


@pytest.mark.parametrize("crowding", CROWDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_pictures_of_one_template_are_no_copies_of_each_other(name: str, crowding: float) -> None:
    files = {str(number): png(image) for number, image in enumerate(TEMPLATES[name]())}
    pairs = [(a, b) for a in files for b in files if a < b]
    accepted = verified(files, pairs, crowding).probability >= ACCEPTS
    assert [pair for pair, wrong in zip(pairs, accepted, strict=True) if wrong] == []


@pytest.mark.parametrize("crowding", CROWDS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_their_copies_are_found(name: str, crowding: float) -> None:
    files, pairs = {}, []
    for number, image in enumerate(TEMPLATES[name]()):
        files[str(number)] = png(image)
        for copy in COPIES:
            key = f"{number}/{copy}"
            files[key] = TRANSFORMS[copy](image, np.random.default_rng(0)).data
            pairs.append((str(number), key))
    accepted = verified(files, pairs, crowding).probability >= ACCEPTS
    assert [pair for pair, found in zip(pairs, accepted, strict=True) if not found] == []


def test_flat_pictures_are_no_copies_of_each_other_whatever_their_colour() -> None:
    colours = {"white": (255, 255, 255), "off-white": (253, 254, 254), "blue": (0, 0, 255), "black": (0, 0, 0)}
    files = {name: png(Image.new("RGB", (200, 200), colour)) for name, colour in colours.items()}
    pairs = [(a, b) for a in files for b in files if a < b]
    assert verified(files, pairs, 0.9).probability.max() < ACCEPTS


@pytest.mark.parametrize("copies", [(), COPIES[:2]], ids=["alone", "with copies"])
def test_a_run_removes_their_copies_and_nothing_else(copies: tuple[str, ...], tmp_path: Path) -> None:
    members = []
    for name, make in TEMPLATES.items():
        for number, image in enumerate(make()):
            members.append(sample_members(f"{name}-{number}", png(image), extension="png"))
            for copy in copies:
                made = TRANSFORMS[copy](image, np.random.default_rng(0))
                members.append(sample_members(f"{name}-{number}-{copy}", made.data, extension=made.extension))
    write_tar(tmp_path / "0.tar", [member for sample in members for member in sample])
    _, shards = list_shards([str(tmp_path)])
    descriptors = [describe_shard(shards[0], DescribeSettings(), resolve("efficientnet_lite0", "cpu"))]
    manifest = decide(shards, descriptors, find_pairs(shards, descriptors))
    removed = manifest.filter(pc.equal(manifest["status"], "removed"))
    of = {row["key"]: row["keeper"].rpartition("/")[2] for row in removed.select(["key", "keeper"]).to_pylist()}
    assert {key: keeper for key, keeper in of.items() if key.split("-")[:2] != keeper.split("-")[:2]} == {}
    copied = {
        f"{name}-{number}-{copy}"
        for name, make in TEMPLATES.items()
        for number in range(len(make()))
        for copy in copies
    }
    # Of forms that differ by one entry the search proposes to a picture whichever lie nearest.
    assert {key for key in copied - set(of) if not key.startswith("first_entries")} == set()
    assert len(of) >= 0.95 * len(copied)


def line_charts(count: int, side: int) -> list[Image.Image]:
    """Random walks in one frame."""
    rng, charts = np.random.default_rng(5), []
    for _ in range(count):
        chart = Image.new("RGB", (320, 320), "white")
        draw = ImageDraw.Draw(chart)
        draw.line([(40, 20), (40, 280), (300, 280)], "black", 4)
        heights = np.clip(150 + np.cumsum(rng.normal(0, 40, 14)), 30, 270)
        draw.line([(40 + 20 * place, float(height)) for place, height in enumerate(heights)], "navy", 6)
        charts.append(chart.resize((side, side), Image.Resampling.LANCZOS))
    return charts


@pytest.mark.parametrize("side", [48, 64, 65, 200])
def test_charts_of_any_size_are_told_apart(side: int) -> None:
    charts = line_charts(6, side)
    views = [Views(np.asarray(chart)) for chart in charts]
    for (i, chart), j in product(enumerate(charts), range(6)):
        copy = TRANSFORMS["recompress"](charts[j], np.random.default_rng(0)).open()
        accepted = judge(Views(np.asarray(chart)), Views(np.asarray(copy)), np.eye(2, 3)) >= ACCEPTS
        assert accepted == (i == j), (i, j)
    assert all(view.drawn for view in views)
