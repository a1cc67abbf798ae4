"""How near is a copy? Thresholds as published, tightened where unrelated pictures of the set would pass for copies.

A threshold belongs to pictures of one kind and size: by the l2 of 0.15 that was published for Stable Diffusion's 512
pixels, half of the embedded pictures are copies of another one once they are scaled down to 12. So before any arm is
attacked the set's own pictures, no two of which are copies, are matched with each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.attack.extraction import MatchSettings, attack_named, match
from dedup.attack.reference import Reference

MAX_FALSE_POSITIVES = 0.005  # of unrelated pictures, and so about of generations that copy nothing
_FOLDS = 8  # parts that are compared with the others: each picture meets seven eighths of its rivals


def tightened(reference: Reference, attack: str, settings: MatchSettings) -> MatchSettings:
    """`settings` with a threshold of `attack` at which at most MAX_FALSE_POSITIVES of the reference's pictures, one of
    each group, count as copies of another group; unchanged where the threshold asked for is lower.

    The same for all arms, because it depends on the reference alone. Raises ConfigError for an unknown attack.
    """
    limit = attack_named(attack).limit
    values = _unrelated(reference, attack, settings)
    if not len(values):
        return settings
    first_too_many = np.sort(values)[int(len(values) * MAX_FALSE_POSITIVES)]
    below = np.nextafter(first_too_many, np.float32(0), dtype=np.float32)
    told = max(float(below), float(np.finfo(np.float32).tiny))
    return replace(settings, **{limit: min(getattr(settings, limit), told)})


def _unrelated(reference: Reference, attack: str, settings: MatchSettings) -> npt.NDArray[np.float32]:
    """What `attack` asks of one picture of each group, flat ones left out, against groups that are not its own."""
    groups = len(reference.groups)
    folds = min(_FOLDS, groups // 2)
    if folds < 2:
        return np.zeros(0, np.float32)
    rows = np.flatnonzero(reference.rivals)
    first = rows[np.unique(reference.group[rows], return_index=True)[1]]  # by group
    found = []
    for fold in range(folds):
        own = np.arange(groups) % folds == fold
        matches = match(reference.images[first[own]], _without(reference, own), settings)
        told = matches["contrast"].to_numpy() >= settings.min_contrast
        found.append(matches[attack_named(attack).column].to_numpy()[told])
    return np.concatenate(found)


def _without(reference: Reference, left_out: npt.NDArray[np.bool_]) -> Reference:
    """The reference without these groups, the others numbered anew."""
    stays = ~left_out[reference.group]
    number = np.cumsum(~left_out) - 1
    table = reference.groups.filter(pa.array(~left_out))
    renumbered = table.set_column(0, table.schema.field(0), pa.array(np.arange(len(table))))
    return Reference(reference.images[stays], number[reference.group[stays]], renumbered, reference.rivals[stays])
