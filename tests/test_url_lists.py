"""kept_urls.parquet and removed_urls.parquet: in img2dataset's input form, all fields of the json in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedup.describe import DescribeSettings
from dedup.manifest import read_manifest
from dedup.url_lists import common_schema, parts, schema_of, url_columns, url_table
from pipelines import url_lists
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.settings import DecideSettings, RunSettings
from tests.shard_makers import jpeg, sample_members, write_tar

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))


def samples(*fields: dict[str, Any] | str | None) -> pa.Table:
    """Samples with these json fields (or this raw json); each has a url and a caption."""
    return pa.table(
        {
            "url": [f"http://host/{n}.jpg" for n in range(len(fields))],
            "caption": pa.array([f"text {n}" for n in range(len(fields))]),
            "json": pa.array([f if isinstance(f, str) or f is None else json.dumps(f) for f in fields], pa.string()),
        }
    )


def table(*shards: pa.Table) -> pa.Table:
    columns = [url_columns(shard) for shard in shards]
    schema = common_schema(map(schema_of, columns))
    return pa.concat_tables(url_table(shard, schema) for shard in columns)


@pytest.mark.parametrize(
    ("values", "kind", "stored"),
    [
        ([1, None, 2], pa.int64(), [1, None, 2]),
        ([1, 2.5], pa.float64(), [1.0, 2.5]),
        ([True, None], pa.bool_(), [True, None]),
        (["a", "b"], pa.string(), ["a", "b"]),
        ([None, None], pa.string(), [None, None]),
        ([[1, 2], [0.5]], pa.list_(pa.float64()), [[1.0, 2.0], [0.5]]),
        ([[], ["x"]], pa.list_(pa.string()), [[], ["x"]]),
        ([[[1, 2]], [[3]]], pa.list_(pa.list_(pa.int64())), [[[1, 2]], [[3]]]),
        ([1, "a"], pa.string(), ["1", "a"]),
        ([{"b": 1}, {}], pa.string(), ['{"b": 1}', "{}"]),
        ([[1], ["a"]], pa.string(), ["[1]", '["a"]']),
        ([[1], 2], pa.string(), ["[1]", "2"]),
        ([True, 1], pa.string(), ["true", "1"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        (["\ud83d", "b"], pa.string(), ["?", "b"]),
    ],
)
@pytest.mark.parametrize("apart", [False, True], ids=["in one shard", "in two shards"])
def test_fields_get_the_narrowest_type_that_holds_them(
    values: list[Any], kind: pa.DataType, stored: list[Any], apart: bool
) -> None:
    shards = [samples({"x": value}) for value in values] if apart else [samples(*({"x": value} for value in values))]
    found = table(*shards)
    assert found.schema.field("x").type == kind
    assert found["x"].to_pylist() == stored


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**66), 2**66) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=3,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(st.dictionaries(st.sampled_from("xyz"), _VALUES), max_size=3), min_size=1, max_size=3))
def test_no_json_is_refused(shards: list[list[dict[str, Any]]]) -> None:
    found = table(*(samples(*shard) for shard in shards))
    assert found.num_rows == sum(map(len, shards))
    pq.write_table(found, pa.BufferOutputStream())


def test_columns_come_as_they_first_appear_and_url_and_caption_are_the_samples() -> None:
    found = table(samples({"url": "other", "NSFW": "no", "caption": "other"}), samples({"license": "cc", "NSFW": "?"}))
    assert found.column_names == ["url", "caption", "NSFW", "license"]
    assert found["url"].to_pylist() == ["http://host/0.jpg"] * 2
    assert found["license"].to_pylist() == [None, "cc"]


@pytest.mark.parametrize("raw", [None, "", "no json", "[1]", '"text"', "[" * 100_000])
def test_what_is_no_json_object_has_no_fields(raw: str | None) -> None:
    assert table(samples(raw)).to_pylist() == [{"url": "http://host/0.jpg", "caption": "text 0"}]


@given(st.lists(st.integers(0, 9), min_size=1), st.integers(1, 12))
def test_parts_hold_every_shard_once_and_no_more_rows_than_they_may(rows: list[int], most: int) -> None:
    found = parts(rows, most)
    assert [shard for part in found for shard in part] == list(range(len(rows)))
    for part in found:
        assert sum(rows[shard] for shard in part) <= most or sum(rows[shard] > 0 for shard in part) == 1


class TestOfARun:
    @pytest.fixture
    def shards(self, tmp_path: Path) -> Path:
        """Two shards; b0 is a copy of a0, b1 cannot be decoded, b2 has no url."""
        content = {
            "a": [(jpeg(0), {"url": "http://host/a0", "score": 1}), (jpeg(1), {"url": "http://host/a1", "tag": "x"})],
            "b": [
                (jpeg(0), {"url": "http://host/b0", "score": 0.5}),
                (b"no", {"url": "http://host/b1"}),
                (jpeg(2), {}),
            ],
        }
        for shard, pictures in content.items():
            parts = [sample_members(f"{shard}{n}", data, "text", **fields) for n, (data, fields) in enumerate(pictures)]
            write_tar(tmp_path / "shards" / f"{shard}.tar", [member for sample in parts for member in sample])
        return tmp_path / "shards"

    def test_what_stays_and_what_goes_is_listed(self, shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        run = tmp_path / "run"
        deduplicate([str(shards)], str(run), SETTINGS, cluster)
        assert pq.read_table(run / "kept_urls.parquet").to_pylist() == [
            {"url": "http://host/a0", "caption": "text", "key": "a0", "score": 1.0, "tag": None},
            {"url": "http://host/a1", "caption": "text", "key": "a1", "score": None, "tag": "x"},
        ]
        assert pq.read_table(run / "removed_urls.parquet").to_pylist() == [
            {"url": "http://host/b0", "caption": "text", "key": "b0", "score": 0.5, "tag": None}
        ]

    def test_another_decision_gives_other_lists(self, shards: Path, tmp_path: Path, cluster: ClusterSettings) -> None:
        run = tmp_path / "run"
        deduplicate([str(shards)], str(run), SETTINGS, cluster)
        redecide(str(run), DecideSettings(keep="lowest:score"), cluster)
        assert pq.read_table(run / "removed_urls.parquet")["url"].to_pylist() == ["http://host/a0"]

    def test_weights_are_listed_where_a_run_weighs(
        self, shards: Path, tmp_path: Path, cluster: ClusterSettings
    ) -> None:
        run = tmp_path / "run"
        deduplicate([str(shards)], str(run), SETTINGS, cluster)
        redecide(str(run), DecideSettings(weights="inverse"), cluster)
        kept = pq.read_table(run / "kept_urls.parquet")
        assert dict(zip(kept["url"].to_pylist(), kept["weight"].to_pylist(), strict=True)) == {
            "http://host/a0": 0.5, "http://host/a1": 1, "http://host/b0": 0.5,
        }  # fmt: skip

    def test_long_lists_are_folders(
        self, shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        deduplicate([str(shards)], str(tmp_path / "one"), SETTINGS, cluster)
        monkeypatch.setattr(url_lists, "_ROWS_PER_FILE", 1)
        pictures = [sample_members("c0", jpeg(7), "text", url="http://host/c0")]
        write_tar(shards / "c.tar", pictures[0])
        deduplicate([str(shards)], str(tmp_path / "run"), SETTINGS, cluster)
        folder = tmp_path / "run" / "kept_urls.parquet"
        assert sorted(path.name for path in folder.iterdir()) == ["00000.parquet", "00001.parquet"]
        assert len(pq.read_table(folder)) == 3
        # Fewer again: the folder gives way to a file.
        monkeypatch.setattr(url_lists, "_ROWS_PER_FILE", 100)
        redecide(str(tmp_path / "run"), DecideSettings(), cluster)
        assert folder.is_file()

    def test_a_set_without_urls_has_no_lists(self, tmp_path: Path, cluster: ClusterSettings) -> None:
        write_tar(tmp_path / "shards" / "a.tar", sample_members("a", jpeg(0), "text"))
        deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), SETTINGS, cluster)
        assert not list((tmp_path / "run").glob("*_urls.parquet"))
        assert len(read_manifest(str(tmp_path / "run"))) == 1
