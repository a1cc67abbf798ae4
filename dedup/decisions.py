"""What becomes of the members of each group: who stays, at what weight, and where the captions go.

    groups ──keep_up_to, weights, overrides──▶ status, keeper, weight ──captions──▶ one row per sample in a group

A rule of weights is a function of group sizes, a way to pool captions one of a group's captions. To add one, add it to
`WEIGHTS` or `CAPTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError
from dedup.groups import GROUPINGS, direct_copies, group
from dedup.overrides import NO_OVERRIDES, Overrides
from dedup.page_shares import page_columns, picture_shares
from dedup.policies import BY_SIZE, COPIES, PICTURE_SHARE, Keep, columns_of, keep_order, parse_policy
from dedup.records import PAGE_SHARE

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

WEIGHTS: dict[str, Callable[[Ints], npt.NDArray[np.float64]]] = {
    "inverse": lambda sizes: 1 / sizes,
    "inverse-sqrt": lambda sizes: 1 / np.sqrt(sizes),
}

# Of a group's distinct captions, the keeper's first and the others' in the order of their sample_id.
CAPTIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "merge": lambda captions: captions,
    "longest": lambda captions: [max(captions, key=lambda caption: len(caption.strip()))],
}

DECISION_SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # kept or removed
        pa.field("cluster", pa.int64()),
        pa.field("cluster_size", pa.int32(), nullable=False),
        pa.field("component_size", pa.int32(), nullable=False),
        pa.field("keeper", pa.string()),  # of a removed sample, null where an override removed it
        pa.field("method", pa.string()),  # of that edge; `override` where a person decided, either way
        pa.field("score", pa.float32()),
        pa.field("weight", pa.float32()),  # of a kept sample, null where the settings do not weigh
        pa.field("captions", pa.list_(pa.string())),  # pooled at a keeper whose copies go, else null
    ]
)


@dataclass(frozen=True)
class DecideSettings:
    """Who goes. Raises ConfigError for names that are not known, and for settings that exclude each other."""

    grouping: str = "star"
    """star (a removed image is a direct likeness of its keeper) or components (over any chain of likenesses)."""

    keep: str = "representative,largest"
    """Who stays of a group: representative (most pixels times what it stands for), largest, most_pixels, most_copies,
    smallest_file, longest_caption, first, highest:FIELD, lowest:FIELD (of the sample's json), or several with commas
    between, later ones breaking ties."""

    keep_up_to: int = 1
    """How many images of a group stay, the first in keep order."""

    weights: str = "none"
    """Instead of removing, weigh each image of a group: inverse (1 / size of the group), inverse-sqrt (1 / its square
    root), or none (remove)."""

    captions: str = "keep"
    """Where images go: keep (each keeper has its own caption), merge (all distinct ones are listed at the keeper) or
    longest (the longest one is)."""

    overrides: str = "auto"
    """A CSV file of decisions by hand (sample_id,action,other), none, or auto: overrides.csv of the run folder, if it
    is there."""

    def __post_init__(self) -> None:
        _check("grouping", self.grouping, GROUPINGS)
        _check("weights", self.weights, ("none", *WEIGHTS))
        _check("captions", self.captions, ("keep", *CAPTIONS))
        parse_policy(self.keep)
        if self.keep_up_to < 1:
            raise ConfigError(f"keep_up_to={self.keep_up_to}: of each group at least 1 image stays")
        for name, value, default in (("keep_up_to", self.keep_up_to, 1), ("captions", self.captions, "keep")):
            if self.weighs and value != default:
                raise ConfigError(
                    f"{name}={value} concerns images that go, and with weights={self.weights} none does: "
                    f"set {name} to {default}, or weights to none"
                )

    @property
    def weighs(self) -> bool:
        return self.weights != "none"

    @property
    def pools(self) -> bool:
        return self.captions != "keep"


def _check(name: str, value: str, known: Iterable[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name}={value}: known are {', '.join(known)}")


DEFAULT_DECISION = DecideSettings()


def samples_to_decide(pairs: pa.Table, overrides: Overrides = NO_OVERRIDES) -> pa.Array:
    """The sample_ids in accepted `pairs` and in overrides, each once: all others are kept."""
    pairs = pairs.filter(pairs["accepted"])
    both = pa.chunked_array([*pairs["a"].chunks, *pairs["b"].chunks, overrides.sample_ids()], type=pa.string())
    return pc.unique(both)


def columns_to_decide(settings: DecideSettings, hash_name: str = "") -> list[str]:
    """The descriptor columns that `decide_rows` reads under these settings; with the name of a hash, those by which it
    tells how much of an image is the picture, where that matters."""
    policies = parse_policy(settings.keep)
    columns = {*columns_of(policies), *columns_to_choose(settings), "error"} - {COPIES}
    return sorted(columns | set(page_columns(hash_name) if hash_name and _by_size(policies) else ()))


def _by_size(policies: Sequence[Keep]) -> bool:
    return any(keep.name in BY_SIZE for keep in policies)


def decide_rows(
    pairs: pa.Table, rows: pa.Table, settings: DecideSettings, overrides: Overrides = NO_OVERRIDES
) -> tuple[pa.Table, pa.Table]:
    """The groups of accepted `pairs` (as `groups.group` gives them), and what becomes of each sample in them (as
    `choose` does). `rows` holds `columns_to_decide` of `samples_to_decide`, in any order.

    Raises ConfigError for an override that names no sample, or one that failed.
    """
    overrides.check(rows["sample_id"], failed=rows["sample_id"].filter(pc.is_valid(rows["error"])))
    policies = parse_policy(settings.keep)
    if COPIES in columns_of(policies):
        rows = rows.append_column(COPIES, pa.array(direct_copies(pairs, rows["sample_id"], overrides)))
    if _by_size(policies) and PAGE_SHARE in rows.column_names:
        rows = rows.append_column(PICTURE_SHARE, pa.array(picture_shares(pairs, rows, overrides)))
    ranks = keep_order(rows, policies)
    groups = group(pairs, rows["sample_id"], ranks, settings.grouping, overrides)
    return groups, choose(groups, rows, ranks, settings, overrides)


def columns_to_choose(settings: DecideSettings) -> list[str]:
    """The descriptor columns that `choose` reads under these settings."""
    return ["sample_id", "caption"] if settings.pools else ["sample_id"]


def choose(
    groups: pa.Table, rows: pa.Table, ranks: Ints, settings: DecideSettings, overrides: Overrides = NO_OVERRIDES
) -> pa.Table:
    """Decides for every sample in `groups` (the result of `groups.group`, given the same overrides).

    `rows` (M) holds `columns_to_choose` of at least these samples; `ranks` (M,) int64 is
    their keep order, 0 kept first. Returns a table of `DECISION_SCHEMA`, row by row as `groups`.

    Of each group the keeper stays, and of the others the first in keep order until `keep_up_to` stay; with `weights`
    all do. An override keeps its sample beyond that number, at weight 1, or removes it. Each other one that goes has
    the group's keeper as `keeper`, which stays.

    Weights go by the members of the group that stay. So the `inverse` weights of a group add up to 1, and sampling by
    them shows as many images as removing would leave, one of each group. The component would be the wrong size: it may
    hold groups of different pictures, which would count less than one each.
    """
    ids, cluster = groups["sample_id"].combine_chunks(), pc.fill_null(groups["cluster"], -1).to_numpy()
    row_of = pc.index_in(ids, value_set=rows["sample_id"].combine_chunks())
    unwanted, wanted = (_is_in(ids, overrides.sample_ids(action)) for action in ("remove", "keep"))
    by_hand = unwanted | wanted
    stays = ~unwanted
    if not settings.weighs:
        place = _places(cluster, unwanted, np.asarray(ranks)[row_of.to_numpy()])
        stays &= wanted | (place < settings.keep_up_to)
    copy = ~stays & ~by_hand  # goes for its keeper
    keeper = pc.if_else(copy, groups["keeper"], None).combine_chunks()
    columns = {
        "sample_id": ids,
        "status": pc.if_else(stays, "kept", "removed"),
        "cluster": groups["cluster"],
        "cluster_size": groups["cluster_size"],
        "component_size": groups["component_size"],
        "keeper": keeper,
        "method": pc.if_else(by_hand, "override", pc.if_else(copy, groups["method"], None)),
        "score": pc.if_else(copy, groups["score"], None),
        "weight": pa.nulls(len(ids)),
        "captions": pa.nulls(len(ids)),
    }
    if settings.weighs:
        sizes = np.bincount(cluster[stays] + 1, minlength=cluster.max(initial=-1) + 2)[cluster + 1]
        weight = np.where((cluster < 0) | wanted, 1.0, WEIGHTS[settings.weights](np.maximum(sizes, 1)))
        columns["weight"] = pa.array(weight.astype(np.float32), mask=~stays)
    if settings.pools:
        columns["captions"] = _pooled(ids, keeper, rows["caption"].take(row_of), CAPTIONS[settings.captions])
    return pa.table([columns[name] for name in DECISION_SCHEMA.names], schema=DECISION_SCHEMA)


def _is_in(ids: pa.Array, named: pa.Array) -> Bools:
    return np.asarray(pc.is_in(ids, value_set=named).to_numpy(zero_copy_only=False), dtype=bool)


def _places(cluster: Ints, last: Bools, ranks: Ints) -> Ints:
    """The place of each sample in its cluster's keep order, 0 for the keeper; those of `last` come at the end, and
    where there is no cluster (-1) the place is 0."""
    order = np.lexsort((ranks, last, cluster))
    first = np.ones(len(order), dtype=bool)
    first[1:] = cluster[order[1:]] != cluster[order[:-1]]
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order)) - np.flatnonzero(first)[np.cumsum(first) - 1]
    return np.where(cluster < 0, 0, place)


def _pooled(
    ids: pa.Array, keeper: pa.Array, captions: pa.ChunkedArray, pool: Callable[[list[str]], list[str]]
) -> pa.Array:
    """The captions of each keeper and of the samples that go for it, pooled; null for all others."""
    caption_of = dict(zip(ids.to_pylist(), captions.to_pylist(), strict=True))
    found: dict[str, dict[str, str]] = {}  # keeper -> caption with single blanks -> caption
    for name, stands_for_it in zip(ids.to_pylist(), keeper.to_pylist(), strict=True):
        if stands_for_it is None:
            continue
        if stands_for_it not in found:
            found[stands_for_it] = {}
            _add(found[stands_for_it], caption_of[stands_for_it])
        _add(found[stands_for_it], caption_of[name])
    pooled = [pool(list(distinct.values())) if (distinct := found.get(name)) else None for name in caption_of]
    return pa.array(pooled, pa.list_(pa.string()))


def _add(distinct: dict[str, str], caption: str | None) -> None:
    if caption and (words := caption.split()):
        distinct.setdefault(" ".join(words), caption)
