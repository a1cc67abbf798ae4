"""Votes of local features: against a plain count, and copies among look-alikes."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from dedup import local_features, local_votes
from dedup.local_features import GLANCE_SIDE, MIRRORED
from dedup.local_votes import FEATURES, best_pairs, packed_features, probe, train_words, voted_pairs, votes
from dedup.transforms import TRANSFORMS
from pipelines.lookalikes import LOOKALIKES


def packed(images: list[Image.Image]) -> list[bytes]:
    return [packed_features(local_features.picture(np.asarray(image), GLANCE_SIDE)) for image in images]


def lookalikes(count: int, transforms: tuple[str, ...]) -> list[bytes]:
    """Drawn X-rays, then a copy of each of the first, by one transform after the other."""
    images = LOOKALIKES["xrays"](count, np.random.default_rng(7))
    copies = [
        TRANSFORMS[name](image, np.random.default_rng(number)).open()
        for number, (name, image) in enumerate(zip(transforms, images, strict=False))
    ]
    return packed([*images, *copies])


def counted(pictures: list[bytes]) -> dict[tuple[int, int], int]:
    """Votes by pair, by a loop over all features, as the docstrings define them."""
    records = [np.frombuffer(part, np.uint8).reshape(-1, 130).astype(np.int64) for part in pictures]
    votes: dict[tuple[int, int], int] = defaultdict(int)
    best: dict[tuple[int, int], int] = defaultdict(int)
    for mirror in (False, True):
        bins: dict[tuple[int, ...], int] = defaultdict(int)
        for i, own in enumerate(records):
            for feature in own:
                asked = feature[:128][MIRRORED] if mirror else feature[:128]
                near = sorted(
                    (
                        (int(asked @ other[:128]), j, other)
                        for j, part in enumerate(records)
                        if j != i
                        for other in part
                    ),
                    key=lambda each: -each[0],
                )[:9]
                base = max(near[8][0], round(0.7 * 255**2))
                for likeness, j, other in near[:8]:
                    angle = 128 - feature[128] if mirror else feature[128]
                    turn = int(other[128] - angle) % 256 * 12 // 256
                    octave = int(np.clip((other[129] - feature[129] + 8) // 16 + 3, 0, 6))
                    for beside in (0, 1):
                        bins[i, j, (turn + beside) % 12, octave] += max(0, likeness - base)
        for (i, j, *_), count in bins.items():
            best[i, j] = max(best[i, j], count)
    for (i, j), count in best.items():
        votes[min(i, j), max(i, j)] += count
    return votes


def test_pairs_are_those_of_a_plain_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_votes, "_PROBED", 1000)  # every word, so that nothing is missed
    pictures = [part[: 130 * 12] for part in lookalikes(6, ("crop_70", "mirror", "recompress"))]
    weighed = counted(pictures)
    for per_picture, many in ((1, 50_000), (2, 50_000), (4, 50_000), (2, 0), (2, 4_000)):
        monkeypatch.setattr(local_votes, "_ANYONE", 4)
        monkeypatch.setattr(local_votes, "_MANY_VOTES", many)
        wanted = set()
        for picture in range(len(pictures)):
            partners = sorted(
                (-count, sum(pair) - picture) for pair, count in weighed.items() if picture in pair and count
            )
            anyone = -partners[4][0] if len(partners) > 4 else 0
            named = [
                other
                for count, other in partners[:per_picture]
                if -count >= -partners[0][0] / 2 and (-count >= 3 * anyone or -count >= many)
            ]
            wanted |= {(min(picture, other), max(picture, other)) for other in named}
        i, j = voted_pairs(pictures, per_picture)
        assert list(zip(i.tolist(), j.tolist(), strict=True)) == sorted(wanted)


def test_copies_are_named_among_lookalikes() -> None:
    transforms = ("crop_50", "crop_70", "crop_70+mirror", "mirror", "rotate", "shrink", "blur", "overlay", "caption")
    i, j = voted_pairs(lookalikes(30, transforms), 1)
    named = set(zip(i.tolist(), j.tolist(), strict=True))
    missed = [name for number, name in enumerate(transforms) if (number, 30 + number) not in named]
    assert not missed


@pytest.mark.parametrize("shares", [2, 5, 40])
def test_pairs_are_the_same_in_any_number_of_shares(shares: int) -> None:
    pictures = [b"", *lookalikes(12, ("crop_70", "mirror", "recompress", "overlay")), b""]
    words = train_words(pictures)
    probed = [probe(pictures, words, share, shares) for share in range(shares)]
    cast = [votes(pictures, words, probed, share) for share in range(shares)]
    for side, whole in zip(best_pairs(len(pictures), cast, 2), voted_pairs(pictures, 2), strict=True):
        np.testing.assert_array_equal(side, whole)
        assert len(side)


def test_pictures_without_features_name_none() -> None:
    plain = packed_features(local_features.picture(np.full((64, 64, 3), 128, np.uint8), GLANCE_SIDE))
    assert plain == b""
    for pictures in ([], [plain], [plain, plain], [plain, *lookalikes(1, ())]):
        assert [len(side) for side in voted_pairs(pictures, 2)] == [0, 0]


def test_no_more_than_the_strongest_features_are_packed() -> None:
    [data] = lookalikes(1, ())
    assert len(data) == 130 * FEATURES
