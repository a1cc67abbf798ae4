"""Cosine search in cells against exhaustive search, on random unit vectors with planted pairs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from dedup.neighbors import SearchSettings, assign_cells, cosine_pairs_in_cell, train_cells


def report(rows: int, dim: int, cells: int, seed: int) -> Iterator[str]:
    """Lines with the seconds of both, and the recall of the search in cells."""
    x, planted = planted_vectors(rows, dim, seed)
    settings = SearchSettings(min_cosine=0.9, candidate_cosine=0.9, candidates_per_image=0, cells=cells)
    started = time.perf_counter()
    found = pairs_in_cells(x, settings)
    in_cells = time.perf_counter() - started
    started = time.perf_counter()
    exact = pairs_exhaustively(x, settings)
    exhaustively = time.perf_counter() - started
    yield f"{rows:,} x {dim}, {cells} cells, {settings.assignments} assignments, {len(planted):,} planted pairs"
    yield f"in cells {in_cells:.1f} s, exhaustively {exhaustively:.1f} s, ratio {exhaustively / in_cells:.1f}"
    recall, of_planted = len(found & exact) / len(exact), len(found & planted) / len(planted)
    yield f"recall of all pairs {recall:.5f}, of planted ones {of_planted:.5f}"


def planted_vectors(rows: int, dim: int, seed: int) -> tuple[np.ndarray[Any, Any], set[tuple[int, int]]]:
    """(rows, dim) float16 unit vectors around a few hundred centres, and the pairs planted with a cosine >= 0.9."""
    rng = np.random.default_rng(seed)
    copies = rows // 11
    centres = rng.standard_normal((300, dim), np.float32)
    x = centres[rng.integers(0, 300, rows - copies)] + rng.standard_normal((rows - copies, dim), np.float32)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    of = rng.choice(rows - copies, copies, replace=False)
    noise = rng.standard_normal((copies, dim), np.float32)
    noise -= (noise * x[of]).sum(1, keepdims=True) * x[of]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    cosine = rng.uniform(0.905, 1, (copies, 1)).astype(np.float32)
    x = np.concatenate([x, cosine * x[of] + np.sqrt(1 - cosine**2) * noise]).astype(np.float16)
    return x, {(int(a), int(b)) for a, b in zip(of, range(rows - copies, rows), strict=True)}


def pairs_in_cells(x: np.ndarray[Any, Any], settings: SearchSettings) -> set[tuple[int, int]]:
    """As a run searches: train on a sample, assign, search each cell."""
    cells = settings.cells or 1
    sample = np.random.default_rng(settings.seed).choice(len(x), min(len(x), 64 * cells), replace=False)
    assigned = assign_cells(train_cells(x[np.sort(sample)], cells, settings.seed), x, settings.assignments)
    found: set[tuple[int, int]] = set()
    for cell in range(cells):
        rows, column = np.nonzero(assigned == cell)
        pairs = cosine_pairs_in_cell(x[rows], column == 0, settings)
        found.update(zip(rows[pairs.i].tolist(), rows[pairs.j].tolist(), strict=True))
    return found


def pairs_exhaustively(x: np.ndarray[Any, Any], settings: SearchSettings) -> set[tuple[int, int]]:
    """Every row against every other by the same search: all rows in one cell."""
    pairs = cosine_pairs_in_cell(x, np.ones(len(x), dtype=bool), settings)
    return set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))
