from __future__ import annotations

import pyarrow as pa
import pytest

from dedup.decisions import DECISION_SCHEMA, DecideSettings
from dedup.errors import ManifestError
from dedup.manifest import count, manifest_table, read_manifest, split_by_shard
from dedup.records import MANIFEST_SCHEMA, Shard, descriptor_schema

SHARD = Shard("/data/a.tar", "a", 10, "1")
DESCRIPTORS = descriptor_schema({"phash": 8}, 0)


def descriptors(**errors: str | None) -> pa.Table:
    """Rows a/<key> in this order; a value is the error of the sample."""
    rows = [
        {"sample_id": f"a/{key}", "key": key, "error": error, "caption": f"text {key}"}
        | ({} if error else {"width": 4, "height": 3, "sha256": bytes(range(32)), "crc32": 2**32 - 1})
        for key, error in errors.items()
    ]
    return pa.Table.from_pylist(rows, schema=DESCRIPTORS)


def decisions(*rows: dict[str, object]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=DECISION_SCHEMA)


KEEPER = {"sample_id": "a/z", "status": "kept", "cluster": 3, "cluster_size": 2, "component_size": 4}
REMOVED = {**KEEPER, "sample_id": "a/y", "status": "removed", "keeper": "a/z", "method": "hash", "score": 0.5}


def test_rows_stay_in_the_order_of_the_shard_whatever_the_decisions() -> None:
    table = manifest_table(SHARD, descriptors(z=None, x="bad", y=None, w=None), decisions(REMOVED, KEEPER))
    assert table.schema == MANIFEST_SCHEMA
    assert table["key"].to_pylist() == ["z", "x", "y", "w"]
    assert table["status"].to_pylist() == ["kept", "failed", "removed", "kept"]
    assert table["keeper"].to_pylist() == [None, None, "a/z", None]
    assert table["method"].to_pylist() == [None, None, "hash", None]
    assert table["score"].to_pylist() == [None, None, 0.5, None]
    assert table["cluster"].to_pylist() == [3, None, 3, None]
    assert table["cluster_size"].to_pylist() == [2, 1, 2, 1]
    assert table["component_size"].to_pylist() == [4, 1, 4, 1]
    assert table["sha256"].to_pylist() == [bytes(range(32)).hex(), None, bytes(range(32)).hex(), bytes(range(32)).hex()]
    assert table["crc32"].to_pylist() == [2**32 - 1, None, 2**32 - 1, 2**32 - 1]
    assert set(table["shard"].to_pylist()) == {"/data/a.tar"}
    assert table["weight"].null_count == table["captions"].null_count == len(table)
    assert count(table) == {"kept": 2, "removed": 1, "failed": 1, "removed:hash": 1}


def test_where_samples_are_weighed_all_that_stay_weigh_something() -> None:
    by_hand = {"sample_id": "a/x", "status": "removed", "cluster_size": 1, "component_size": 1, "method": "override"}
    rows = decisions({**KEEPER, "weight": 0.5}, {**KEEPER, "sample_id": "a/y", "weight": 0.25}, by_hand)
    descriptions = descriptors(z=None, x="bad", y=None, w=None, v="bad")
    table = manifest_table(SHARD, descriptions, rows, DecideSettings(weights="inverse"))
    assert table["status"].to_pylist() == ["kept", "removed", "kept", "kept", "failed"]
    assert table["weight"].to_pylist() == [0.5, None, 0.25, 1, None]
    assert count(table) == {"kept": 3, "removed": 1, "failed": 1, "removed:override": 1}


def test_pooled_captions_stand_beside_the_caption() -> None:
    rows = decisions({**KEEPER, "captions": ["text z", "text y"]}, REMOVED)
    table = manifest_table(SHARD, descriptors(z=None, y=None), rows)
    assert table["captions"].to_pylist() == [["text z", "text y"], None]
    assert table["caption"].to_pylist() == ["text z", "text y"]


def test_an_empty_shard_gives_an_empty_part() -> None:
    table = manifest_table(SHARD, descriptors(), decisions())
    assert table.schema == MANIFEST_SCHEMA
    assert count(table) == {"kept": 0, "removed": 0, "failed": 0}


def test_a_failed_sample_is_never_removed() -> None:
    with pytest.raises(ManifestError, match="a sample that failed was grouped"):
        manifest_table(SHARD, descriptors(z=None, y="bad"), decisions(REMOVED, KEEPER))


def test_decisions_reach_the_shard_that_they_concern() -> None:
    ids = ["a/1", "a/b/1", "a0/1", "ab/1", "b/a/1", "ä/1"]
    table = decisions(*({**KEEPER, "sample_id": sample_id} for sample_id in reversed(ids)))
    shards = [Shard("", shard_id, 0, "") for shard_id in ("a", "a/b", "a0", "ab", "b", "c", "ä")]
    parts = {name: part["sample_id"].to_pylist() for name, part in split_by_shard(table, shards).items()}
    assert parts == {
        "a": ["a/1", "a/b/1"],  # the second is matched by no row of shard a
        "a/b": ["a/b/1"],
        "a0": ["a0/1"],
        "ab": ["ab/1"],
        "b": ["b/a/1"],
        "ä": ["ä/1"],
    }


def test_reading_asks_for_a_finished_run(tmp_path: object) -> None:
    with pytest.raises(ManifestError, match=r"no run folder: it has no run\.json"):
        read_manifest(str(tmp_path))
