"""Candidates by local features: the same however rows are brought together, none where nothing is looked at."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dedup.candidates import CANDIDATE_SCHEMA, in_order
from dedup.held_pictures import HeldPictures, Pictures
from dedup.local_candidates import CROWDED_BY_FEATURES, crowded_samples, local_pairs, local_rows
from dedup.local_features import SIDE
from dedup.neighbors import SearchSettings
from dedup.small_evidence import SMALL_SIDE
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from dedup.views import Views
from pipelines.lookalikes import LOOKALIKES
from tests.verification import png

SETTINGS = SearchSettings(assignments=2)
COUNT, COPIES = 16, 4


@pytest.fixture(scope="module")
def images() -> dict[str, bytes]:
    """Drawn X-rays, and crops of the first."""
    drawn = LOOKALIKES["xrays"](COUNT, np.random.default_rng(3))
    copies = [TRANSFORMS["crop_70"](image, np.random.default_rng(1)).open() for image in drawn[:COPIES]]
    return {f"{number:02d}": png(image) for number, image in enumerate([*drawn, *copies])}


@pytest.fixture(scope="module")
def crowded(images: dict[str, bytes]) -> pa.Table:
    """Their embeddings are drawn: what is found is found by features."""
    rows = np.random.default_rng(0).normal(size=(len(images), 8))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(rows.astype(np.float16).ravel()), 8)
    return pa.table({"sample_id": list(images), "embedding": embedding, "inner": [None] * len(images)})


@pytest.fixture(scope="module")
def rows(images: dict[str, bytes], crowded: pa.Table) -> pa.Table:
    cells = np.eye(3, 8, dtype=np.float16)
    return local_rows(cells, crowded, 0, SETTINGS, images.__getitem__, 10**6)


def named(pairs: pa.Table) -> set[tuple[str, str, float]]:
    return set(zip(*(pairs[name].to_pylist() for name in ("a", "b", "score")), strict=True))


def test_copies_are_named_whatever_their_embeddings(images: dict[str, bytes], crowded: pa.Table) -> None:
    rows = local_rows(np.eye(1, 8, dtype=np.float16), crowded, 0, SETTINGS, images.__getitem__, 10**6)
    pairs = local_pairs(in_order(rows), replace(SETTINGS, candidates_per_image=1))
    assert pairs.schema == CANDIDATE_SCHEMA
    assert {(f"{copy:02d}", f"{COUNT + copy:02d}") for copy in range(COPIES)} <= {(a, b) for a, b, _ in named(pairs)}


def test_pairs_do_not_depend_on_order_or_partitions(rows: pa.Table) -> None:
    whole = named(local_pairs(in_order(rows), SETTINGS))
    shuffled = rows.take(pa.array(np.random.default_rng(1).permutation(len(rows))))
    assert named(local_pairs(in_order(shuffled), SETTINGS)) == whole
    cells = set(rows["cell"].to_pylist())
    assert len(cells) > 1
    apart = [rows.filter(pa.array(np.array(rows["cell"].to_pylist()) == cell)) for cell in sorted(cells)]
    assert set().union(*(named(local_pairs(in_order(part), SETTINGS)) for part in apart)) == whole


def test_an_image_that_cannot_be_read_again_is_left_out_and_named(
    images: dict[str, bytes], crowded: pa.Table, caplog: pytest.LogCaptureFixture
) -> None:
    damaged = {**images, "03": images["03"][:200]}
    with caplog.at_level(logging.WARNING):
        some = local_rows(np.eye(3, 8, dtype=np.float16), crowded, 0, SETTINGS, damaged.__getitem__, 10**6)
    assert set(some["sample_id"].to_pylist()) == set(images) - {"03"}
    assert "03 cannot be read again: damaged PNG" in caplog.text


def test_what_is_prepared_is_held_for_verification(images: dict[str, bytes], crowded: pa.Table, rows: pa.Table) -> None:
    held = HeldPictures(len(images))
    cells = np.eye(3, 8, dtype=np.float16)
    assert local_rows(cells, crowded, 0, SETTINGS, images.__getitem__, 10**6, held).equals(rows)
    load = Pictures(crowded["sample_id"], crowded["inner"], {}, {}.__getitem__, held, 10**6)
    for row, data in enumerate(images.values()):  # nothing is read anew
        fresh = Views(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        np.testing.assert_array_equal(load(row).at(SIDE).grey, fresh.at(SIDE).grey)


def test_only_crowded_pictures_with_room_for_features_are_asked() -> None:
    table = pa.table({"sample_id": list("abcde"), "width": [SMALL_SIDE, 10, 300, 300, 300], "height": [300] * 5})
    table = table.set_column(2, "height", pa.array([20, 300, 10, 300, 300]))
    cosines = [np.float32([0.9, 0.9, 0.9, 0.9, fifth]).tobytes() for fifth in (0.9, CROWDED_BY_FEATURES, 0.9, 0.79)]
    crowding = pa.table({"sample_id": list("abce"), "cosines": pa.array(cosines, pa.binary())})
    assert crowded_samples(table, crowding)["sample_id"].to_pylist() == ["b", "c"]


def test_where_images_decide_nothing_none_are_read() -> None:
    looks = {
        "verified": VerifySettings(),
        "near": VerifySettings(strictness="near"),
        "not verified": VerifySettings(verify=False),
        "identical files": VerifySettings(strictness="exact"),
    }
    assert [name for name, settings in looks.items() if settings.looks] == ["verified", "near"]
