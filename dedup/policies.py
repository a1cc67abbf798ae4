"""Who is kept in a group: keep policies, and the order they give.

A policy turns descriptor rows into one number per row; the smallest is kept first. Policies are listed with commas,
each breaking the ties of those before it, and `sample_id` ends every list, so the order is always total. To add a
policy, add an entry to `POLICIES`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError, ManifestError

logger = logging.getLogger(__name__)

Keys = npt.NDArray[np.float64]

BY_SIZE = frozenset({"representative", "largest"})  # how much of an image is the picture matters to these
# Columns that are no descriptor columns.
COPIES = "copies"  # of each row `groups.direct_copies`
PICTURE_SHARE = "picture_share"  # `page_shares.picture_shares`; where it is absent, images are all picture


@dataclass(frozen=True)
class Policy:
    """One entry of `POLICIES`.

    `summary` says in a few words who is kept; `columns` are the descriptor columns it reads, or COPIES; `key` gives
    one float64 per row, the smallest kept first and NaN last; where `takes_field`, the policy is written `name:field`
    and `key` gets that field's name (else an empty string).
    """

    summary: str
    columns: tuple[str, ...]
    key: Callable[[pa.Table, str], Keys]
    takes_field: bool = False


@dataclass(frozen=True)
class Keep:
    """A policy as the user named it: `largest`, or `highest:aesthetic` with `field` "aesthetic"."""

    name: str
    field: str = ""

    def __str__(self) -> str:
        return f"{self.name}:{self.field}" if self.field else self.name


def _floats(values: pa.ChunkedArray) -> Keys:
    """Nulls become NaN, which sorts last."""
    return np.asarray(pc.fill_null(pc.cast(values, pa.float64()), math.nan).to_numpy(), dtype=np.float64)


def _number(value: Any) -> float:
    """A JSON value as a number; NaN for everything that is none."""
    if not isinstance(value, (bool, int, float, str)):
        return math.nan
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return math.nan
    return number if math.isfinite(number) else math.nan


def _numbers_in_json(rows: pa.Table, field: str) -> Keys:
    numbers = np.full(len(rows), math.nan)
    for row, text in enumerate(rows["json"].to_pylist()):
        if text is None:
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            numbers[row] = _number(content.get(field))
    if len(rows) and bool(np.isnan(numbers).all()):
        logger.warning("no sample of any group has a number in its json's field %r, so it decides nothing", field)
    return numbers


def _pixels(rows: pa.Table) -> Keys:
    return _floats(rows["width"]) * _floats(rows["height"])


def _pixels_of_picture(rows: pa.Table) -> Keys:
    return _pixels(rows) * _floats(rows[PICTURE_SHARE]) if PICTURE_SHARE in rows.column_names else _pixels(rows)


def _characters(rows: pa.Table) -> Keys:
    return _floats(pc.utf8_length(pc.utf8_trim_whitespace(pc.fill_null(rows["caption"], ""))))


def _id_rank(rows: pa.Table) -> npt.NDArray[np.int64]:
    rank = np.empty(len(rows), dtype=np.int64)
    rank[pc.sort_indices(rows["sample_id"]).to_numpy()] = np.arange(len(rows))
    return rank


POLICIES: dict[str, Policy] = {
    "representative": Policy(
        "the image with most pixels times what it stands for: itself and its direct copies, by accepted pairs",
        ("width", "height", COPIES),
        lambda rows, _: -_pixels_of_picture(rows) * (1 + _floats(rows[COPIES])),
    ),
    "largest": Policy(
        "the image with most pixels; the page or frame around a picture does not count",
        ("width", "height"),
        lambda rows, _: -_pixels_of_picture(rows),
    ),
    "most_pixels": Policy(
        "the image with most pixels, whatever is on them",
        ("width", "height"),
        lambda rows, _: -_pixels(rows),
    ),
    "most_copies": Policy(
        "the image with most direct copies, by accepted pairs: it stands for most others",
        (COPIES,),
        lambda rows, _: -_floats(rows[COPIES]),
    ),
    "smallest_file": Policy(
        "the image with fewest bytes",
        ("size",),
        lambda rows, _: _floats(rows["size"]),
    ),
    "longest_caption": Policy(
        "the caption with most characters, spaces around it not counted",
        ("caption",),
        lambda rows, _: -_characters(rows),
    ),
    "first": Policy(
        "the first by sample_id",
        ("sample_id",),
        lambda rows, _: _id_rank(rows).astype(np.float64),
    ),
    "highest": Policy(
        "the highest number in a field of the sample's json",
        ("json",),
        lambda rows, field: -_numbers_in_json(rows, field),
        takes_field=True,
    ),
    "lowest": Policy(
        "the lowest number in a field of the sample's json",
        ("json",),
        _numbers_in_json,
        takes_field=True,
    ),
}


def parse_policy(text: str) -> tuple[Keep, ...]:
    """Reads a comma-separated list such as "highest:aesthetic,largest".

    Blanks around names do not count. `highest` and `lowest` take the name of a top-level field of the sample's json,
    which may hold colons but no commas. Raises ConfigError on an unknown name, a missing or needless field, or an
    empty list.
    """
    return tuple(_parse_one(item.strip()) for item in text.split(","))


def _parse_one(item: str) -> Keep:
    name, colon, field = (part.strip() for part in item.partition(":"))
    policy = POLICIES.get(name)
    if policy is None:
        known = ", ".join(f"{name}:<field>" if policy.takes_field else name for name, policy in POLICIES.items())
        raise ConfigError(f"unknown keep policy {item!r}; choose from {known}, or several with commas between them")
    if policy.takes_field and not field:
        raise ConfigError(f"keep policy {item!r} needs a field of the sample's json, as in {name}:aesthetic")
    if colon and not policy.takes_field:
        raise ConfigError(f"keep policy {name!r} takes no field, but got {item!r}")
    return Keep(name, field)


def columns_of(policies: Sequence[Keep]) -> list[str]:
    """What `keep_order` reads under these policies, sorted: descriptor columns, and COPIES if one asks for it."""
    return sorted({"sample_id"}.union(*(POLICIES[keep.name].columns for keep in policies)))


def keep_order(rows: pa.Table, policies: Sequence[Keep]) -> npt.NDArray[np.int64]:
    """The keep order of descriptor rows.

    `rows` (N) holds at least `columns_of(policies)`. Returns (N,) int64 ranks, 0 for the row that is kept first: a
    permutation that depends on the rows' content alone, not on their order. The first policy decides, each further
    one breaks ties, `sample_id` breaks the last.

    What is missing sorts last: a null width, height or size, an empty caption, no json or one that cannot be parsed, a
    field that is absent, or holds no finite number. Of json fields, numbers written as strings ("6.5", as csv-born
    metadata has them) count as numbers, and false and true as 0 and 1, so that `lowest:watermark` prefers images
    without one; NaN and infinities count as missing. Numbers are compared as float64.

    Raises ManifestError where two rows have the same sample_id, for then no order is total.
    """
    if pc.count_distinct(rows["sample_id"]).as_py() != len(rows):
        raise ManifestError("two descriptor rows have the same sample_id; describe the shards into a new run folder")
    keys = [POLICIES[keep.name].key(rows, keep.field) for keep in policies]
    ranks = np.empty(len(rows), dtype=np.int64)
    ranks[np.lexsort((_id_rank(rows), *reversed(keys)))] = np.arange(len(rows))
    return ranks
