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
_SPARE = 16  # proposals beyond those wanted: few rows then need a second search
_ROWS_PER_BLOCK = 1 << 15  # of float32 copies
_SCORES_PER_BLOCK = 1 << 23


@dataclass(frozen=True)
class SearchSettings:
    """What counts as near, and what is worth a closer look.

    All pairs within `max_bits` of the hash are found, and all of at least `min_cosine`, where that is set. Beyond them
    each image names its best `candidates_per_image`, within `candidate_bits` and of at least `candidate_cosine`, and
    whatever its cosine as many that agree with it in most blocks of their thumbnails. A candidate radius narrower than
    the other proposes nothing.
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

    candidates_per_image: int = 2
    """How many candidates an image names in each search, among the samples before it and as many after it."""

    cells: int | None = None
    """Into how many cells embeddings are clustered; by default by their number, 1 is an exact search."""

    assignments: int = 3
    """In how many cells each embedding is looked for."""

    recall_queries: int = 1000
    """For so many images the search is repeated exactly, to measure the recall of the run."""

    seed: int = 0
    """Of the clustering into cells."""

    def __post_init__(self) -> None:
        for name, least in {
            "max_bits": 0,
            "candidate_bits": 0,
            "candidates_per_image": 0,
            "assignments": 1,
            "recall_queries": 0,
            "seed": 0,
        }.items():
            if getattr(self, name) < least:
                raise ConfigError(f"{name} is {getattr(self, name)}, but must be at least {least}")
        for name in ("min_cosine", "candidate_cosine"):
            cosine = getattr(self, name)
            if cosine is not None and not 0 < cosine <= 1:
                raise ConfigError(f"{name} is {cosine}, but must be above 0 and at most 1")
        if self.cells is not None and not 1 <= self.cells <= MAX_CELLS:
            raise ConfigError(f"cells is {self.cells}, but must be from 1 to {MAX_CELLS}")

    @property
    def search_bits(self) -> int:
        """The radius of the hash search, in bits."""
        return max(self.max_bits, self.candidate_bits)


@dataclass(frozen=True)
class CosinePairs:
    """Pairs of rows with their cosine similarity, sorted by (i, j): three arrays of one length, int64, int64 and
    float32. i < j where both are rows of one array."""

    i: Ints
    j: Ints
    score: Floats


def cosine(x: Halves, i: npt.NDArray[np.integer], j: npt.NDArray[np.integer], other: Halves | None = None) -> Floats:
    """The score of each pair of rows x[i], x[j] (or x[i], other[j]): cosine similarity, (P,) float32.

    `x` and `other` are (N, D) and (M, D) float16, of about unit length. This is the one kernel by which pairs are
    judged: the dot product and the squared norms are exact (see the top of this file), then come one multiplication, a
    square root and a division in float64, which IEEE 754 rounds correctly, and the rounding to float32. So a pair's
    score is equal to the bit wherever, and with whatever else, it is computed. Rows that are bit-identical score 1,
    rows of zeros 0. Raises ConfigError for rows longer than 4 or with values that are not finite.
    """
    other = x if other is None else other
    score = np.empty(len(i), dtype=np.float32)
    for block in _blocks(len(i), max(1, _SCORES_PER_BLOCK // 4 // max(1, x.shape[1]))):
        a, b = x[i[block]].astype(np.float64), other[j[block]].astype(np.float64)
        score[block] = _normalised(np.einsum("nd,nd->n", a, b), _squared_norms(a), _squared_norms(b))
    return score


def _blocks(n: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, n)) for start in range(0, n, size))


def _squared_norms(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    squared: npt.NDArray[np.float64] = np.einsum("nd,nd->n", x, x)
    if not bool((squared <= _MAX_NORM**2).all()):
        raise ConfigError(f"an embedding is longer than {_MAX_NORM:.0f} or not finite; embedders must give unit rows")
    return squared


def _normalised(
    dot: npt.NDArray[np.float64], squared_a: npt.NDArray[np.float64], squared_b: npt.NDArray[np.float64]
) -> Floats:
    length = np.sqrt(squared_a * squared_b)
    score = np.divide(dot, length, out=np.zeros_like(dot), where=length > 0)
    return np.asarray(score, dtype=np.float32)


def _all_scores(a: Halves, b: Halves) -> Floats:
    """`cosine` of every row of `a` with every row of `b`: (len(a), len(b)), the same to the bit."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    return _normalised(a64 @ b64.T, _squared_norms(a64)[:, None], _squared_norms(b64)[None, :])


def cosine_pairs_in_cell(x: Halves, primary: npt.NDArray[np.bool_], settings: SearchSettings) -> CosinePairs:
    """The near pairs among the rows of one cell.

    `x` (N, D) float16 are the embeddings assigned to the cell, in the order that breaks ties (sample_id); `primary`
    (N,) says for which of them this is the nearest of their cells. Returns, each once, i < j:

    - all pairs of at least `min_cosine`, where it is set, with at least one primary row;
    - of each primary row the best `candidates_per_image` pairs with any row from `candidate_cosine` up to
      `min_cosine` (up to 1 where that is not set).

    A row is primary in one cell, so each image proposes from there alone, and the same pair from several cells has the
    same score: dropping repeats is all that is left to do. Memory: the pairs, and a fixed amount. Raises as `cosine`.
    """
    queries = np.flatnonzero(primary)
    complete = math.inf if settings.min_cosine is None else settings.min_cosine
    found = _search(x[queries], x, queries, settings.candidates_per_image, settings.candidate_cosine, complete)
    i, j = np.minimum(queries[found.i], found.j), np.maximum(queries[found.i], found.j)
    _, once = np.unique(i * len(x) + j, return_index=True)
    return CosinePairs(i[once], j[once], found.score[once])


def best_scores(pairs: CosinePairs, rows: int, count: int) -> Floats:
    """(rows, count) float32: of each row the scores of its best pairs, the best first; 0 where it has no more."""
    ends = np.concatenate([pairs.i, pairs.j])
    values = np.concatenate([pairs.score, pairs.score])
    order = np.lexsort((-values, ends))
    ends, values = ends[order], values[order]
    place = np.arange(len(ends)) - np.searchsorted(ends, ends)
    asked = place < count
    result = np.zeros((rows, count), dtype=np.float32)
    result[ends[asked], place[asked]] = values[asked]
    return result


def limit_candidates(pairs: CosinePairs, complete: float, per_row: int) -> CosinePairs:
    """All pairs of at least `complete`, and of those below the ones that are among the best `per_row` that a row has
    with earlier rows, or with later ones (equally good ones by the other row's number)."""
    keep = pairs.score >= complete
    below = np.flatnonzero(~keep)
    for row, other in ((pairs.i[below], pairs.j[below]), (pairs.j[below], pairs.i[below])):
        order = np.lexsort((other, -pairs.score[below], row))
        place = np.arange(len(order)) - np.searchsorted(row[order], row[order])
        keep[below[order[place < per_row]]] = True
    return CosinePairs(pairs.i[keep], pairs.j[keep], pairs.score[keep])


def brute_force_pairs(x: Halves, min_cosine: float) -> CosinePairs:
    """All pairs of rows of `x` (N, D) float16 of at least `min_cosine`, by exact scores alone, without faiss.

    The reference for tests, and for small sets: it takes time in proportion to N².
    """
    found = []
    for block in _blocks(len(x), 1024):
        score = _all_scores(x[block], x[block.start :])
        i, j = np.nonzero((score >= min_cosine) & np.triu(np.ones(score.shape, dtype=bool), 1))
        found.append((i + block.start, j + block.start, score[i, j]))
    return _joined(found)


def exact_neighbors(queries: Halves, x: Halves, min_cosine: float, per_query: int) -> CosinePairs:
    """The best `per_query` rows of `x` (N, D) float16 for each of `queries` (Q, D), of those of at least `min_cosine`.

    Complete, whatever the cells: it is what the recall of a run is measured by. `i` indexes queries, `j` rows of `x`;
    where a query is itself among the rows it finds itself, too. Sorted by query, then best first.
    """
    if not len(queries) or not len(x):
        return _joined([])
    return _search(queries, x, None, per_query, min_cosine, math.inf)


def n_cells(n: int) -> int:
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
