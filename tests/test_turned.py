"""Pairs of turned pictures, against all pairs of hashes counted one by one, and in a whole run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image

import dedup
from dedup import turned
from dedup.candidates import CANDIDATE_SCHEMA, EQUAL_HASHES_SEARCHED, in_order
from dedup.describe import DescribeSettings
from dedup.embedders import resolve
from dedup.hashes import HASHES
from dedup.images import thumbnail
from dedup.listing import list_shards
from dedup.neighbors import SearchSettings
from dedup.thumbnails import luma
from pipelines.client import ClusterSettings
from tests.run_files import accepted, run_on
from tests.shard_makers import picture
from tests.verification import PHOTOGRAPHS, photograph

SETTINGS = SearchSettings(candidates_per_image=100)
TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


def representatives(images: dict[str, Image.Image], information: float = 1000.0) -> pa.Table:
    thumbnails = [thumbnail(image).tobytes() for image in images.values()]
    columns = {"sample_id": list(images), "thumbnail": thumbnails}
    return pa.table(columns | {"information": np.full(len(images), information, np.float32)})


def rows_of(images: dict[str, Image.Image], agreeing: int = 1) -> pa.Table:
    return in_order(turned.turned_rows(representatives(images), 3, agreeing))


def listed(pairs: pa.Table) -> set[tuple[str, str, float]]:
    return set(zip(*(pairs[name].to_pylist() for name in ("a", "b", "score")), strict=True))


def copies_of(name: str, degrees: int) -> dict[str, Image.Image]:
    return {f"{name} turned": photograph(name).transpose(TURNS[degrees])}


@pytest.fixture(scope="module")
def images() -> dict[str, Image.Image]:
    return {name: photograph(name) for name in PHOTOGRAPHS} | {f"drawn {n}": picture(n, 64, 48) for n in range(40)}


@pytest.mark.parametrize("degrees", TURNS)
def test_turned_copies_are_named_and_no_others(images: dict[str, Image.Image], degrees: int) -> None:
    copies = {key: image for name in PHOTOGRAPHS for key, image in copies_of(name, degrees).items()}
    pairs = turned.turned_pairs(rows_of(images | copies), SETTINGS, 1)
    assert pairs.schema == CANDIDATE_SCHEMA
    assert set(pairs["method"].to_pylist()) == {"turned"}
    assert set(pairs["shard_a"].to_pylist()) == {3}
    assert {(a, b) for a, b, _ in listed(pairs)} == {(name, f"{name} turned") for name in PHOTOGRAPHS}
    assert pc.min(pairs["score"]).as_py() >= 1 - turned.MAX_BITS / turned.BITS


@pytest.mark.parametrize("agreeing", [1, 2])
def test_the_pairs_are_those_of_all_hashes_compared(agreeing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turned, "MAX_BITS", 24)  # so many that pictures that are no copies are within
    images = {f"{n:02d}": picture(n, 40, 30) for n in range(24)}
    thumbnails = np.stack([thumbnail(image) for image in images.values()])
    greys = [np.rot90(luma(thumbnails), quarters, (1, 2)) for quarters in turned.QUARTERS]
    phash = HASHES["phash"].compute
    codes = [phash(torch.from_numpy(np.ascontiguousarray(each)).unsqueeze(1)).numpy() for each in greys]
    bits = [np.unpackbits(each, axis=1) for each in codes]
    names = list(images)
    wanted = {
        tuple(sorted((names[i], names[j])))
        for quarters in turned.QUARTERS[1:]
        for i in range(len(names))
        for j in range(len(names))
        if i != j and int((bits[0][i] != bits[quarters][j]).sum()) <= turned.MAX_BITS
    }
    assert len(wanted) > 5
    rows = rows_of(images, agreeing)
    found = turned.turned_pairs(rows, SETTINGS, agreeing)
    assert {(a, b) for a, b, _ in listed(found)} == wanted
    values = rows["value"].to_numpy()
    apart = [rows.filter(pa.array(values % 3 == part)) for part in range(3)]
    parts = [listed(turned.turned_pairs(part, SETTINGS, agreeing)) for part in apart]
    assert set().union(*parts) == listed(found)


def test_a_picture_that_looks_the_same_turned_is_no_pair_with_itself() -> None:
    rings = np.hypot(*np.mgrid[-32:32, -32:32] + 0.5)
    target = Image.fromarray((127 + 127 * np.sin(rings / 3)).astype(np.uint8)).convert("RGB")
    assert len(turned.turned_pairs(rows_of({"a": target}), SETTINGS, 1)) == 0
    assert {(a, b) for a, b, _ in listed(turned.turned_pairs(rows_of({"a": target, "b": target}), SETTINGS, 1))} == {
        ("a", "b")
    }


def test_flat_pictures_are_left_out_and_nothing_gives_nothing() -> None:
    flat = representatives({"a": Image.new("RGB", (32, 32), "red")}, information=0.0)
    for table in (flat, flat.slice(0, 0)):
        rows = turned.turned_rows(table, 0, 1)
        assert rows.schema == turned.TURNED_ROW
        assert len(rows) == 0
        assert turned.turned_pairs(rows, SETTINGS, 1).schema == CANDIDATE_SCHEMA


@pytest.mark.parametrize("degrees", TURNS)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_of_many_equal_pictures_some_have_a_pair_with_the_turned_one(name: str, degrees: int) -> None:
    """The copy comes last, when all places among equal hashes are taken."""
    one = representatives({"": photograph(name)})
    count = EQUAL_HASHES_SEARCHED + 50
    many = one.take(pa.array([0] * count)).set_column(0, "sample_id", pa.array([f"{n:04d}" for n in range(count)]))
    rows = [turned.turned_rows(table, 0, 1) for table in (many, representatives(copies_of(name, degrees)))]
    pairs = turned.turned_pairs(in_order(pa.concat_tables(rows)), SearchSettings(candidates_per_image=2), 1)
    assert 0 < len(pairs) <= 2 * count
    assert set(pairs["b"].to_pylist()) == {f"{name} turned"}


def test_a_run_finds_turned_copies_without_an_embedder(tmp_path: Path, cluster: ClusterSettings) -> None:
    names = ("astronaut", "chelsea", "coffee")
    copies = [photograph(name).transpose(turn) for name, turn in zip(names, TURNS.values(), strict=True)]
    run, of_run = run_on(tmp_path, [[photograph(name) for name in names], copies], cluster)
    assert run.document["steps"]["search"]["candidates"]["turned"] >= 3
    assert accepted(of_run) == [("0/0", "1/0"), ("0/1", "1/1"), ("0/2", "1/2")]
    _, shards = list_shards([str(tmp_path / "shards")])
    descriptors = [dedup.describe_shard(shard, DescribeSettings(embedder="none"), resolve("none")) for shard in shards]
    assert in_order(dedup.find_pairs(shards, descriptors)) == of_run
