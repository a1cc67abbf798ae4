"""The sample set: real pictures, all different, with copies whose truth is known."""

from __future__ import annotations

import importlib.util
import itertools
import json
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dedup import photographs as photographs_module
from dedup.errors import ConfigError
from dedup.images import decode
from dedup.planting import EXACT, TRUTH_SCHEMA, plant
from dedup.records import Sample, sample_id
from dedup.shards import ShardReader, list_shards
from dedup.transforms import TRANSFORMS
from pipelines.sample import TRUTH, photographs, write_planted, write_sample


@pytest.fixture(scope="module")
def originals() -> list[Sample]:
    return list(photographs())


def read(folder: Path) -> dict[str, Sample]:
    _, shards = list_shards([str(folder)])
    return {sample_id(shard.shard_id, sample.key): sample for shard in shards for sample in ShardReader(shard)}


def picture(sample: Sample) -> Image.Image:
    assert sample.image is not None
    return decode(sample.image.data, min_side=0).rgb


def test_the_originals_are_informative_and_different_from_each_other(originals: list[Sample]) -> None:
    assert len({original.key for original in originals}) == len(originals) == 45
    hashes = {original.key: imagehash.phash(picture(original)) for original in originals}
    for a, b in itertools.combinations(hashes, 2):
        assert hashes[a] - hashes[b] > 8, f"{a} and {b}"
    for original in originals:
        assert np.asarray(picture(original).convert("L")).std() > 5, original.key


def test_quarters_share_no_pixel(originals: list[Sample]) -> None:
    by_key = {original.key: picture(original) for original in originals}
    with Image.open(Path(importlib.util.find_spec("skimage").origin).parent / "data" / "coins.png") as image:
        whole = np.asarray(image.convert("RGB"), int)
    upper = np.hstack([np.asarray(by_key["coins_0"]), np.asarray(by_key["coins_1"])])
    lower = np.hstack([np.asarray(by_key["coins_2"]), np.asarray(by_key["coins_3"])])
    together = np.vstack([upper, lower]).astype(int)
    height, width = together.shape[:2]
    assert abs(height - whole.shape[0]) <= 1
    assert abs(width - whole.shape[1]) <= 1
    assert np.abs(together - whole[:height, :width]).mean() < 3  # JPEG at quality 92


def test_captions_and_sizes_travel_with_the_pictures(originals: list[Sample]) -> None:
    for original in originals:
        record = json.loads(original.json or b"")
        assert record["caption"] == (original.text or b"").decode()
        assert (record["width"], record["height"]) == picture(original).size


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("sample"), copies=2).parent


def test_every_sample_is_in_the_shards_and_the_truth_names_the_copies(written: Path, originals: list[Sample]) -> None:
    samples = read(written)
    truth = pq.read_table(written / TRUTH)
    assert truth.schema.equals(TRUTH_SCHEMA)
    assert len(samples) == 3 * len(originals)
    assert len({sample.key for sample in samples.values()}) == len(samples)
    rows = truth.to_pylist()
    assert len(rows) == 2 * len(originals)
    copies = {row["sample_id"] for row in rows}
    assert {samples[name].key for name in samples.keys() - copies} == {original.key for original in originals}
    for row in rows:
        copy, original = samples[row["sample_id"]], samples[row["original"]]
        assert row["original"] not in copies
        assert copy.key == f"{original.key}~{row['transform']}"
        assert copy.text == original.text
        assert copy.image is not None
        assert original.image is not None
        assert (copy.image.data == original.image.data) == (row["transform"] == EXACT)
    assert set(Counter(row["transform"] for row in rows)) == {EXACT, *TRANSFORMS}


def test_copies_lie_in_other_shards_too(written: Path) -> None:
    rows = pq.read_table(written / TRUTH).to_pylist()
    apart = sum(row["sample_id"].split("/")[0] != row["original"].split("/")[0] for row in rows)
    assert apart > len(rows) / 3


def test_a_second_call_leaves_the_files_alone_and_another_recipe_does_not(tmp_path: Path) -> None:
    def files() -> dict[str, tuple[bytes, int]]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(tmp_path.iterdir())}

    write_sample(tmp_path, copies=0, shards=2)
    first = files()
    write_sample(tmp_path, copies=0, shards=2)
    assert files() == first
    (tmp_path / TRUTH).unlink()  # as a kill leaves it
    write_sample(tmp_path, copies=0, shards=2)
    assert {name: data for name, (data, _) in files().items()} == {name: data for name, (data, _) in first.items()}
    assert files() != first
    write_sample(tmp_path, copies=0, shards=1)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000.tar", TRUTH]


def test_any_mixture_can_be_written(tmp_path: Path, originals: list[Sample]) -> None:
    truth = write_planted(plant(originals[:4], ("grey",), copies=1), tmp_path, shards=3)
    assert len(read(tmp_path)) == 8
    assert set(truth["sample_id"].to_pylist()) | set(truth["original"].to_pylist()) == read(tmp_path).keys()


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photographs_module.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"scikit-image.*dedup\[sample\]"):
        next(photographs())
