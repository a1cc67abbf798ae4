"""The whole flow on a small set with known duplicates: what comes out, on any cluster, interrupted or not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from distributed import Nanny

from dedup.describe import DescribeSettings
from dedup.errors import ClusterError, ConfigError, ShardError
from dedup.manifest import read_manifest
from dedup.neighbors import SearchSettings
from dedup.verify import VerifySettings
from pipelines import client as connecting
from pipelines import describing, shuffle
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.settings import RunSettings
from tests.run_files import files, rows
from tests.shard_makers import BROKEN_SHARDS, sample_members, write_tar
from tests.test_client import leave_it_dead

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))
EMBEDDED = RunSettings(describe=DescribeSettings(embedder="efficientnet_lite0"), search=SearchSettings(min_cosine=0.9))


def test_every_sample_has_one_row_with_its_decision(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    manifest = read_manifest(str(out)).to_pylist()
    assert [row["sample_id"] for row in manifest] == [
        *(f"00000/a{n}" for n in range(5)),
        *(f"00001/b{n}" for n in range(6)),
        *(f"00002/c{n}" for n in range(5)),
    ]
    found = {row["sample_id"]: row for row in manifest}
    assert {row["sample_id"]: row["status"] for row in manifest if row["status"] != "kept"} == {
        "00000/a1": "removed",
        "00001/b0": "removed",
        "00001/b1": "removed",
        "00001/b2": "failed",
        "00001/b5": "failed",
        "00002/c1": "removed",
    }
    # Three identical files: the first stands for all, and for the recompressed one.
    for copy, method in {"00001/b0": "exact", "00002/c1": "exact", "00001/b1": "verified"}.items():
        assert found[copy]["keeper"] == "00000/a0"
        assert found[copy]["method"] == method
        assert found[copy]["cluster"] == found["00000/a0"]["cluster"]
        assert found[copy]["cluster_size"] == found[copy]["component_size"] == 4
    assert found["00001/b0"]["score"] == 1
    assert 0.5 <= found["00001/b1"]["score"] <= 1
    # The larger picture is kept, by default.
    assert found["00000/a1"]["keeper"] == "00002/c0"
    assert (found["00002/c0"]["width"], found["00002/c0"]["height"]) == (320, 240)
    # Alone.
    alone = found["00000/a2"]
    assert (alone["cluster"], alone["cluster_size"], alone["component_size"], alone["keeper"]) == (None, 1, 1, None)
    assert (alone["caption"], alone["width"], len(alone["sha256"])) == ("picture 2", 160, 64)
    # What failed says why, and is a duplicate of nothing.
    assert "no image" in found["00001/b5"]["error"]
    assert "damaged JPEG" in found["00001/b2"]["error"]
    assert found["00001/b2"]["cluster"] is None


def test_run_json_accounts_for_every_shard(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    document = json.loads((out / "run.json").read_text())
    assert document["root"] == str(shards)
    assert [entry["shard_id"] for entry in document["shards"]] == ["00000", "00001", "00002"]
    for entry in document["shards"]:
        counts = entry["counts"]
        assert counts["kept"] + counts["removed"] + counts["failed"] == entry["samples"]
        path = Path(entry["url"])
        assert entry["size"] == path.stat().st_size
        assert entry["sha256"] == _sha256(path)
        part = pq.read_table(out / "manifest" / f"{entry['shard_id']}.parquet")
        assert part.num_rows == entry["samples"]
        assert set(part["shard"].to_pylist()) == {entry["url"]}
    assert document["counts"] == {
        "input": 16, "kept": 10, "removed": 4, "failed": 2, "removed:exact": 2, "removed:verified": 2,
    }  # fmt: skip
    assert document["versions"]["torch"]


def _sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_pairs_name_identical_files_only_at_their_representative(
    shards: Path, out: Path, cluster: ClusterSettings
) -> None:
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    pairs = [row for path in (out / "pairs").iterdir() for row in pq.read_table(path).to_pylist()]
    assert {(row["a"], row["b"], row["method"]) for row in pairs if row["accepted"]} == {
        ("00000/a0", "00001/b0", "exact"),
        ("00000/a0", "00002/c1", "exact"),
        ("00000/a0", "00001/b1", "verified"),
        ("00000/a1", "00002/c0", "verified"),
    }
    assert all(row["a"] < row["b"] for row in pairs)
    assert all((row["probability"] is None) == (row["method"] == "exact") for row in pairs)
    assert len({(row["a"], row["b"]) for row in pairs}) == len(pairs)


def test_without_verification_hashes_decide(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    settings = replace(SETTINGS, verify=VerifySettings(verify=False), search=SearchSettings(candidate_bits=40))
    deduplicate([str(shards)], str(out), settings, cluster)
    pairs = [row for path in (out / "pairs").iterdir() for row in pq.read_table(path).to_pylist()]
    hashed = [row for row in pairs if row["method"] == "hash"]
    assert {row["accepted"] for row in hashed} == {True, False}
    assert all(row["accepted"] == (round((1 - row["score"]) * 64) <= 2) for row in hashed)
    found = rows(out)["00001/b1"]
    assert (found["keeper"], found["method"]) == ("00000/a0", "hash")
    assert 1 - 2 / 64 <= found["score"] <= 1


@pytest.mark.parametrize("strictness", ["exact", "copies"])
def test_strictness_exact_accepts_identical_files_only(
    strictness: str, shards: Path, out: Path, cluster: ClusterSettings
) -> None:
    settings = replace(SETTINGS, verify=VerifySettings(strictness=strictness))
    run = deduplicate([str(shards)], str(out), settings, cluster)
    assert run.document["counts"]["removed"] == {"exact": 2, "copies": 4}[strictness]


def test_many_partitions_give_what_one_task_gives(
    shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = SearchSettings(min_cosine=0.9, cells=3, assignments=2)
    settings = RunSettings(describe=EMBEDDED.describe, search=search)
    deduplicate([str(shards)], str(tmp_path / "one"), settings, cluster)
    monkeypatch.setattr(shuffle, "_PARTITION_BYTES", 500)
    monkeypatch.setattr(shuffle, "_MAX_PARTITIONS", 7)
    run = deduplicate([str(shards)], str(tmp_path / "many"), settings, cluster)
    assert len(run.folder.names("pairs")) > 3
    assert files(tmp_path / "many", "manifest") == files(tmp_path / "one", "manifest")
    accepted = []
    for name in ("one", "many"):
        pairs = [row for path in (tmp_path / name / "pairs").iterdir() for row in pq.read_table(path).to_pylist()]
        accepted.append(sorted((row["a"], row["b"], row["method"], row["score"]) for row in pairs))
    assert accepted[0] == accepted[1]


@pytest.mark.parametrize("settings", [SETTINGS, EMBEDDED], ids=["hashes", "embedded"])
def test_one_worker_and_several_give_the_same_bytes(
    settings: RunSettings, shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    deduplicate([str(shards)], str(tmp_path / "two"), settings, cluster)
    deduplicate([str(shards)], str(tmp_path / "one"), settings, ClusterSettings(workers=1))
    one, two = (files(tmp_path / name, "manifest", "pairs") for name in ("one", "two"))
    assert one == two
    assert len(one) > 3
    for path in sorted((tmp_path / "one" / "descriptors").iterdir()):
        assert pq.read_table(path).equals(pq.read_table(tmp_path / "two" / "descriptors" / path.name))


def test_min_cosine_accepts_by_embedding_and_recall_is_measured(
    shards: Path, out: Path, cluster: ClusterSettings
) -> None:
    run = deduplicate([str(shards)], str(out), EMBEDDED, cluster)
    accepted = {
        (row["a"], row["b"])
        for path in (out / "pairs").iterdir()
        for row in pq.read_table(path).to_pylist()
        if row["accepted"] and row["method"] == "embedding"
    }
    assert ("00000/a0", "00001/b1") in accepted
    recall = run.document["recall"]
    assert recall["recall"] == 1
    assert recall["found"] == recall["neighbors"] >= 1
    assert recall["min_cosine"] == 0.9


def test_without_min_cosine_embeddings_only_propose(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    settings = RunSettings(EMBEDDED.describe, SearchSettings(candidate_cosine=0.5), VerifySettings(verify=False))
    run = deduplicate([str(shards)], str(out), settings, cluster)
    assert "local" not in run.document["steps"]["search"]["candidates"]  # no image is read where none decides
    pairs = [row for path in (out / "pairs").iterdir() for row in pq.read_table(path).to_pylist()]
    proposed = [row for row in pairs if row["method"] == "embedding"]
    assert proposed
    assert not any(row["accepted"] for row in proposed)


def test_a_remote_run_folder_and_shards_give_the_same_manifest(shards: Path, out: Path, tmp_path: Path) -> None:
    # file:// goes the way of every fsspec URL; memory:// would not be shared between processes.
    here = ClusterSettings(workers=1)
    deduplicate([str(shards)], str(out), SETTINGS, here)
    deduplicate([f"file://{shards}"], f"file://{tmp_path / 'far'}", SETTINGS, here)
    far = read_manifest(f"file://{tmp_path / 'far'}").drop_columns(["shard"])
    assert far.equals(read_manifest(str(out)).drop_columns(["shard"]))


# ---------------------------------------------------------------- bad input


def test_shards_without_a_representative_or_a_sample(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    (shards / "again").mkdir()
    for name in ("00000.tar", "00002.tar"):
        (shards / "again" / name).write_bytes((shards / name).read_bytes())
    write_tar(shards / "empty.tar", [])
    write_tar(shards / "failed.tar", sample_members("a", b"no image"))
    run = deduplicate([str(shards)], str(out), EMBEDDED, cluster)
    assert run.document["counts"]["input"] == 27
    found = rows(out)
    assert {found[f"again/00000/a{n}"]["status"] for n in range(5)} == {"removed"}
    assert found["failed/a"]["status"] == "failed"
    assert pq.read_table(out / "manifest" / "empty.parquet").num_rows == 0


def test_a_set_in_which_nothing_can_be_decoded(tmp_path: Path, out: Path, cluster: ClusterSettings) -> None:
    write_tar(tmp_path / "bad" / "0.tar", [*sample_members("a", b"no image"), *sample_members("b", None, "text")])
    run = deduplicate([str(tmp_path / "bad")], str(out), EMBEDDED, cluster)
    assert run.document["counts"] == {"input": 2, "kept": 0, "removed": 0, "failed": 2}


def test_folders_that_cannot_hold_a_run(shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file/run cannot hold a run"):
        deduplicate([str(shards)], str(tmp_path / "file" / "run"), SETTINGS, cluster)
    with pytest.raises(ConfigError, match="a memory of its own"):
        deduplicate([str(shards)], "memory://run", SETTINGS, cluster)


def test_settings_may_change_until_something_is_described(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    with pytest.raises(ConfigError):
        deduplicate([str(shards)], str(out), SETTINGS, ClusterSettings(scheduler="nonsense"))
    other = replace(SETTINGS, search=SearchSettings(max_bits=3))
    assert deduplicate([str(shards)], str(out), other, cluster).document["counts"]["removed"] == 4


# So few samples might be done before the signal comes.
STOPPED_BEFORE_SEARCH = """
import time
from pipelines import cli, deduplicate

def stop(*_):
    print("stopped", flush=True)
    time.sleep(120)


if __name__ == "__main__":
    deduplicate.AFTER_DESCRIBE["search"] = stop
    cli.main()
"""


def test_ctrl_c_says_what_is_kept_and_the_next_run_finishes(
    shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    out = tmp_path / "stopped"
    arguments = ["run", str(shards), "--out", str(out), "--embedder", "none", "--workers", "1"]
    command = [sys.executable, "-c", STOPPED_BEFORE_SEARCH, *arguments]
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "stopped\n"
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    deduplicate([str(shards)], str(out), SETTINGS, cluster)
    deduplicate([str(shards)], str(tmp_path / "whole"), SETTINGS, cluster)
    assert files(out, "manifest", "pairs") == files(tmp_path / "whole", "manifest", "pairs")


@pytest.mark.parametrize("kind", BROKEN_SHARDS)
def test_a_broken_shard_is_named_or_skipped(kind: str, shards: Path, out: Path, cluster: ClusterSettings) -> None:
    bad = shards / "bad.tar"
    bad.write_bytes(BROKEN_SHARDS[kind])
    with pytest.raises(ShardError, match=r"shards/bad\.tar: "):
        deduplicate([str(shards)], str(out), SETTINGS, cluster)
    assert not (out / "manifest").exists()
    run = deduplicate([str(shards)], str(out), SETTINGS, cluster, skip_bad_shards=True)
    assert [entry["url"] for entry in run.document["skipped_shards"]] == [str(bad)]
    assert run.document["counts"]["input"] == 16


def test_a_shard_that_kills_its_workers_is_named_and_no_other(
    shards: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(describing, "_describe_shard", _die_on_the_second)
    with pytest.raises(ShardError, match=r"00001\.tar: 3 workers died"):
        deduplicate([str(shards)], str(out), SETTINGS, ClusterSettings(workers=2))
    assert {path.name for path in (out / "descriptors").glob("*.parquet")} <= {"00000.parquet", "00002.parquet"}


_describe_shard = describing._describe_shard


def _die_on_the_second(shard: Any, **settings: Any) -> dict[str, Any]:
    if shard.shard_id == "00001":
        time.sleep(0.3)  # so that another shard runs beside it
        os._exit(1)
    return _describe_shard(shard, **settings)


def test_where_no_worker_comes_back_the_run_ends_and_no_shard_is_blamed(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: ClusterSettings
) -> None:
    deduplicate([str(shards)], str(tmp_path / "whole"), SETTINGS, cluster)
    with monkeypatch.context() as patch:
        patch.setattr(connecting, "_SECONDS_WITHOUT_WORKERS", 1.0)
        patch.setattr(Nanny, "_on_worker_exit", leave_it_dead)
        patch.setattr(describing, "_describe_shard", _die_on_the_second)
        with pytest.raises(ClusterError, match="What is finished is kept"):
            deduplicate(
                [str(shards)], str(tmp_path / "out"), SETTINGS, ClusterSettings(workers=1), skip_bad_shards=True
            )
    run = deduplicate([str(shards)], str(tmp_path / "out"), SETTINGS, cluster, skip_bad_shards=True)
    assert run.document["skipped_shards"] == []
    assert files(tmp_path / "out", "manifest") == files(tmp_path / "whole", "manifest")


def test_a_worker_that_dies_once_costs_nothing(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: ClusterSettings
) -> None:
    deduplicate([str(shards)], str(tmp_path / "whole"), SETTINGS, cluster)
    monkeypatch.setattr(describing, "_describe_shard", _DieOnce(tmp_path / "died", describing._describe_shard))
    deduplicate([str(shards)], str(tmp_path / "out"), SETTINGS, ClusterSettings(workers=1))
    assert (tmp_path / "died").exists()
    assert files(tmp_path / "out", "manifest") == files(tmp_path / "whole", "manifest")


class _DieOnce:
    def __init__(self, marker: Path, function: Callable[..., dict[str, Any]]) -> None:
        self._marker = marker
        self._function = function

    def __call__(self, shard: Any, **settings: Any) -> dict[str, Any]:
        if not self._marker.exists():
            self._marker.touch()
            os._exit(1)
        return self._function(shard, **settings)


def test_no_scheduler_at_the_address(shards: Path, out: Path) -> None:
    with pytest.raises(ConfigError, match="no Dask scheduler answers at nonsense"):
        deduplicate([str(shards)], str(out), SETTINGS, ClusterSettings(scheduler="nonsense"))
