"""`dedup clean`: from a finished run to cleaned shards, anywhere, resumable, refusing what it must not touch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import LocalCluster

from dedup.decisions import DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, DedupError, ManifestError, ShardError
from dedup.manifest import read_manifest
from dedup.records import Shard
from dedup.rewrite import CleanSettings, plan
from dedup.shards import ShardReader, list_shards
from pipelines import clean as cleaning
from pipelines.clean import clean
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.settings import RunSettings
from tests.shard_makers import jpeg, sample_members, write_tar

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))
ALL = CleanSettings()
GONE = {"00000/a1", "00001/b0", "00001/b1", "00002/c1"}  # of the fixture `shards`


@pytest.fixture
def run(shards: Path, tmp_path: Path, cluster: ClusterSettings) -> Path:
    deduplicate([str(shards)], str(tmp_path / "run"), SETTINGS, cluster)
    return tmp_path / "run"


@pytest.fixture
def threads() -> Iterator[ClusterSettings]:
    """A cluster in this process, whose memory:// its tasks share."""
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0",
        protocol="tcp", silence_logs=logging.CRITICAL,
    ) as running:  # fmt: skip
        yield ClusterSettings(scheduler=running.scheduler_address)


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def tars(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in files(folder).items() if name.endswith(".tar")}


def images(folder: Path) -> dict[str, str | None]:
    """sha256 of each sample's image, by sample id."""
    return {
        f"{shard.shard_id}/{sample.key}": hashlib.sha256(sample.image.data).hexdigest() if sample.image else None
        for shard in list_shards([str(folder)])[1]
        for sample in ShardReader(shard)
    }


def test_what_is_kept_has_the_same_images_and_the_counts_are_those_of_the_manifest(
    run: Path, shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    before, input_files = images(shards), files(shards)
    document = clean(str(run), str(tmp_path / "out"), ALL, cluster)
    manifest = read_manifest(str(run)).to_pylist()
    staying = [row["sample_id"] for row in manifest if row["status"] != "removed"]
    assert images(tmp_path / "out") == {sample_id: before[sample_id] for sample_id in staying}
    assert set(before) - set(staying) == GONE
    assert document["counts"] == {"input": 16, "written": 12, "removed": 4, "failed_left_out": 0}
    assert json.loads((tmp_path / "out" / "clean.json").read_text()) == document
    for entry in document["shards"]:
        data = (tmp_path / "out" / f"{entry['name']}.tar").read_bytes()
        assert len(data) == entry["size"]
    assert files(shards) == input_files


def test_failed_samples_can_be_left_out(run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    document = clean(str(run), str(tmp_path / "out"), CleanSettings(drop_failed=True), cluster)
    assert document["counts"] == {"input": 16, "written": 10, "removed": 4, "failed_left_out": 2}
    assert len(images(tmp_path / "out")) == 10


def test_repacked_shards_hold_the_same_samples(run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    clean(str(run), str(tmp_path / "same"), ALL, cluster)
    document = clean(str(run), str(tmp_path / "out"), CleanSettings(shard_size=5), cluster)
    assert [(entry["name"], entry["samples"]) for entry in document["shards"]] == [
        ("00000", 5), ("00001", 5), ("00002", 2),
    ]  # fmt: skip
    assert list(images(tmp_path / "out").values()) == list(images(tmp_path / "same").values())


def test_the_same_bytes_to_any_place(run: Path, tmp_path: Path, threads: ClusterSettings) -> None:
    clean(str(run), str(tmp_path / "out"), ALL, threads)
    clean(str(run), "memory://cleaned/out", ALL, threads)
    memory = fsspec.filesystem("memory")
    names = [path.rpartition("/")[2] for path in memory.find("/cleaned/out")]
    assert names == ["00000.tar", "00001.tar", "00002.tar", "clean.json"]
    for name in names[:3]:
        assert memory.cat_file(f"/cleaned/out/{name}") == (tmp_path / "out" / name).read_bytes()


def test_folders_are_kept(shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    (shards / "sub").mkdir()
    shutil.move(shards / "00001.tar", shards / "sub" / "00000.tar")
    deduplicate([str(shards)], str(tmp_path / "run"), SETTINGS, cluster)
    clean(str(tmp_path / "run"), str(tmp_path / "out"), ALL, cluster)
    assert set(files(tmp_path / "out")) == {"00000.tar", "00002.tar", "sub/00000.tar", "clean.json"}


def test_tables_of_img2dataset_lose_the_rows_that_go(
    run: Path, shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    keys = [f"a{number}" for number in range(6)]  # a5 was never downloaded
    pq.write_table(
        pa.table({"key": keys, "status": ["success"] * 5 + ["failed_to_download"]}), shards / "00000.parquet"
    )
    (shards / "00000_stats.json").write_text("{}")
    pq.write_table(pa.table({"other": [1]}), shards / "00001.parquet")
    clean(str(run), str(tmp_path / "out"), ALL, cluster)
    table = pq.read_table(tmp_path / "out" / "00000.parquet")
    assert table["key"].to_pylist() == ["a0", "a2", "a3", "a4", "a5"]
    assert set(files(tmp_path / "out")) == {
        "00000.tar", "00000.parquet", "00001.tar", "00002.tar", "clean.json",
    }  # fmt: skip


class TestResuming:
    def test_finished_shards_are_left_alone_and_missing_ones_written(
        self, run: Path, tmp_path: Path, cluster: ClusterSettings, caplog: pytest.LogCaptureFixture
    ) -> None:
        out = tmp_path / "out"
        said = cleaning.text(clean(str(run), str(out), ALL, cluster), str(out))
        assert "in 3 shards, checked against the manifest" in said
        whole = tars(out)
        (out / "00001.tar").unlink()
        size = (out / "00002.tar").stat().st_size
        (out / "00002.tar").write_bytes(b"cut short")
        untouched = (out / "00000.tar").stat().st_mtime_ns
        caplog.set_level(logging.WARNING)
        said = cleaning.text(clean(str(run), str(out), ALL, cluster), str(out))
        assert "in 3 shards, 1 of them by earlier calls, all checked against the manifest" in said
        assert f"{out}/00002.tar has 9 bytes, and {size:,} when it was written; it is written again" in caplog.text
        assert tars(out) == whole
        assert (out / "00000.tar").stat().st_mtime_ns == untouched

    def test_what_an_interrupted_call_wrote_counts(
        self, run: Path, shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        changed = (shards / "00002.tar").read_bytes()
        monkeypatch.setattr(cleaning, "refuse_changed", lambda _: None)
        data = bytearray(changed)
        data[600] ^= 1  # in the first image
        (shards / "00002.tar").write_bytes(data)
        with pytest.raises(ShardError, match=r"00002\.tar: is no longer the shard that the run read"):
            clean(str(run), str(out), ALL, cluster)
        assert not (out / "00002.tar").exists()
        assert json.loads((out / "clean.json").read_text())["finished"] is False
        (shards / "00002.tar").write_bytes(changed)
        assert clean(str(run), str(out), ALL, cluster)["finished"] is True

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (jpeg(22), "the image of sample 00002/c2 has CRC-32"),
            (b"picture 22", "members other than its images have changed"),
        ],
    )
    def test_a_written_shard_that_was_damaged_is_named_and_written_again(
        self, content: bytes, problem: str, run: Path, tmp_path: Path, cluster: ClusterSettings,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        out = tmp_path / "out"
        document = clean(str(run), str(out), ALL, cluster)
        whole = tars(out)
        data = bytearray(whole["00002.tar"])
        data[data.index(content) + 5] ^= 1
        (out / "00002.tar").write_bytes(data)
        untouched = (out / "00000.tar").stat().st_mtime_ns
        caplog.set_level(logging.WARNING)
        assert clean(str(run), str(out), ALL, cluster) == document | {"seconds": ANY, "shards_of_earlier_calls": 2}
        assert tars(out) == whole
        assert (out / "00000.tar").stat().st_mtime_ns == untouched
        [told] = [record.getMessage() for record in caplog.records if record.name == "pipelines.clean"]
        assert told.startswith(f"shard {out}/00002.tar: is not as it was written: {problem}")
        assert told.endswith("; it was written again")

    @pytest.mark.parametrize("other", [CleanSettings(shard_size=3), CleanSettings(drop_failed=True)])
    def test_other_settings_are_refused(
        self, other: CleanSettings, run: Path, tmp_path: Path, cluster: ClusterSettings
    ) -> None:
        clean(str(run), str(tmp_path / "out"), ALL, cluster)
        before = files(tmp_path / "out")
        with pytest.raises(ConfigError, match="another settings"):
            clean(str(run), str(tmp_path / "out"), other, cluster)
        assert files(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("sizes", "slots", "expected"),
    [
        ([10] * 3, 2, [1, 1, 1]),  # few: each its own task
        ([10] * 32, 2, [4] * 8),
        ([40_000_000] * 40, 2, [2] * 20),  # large: up to some 64 MB
        ([90_000_000] * 3, 1, [1] * 3),
    ],
)
def test_small_shards_share_a_task(sizes: list[int], slots: int, expected: list[int]) -> None:
    shards = [Shard(f"/in/{number:05d}.tar", f"{number:05d}", size, "1") for number, size in enumerate(sizes)]
    outputs = plan(shards, [1] * len(shards), ALL)
    tasks = cleaning._tasks(outputs, slots)
    assert [output for task in tasks for output in task] == outputs
    assert [len(task) for task in tasks] == expected


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # datasets leaves shards to the garbage collector
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(("captions", "pooled"), [("merge", ["one", "a longer one"]), ("longest", ["a longer one"])])
def test_hugging_face_reads_shards_with_pooled_captions(
    captions: str, pooled: list[str], tmp_path: Path, cluster: ClusterSettings
) -> None:
    texts = {"a": "alone", "b": "one", "c": "a longer one", "d": " ", "e": "last"}
    seeds = {"a": 1, "b": 0, "c": 0, "d": 3, "e": 4}
    samples = [sample_members(key, jpeg(seeds[key]), text) for key, text in texts.items()]
    write_tar(tmp_path / "shards" / "0.tar", [member for sample in samples for member in sample])
    settings = RunSettings(describe=DescribeSettings(embedder="none"), decide=DecideSettings(captions=captions))
    deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), settings, cluster)
    clean(str(tmp_path / "run"), str(tmp_path / "out"), ALL, cluster)
    for streaming in (True, False):
        rows = datasets.load_dataset(
            "webdataset",
            data_files=[str(tmp_path / "out" / "0.tar")],
            split="train",
            streaming=streaming,
            cache_dir=str(tmp_path / "cache"),
        )
        found = {row["__key__"]: (row["txt"], row["captions.json"]) for row in rows}
        assert found == {"a": ("alone", ["alone"]), "b": ("one", pooled), "d": (" ", []), "e": ("last", ["last"])}


class TestRefusals:
    def refused(
        self, kind: type[DedupError], message: str, run: Path, out: Path | str, cluster: ClusterSettings
    ) -> None:
        folder = Path(out)
        before = files(folder) if folder.exists() else None
        with pytest.raises(kind, match=message):
            clean(str(run), str(out), ALL, cluster)
        assert (files(folder) if folder.exists() else None) == before

    def test_the_input_folder_and_what_is_in_or_around_it(
        self, run: Path, shards: Path, tmp_path: Path, cluster: ClusterSettings
    ) -> None:
        (tmp_path / "link").symlink_to(shards)
        for out in (shards, shards / "clean", tmp_path / "link", f"{shards}/../shards/", f"file://{shards}/x"):
            self.refused(ConfigError, "is the folder of input shards, or in it", run, out, cluster)
        self.refused(ConfigError, "holds input shards", run, tmp_path, cluster)

    def test_a_folder_of_something_else(self, run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "00000.tar").write_bytes(b"precious")
        self.refused(ConfigError, r"not empty and has no clean\.json", run, tmp_path / "out", cluster)

    def test_a_shard_that_changed(self, run: Path, shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        os.utime(shards / "00001.tar", ns=(1, 1))
        out, changed = tmp_path / "out", r"00001\.tar: has changed: "
        self.refused(ShardError, changed + ".* when the run read it", run, out, cluster)
        (shards / "00001.tar").write_bytes(b"")
        self.refused(ShardError, changed + "0 bytes", run, out, cluster)

    def test_a_shard_that_vanished(self, run: Path, shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        (shards / "00001.tar").unlink()
        self.refused(ShardError, r"00001\.tar: does not exist", run, tmp_path / "out", cluster)

    def test_a_manifest_of_an_earlier_version(self, run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        path = run / "manifest" / "00001.parquet"
        pq.write_table(pq.read_table(path).drop_columns(["crc32"]), path)
        with pytest.raises(ManifestError, match=r"00001\.parquet has no column crc32: another .*make it again"):
            clean(str(run), str(tmp_path / "out"), ALL, cluster)

    def test_shards_cleaned_by_an_earlier_version(self, run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "clean.json").write_text('{"format": 2, "shards": []}')
        self.refused(ConfigError, r"another format \(2, now 3\)", run, tmp_path / "out", cluster)

    def test_a_run_that_is_unfinished(self, run: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        (run / "manifest" / "00001.parquet").unlink()
        self.refused(ManifestError, "unfinished", run, tmp_path / "out", cluster)
        self.refused(ManifestError, "no run folder", tmp_path / "nowhere", tmp_path / "out", cluster)
