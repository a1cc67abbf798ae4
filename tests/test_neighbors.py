"""The embedding search: exact scores, completeness against brute force, and equality to the bit however it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from dedup import neighbors
from dedup.errors import ConfigError
from dedup.neighbors import (
    CosinePairs,
    SearchSettings,
    assign_cells,
    best_scores,
    brute_force_pairs,
    cosine,
    cosine_pairs_in_cell,
    exact_neighbors,
    limit_candidates,
    n_cells,
    train_cells,
)

Halves = npt.NDArray[np.float16]


def unit(x: npt.NDArray[np.float64]) -> Halves:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True), dtype=np.float16)


def groups_of_likes(n: int, dim: int, seed: int, noise: float = 0.35) -> Halves:
    """Rows around n / 10 centres, so that cosines of all sizes occur."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(1, n // 10), dim))
    x = centres[rng.integers(0, len(centres), n)]
    return unit(x + rng.uniform(0, 2 * noise, (n, 1)) * rng.normal(size=(n, dim)))


def listed(pairs: CosinePairs) -> list[tuple[int, int, float]]:
    return list(zip(pairs.i.tolist(), pairs.j.tolist(), pairs.score.tolist(), strict=True))


@pytest.fixture(params=["one block", "small blocks", "no proposals"])
def cut(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways in which a search may be cut; the last leaves nearly every row to the exhaustive search."""
    if request.param != "one block":
        monkeypatch.setattr(neighbors, "_ROWS_PER_BLOCK", 128)
        monkeypatch.setattr(neighbors, "_SCORES_PER_BLOCK", 4000)
    if request.param == "no proposals":
        monkeypatch.setattr(neighbors, "_SPARE", 1)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(request.param)
    yield request.param
    faiss.omp_set_num_threads(before)


# ---------------------------------------------------------------- the kernel


def test_cosine_is_the_exact_value_rounded() -> None:
    x = groups_of_likes(40, 64, seed=0)
    i, j = np.triu_indices(len(x), 1)
    score = cosine(x, i, j)
    assert score.dtype == np.float32

    def dot(a: Halves, b: Halves) -> Fraction:
        return sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(a, b, strict=True)), Fraction(0))

    for k in range(0, len(i), 7):
        a, b = x[i[k]], x[j[k]]
        exact = float(dot(a, b)) / np.sqrt(float(dot(a, a)) * float(dot(b, b)))
        assert score[k] == np.float32(exact)


@pytest.mark.parametrize("dim", [7, 512, 1280])
def test_cosine_does_not_depend_on_the_order_of_summation(dim: int) -> None:
    x = groups_of_likes(200, dim, seed=1)
    i, j = np.triu_indices(len(x), 1)
    expected = cosine(x, i, j)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(dim)
        assert np.array_equal(cosine(np.ascontiguousarray(x[:, order]), i, j), expected)
    assert np.array_equal(cosine(x, j, i), expected)
    assert np.array_equal(neighbors._all_scores(x, x)[i, j], expected)


def test_cosine_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    x = groups_of_likes(100, 33, seed=2)
    i, j = np.triu_indices(len(x), 1)
    expected = cosine(x, i, j)
    monkeypatch.setattr(neighbors, "_SCORES_PER_BLOCK", 1000)
    assert np.array_equal(cosine(x, i, j), expected)
    assert np.array_equal(np.concatenate([cosine(x, i[k : k + 1], j[k : k + 1]) for k in range(len(i))]), expected)


def test_identical_rows_score_one() -> None:
    x = groups_of_likes(500, 512, seed=3)
    rows = np.arange(len(x))
    assert (cosine(x, rows, rows) == 1).all()


def test_zero_rows_score_nothing() -> None:
    x = np.zeros((2, 8), dtype=np.float16)
    x[1, 0] = 1
    assert cosine(x, np.array([0, 0]), np.array([0, 1])).tolist() == [0, 0]


@pytest.mark.parametrize("value", [5, np.nan, np.inf])
def test_rows_that_are_no_embeddings_are_refused(value: float) -> None:
    x = np.zeros((2, 8), dtype=np.float16)
    x[0, 0] = value
    with pytest.raises(ConfigError, match="longer than 4 or not finite"):
        cosine(x, np.array([0]), np.array([1]))


# ---------------------------------------------------------------- a cell


SETTINGS = SearchSettings(min_cosine=0.8, candidate_cosine=0.5, candidates_per_image=3)


def expected_in_cell(x: Halves, primary: npt.NDArray[np.bool_], settings: SearchSettings) -> set[tuple[int, int]]:
    """The definition in `cosine_pairs_in_cell`'s docstring, one row after the other."""
    complete = np.inf if settings.min_cosine is None else settings.min_cosine
    found = set()
    for i in np.flatnonzero(primary).tolist():
        score = cosine(x, np.full(len(x), i), np.arange(len(x)))
        others = sorted((row for row in range(len(x)) if row != i), key=lambda row: (-score[row], row))
        near = [row for row in others if score[row] >= complete]
        below = [row for row in others if settings.candidate_cosine <= score[row] < complete]
        found |= {(min(i, row), max(i, row)) for row in near + below[: settings.candidates_per_image]}
    return found


@pytest.mark.usefixtures("cut")
@pytest.mark.parametrize("min_cosine", [None, 0.8, 0.3])
@pytest.mark.parametrize("share", [1.0, 0.4])
def test_cell_holds_what_it_promises(min_cosine: float | None, share: float) -> None:
    x = groups_of_likes(300, 32, seed=4)
    primary = np.random.default_rng(0).random(len(x)) < share
    settings = replace(SETTINGS, min_cosine=min_cosine)
    pairs = cosine_pairs_in_cell(x, primary, settings)
    assert [(i, j) for i, j, _ in listed(pairs)] == sorted(expected_in_cell(x, primary, settings))
    assert np.array_equal(pairs.score, cosine(x, pairs.i, pairs.j))


@pytest.mark.usefixtures("cut")
def test_all_pairs_above_the_threshold_agree_with_brute_force() -> None:
    x = groups_of_likes(400, 48, seed=5)
    pairs = cosine_pairs_in_cell(x, np.ones(len(x), dtype=bool), replace(SETTINGS, candidates_per_image=0))
    expected = brute_force_pairs(x, 0.8)
    assert len(expected.i) > 500
    assert listed(pairs) == listed(expected)


def test_brute_force_is_all_pairs() -> None:
    x = groups_of_likes(1100, 8, seed=6)
    i, j = np.triu_indices(len(x), 1)
    score = cosine(x, i, j)
    near = score >= 0.9
    pairs = brute_force_pairs(x, 0.9)
    assert listed(pairs) == list(zip(i[near].tolist(), j[near].tolist(), score[near].tolist(), strict=True))


def test_threshold_itself_is_accepted() -> None:
    x = groups_of_likes(50, 16, seed=7)
    score = cosine(x, np.array([0]), np.array([1]))[0]
    everything = np.ones(2, dtype=bool)
    at = replace(SETTINGS, min_cosine=float(abs(score)), candidates_per_image=0)
    above = replace(at, min_cosine=float(np.nextafter(abs(score), np.float32(2))))
    pair = x[:2] if score > 0 else np.stack([x[0], -x[1]])
    assert len(cosine_pairs_in_cell(pair, everything, at).i) == 1
    assert len(cosine_pairs_in_cell(pair, everything, above).i) == 0


@pytest.mark.usefixtures("cut")
def test_more_copies_than_any_list_are_all_found() -> None:
    x = np.concatenate([groups_of_likes(60, 16, seed=8), np.tile(groups_of_likes(1, 16, seed=9), (90, 1))])
    pairs = cosine_pairs_in_cell(x, np.ones(len(x), dtype=bool), replace(SETTINGS, min_cosine=0.99))
    copies = [(i, j) for i, j, score in listed(pairs) if score == 1]
    assert copies == [(i, j) for i in range(60, 150) for j in range(i + 1, 150)]


@pytest.mark.usefixtures("cut")
def test_equal_candidates_are_taken_in_the_given_order() -> None:
    x = np.concatenate([groups_of_likes(1, 16, seed=10), np.tile(groups_of_likes(1, 16, seed=10), (90, 1))])
    x[1:, 0] += np.float16(0.3)
    primary = np.arange(len(x)) == 0
    pairs = cosine_pairs_in_cell(x, primary, SearchSettings(candidate_cosine=0.5, candidates_per_image=4))
    assert [(i, j) for i, j, _ in listed(pairs)] == [(0, 1), (0, 2), (0, 3), (0, 4)]


@pytest.mark.parametrize("n", [0, 1, 2])
def test_tiny_cells(n: int) -> None:
    x = np.tile(groups_of_likes(1, 16, seed=11), (n, 1))
    pairs = cosine_pairs_in_cell(x, np.ones(n, dtype=bool), SETTINGS)
    assert listed(pairs) == ([(0, 1, 1.0)] if n == 2 else [])


def test_cell_without_primary_rows_has_no_pairs() -> None:
    x = np.tile(groups_of_likes(1, 16, seed=11), (5, 1))
    assert listed(cosine_pairs_in_cell(x, np.zeros(5, dtype=bool), SETTINGS)) == []


@pytest.mark.usefixtures("cut")
def test_exact_neighbors_are_the_best_of_brute_force() -> None:
    x = groups_of_likes(300, 24, seed=12)
    queries = groups_of_likes(300, 24, seed=12)[::9]
    found = listed(exact_neighbors(queries, x, 0.6, 5))
    expected = []
    for q in range(len(queries)):
        score = neighbors._all_scores(queries[q : q + 1], x)[0]
        best = sorted((row for row in range(len(x)) if score[row] >= 0.6), key=lambda row: (-score[row], row))
        expected += [(q, row, float(score[row])) for row in best[:5]]
    assert found == expected
    assert all((q, 9 * q, 1.0) in found for q in range(len(queries)))


# ---------------------------------------------------------------- cells


@pytest.mark.usefixtures("threads", "cut")
def test_cells_are_equal_for_any_threads_and_batches() -> None:
    x = groups_of_likes(400, 40, seed=13)
    centroids = train_cells(x, 12, seed=0)
    # The reference: the same steps with every score computed by the per-pair kernel.
    expected = x[np.sort(np.random.default_rng(0).choice(len(x), 12, replace=False))]
    for _ in range(10):
        cell = neighbors._all_scores(x, expected).argmax(axis=1)
        sums = np.stack([x[cell == k].astype(np.float64).sum(axis=0) for k in range(12)])
        expected = (sums / np.sqrt((sums**2).cumsum(axis=1)[:, -1:])).astype(np.float16)
    assert centroids.dtype == np.float16
    assert np.array_equal(centroids, expected)

    cells = assign_cells(centroids, x, 3)
    assert cells.dtype == np.int32
    best = np.argsort(-neighbors._all_scores(x, centroids), axis=1, kind="stable")[:, :3]
    assert np.array_equal(cells, best)
    parts = [assign_cells(centroids, x[k : k + 50], 3) for k in range(0, len(x), 50)]
    assert np.array_equal(np.concatenate(parts), cells)


def test_cells_hold_likes_together() -> None:
    centres = np.repeat(np.eye(20), 30, axis=0)
    x = unit(centres + 0.02 * np.random.default_rng(0).normal(size=centres.shape))
    cells = assign_cells(train_cells(x, 10, seed=1), x, 1)[:, 0].reshape(20, 30)
    assert (cells == cells[:, :1]).all()


def test_cells_of_equal_rows_are_numbered() -> None:
    x = np.tile(groups_of_likes(1, 16, seed=14), (50, 1))
    centroids = train_cells(x, 5, seed=0)
    assert np.isfinite(centroids).all()
    assert assign_cells(centroids, x, 2).tolist() == [[0, 1]] * 50


def test_empty_cells_restart_at_the_farthest_row() -> None:
    # Two of three centroids start in the same place, so one is empty; the lone row gets it.
    x = np.concatenate(
        [np.tile(unit(np.eye(3)[:1]), (60, 1)), np.tile(unit(np.eye(3)[1:2]), (60, 1)), unit(-np.eye(3)[2:])]
    )
    cells = assign_cells(train_cells(x, 3, seed=0), x, 1)[:, 0]
    assert sorted(np.bincount(cells, minlength=3)) == [1, 60, 60]


def test_assignments_do_not_exceed_the_cells() -> None:
    x = groups_of_likes(50, 16, seed=15)
    assert assign_cells(train_cells(x, 2, seed=0), x, 5).shape == (50, 2)
    assert assign_cells(train_cells(x, 2, seed=0), x[:0], 5).shape == (0, 2)


def test_more_cells_than_rows_are_refused() -> None:
    with pytest.raises(ConfigError, match="3 embeddings cannot be clustered into 4 cells"):
        train_cells(groups_of_likes(3, 16, seed=16), 4, seed=0)


def test_number_of_cells_grows_with_the_set() -> None:
    sizes = [1, 20_000, 20_001, 10**6, 10**9, 10**10]
    assert [n_cells(n) for n in sizes] == [1, 1, 5, 250, 1 << 16, 1 << 16]


def test_two_assignments_find_pairs_that_one_misses() -> None:
    x = groups_of_likes(2000, 32, seed=17)
    centroids = train_cells(x, 30, seed=0)
    settings = replace(SETTINGS, candidates_per_image=0)
    true = {(i, j) for i, j, _ in listed(brute_force_pairs(x, 0.8))}
    recall = []
    for assignments in (1, 2, 4):
        cells = assign_cells(centroids, x, assignments)
        found: set[tuple[int, int]] = set()
        for cell in range(30):
            row, place = np.nonzero(cells == cell)
            pairs = cosine_pairs_in_cell(x[row], place == 0, settings)
            found |= set(zip(row[pairs.i].tolist(), row[pairs.j].tolist(), strict=True))
        assert found <= true
        recall.append(len(found) / len(true))
    assert recall[0] < recall[1] <= recall[2]
    assert recall[1] > 0.97


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_bits": -1},
        {"candidate_bits": -1},
        {"min_cosine": 0.0},
        {"min_cosine": 1.1},
        {"min_cosine": float("nan")},
        {"candidate_cosine": 0.0},
        {"candidates_per_image": -1},
        {"cells": 0},
        {"cells": (1 << 16) + 1},
        {"assignments": 0},
        {"recall_queries": -1},
        {"seed": -1},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SearchSettings(**wrong)


def test_hashes_are_searched_as_far_as_either_radius() -> None:
    assert SearchSettings(max_bits=2, candidate_bits=6).search_bits == 6
    assert SearchSettings(max_bits=8, candidate_bits=6).search_bits == 8


@pytest.mark.gpu
@pytest.mark.skipif(faiss.get_num_gpus() == 0, reason="no GPU")
def test_gpu_finds_the_same_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x = groups_of_likes(3000, 256, seed=18)
    primary = np.ones(len(x), dtype=bool)
    found, centroids = cosine_pairs_in_cell(x, primary, SETTINGS), train_cells(x, 30, seed=0)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    assert listed(found) == listed(cosine_pairs_in_cell(x, primary, SETTINGS))
    assert np.array_equal(centroids, train_cells(x, 30, seed=0))


def test_the_best_scores_of_a_row_come_first() -> None:
    # Row 0 has six pairs, rows 1 to 6 one each.
    scores = np.array([0.9, 0.8, 0.95, 0.7, 0.85, 0.75], np.float32)
    pairs = CosinePairs(np.zeros(6, np.int64), np.arange(1, 7), scores)
    of_row_0 = [np.float32(score) for score in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7)]
    best = best_scores(pairs, 8, 4)
    assert best.dtype == np.float32
    assert best.tolist() == [of_row_0[:4], *([score, 0, 0, 0] for score in scores), [0] * 4]
    assert best_scores(pairs, 1 + 6, 8)[0].tolist() == [*of_row_0, 0, 0]


def test_candidates_are_the_best_with_earlier_and_with_later_rows_and_all_that_count_anyway() -> None:
    i, j = np.array([0, 0, 0, 1, 2]), np.array([1, 2, 3, 2, 3])
    pairs = CosinePairs(i, j, np.array([0.9, 0.8, 0.7, 0.6, 0.75], np.float32))
    kept = limit_candidates(pairs, 2.0, 1)
    # Among later rows 0 names 1, 1 names 2, 2 names 3; among earlier ones 2 names 0 and 3 names 2. Nobody names 0-3.
    assert list(zip(kept.i.tolist(), kept.j.tolist(), strict=True)) == [(0, 1), (0, 2), (1, 2), (2, 3)]
    kept = limit_candidates(pairs, 0.7, 0)
    assert list(zip(kept.i.tolist(), kept.j.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (2, 3)]
