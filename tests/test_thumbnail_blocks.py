"""Blocks of thumbnails: against a plain count, and copies of which half is covered among other photographs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from dedup import thumbnail_blocks
from dedup.crowded import candidates_in_cell
from dedup.images import thumbnail
from dedup.neighbors import SearchSettings, cosine
from dedup.thumbnail_blocks import BLOCKS, LEAST_BLOCKS, agreeing_pairs
from dedup.thumbnails import luma
from tests.verification import PHOTOGRAPHS, photograph

UInt8Array = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
TURNED = {
    "as it is": lambda grey: grey,
    "mirrored": np.fliplr,
    "upside down": np.flipud,
    "by 90 degrees": np.rot90,
    "by 180 degrees": lambda grey: np.rot90(grey, 2),
    "by 270 degrees": lambda grey: np.rot90(grey, 3),
}


def greys(images: list[Image.Image]) -> UInt8Array:
    return luma(np.stack([thumbnail(image.convert("RGB")) for image in images]))


def originals() -> UInt8Array:
    return greys([photograph(name) for name in PHOTOGRAPHS])


def covered(grey: UInt8Array, seed: int) -> UInt8Array:
    """With a pattern over half of it, darker, and with less contrast."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 256, (32, 32))
    pattern[rng.permuted(np.arange(64) < 32).reshape(8, 8).repeat(4, 0).repeat(4, 1)] = 0
    return np.where(pattern > 0, pattern, 0.7 * grey + 10).astype(np.uint8)


def listed(i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return list(zip(i.tolist(), j.tolist(), strict=True))


def count(one: UInt8Array, other: UInt8Array) -> int:
    """In how many blocks they agree, one after the other, as the module's docstring says."""

    def block(grey: UInt8Array, row: int, column: int) -> npt.NDArray[np.float64]:
        part = grey[4 * row : 4 * row + 4, 4 * column : 4 * column + 4].astype(np.float64).ravel()
        part -= part.mean()
        return np.rint(127 * part / np.linalg.norm(part)) if part.std() >= 4 else np.zeros(16)

    def agreeing(turned: UInt8Array) -> int:
        places = [(row, column) for row in range(8) for column in range(8)]
        return sum(block(turned, *place) @ block(other, *place) > 0.85 * 127**2 for place in places)

    return max(agreeing(turn(one)) for turn in TURNED.values())


def test_pairs_are_those_of_a_plain_count(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = originals()
    pictures = np.concatenate([pictures, [covered(grey, at) for at, grey in enumerate(pictures)]])
    counts = np.array([[count(one, other) if one is not other else 0 for other in pictures] for one in pictures])
    np.fill_diagonal(counts, 0)
    asking = np.arange(len(pictures)) % 3 > 0
    for least, per_row in ((LEAST_BLOCKS, 2), (6, 1), (6, 3)):
        monkeypatch.setattr(thumbnail_blocks, "LEAST_BLOCKS", least)
        expected = set()
        for row in np.flatnonzero(asking).tolist():
            best = sorted((-counts[row, other], other) for other in range(len(pictures)) if counts[row, other] >= least)
            expected |= {(min(row, other), max(row, other)) for _, other in best[:per_row]}
        assert expected
        for rows, columns in ((256, 2048), (3, 5)):  # whatever is compared at a time
            monkeypatch.setattr(thumbnail_blocks, "_ROWS", rows)
            monkeypatch.setattr(thumbnail_blocks, "_COLUMNS", columns)
            assert listed(*agreeing_pairs(pictures, asking, per_row)) == sorted(expected)


@pytest.mark.parametrize("name", TURNED)
def test_a_copy_is_named_though_half_of_it_is_covered(name: str) -> None:
    pictures = originals()
    total = len(pictures)
    copies = [np.ascontiguousarray(TURNED[name](covered(grey, at))) for at, grey in enumerate(pictures)]
    pairs = listed(*agreeing_pairs(np.concatenate([pictures, copies]), np.ones(2 * total, bool), 1))
    assert len(set(pairs) & {(at, at + total) for at in range(total)}) >= 0.7 * total
    assert [(i, j) for i, j in pairs if j - i != total] == []


def test_what_is_flat_or_does_not_ask_names_none() -> None:
    flat = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 32 * 32).reshape(5, 32, 32)
    assert listed(*agreeing_pairs(flat, np.ones(5, bool), 2)) == []
    same = np.repeat(originals()[:1], 4, axis=0)
    assert listed(*agreeing_pairs(same, np.zeros(4, bool), 2)) == []
    assert listed(*agreeing_pairs(same, np.ones(4, bool), 0)) == []
    assert listed(*agreeing_pairs(same[:1], np.ones(1, bool), 2)) == []
    assert listed(*agreeing_pairs(same, np.arange(4) == 3, 2)) == [(0, 3), (1, 3)]
    assert count(same[0], same[1]) <= BLOCKS


def test_a_cell_names_covered_copies_that_embeddings_hold_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = originals()
    total = len(pictures)
    both = np.concatenate([pictures, [covered(grey, at) for at, grey in enumerate(pictures)]])
    x = np.eye(2 * total, 64).astype(np.float16)  # no two are alike
    everything, settings = np.ones(2 * total, bool), SearchSettings()
    wanted = {(at, at + total) for at in range(total)}
    pairs, crowds = candidates_in_cell(x, both, everything, settings, ~everything)
    assert len(set(listed(pairs.i, pairs.j)) & wanted) >= 0.7 * total
    assert np.array_equal(pairs.score, cosine(x, pairs.i, pairs.j))
    assert not crowds.crowding.any()
    none, _ = candidates_in_cell(x, both, everything, settings, everything)  # small ones
    assert listed(none.i, none.j) == []
    asked = []

    def ask(greys: UInt8Array, rows: npt.NDArray[np.bool_], per_row: int) -> tuple[Ints, Ints]:
        asked.append(rows)
        return agreeing_pairs(greys, rows, per_row)

    monkeypatch.setattr("dedup.crowded.agreeing_pairs", ask)
    alike = np.full((2 * total, 64), 0.125, np.float16)  # in a crowd, thumbnails are ranked anyway
    candidates_in_cell(alike, both, everything, settings, ~everything)
    assert not asked[0].any()
