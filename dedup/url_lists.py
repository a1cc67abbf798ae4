"""Lists of URLs in img2dataset's input form: `url`, `caption`, and a column for each field of the samples' json.

Fields differ from sample to sample and shard to shard, so each shard's types are found first, then made one schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

# Where in the run folder the lists lie, by the status of their samples.
URL_LISTS = {"kept": "kept_urls.parquet", "removed": "removed_urls.parquet"}

_OWN = (pa.field("url", pa.string()), pa.field("caption", pa.string()))
_TEXT = pa.string()


def url_columns(samples: pa.Table) -> dict[str, list[object]]:
    """The columns of those `samples` (columns url, caption, json) that have a url; None where a field is missing.

    Where `samples` have a column `weight`, it takes the place of a field of that name. Fields come in the
    order of their first appearance; what is no JSON object has none.
    """
    samples = samples.filter(pc.is_valid(samples["url"]))
    objects = [_fields(raw) for raw in samples["json"].to_pylist()]
    names = dict.fromkeys(name for fields in objects for name in fields)
    own = [name for name in ("url", "caption", "weight") if name in samples.column_names]
    columns: dict[str, list[object]] = {name: samples[name].to_pylist() for name in own}
    for name in names:
        if name not in columns:
            columns[name] = [_encodable(fields.get(name)) for fields in objects]
    return columns


def schema_of(columns: dict[str, list[object]]) -> pa.Schema:
    """The narrowest types that hold these columns as JSON means them; null where nothing is known of one."""
    others = [pa.field(name, _type_of(values)) for name, values in columns.items() if name not in ("url", "caption")]
    return pa.schema([*_OWN, *others])


def common_schema(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema for all: integers and floats become floats, and what has no other type in common becomes text."""
    kinds: dict[str, pa.DataType] = {}
    for schema in schemas:
        for field in schema:
            kinds[field.name] = _common(kinds.get(field.name, field.type), field.type)
    return pa.schema([(name, _known(kind)) for name, kind in kinds.items()])


def url_table(columns: dict[str, list[object]], schema: pa.Schema) -> pa.Table:
    """The rows of `columns` in a schema that `common_schema` made of theirs and others."""
    rows = len(columns["url"])
    arrays = [
        pa.array([_as(value, field.type) for value in columns.get(field.name, [None] * rows)], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def parts(rows: Sequence[int], rows_per_part: int) -> list[range]:
    """Runs of consecutive shards, which have `rows` rows each: at most `rows_per_part` a run, or one shard."""
    found: list[range] = []
    total = 0
    for number, count in enumerate(rows):
        if not found or (total and total + count > rows_per_part):
            found.append(range(number, number))
            total = 0
        found[-1] = range(found[-1].start, number + 1)
        total += count
    return found


def _fields(raw: str | None) -> dict[str, object]:
    try:
        fields = json.loads(raw) if raw is not None else {}
    except (ValueError, RecursionError):  # not json, or nested without end
        return {}
    return {str(_encodable(name)): value for name, value in fields.items()} if isinstance(fields, dict) else {}


def _type_of(values: list[object]) -> pa.DataType:
    if any(isinstance(value, dict) for value in values):
        return _TEXT
    try:
        kind = pa.array(values).type
    except (pa.ArrowException, ValueError, OverflowError):  # mixed, integers over 64 bits, halves of surrogate pairs
        return _TEXT
    return kind if _is_plain(kind) else _TEXT


def _is_plain(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_plain(kind.value_type)
    return kind in (pa.null(), pa.bool_(), pa.int64(), pa.float64(), _TEXT)


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if pa.types.is_list(a) and pa.types.is_list(b):
        inner = _common(a.value_type, b.value_type)
        mixed = inner == _TEXT and pa.null() not in (a.value_type, b.value_type)
        return _TEXT if mixed else pa.list_(inner)
    return pa.float64() if {a, b} == {pa.int64(), pa.float64()} else _TEXT


def _known(kind: pa.DataType) -> pa.DataType:
    """The type, with text for what was null everywhere."""
    if pa.types.is_list(kind):
        return pa.list_(_known(kind.value_type))
    return _TEXT if pa.types.is_null(kind) else kind


def _as(value: object, kind: pa.DataType) -> object:
    if value is None:
        return None
    if pa.types.is_list(kind) and isinstance(value, list):
        return [_as(item, kind.value_type) for item in value]
    if kind == _TEXT and not isinstance(value, str):
        return _encodable(json.dumps(value, ensure_ascii=False))
    return float(value) if kind == pa.float64() and isinstance(value, int) else value


def _encodable(value: object) -> object:
    """Strings as Parquet can hold them: JSON can spell halves of surrogate pairs, which no encoding has."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
