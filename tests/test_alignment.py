"""Thumbnails laid onto each other: copies agree in their details, other pictures do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from test_verify import PHOTOGRAPHS, photograph

from dedup import alignment
from dedup.alignment import aligned_likeness
from dedup.images import thumbnail
from dedup.thumbnails import likeness, luma
from dedup.transforms import TRANSFORMS
from dedup.verify import HOPELESS_ALIGNED

WHOLE = np.eye(2, 3)[None]
NOTHING = np.full(1, -np.inf)  # is needed


def moved(grey: np.ndarray, affine: np.ndarray) -> np.ndarray:
    return cv2.warpAffine(grey, affine, (32, 32), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@pytest.fixture(scope="module")
def greys() -> np.ndarray:
    return luma(np.stack([thumbnail(photograph(name)) for name in PHOTOGRAPHS]))


def test_a_picture_agrees_with_itself_and_its_negative_disagrees(greys: np.ndarray) -> None:
    both = np.stack([greys[0], 255 - greys[0]])
    found, _ = aligned_likeness(both, np.array([0, 0]), np.array([0, 1]), np.repeat(WHOLE, 2, axis=0), np.zeros(2))
    assert found.dtype == np.float32
    assert found[0] > 0.999
    assert found[1] < -0.9


def test_a_shift_that_the_map_does_not_know_is_found(greys: np.ndarray) -> None:
    shift = np.array([[1.03, 0.02, 1.2], [-0.02, 0.98, -0.9]])
    pairs = [np.stack([grey, moved(grey, shift)]) for grey in greys]
    found = [aligned_likeness(pair, np.array([0]), np.array([1]), WHOLE, NOTHING)[0][0] for pair in pairs]
    assert sum(likeness > 0.9 for likeness in found) >= len(PHOTOGRAPHS) - 1  # one coin is as near as the next


@pytest.mark.parametrize("scale", [1.0, 0.6])
def test_the_map_that_is_found_lays_one_picture_onto_the_other(scale: float) -> None:
    """Also where it is the second one that is a part of the first, or the first one a part of the second."""
    grey = luma(thumbnail(photograph("astronaut"))[None])[0]
    # In 0..1: a part of the picture, moved a little, fills the other one.
    truth = np.array([[1 / scale, 0.02, 0.03 - 0.3 * (1 - scale)], [-0.02, 1 / scale, 0.01 - 0.3 * (1 - scale)]])
    pixels = truth.copy()
    pixels[:, 2] = truth[:, :2] @ [0.5, 0.5] + truth[:, 2] * 32 - 0.5
    pair = np.stack([grey, moved(grey, pixels)])
    about = truth + np.array([[0, 0, 0.05], [0, 0, -0.04]])
    corners = np.array([[0.4, 0.5, 0.6, 0.5], [0.5, 0.4, 0.5, 0.6], [1, 1, 1, 1]])
    for i, j, known, given in ((0, 1, truth, about), (1, 0, *(cv2.invertAffineTransform(m) for m in (truth, about)))):
        found, maps = aligned_likeness(pair, np.array([i]), np.array([j]), given[None], NOTHING)
        assert found[0] > 0.9
        assert np.abs((maps[0] - known) @ corners).max() < 0.02 < np.abs((given - known) @ corners).max()


def test_a_place_is_left_only_for_one_where_far_more_agrees(greys: np.ndarray) -> None:
    """A third of a pixel beside it details agree nearly as much."""
    pair = np.stack([greys[0], moved(greys[0], np.array([[1, 0, 0.3], [0, 1, -0.2]]))])
    for given, left in ((WHOLE, False), (np.add(WHOLE, [[0, 0, 0.05], [0, 0, 0]]), True)):
        found, maps = aligned_likeness(pair, np.array([0]), np.array([1]), given, NOTHING)
        assert found[0] > 0.95
        assert np.allclose(maps, given, atol=1e-6) != left


@pytest.mark.parametrize("transform", ["crop_70", "mirror", "rotate", "aspect", "caption", "grey", "noise"])
def test_copies_stay_and_others_go(transform: str) -> None:
    names = ("astronaut", "chelsea", "coffee", "china")
    pictures = [photograph(name) for name in names]
    copies = [TRANSFORMS[transform](image, np.random.default_rng(k)).open() for k, image in enumerate(pictures)]
    thumbnails = np.stack([thumbnail(image) for image in pictures + copies])
    i, j = (side.ravel() for side in np.meshgrid(np.arange(4), np.arange(4, 8), indexing="ij"))
    found, _ = aligned_likeness(
        luma(thumbnails), i, j, likeness(thumbnails, i, j).map, np.full(len(i), HOPELESS_ALIGNED)
    )
    same = j - i == 4
    assert found[same].min() >= HOPELESS_ALIGNED
    assert np.median(found[~same]) < HOPELESS_ALIGNED
    assert found[~same].max() < found[same].min()


def test_a_pair_has_one_likeness_whatever_else_is_asked(greys: np.ndarray) -> None:
    i, j = np.triu_indices(len(greys), 1)
    together, _ = aligned_likeness(greys, i, j, np.repeat(WHOLE, len(i), axis=0), np.full(len(i), 0.6))
    alone = [
        aligned_likeness(greys[[a, b]], np.array([0]), np.array([1]), WHOLE, np.array([0.6]))[0][0]
        for a, b in zip(i, j, strict=True)
    ]
    assert together.tolist() == [float(value) for value in alone]


def test_hardly_any_overlap_is_no_evidence(greys: np.ndarray) -> None:
    corner = np.array([[[1.0, 0.0, 0.9], [0.0, 1.0, 0.9]]])
    assert aligned_likeness(greys, np.array([0]), np.array([0]), corner, NOTHING)[0][0] == -1


def test_flat_pictures_and_no_pairs() -> None:
    flat = np.full((2, 32, 32), 90, np.uint8)
    assert abs(aligned_likeness(flat, np.array([0]), np.array([1]), WHOLE, NOTHING)[0][0]) < 0.01
    nothing = np.zeros(0, np.intp)
    assert len(aligned_likeness(flat, nothing, nothing, np.zeros((0, 2, 3)), np.zeros(0))[0]) == 0


def test_what_is_far_from_what_it_needs_is_not_followed_further(greys: np.ndarray) -> None:
    i, j = np.triu_indices(len(greys), 1)
    whole = np.repeat(WHOLE, len(i), axis=0)
    followed, left = (aligned_likeness(greys, i, j, whole, np.full(len(i), least))[0] for least in (0.0, 0.9))
    assert (left <= followed + 1e-6).all()
    near = left >= 0.7 * 0.9
    assert (left[near] == followed[near]).all()
    assert (left < followed).any()


def test_a_picture_is_prepared_once_for_all_its_pairs(greys: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(alignment, "_bands", lambda grey, bands=alignment._bands: made.append(1) or bands(grey))
    i, j = np.triu_indices(len(greys), 1)
    aligned_likeness(greys, i, j, np.repeat(WHOLE, len(i), axis=0), np.full(len(i), 0.6))
    assert len(made) == len(greys)


def test_the_finer_picture_is_smoothed_before_it_is_reduced(greys: np.ndarray) -> None:
    """The middle half, laid onto the whole exactly."""
    for grey in greys[:4]:
        large = cv2.resize(grey, (64, 64), interpolation=cv2.INTER_CUBIC)
        pair = np.stack([large[16:48, 16:48], grey])
        half = np.array([[[0.5, 0, 0.25], [0, 0.5, 0.25]]])
        found, _ = aligned_likeness(pair, np.array([0]), np.array([1]), half, np.full(1, np.inf))
        assert found[0] > 0.9
