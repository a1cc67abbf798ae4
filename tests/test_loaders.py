"""The filter in torch datasets and in Hugging Face `datasets`, as installed."""

from __future__ import annotations

import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dedup.errors import ManifestError
from dedup.loaders import KeptSamples, kept_rows, kept_subset
from tests.shard_makers import jpeg, sample_members, write_tar
from tests.test_filters import SET, loaded, loader, make_run

pytestmark = [
    pytest.mark.usefixtures("collected"),
    # webdataset and datasets leave the file of a shard to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        """Says nothing."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, SET)


@pytest.fixture(params=[False, True], ids=["map-style", "streaming"])
def streaming(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def hugging_face(folder: Path, cache: Path, streaming: bool) -> Any:
    files = sorted(str(path) for path in folder.rglob("*.tar"))
    return datasets.load_dataset(
        "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(cache)
    )


def names(rows: Any) -> list[str]:
    return [f"{Path(row['__url__']).parent.name}/{row['__key__']}" for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_an_iterable_dataset_gives_what_the_run_kept(workers: int, run: Path, tmp_path: Path) -> None:
    stream = KeptSamples(loader(tmp_path / "shards", "a/0", "b/0"), run)
    assert loaded(DataLoader(stream, batch_size=None, num_workers=workers)) == ["a/k0", "a/k2", "b/k1"]


def test_an_iterable_dataset_takes_the_options_of_keep(tmp_path: Path) -> None:
    run = make_run(tmp_path, SET, {"a/0/k0": 0.0, "b/0/k1": 1.0})
    stream = KeptSamples(loader(tmp_path / "shards", "a/0", "b/0"), run, drop_failed=True, by_weight=True)
    assert loaded(stream) == ["b/k1"]


def test_a_subset_holds_the_rows_that_the_run_kept(run: Path) -> None:
    ids = ["b/0/k1", "a/0/k0", "b/0/k0", "a/0/k2"]
    rows = TensorDataset(torch.arange(4))
    assert [int(row) for (row,) in kept_subset(rows, run, ids)] == [0, 1, 3]
    assert [int(row) for (row,) in kept_subset(rows, run, ids, drop_failed=True)] == [0, 1]
    with pytest.raises(ManifestError, match="3 sample ids for a dataset of 4 rows"):
        kept_subset(rows, run, ids[:3])


def test_hugging_face_datasets_give_what_the_run_kept(run: Path, tmp_path: Path, streaming: bool) -> None:
    rows = hugging_face(tmp_path / "shards", tmp_path / "cache", streaming)
    kept = kept_rows(rows, run, drop_failed=True)
    assert type(kept) is type(rows)
    assert kept.features == rows.features
    found = list(kept)  # with every image decoded: those that failed are gone
    assert names(found) == ["a/k0", "b/k1"]
    assert found[0]["jpg"].size == (32, 24)


def test_hugging_face_datasets_decode_nothing_to_filter(run: Path, tmp_path: Path, streaming: bool) -> None:
    rows = hugging_face(tmp_path / "shards", tmp_path / "cache", streaming).cast_column(
        "jpg", datasets.Image(decode=False)
    )
    kept = kept_rows(rows, run)  # with one image that cannot be decoded
    assert names(kept.remove_columns("jpg")) == ["a/k0", "a/k2", "b/k1"]


def test_other_shards_of_the_same_names_are_noticed(run: Path, tmp_path: Path, streaming: bool) -> None:
    write_tar(tmp_path / "other" / "a" / "0.tar", sample_members("k0", jpeg(9, 32, 24)))
    rows = hugging_face(tmp_path / "other", tmp_path / "cache", streaming)
    with pytest.raises(ManifestError, match="another one than the run saw"):
        list(kept_rows(rows, run))


def test_a_hugging_face_dataset_without_its_keys_is_refused(run: Path, tmp_path: Path, streaming: bool) -> None:
    rows = hugging_face(tmp_path / "shards", tmp_path / "cache", streaming)
    with pytest.raises(ManifestError, match="needs the columns __key__ and __url__"):
        kept_rows(rows.remove_columns(["__url__"]), run)


def test_splits_are_to_be_filtered_one_by_one(run: Path, tmp_path: Path, streaming: bool) -> None:
    rows = hugging_face(tmp_path / "shards", tmp_path / "cache", streaming)
    splits = (datasets.IterableDatasetDict if streaming else datasets.DatasetDict)({"train": rows, "test": rows})
    with pytest.raises(ManifestError, match="a dataset of the splits train, test: filter one of them"):
        kept_rows(splits, run)


def test_shards_that_hugging_face_downloads_are_told_when_streamed_only(
    run: Path, tmp_path: Path, streaming: bool
) -> None:
    handler = partial(QuietHandler, directory=tmp_path / "shards")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            files = [f"http://127.0.0.1:{server.server_port}/{name}.tar" for name in ("a/0", "b/0")]
            rows = datasets.load_dataset(
                "webdataset", data_files=files, split="train", streaming=streaming, cache_dir=str(tmp_path / "cache")
            )
            if streaming:
                assert names(kept_rows(rows, run, drop_failed=True)) == ["a/k0", "b/k1"]
            else:
                with pytest.raises(ManifestError, match=r"a copy that Hugging Face datasets made.* streaming=True"):
                    kept_rows(rows, run)
        finally:
            server.shutdown()


def test_hugging_face_caches_one_decision_apart_from_the_next(run: Path, tmp_path: Path) -> None:
    rows = hugging_face(tmp_path / "shards", tmp_path / "cache", streaming=False)
    assert len(kept_rows(rows, run)) == 3
    assert len(kept_rows(rows, run, drop_failed=True)) == 2
