"""The candidate pairs of one cell of embeddings: the nearest, and where everything looks alike those that fit best.

In a uniform set (X-rays, product shots, screenshots) an embedding ranks a copy behind dozens of different pictures:
among photographs of potatoes with two planted copies of each, a copy and its original are among each other's four
nearest in 63 % of the cases, and among the 128 nearest in 96 %. Ranked by `thumbnails.part_likeness`, with a little of
the cosine, 93 % are among the first six of these 128.

How alike everything is around a picture decides what is asked of its pairs, and is the cosine of its fifth-nearest
neighbour. But pictures that occur many times, for which all this is done, are surrounded by their copies. So more than
the five nearest are noted: once some are known to be copies, they are not counted (`score_at`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dedup.neighbors import CosinePairs, SearchSettings, best_scores, cosine, cosine_pairs_in_cell, limit_candidates
from dedup.pair_features import CROWD
from dedup.thumbnail_blocks import agreeing_pairs
from dedup.thumbnails import part_likeness

Halves = npt.NDArray[np.float16]
Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

CROWDING_PLACE, _ALIKE_PLACE = 5, 8  # of the cosine, and of the thumbnail's fit, that say how alike everything is
# From this crowding on, neighbours are ranked by thumbnails. A quarter of CIFAR-10 is so crowded; from 0.8
# on it would be 86 %, with half as many candidates again, for 2 % more of the copies among potatoes.
CROWDED = np.float32(0.85)
DEPTH = 128  # so many of the nearest are ranked by their thumbnails,
NOTED = 128  # and noted, at most as many
# Of the cosine, added to the fit of the thumbnails: without, two of a hundred copies fewer are proposed, and with 0.6.
_COSINE_WEIGHT = np.float32(0.3)


@dataclass(frozen=True)
class Crowds:
    """How alike everything is around each of N rows, float32, higher is more alike, 0 where it is not known: `cosines`
    (N, NOTED) of the nearest embeddings, the nearest first, of rows that lie in no crowd only CROWDING_PLACE; `alike`
    (N,) of the thumbnails of what is CROWDED: the fit of the eighth-best."""

    cosines: Singles
    alike: Singles

    @property
    def crowding(self) -> Singles:
        """(N,): the cosine of the fifth-nearest."""
        return self.cosines[:, CROWDING_PLACE - 1]


def candidates_in_cell(
    x: Halves, greys: UInt8Array, primary: Bools, settings: SearchSettings, small: Bools | None = None
) -> tuple[CosinePairs, Crowds]:
    """Pairs of rows of one cell, each once, i < j, with their cosine; and how alike it is around its primary rows.

    `x` (N, D) and `primary` (N,) are as `neighbors.cosine_pairs_in_cell` takes them, `greys` (N, 32, 32) uint8 the grey
    thumbnails. All pairs of at least `min_cosine` are there, and of each primary row, of at least `candidate_cosine`,

    - the nearest `candidates_per_image` before it and as many after it;
    - and, whatever their cosine, as many that agree with it in most blocks of their thumbnails (`thumbnail_blocks`),
      except of rows that are `small` (N,) (None: all);
    - or, where it is crowded, the nearest `candidates_per_image`, and of the nearest `DEPTH` as many whose thumbnails
      fit best; three times as many of rows that are small, where local features cannot help.

    Equally good pairs go by the other row's number. Memory: `DEPTH` pairs for each crowded row. Raises as `cosine`.
    """
    per_image = settings.candidates_per_image
    complete = math.inf if settings.min_cosine is None else settings.min_cosine
    pairs = cosine_pairs_in_cell(x, primary, replace(settings, candidates_per_image=max(per_image, CROWDING_PLACE)))
    cosines = np.zeros((len(x), NOTED), np.float32)
    cosines[:, :CROWDING_PLACE] = best_scores(pairs, len(x), CROWDING_PLACE)  # of a primary row all pairs are here
    crowding = cosines[:, CROWDING_PLACE - 1]
    crowded = primary & (crowding >= CROWDED)
    sparse = primary & ~crowded
    near = _those(pairs, (pairs.score >= complete) | sparse[pairs.i] | sparse[pairs.j])
    near = limit_candidates(near, complete, per_image)
    hardly = primary & (crowding > CROWD) & ~crowded
    for rows, count in ((hardly, NOTED), (crowded, DEPTH)):
        deep = replace(settings, min_cosine=None, candidates_per_image=count)
        pairs = cosine_pairs_in_cell(x, rows, deep)
        cosines[rows] = best_scores(pairs, len(x), NOTED)[rows]
    fit = _fit(greys, pairs, crowded)
    fits = best_scores(CosinePairs(pairs.i, pairs.j, fit), len(x), _ALIKE_PLACE)
    alike = np.where(crowded, fits[:, _ALIKE_PLACE - 1], np.float32(0))
    fit = fit + _COSINE_WEIGHT * pairs.score
    small = np.ones(len(x), bool) if small is None else small
    alone = crowded & small  # with nothing but thumbnails
    best = _best(pairs, pairs.score, crowded, per_image) | _best(pairs, fit, crowded, per_image)
    best |= _best(pairs, fit, alone, 3 * per_image)
    found = _union(near, _those(pairs, best), len(x))
    i, j = agreeing_pairs(greys, primary & ~crowded & ~small, per_image)
    return _union(found, CosinePairs(i, j, cosine(x, i, j)), len(x)), Crowds(cosines, alike)


def packed(scores: Singles) -> list[bytes]:
    """(N, NOTED) float32, as `Crowds` has them -> of each row the bytes of those that are not 0."""
    return [row[row != 0].tobytes() for row in scores]


def score_at(lists: Sequence[bytes], row: Ints, place: Ints) -> Singles:
    """(N,) float32: of `packed` rows that of each number in `row` (N,), and of it the score at its `place` (N,), 1 the
    first. A list of NOTED may go on, so for places beyond it has its last; past the end of a shorter one it is 0, and
    for rows of a negative number."""
    length = np.array([*(len(each) // 4 for each in lists), 0], np.int64)
    start = np.cumsum(length) - length
    scores = np.frombuffer(b"".join(lists), np.float32)
    row = np.where(row < 0, len(lists), row)
    place = np.where(length[row] == NOTED, np.minimum(place, NOTED), place)
    there = place <= length[row]
    found = np.zeros(len(row), np.float32)
    found[there] = scores[(start[row] + place - 1)[there]]
    return found


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
