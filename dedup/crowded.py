"""The candidate pairs of one cell of embeddings: the nearest, and where everything looks alike those that fit best.

In a uniform set (X-rays, product shots, screenshots) an embedding ranks a copy behind dozens of different pictures:
among photographs of potatoes with two planted copies of each, a copy and its original are among each other's four
nearest in 63 % of the cases, and among the 128 nearest in 96 %. Ranked by `thumbnails.part_likeness`, with a little of
the cosine, 93 % are among the first six of these 128.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dedup.neighbors import CROWD, CosinePairs, SearchSettings, cosine_pairs_in_cell, crowding, limit_candidates
from dedup.thumbnails import part_likeness

Halves = npt.NDArray[np.float16]
Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]

# From this `neighbors.crowding` on, neighbours are ranked by thumbnails. A quarter of CIFAR-10 is so crowded; from 0.8
# on it would be 86 %, with half as many candidates again, for 2 % more of the copies among potatoes.
CROWDED = np.float32(0.85)
DEPTH = 128  # so many of the nearest are ranked by their thumbnails
_ALIKE_PLACE = 8  # of the fit that says how alike thumbnails are
# Of the cosine, added to the fit of the thumbnails: without, two of a hundred copies fewer are proposed, and with 0.6.
_COSINE_WEIGHT = np.float32(0.3)


@dataclass(frozen=True)
class Crowds:
    """How alike everything is around each of N rows, both (N,) float32, higher is more alike, 0 where it is not known:
    `crowding` to the embedding (`neighbors.crowding`), `alike` to the thumbnails of what is crowded: the fit of the
    eighth-best."""

    crowding: Singles
    alike: Singles


def candidates_in_cell(
    x: Halves, greys: UInt8Array, primary: Bools, settings: SearchSettings, small: Bools | None = None
) -> tuple[CosinePairs, Crowds]:
    """Pairs of rows of one cell, each once, i < j, with their cosine; and how alike it is around its primary rows.

    `x` (N, D) and `primary` (N,) are as `neighbors.cosine_pairs_in_cell` takes them, `greys` (N, 32, 32) uint8 the grey
    thumbnails. All pairs of at least `min_cosine` are there, and of each primary row, of at least `candidate_cosine`,

    - the nearest `candidates_per_image` before it and as many after it;
    - or, where it is crowded, the nearest `candidates_per_image`, and of the nearest `DEPTH` as many whose thumbnails
      fit best; three times as many of rows that are `small` (N,), where local features cannot help (None: all).

    Equally good pairs go by the other row's number. Memory: `DEPTH` pairs for each crowded row. Raises as `cosine`.
    """
    per_image = settings.candidates_per_image
    complete = math.inf if settings.min_cosine is None else settings.min_cosine
    pairs = cosine_pairs_in_cell(x, primary, replace(settings, candidates_per_image=max(per_image, CROWD)))
    crowds = crowding(pairs, len(x))  # of a primary row all pairs are here
    crowded = primary & (crowds >= CROWDED)
    sparse = primary & ~crowded
    near = _those(pairs, (pairs.score >= complete) | sparse[pairs.i] | sparse[pairs.j])
    near = limit_candidates(near, complete, per_image)
    pairs = cosine_pairs_in_cell(x, crowded, replace(settings, min_cosine=None, candidates_per_image=DEPTH))
    fit = _fit(greys, pairs, crowded)
    alike = np.where(crowded, crowding(CosinePairs(pairs.i, pairs.j, fit), len(x), _ALIKE_PLACE), np.float32(0))
    fit = fit + _COSINE_WEIGHT * pairs.score
    alone = crowded if small is None else crowded & small  # with nothing but thumbnails
    best = _best(pairs, pairs.score, crowded, per_image) | _best(pairs, fit, crowded, per_image)
    best |= _best(pairs, fit, alone, 3 * per_image)
    return _union(near, _those(pairs, best), len(x)), Crowds(crowds, alike)


def _fit(greys: UInt8Array, pairs: CosinePairs, crowded: Bools) -> Singles:
    """How well a part of one picture fits the other, -1..1; parts of crowded rows alone are tried."""
    part, whole = np.concatenate([pairs.i, pairs.j]), np.concatenate([pairs.j, pairs.i])
    tried = np.flatnonzero(crowded[part])
    fit = np.full(len(part), -1, np.float32)
    fit[tried] = part_likeness(greys, part[tried], whole[tried])
    return np.asarray(fit.reshape(2, -1).max(axis=0))


def _best(pairs: CosinePairs, score: Singles, crowded: Bools, per_row: int) -> Bools:
    """Which pairs are among the `per_row` of largest `score` that a crowded row has."""
    ends, others = np.concatenate([pairs.i, pairs.j]), np.concatenate([pairs.j, pairs.i])
    order = np.lexsort((others, -np.tile(score, 2), ends))
    place = np.arange(len(ends)) - np.searchsorted(ends[order], ends[order])
    best = np.zeros(len(ends), bool)
    best[order[(place < per_row) & crowded[ends[order]]]] = True
    return np.asarray(best.reshape(2, -1).any(axis=0))


def _those(pairs: CosinePairs, keep: Bools) -> CosinePairs:
    return CosinePairs(pairs.i[keep], pairs.j[keep], pairs.score[keep])


def _union(a: CosinePairs, b: CosinePairs, rows: int) -> CosinePairs:
    i, j, score = (np.concatenate([getattr(a, name), getattr(b, name)]) for name in ("i", "j", "score"))
    _, once = np.unique(i * rows + j, return_index=True)
    return CosinePairs(i[once], j[once], score[once])
