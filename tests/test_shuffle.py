"""Rows come together by a column, each to one task, whether there are many or few."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

from pipelines.client import ClusterSettings, connect
from pipelines.shuffle import partitions_for, share_out, shuffle

SCHEMA = pa.schema({"block": pa.int64(), "name": pa.string()})


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    with connect(ClusterSettings(workers=1)) as client:
        yield client


def written(folder: Path, parts: int) -> list[str]:
    """Files of three rows each: blocks 0 to 4 in turn."""
    for part in range(parts):
        numbers = range(3 * part, 3 * part + 3)
        rows = pa.table([[n % 5 for n in numbers], [f"{n:02d}" for n in numbers]], schema=SCHEMA)
        pq.write_table(rows, folder / f"{part}.parquet")
    return [str(folder / f"{part}.parquet") for part in range(parts)]


@pytest.mark.parametrize("partitions", [1, 2, 3])
@pytest.mark.parametrize("bring", [shuffle, share_out])
def test_each_row_is_used_once_and_beside_those_of_its_block(
    client: Client, tmp_path: Path, bring: object, partitions: int
) -> None:
    files, out = written(tmp_path, 4), tmp_path / "out"
    out.mkdir()
    read = functools.partial(pq.read_table, schema=SCHEMA)

    def use(rows: pa.Table, number: int) -> int:
        pq.write_table(rows, out / f"{number}.parquet")
        return len(rows)

    assert bring(client, "test", read, files, SCHEMA, "block", partitions, use) == 12  # type: ignore[operator]
    tables = [pq.read_table(path).to_pylist() for path in out.iterdir()]
    assert len(tables) == partitions
    assert sorted(row["name"] for rows in tables for row in rows) == [f"{n:02d}" for n in range(12)]
    blocks = [{row["block"] for row in rows} for rows in tables]
    assert sum(len(block) for block in blocks) == 5  # none in two partitions
    assert all(rows == sorted(rows, key=lambda row: (row["block"], row["name"])) for rows in tables)


def test_partitions_follow_the_data() -> None:
    assert [partitions_for(rows, 1 << 20) for rows in (0, 1, 64, 65, 1 << 30)] == [1, 1, 1, 2, 1 << 14]
