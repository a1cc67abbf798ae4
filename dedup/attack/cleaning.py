"""What the cleaning of a planted set missed and what it removed wrongly, against the planted truth."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dedup.attack.sets import SeedSet


def cleaning_errors(seed_set: SeedSet) -> dict[str, Any]:
    """Of one seed, attack.json's row of `cleaning`:

    - planted: copies too many, exact and near ones apart
    - missed: those of them that are still there; missed_by_transform: which kinds stayed besides another one
    - pictures, lost: the pictures of the set, and those of which nothing is left
    - refill_missing: how many fresh pictures refill lacks, because cleaning removed more than was planted
    """
    table = seed_set.table
    near = table["near"].to_numpy(zero_copy_only=False)
    transform = table["transform"].to_numpy(zero_copy_only=False)
    training = seed_set.rows("single", "canary")
    planted, missed = dict.fromkeys(("exact", "near"), 0), dict.fromkeys(("exact", "near"), 0)
    by_transform: Counter[str] = Counter()
    lost = 0
    groups = np.unique(seed_set.group[training])
    for group in groups:
        rows = training[seed_set.group[training] == group]
        kept = rows[seed_set.kept[rows]]
        kind = "near" if near[rows[0]] else "exact"
        planted[kind] += len(rows) - 1
        missed[kind] += max(len(kept) - 1, 0)
        by_transform.update(transform[kept[1:]].tolist())
        lost += not len(kept)
    removed = len(training) - int(seed_set.kept.sum())
    return {
        "seed": seed_set.seed,
        "planted": planted,
        "missed": missed,
        "missed_by_transform": dict(sorted(by_transform.items())),
        "pictures": len(groups),
        "lost": lost,
        "refill_missing": max(removed - len(seed_set.rows("refill")), 0),
    }


def cleaning_line(rows: Sequence[Mapping[str, Any]]) -> str:
    """`cleaning_errors` of all seeds, for people."""

    def total(name: str, kind: str) -> int:
        return sum(int(row[name][kind]) for row in rows)

    kinds: Counter[str] = Counter()
    for row in rows:
        kinds.update(row["missed_by_transform"])
    which = f" ({', '.join(f'{name} {count}' for name, count in kinds.most_common())})" if kinds else ""
    exact, near = (f"{total('missed', kind):,} of {total('planted', kind):,} {kind}" for kind in ("exact", "near"))
    lost, pictures = sum(row["lost"] for row in rows), sum(row["pictures"] for row in rows)
    return f"cleaning missed {exact} and {near} copies{which}, and removed {lost:,} of {pictures:,} pictures wrongly"
