"""Which pictures share local features: proposals where embeddings rank a copy behind hundreds of others.

    picture ──packed_features──▶ bytes ─┐
                                        ├─voted_pairs─▶ pairs of pictures, the likeliest partners of each
    picture ──packed_features──▶ bytes ─┘

`voted_pairs` is train_words, probe, votes and best_pairs, of which probe and votes can be asked share by share.

Each feature votes for the pictures of its nearest features, mirrored ones included, as far as they are nearer than the
next nearest: what all pictures of a uniform set share is near to everything, and counts nothing. Votes for a pair count
where they agree in rotation and scale (weak geometric consistency: Jégou, Douze and Schmid 2008).

Features are whole numbers, so that their products are exact in float32, and votes are whole numbers, too: the same
pictures in the same order give the same pairs on any machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dedup.local_features import MIRRORED, Picture
from dedup.neighbors import assign_cells, train_cells

Ints = npt.NDArray[np.int64]
UInt8Array = npt.NDArray[np.uint8]

FEATURES = 96  # the strongest of each picture: of potatoes and their copies 96 % find each other by them, 89 % by 48
_RECORD = 130  # bytes: 128 of the descriptor, its angle in 256ths of a turn, its size in sixteenths of an octave
_NEAREST = 8
_LEAST = round(0.7 * 255**2)  # a likeness below is not counted as near
_TURNS = 12
_OCTAVES = 7
_PROBED = 3  # words in which a feature is looked for
_SAMPLED_PER_WORD = 32
_ITERATIONS = 4
_QUERIES_PER_BLOCK = 4096
# Of the votes that a picture's first partner has; others with fewer are not named. Of 1,066 copies among potatoes and
# drawn products four partners with so many name 1,038 by 2,376 pairs, two with any votes 1,034 by 2,981.
_LEAST_SHARE = 0.5
# ... and so many times the votes of its partner in this place, which is no copy, unless a picture occurs more often
# than that: then its copies have many. Among potatoes, X-rays, products, faces and clothes it leaves 1,564 of 1,567
# pairs of copies, and 703 of 1,218 others, where three times as many votes leave 1,565 and 863.
_ANYONE, _MORE_THAN_ANYONE, _MANY_VOTES = 30, 5, 50_000


def packed_features(picture: Picture) -> bytes:
    """A picture at GLANCE_SIDE -> up to FEATURES records of 130 bytes, the strongest first."""
    made = picture.features
    records = np.empty((min(FEATURES, len(made.size)), _RECORD), np.uint8)
    records[:, :128] = made.descriptor[:FEATURES]
    records[:, 128] = np.floor(made.angle[:FEATURES] / (2 * np.pi) * 256).astype(np.int64) % 256
    records[:, 129] = np.clip(np.rint(16 * np.log2(np.maximum(made.size[:FEATURES], 1.0))), 0, 255)
    return records.tobytes()


class Probed(NamedTuple):
    """Where the features of some pictures are looked for: the nearest words of each, the nearest first, as it is and
    mirrored, both (Q, P) int32."""

    plain: npt.NDArray[np.int32]
    mirrored: npt.NDArray[np.int32]


class Votes(NamedTuple):
    """Pairs of pictures, first * N + second of N, where the first asks, each once, and how much is voted for them, both
    (P,)."""

    pair: Ints
    weight: Ints


def voted_pairs(packed: Sequence[bytes], per_picture: int, seed: int = 0) -> tuple[Ints, Ints]:
    """Of N pictures' packed features the pairs (i, j), i < j, each once and sorted: the `per_picture` partners of each
    picture that get most votes, if they get half as many as the first, and stand out of the others; of equal ones the
    earlier.

    Memory: some 2 kB for each feature.
    """
    words = train_words(packed, seed)
    return best_pairs(len(packed), [votes(packed, words, [probe(packed, words)])], per_picture)


def train_words(packed: Sequence[bytes], seed: int = 0) -> npt.NDArray[np.float16]:
    """(W, 128): as many words as there are features in each, by a sample that is the same at every call."""
    descriptors = _records(packed)[0][:, :128]
    count = round(len(descriptors) ** 0.5)
    if not count:
        return np.zeros((0, 128), np.float16)
    wanted = min(len(descriptors), _SAMPLED_PER_WORD * count)
    chosen = np.sort(np.random.default_rng(seed).choice(len(descriptors), wanted, replace=False))
    return train_cells(_unit(descriptors[chosen]), count, seed, _ITERATIONS)


def probe(packed: Sequence[bytes], words: npt.NDArray[np.float16], share: int = 0, shares: int = 1) -> Probed:
    """The words of the features of each `shares`-th picture, from the `share`-th on."""
    records, owner = _records(packed)
    descriptors = records[owner % shares == share, :128]
    if not len(descriptors):
        return Probed(*(np.zeros((0, _PROBED), np.int32) for _ in Probed._fields))
    return Probed(*(assign_cells(words, _unit(asked), _PROBED) for asked in (descriptors, descriptors[:, MIRRORED])))


def votes(packed: Sequence[bytes], words: npt.NDArray[np.float16], probed: Sequence[Probed], share: int = 0) -> Votes:
    """What each picture of a share votes for; `probed` is what `probe` says of all shares, in order."""
    records, owner = _records(packed)
    word = np.empty(len(records), np.int32)
    for number, each in enumerate(probed):
        word[owner % len(probed) == number] = each.plain[:, 0]
    members, asking = _by_word(word, len(words)), np.flatnonzero(owner % len(probed) == share)
    if not len(asking):
        return Votes(asking, asking)
    cast = []
    for mirror, near_words in zip((False, True), probed[share], strict=True):
        query, found, weight = _nearest(records[:, :128], owner, members, asking, mirror, near_words)
        cast.append(_agreeing(records, owner, query, found, weight, mirror, len(packed)))
    pair, weight = (np.concatenate(part) for part in zip(*cast, strict=True))
    return Votes(*_summed(pair, weight, np.maximum))


def best_pairs(pictures: int, cast: Sequence[Votes], per_picture: int) -> tuple[Ints, Ints]:
    """`voted_pairs` of so many pictures, of the votes of all shares."""
    pair, weight = (np.concatenate(part) for part in zip(*cast, strict=True))
    # Either of the two may be the one whose features are found.
    i, j = pair // pictures, pair % pictures
    pair, weight = _summed(np.minimum(i, j) * pictures + np.maximum(i, j), weight, np.add)
    return _best(pair // pictures, pair % pictures, weight, per_picture)


def _records(packed: Sequence[bytes]) -> tuple[UInt8Array, Ints]:
    """All features (N, 130), and the number of the picture (N,) that each belongs to."""
    records = np.frombuffer(b"".join(packed), np.uint8).reshape(-1, _RECORD)
    lengths = np.array([len(part) // _RECORD for part in packed], np.intp)
    return records, np.repeat(np.arange(len(packed)), lengths)


def _unit(descriptors: UInt8Array) -> npt.NDArray[np.float16]:
    return (descriptors.astype(np.float32) / 255).astype(np.float16)


def _by_word(word: npt.NDArray[np.int32], words: int) -> list[Ints]:
    """(N,) -> of each word where it stands, in ascending order."""
    order = np.argsort(word, kind="stable")
    return np.split(order, np.searchsorted(word[order], np.arange(1, words)))


def _nearest(
    descriptors: UInt8Array,
    owner: Ints,
    members: Sequence[Ints],
    asking: Ints,
    mirror: bool,
    probed: npt.NDArray[np.int32],
) -> tuple[Ints, Ints, Ints]:
    """Of each feature that is `asking` (A,), mirrored or not, the _NEAREST of other pictures: (query, feature, how much
    nearer than the next one), all (Q,). `members` are the features of each word, `probed` (A, P) the words in which
    they are looked for."""
    asked = descriptors[asking]
    asked, asker = asked[:, MIRRORED] if mirror else asked, owner[asking]
    wanted = _NEAREST + 1
    near = np.zeros((*probed.shape, wanted), np.int32)
    feature = np.zeros_like(near)
    for inside, looking in zip(members, _by_word(probed.ravel(), len(members)), strict=True):
        if not len(inside):
            continue
        there = descriptors[inside].astype(np.float32)
        for start in range(0, len(looking), _QUERIES_PER_BLOCK):
            rows, slots = np.divmod(looking[start : start + _QUERIES_PER_BLOCK], probed.shape[1])
            likeness = asked[rows].astype(np.float32) @ there.T  # whole numbers below 2**24: exact
            likeness[asker[rows][:, None] == owner[inside]] = 0
            most = min(wanted, len(inside))
            best = np.argpartition(-likeness, most - 1, axis=1)[:, :most]
            near[rows, slots, :most] = np.take_along_axis(likeness, best, axis=1)
            feature[rows, slots, :most] = inside[best]
    listed, of = near.reshape(len(asked), -1), feature.reshape(len(asked), -1)
    order = np.argsort(-listed, axis=1, kind="stable")[:, :wanted]
    listed, of = np.take_along_axis(listed, order, axis=1), np.take_along_axis(of, order, axis=1)
    weight = listed[:, :-1] - np.maximum(listed[:, -1:], _LEAST)
    query, place = np.nonzero(weight > 0)
    return asking[query], of[query, place].astype(np.int64), weight[query, place].astype(np.int64)


def _agreeing(
    records: UInt8Array, owner: Ints, query: Ints, found: Ints, weight: Ints, mirror: bool, pictures: int
) -> tuple[Ints, Ints]:
    """Votes by pair of pictures (first * pictures + second): of all rotations and scales those for the one that most
    votes agree in."""
    angle, size = records[:, 128].astype(np.int64), records[:, 129].astype(np.int64)
    turn = (angle[found] - (128 - angle[query] if mirror else angle[query])) % 256 * _TURNS // 256
    octave = np.clip((size[found] - size[query] + 8) // 16 + _OCTAVES // 2, 0, _OCTAVES - 1)
    pair = owner[query] * pictures + owner[found]
    # A rotation counts for its own bin and the next, since no border between bins lies right.
    bins = [(pair * _TURNS + (turn + beside) % _TURNS) * _OCTAVES + octave for beside in (0, 1)]
    key, votes = _summed(np.concatenate(bins), np.tile(weight, 2), np.add)
    return _summed(key // (_TURNS * _OCTAVES), votes, np.maximum)


def _summed(keys: Ints, values: Ints, reduce: np.ufunc) -> tuple[Ints, Ints]:
    """Each key once, sorted, with its values brought together by `reduce`."""
    order = np.argsort(keys, kind="stable")
    keys, values = keys[order], values[order]
    starts = np.flatnonzero(np.diff(keys, prepend=-1))
    return keys[starts], reduce.reduceat(values, starts) if len(starts) else values


def _best(i: Ints, j: Ints, votes: Ints, per_picture: int) -> tuple[Ints, Ints]:
    keep = np.zeros(len(i), bool)
    ends, others, of_pair = np.concatenate([i, j]), np.concatenate([j, i]), np.tile(votes, 2)
    order = np.lexsort((others, -of_pair, ends))
    ends, of_pair = ends[order], of_pair[order]
    first, behind = (np.searchsorted(ends, ends, side) for side in ("left", "right"))
    anyone = np.where(first + _ANYONE < behind, of_pair[np.minimum(first + _ANYONE, len(ends) - 1)], 0)
    named = (np.arange(len(order)) - first < per_picture) & (of_pair >= _LEAST_SHARE * of_pair[first])
    named &= (of_pair >= _MORE_THAN_ANYONE * anyone) | (of_pair >= _MANY_VOTES)
    keep[order[named] % max(len(i), 1)] = True
    return i[keep], j[keep]
