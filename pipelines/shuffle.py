"""Bring the rows that belong together to one task, by Dask's peer-to-peer shuffle, whatever the size of the set.

    items ──source──▶ rows ──shuffle by a column──▶ partitions ──use──▶ one result per partition

Rows go through the workers' disks, so a task's memory is bounded by its item or its partition. The number of partitions
follows the data, never the workers, and rows are sorted in each, so that the results do not depend on the cluster.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
from distributed import Client, as_completed

from dedup.candidates import in_order
from pipelines.progress import Progress

_PARTITION_BYTES = 64 << 20
_MAX_PARTITIONS = 1 << 14

Source = Callable[[Any], pa.Table]
Use = Callable[[pa.Table, int], int]


def partitions_for(rows: int, row_bytes: int) -> int:
    """How many partitions hold about 64 MiB each."""
    return min(_MAX_PARTITIONS, max(1, -(-rows * row_bytes // _PARTITION_BYTES)))


def shuffle(
    client: Client,
    label: str,
    source: Source,
    items: Sequence[Any],
    schema: pa.Schema,
    by: str,
    partitions: int,
    use: Use,
) -> int:
    """Runs `source` on each item, brings rows with equal `by` together, and `use` on each partition.

    `source` returns tables of `schema` (integers, floats, strings and variable-size binary). `use` gets the rows of one
    partition, sorted by all integer and string columns, and the partition's number; it returns how many things it
    found. Returns their sum. A single partition needs no shuffle: one task uses what the sources gave.
    """
    if partitions == 1:
        with Progress(label, 1, "pairs") as progress:
            tables = client.map(source, list(items), pure=False)
            found = int(client.submit(_use_all, tables, schema, use, pure=False).result())
            progress.advance(1, found)
        return found
    frames = dd.from_map(_SourceFrame(source, schema), list(items), meta=_frame(schema.empty_table()))
    together = frames.shuffle(by, npartitions=partitions, shuffle_method="p2p")
    numbers = dd.from_map(_partition_number, range(partitions), meta=pd.DataFrame({"number": [0]}).iloc[:0])
    results = dd.map_partitions(
        _UseFrame(use, schema), together, numbers, meta=pd.DataFrame({"found": [0]}).iloc[:0], align_dataframes=False
    )
    found = 0
    with Progress(label, partitions, "pairs") as progress:
        futures = client.compute(results.to_delayed())
        try:
            for _, result in as_completed(futures, with_results=True):
                found += int(result["found"].sum())
                progress.advance(1, int(result["found"].sum()))
        finally:
            client.cancel(futures, force=True)
    return found


def share_out(
    client: Client,
    label: str,
    source: Source,
    items: Sequence[Any],
    schema: pa.Schema,
    by: str,
    partitions: int,
    use: Use,
) -> int:
    """`shuffle` by a column of integers, of so little that each task reads all of it and uses its own part: without
    the seconds that a shuffle takes."""
    found = 0
    share = functools.partial(_use_share, source, list(items), schema, by, partitions, use)
    with Progress(label, partitions, "pairs") as progress:
        futures = client.map(share, range(partitions), pure=False)
        try:
            for _, result in as_completed(futures, with_results=True):
                found += result
                progress.advance(1, result)
        finally:
            client.cancel(futures, force=True)
    return found


def quiet() -> None:
    """Dask tells of every shuffle's start and end at warning level."""
    logging.getLogger("distributed.shuffle").setLevel(logging.ERROR)


class _SourceFrame:
    def __init__(self, source: Source, schema: pa.Schema) -> None:
        self._source = source
        self._schema = schema

    def __call__(self, item: Any) -> pd.DataFrame:
        return _frame(self._source(item).cast(self._schema))


class _UseFrame:
    def __init__(self, use: Use, schema: pa.Schema) -> None:
        self._use = use
        self._schema = schema

    def __call__(self, rows: pd.DataFrame, number: pd.DataFrame) -> pd.DataFrame:
        table = pa.Table.from_pandas(rows, schema=self._schema, preserve_index=False)
        return pd.DataFrame({"found": [self._use(in_order(table), int(number["number"].iloc[0]))]})


def _use_all(tables: Sequence[pa.Table], schema: pa.Schema, use: Use, number: int = 0) -> int:
    return use(in_order(pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])), number)


def _use_share(
    source: Source, items: Sequence[Any], schema: pa.Schema, by: str, partitions: int, use: Use, number: int
) -> int:
    tables = [table.filter(pa.array(table[by].to_numpy() % partitions == number)) for table in map(source, items)]
    return _use_all(tables, schema, use, number)


def _frame(table: pa.Table) -> pd.DataFrame:
    return table.to_pandas(types_mapper=pd.ArrowDtype)


def _partition_number(number: int) -> pd.DataFrame:
    return pd.DataFrame({"number": [number]})
