"""Pairs of embeddings by cosine similarity, and the settings of the whole search.

Embeddings are clustered into cells, and a cell is searched by itself, so a run of any size needs memory for one cell.
Everything is numpy in, numpy out, and knows rows, not samples. Results are equal to the bit on any machine, with any
number of threads and any cut into blocks: a product of two float16 values is a multiple of 2^-48. Where rows are no
longer than 4, each partial sum of a dot product is such a multiple, too, and at most 16 (Cauchy-Schwarz), so float64
holds it exactly, and the order of summation does not matter. Every score is computed so.

faiss searches in float32, so it only proposes, with a margin; exact scores decide, and a row whose list of proposals
may have been too short is searched again in full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from dedup.errors import ConfigError

Halves = npt.NDArray[np.float16]
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]

MAX_CELLS = 1 << 16

_MAX_NORM = 4.0  # of a row; two such rows keep every partial sum of their dot product within 53 bits
_MARGIN = np.float32(1e-3)  # float32 cosines of up to 8,192 dimensions err by less
_CROWD = 5
_SPARE = 16  # proposals beyond those wanted: few rows then need a second search
_ROWS_PER_BLOCK = 1 << 15  # of float32 copies
_SCORES_PER_BLOCK = 1 << 23


@dataclass(frozen=True)
class SearchSettings:
    """What counts as near, and what is worth a closer look.

    All pairs within `max_bits` of the hash are found, and all of at least `min_cosine`, where that is set. Beyond them
    each image names its best `candidates_per_image`, within `candidate_bits` and of at least `candidate_cosine`. A
    candidate radius narrower than the other proposes nothing.
    """

    hash: str = "phash"
    """The hash that is searched, one of those that are stored."""

    max_bits: int = 2
    """Hashes within so many bits are complete among the candidates, and accepted where nothing verifies them."""

    candidate_bits: int = 6
    """Hashes within so many bits are candidates, of each image the nearest."""

    min_cosine: float | None = None
    """Accept pairs of embeddings of at least this cosine, whatever verification says; by default none."""

    candidate_cosine: float = 0.7
    """Embeddings of at least this cosine are candidates, of each image the nearest."""

    candidates_per_image: int = 8
    """How many candidates an image names in each search."""

    cells: int | None = None
    """Into how many cells `n` embeddings are clustered: one (exact search) while that is cheap, then one per 4,000
    rows, up to `MAX_CELLS`.

    Few large cells lose few pairs at their borders, and searching them still takes far less time than embedding. On
    10,000 CIFAR-10 images, of the pairs of at least 0.85 in the embedded model, 10 cells find 99.0 % with two
    assignments and 99.9 % with three; 50 cells 94.1 % and 98.5 %.
    """
    return 1 if n <= 20_000 else min(MAX_CELLS, n // 4000)


def train_cells(sample: Halves, cells: int, seed: int, iterations: int = 10) -> Halves:
    """Spherical k-means (Lloyd) on `sample` (M, D) float16: (cells, D) float16 centroids of unit length.

    The same to the bit on any machine: rows are assigned by exact scores, their sums are exact in float64 (multiples
    of 2^-24), and centroids are rounded to float16, so that assigning to them is exact, too. Some 64 rows of sample
    per cell are enough. Cells that lose all rows restart at the rows farthest from their centroids. Raises ConfigError
    where the sample has fewer rows than cells.
    """
    if not 1 <= cells <= len(sample):
        raise ConfigError(f"{len(sample)} embeddings cannot be clustered into {cells} cells; set fewer cells")
    centroids = sample[np.sort(np.random.default_rng(seed).choice(len(sample), cells, replace=False))]
    before = np.zeros(0, dtype=np.int64)
    for _ in range(iterations):
        nearest = _search(sample, centroids, None, 1, -math.inf, math.inf)
        if np.array_equal(nearest.j, before):
            break
        before = nearest.j
        sums = np.zeros((cells, sample.shape[1]))
        for block in _blocks(len(sample), _ROWS_PER_BLOCK):
            rows = np.arange(block.stop - block.start)
            members = csr_array((np.ones(len(rows)), (nearest.j[block], rows)), shape=(cells, len(rows)))
            sums += members @ sample[block].astype(np.float64)
        empty = np.flatnonzero(np.bincount(nearest.j, minlength=cells) == 0)
        sums[empty] = sample[np.argsort(nearest.score, kind="stable")[: len(empty)]]
        # Adding along the first axis goes row by row: an order that no vector unit changes.
        length = np.sqrt(np.add.reduce(np.ascontiguousarray(sums.T) ** 2, axis=0))
        centroids = (sums / np.maximum(length, np.finfo(np.float64).tiny)[:, None]).astype(np.float16)
    return centroids


def assign_cells(centroids: Halves, x: Halves, assignments: int) -> npt.NDArray[np.int32]:
    """The nearest cells of each row of `x` (N, D) float16, the nearest first, equally near ones by number: (N, A)
    int32, A = min(assignments, number of cells). The same to the bit for any batches and any machine."""
    wanted = min(assignments, len(centroids))
    return _search(x, centroids, None, wanted, -math.inf, math.inf).j.reshape(len(x), wanted).astype(np.int32)


def _search(queries: Halves, x: Halves, own: Ints | None, k: int, floor: float, complete: float) -> CosinePairs:
    """For each query all rows of at least `complete`, and the best `k` of at least `floor` below it.

    `own` (Q,) is the row that each query is itself, and which it does not find. Sorted by query, then score
    descending, then row.
    """
    found = []
    for block in _blocks(len(queries), _ROWS_PER_BLOCK):
        part = queries[block]
        skip = np.full(len(part), -1) if own is None else own[block]
        pairs, unsure = _certified(part, x, skip, k, floor, complete)
        again = _exhaustive(part[unsure], x, skip[unsure], k, floor, complete)
        i = np.concatenate([pairs.i, unsure[again.i]])
        j, score = np.concatenate([pairs.j, again.j]), np.concatenate([pairs.score, again.score])
        order = np.argsort(i, kind="stable")
        found.append((i[order] + block.start, j[order], score[order]))
    return _joined(found)


def _certified(
    queries: Halves, x: Halves, skip: Ints, k: int, floor: float, complete: float
) -> tuple[CosinePairs, Ints]:
    """The search by faiss's proposals: the pairs of those queries whose proposals surely hold all that is wanted, and
    the other queries."""
    wanted = min(len(x), k + _SPARE)
    near, rows = _propose(queries, x, wanted)
    # What lies so far below the k-th proposal that no rounding makes it one of the best k need not be scored. That
    # proposal is counted behind those that may be complete, and behind the query itself.
    kth = (near >= complete - _MARGIN).sum(axis=1) + (rows == skip[:, None]).any(axis=1) + k - 1
    bar = near[np.arange(len(near)), np.clip(kth, 0, wanted - 1)] - 2 * _MARGIN if k else np.full(len(near), np.inf)
    bar = np.minimum(np.maximum(bar, floor - _MARGIN), complete - _MARGIN)
    listed = (near >= bar[:, None]) & (rows != skip[:, None])
    i, at = np.nonzero(listed)
    j = rows[i, at]
    pairs = _best(CosinePairs(i, j, cosine(queries, i, j, x)), k, floor, complete)
    if wanted == len(x):
        return pairs, np.zeros(0, dtype=np.int64)

    below = pairs.score < complete
    count = np.bincount(pairs.i[below], minlength=len(queries))
    worst = np.full(len(queries), np.inf, dtype=np.float32)
    np.minimum.at(worst, pairs.i[below], pairs.score[below])
    needed = np.where(count < k, floor, np.maximum(worst, floor)) if k else np.full(len(queries), np.inf)
    unlisted_below = near[:, -1] + _MARGIN
    sure = (unlisted_below < needed) & (unlisted_below < complete)
    keep = sure[pairs.i]
    return CosinePairs(pairs.i[keep], pairs.j[keep], pairs.score[keep]), np.flatnonzero(~sure)


def _propose(queries: Halves, x: Halves, k: int) -> tuple[Floats, Ints]:
    """The `k` rows of largest cosine in float32 for each query: their cosines, descending, and the rows."""
    near = np.zeros((len(queries), 0), dtype=np.float32)
    rows = np.zeros((len(queries), 0), dtype=np.int64)
    q = _unit(queries)
    for block in _blocks(len(x), _ROWS_PER_BLOCK):
        more_near, more_rows = _knn(q, _unit(x[block]), min(k, block.stop - block.start))
        near = np.concatenate([near, more_near], axis=1)
        rows = np.concatenate([rows, more_rows + block.start], axis=1)
        if near.shape[1] > more_near.shape[1]:
            order = np.argsort(-near, axis=1, kind="stable")[:, :k]
            near, rows = np.take_along_axis(near, order, axis=1), np.take_along_axis(rows, order, axis=1)
    return near, rows


def _unit(x: Halves) -> Floats:
    y = x.astype(np.float32)
    length = np.sqrt(np.einsum("nd,nd->n", y, y))
    return np.asarray(y / np.maximum(length, np.finfo(np.float32).tiny)[:, None])


def _knn(queries: Floats, x: Floats, k: int) -> tuple[Floats, Ints]:
    if faiss.get_num_gpus() > 0 and hasattr(faiss, "StandardGpuResources"):
        near, rows = faiss.knn_gpu(_gpu(), queries, x, k, metric=faiss.METRIC_INNER_PRODUCT)
    else:
        near, rows = faiss.knn(queries, x, k, metric=faiss.METRIC_INNER_PRODUCT)
    return near, rows


@cache
def _gpu() -> Any:
    """Scratch memory on the GPU; allocated once, for that takes longer than a search."""
    return faiss.StandardGpuResources()


def _exhaustive(queries: Halves, x: Halves, skip: Ints, k: int, floor: float, complete: float) -> CosinePairs:
    """The search by exact scores alone."""
    found = []
    columns = max(1, min(len(x), _ROWS_PER_BLOCK // 2))
    for part in _blocks(len(queries), max(1, _SCORES_PER_BLOCK // columns)):
        best = _joined([])
        for block in _blocks(len(x), columns):
            score = _all_scores(queries[part], x[block])
            own = np.flatnonzero((skip[part] >= block.start) & (skip[part] < block.stop))
            score[own, skip[part][own] - block.start] = -np.inf
            below = np.where(score < complete, score, -np.inf)
            bar = max(k, 1) - 1
            kth = -np.partition(-below, bar, axis=1)[:, bar] if bar < below.shape[1] else np.full(len(score), -np.inf)
            i, j = np.nonzero((score >= complete) | ((score >= floor) & (score >= kth[:, None]) & (score > -np.inf)))
            more = CosinePairs(i, j + block.start, score[i, j])
            best = _best(_joined([(best.i, best.j, best.score), (more.i, more.j, more.score)]), k, floor, complete)
        found.append((best.i + part.start, best.j, best.score))
    return _joined(found)


def _best(pairs: CosinePairs, k: int, floor: float, complete: float) -> CosinePairs:
    """All pairs of at least `complete`, and of each `i` the best `k` of at least `floor` below that."""
    order = np.lexsort((pairs.j, -pairs.score, pairs.i))
    i, j, score = pairs.i[order], pairs.j[order], pairs.score[order]
    below = score < complete
    place: Ints = np.cumsum(below) - below  # how many below `complete` come before, of all i
    first = np.searchsorted(i, i)
    keep = ~below | ((place - place[first] < k) & (score >= floor))
    return CosinePairs(i[keep], j[keep], score[keep])


def _joined(found: list[tuple[Ints, Ints, Floats]]) -> CosinePairs:
    empty = np.zeros(0, dtype=np.int64)
    i, j = (np.concatenate([empty, *(block[side] for block in found)]) for side in (0, 1))
    return CosinePairs(i, j, np.concatenate([np.zeros(0, dtype=np.float32), *(block[2] for block in found)]))
