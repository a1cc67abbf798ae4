"""Candidate pairs -> the probability that the two are one picture, retouched in any way.

    pairs ─▶ thumbnails (likeness of 32x32 pictures) ─┬─ settled: no likeness in any window, or equal to the pixel
                                                      └─ the rest ─▶ evidence (both images read back, aligned, compared)
                                                                       at 128 pixels, and where that is unsure at 256

The evidence becomes one probability by a logistic model with few coefficients (`verification_model`, fitted by
`pipelines/fit_verification.py`). Cosines and hash distances propose pairs and have no say here: what they are worth
differs from embedder to embedder and from set to set, and in a uniform set thousands of different pictures pass any
fixed value. Pixels that agree all over two pictures are worth the same everywhere.

A pair's probability depends on the two images and on how crowded the search found it around them: not on their ids,
the order of the pairs, the batch or the threads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup.alignment import aligned_likeness
from dedup.drawings import THREE_LEVELS_OF_THUMBNAILS, plainness
from dedup.errors import ConfigError, ImageError, ManifestError
from dedup.hashes import MIN_INFORMATION
from dedup.held_pictures import HeldPictures, Pictures
from dedup.images import MAX_PIXELS
from dedup.inner import Inner
from dedup.looks import contradict, judge
from dedup.pair_features import CROWD, thumbnail_features
from dedup.records import THUMBNAIL_SIDE
from dedup.small_evidence import SMALL_SIDE
from dedup.thumbnails import (
    COARSE_SIDE,
    FEW_WINDOWS,
    MANY_WINDOWS,
    SIGNATURE_SIDE,
    WINDOWS,
    Likeness,
    likeness,
    luma,
    residual,
    turned_likeness,
    whole_fits,
)
from dedup.tile_looks import UNLIKELY, Around
from dedup.tones import explained
from dedup.verification_model import MODELS, OPERATING_POINTS
from dedup.views import Views

logger = logging.getLogger(__name__)

Singles = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.intp]

VERSION = 28  # counted up where the same candidates are judged otherwise: older pairs are then judged anew

# Thumbnails closer than this (grey levels) are those of one picture, recompressed or resized. Different photographs of
# one thing on one background, as alike as any, differ by 18 and more.
SAME_RESIDUAL = 3.0
SAME_WORST = 12.0
SAME_WORST_OF_DRAWINGS = 4.0  # two names on one form differ by 12 and more, and so do many copies by more than 4
SAME_LIKENESS = 0.99
SAME_PROBABILITY = np.float32(0.999)
# Pairs whose best windows are less alike than this cannot be copies: of images that are hardly larger than their
# thumbnail, and of others, where more is asked the more of the picture the window covers. Measured on 1,200 planted
# copies of photographs: 10 of the 2,846 pairs of copies lie below, and half of the candidates that are none. Of 20,000
# candidates of CIFAR-10 it settles 55 %, and none of the 557 that verification accepts. Pictures without information
# are not settled so: of a fine texture the thumbnail keeps nothing.
HOPELESS_SMALL = 0.58
HOPELESS = (0.33, 0.18)  # plus, times the share that is covered
# ... or whose details agree less once they are laid on each other exactly. It loses one of 1,200 planted copies, and
# leaves 42 % of the other candidates of photographs; of CIFAR-10 one of those 557 pairs, and leaves 14 % of the
# candidates that are left there. In uniform sets it leaves nearly all.
HOPELESS_ALIGNED, HOPELESS_ALIGNED_SMALL = 0.37, 0.65
# Of two small images whose longer sides are about equal few windows are tried (`thumbnails.FEW_WINDOWS`); where one is
# so many times as long, the other may be cut out of it, and many are (MANY_WINDOWS). Of 50 photographs of 64 pixels
# cropped to half of each side none was found by few, and 36 are, of 43 that the search proposes.
CUT = 1.3

# Of solarized copies and false colours thumbnails are unlike, but the grey levels of one explain this much of the
# other's variance: so it is in 70 of 73 such copies of photographs, and in 2 of 1,000 pairs drawn at random.
RETONED = 0.7
# Pictures that are so much alike once one is turned by 90 or 180 degrees, or upside down, and so much more than as they
# are, are compared turned; inverted, if they are as much alike as a picture and its negative are.
TURNED, TURNED_BETTER, INVERTED = 0.6, 0.1, 0.85
# But those that have hardly more than three grey levels: turned, a flag or an arrow is another one, and so is a sign
# whose colours are inverted.
UPRIGHT = 0.9


# Pairs of which what was taken off around changes one's shape so many times more than the other's are not dismissed.
RESHAPED = 1.5


@dataclass(frozen=True)
class VerifySettings:
    """How pairs are judged. Raises ConfigError for values that cannot be."""

    verify: bool = True
    """Judge candidates by their pixels; without, hashes within max_bits are accepted and embeddings only propose."""

    strictness: str = "copies"
    """copies (the same picture, retouched in any way), near (also other shots of a scene), exact (the same bytes)."""

    min_probability: float | None = None
    """Accept pairs of at least this probability, whatever the strictness; `dedup calibrate` picks one. Below 0.3 less
    is asked of images of at most 64 pixels (`looks.LEAST_ACCEPTED`)."""

    calibrated_on: str | None = None
    """On what and when min_probability was measured, as `dedup calibrate` writes it; the summary repeats it."""

    pictures_held: int = 2000
    """How many images, at up to 0.6 MB each, a process keeps in memory for further pairs, from the search by local
    features on, which prepares them, too."""

    def __post_init__(self) -> None:
        if self.strictness not in OPERATING_POINTS:
            raise ConfigError(f"strictness {self.strictness!r}: choose one of {', '.join(OPERATING_POINTS)}")
        if self.min_probability is not None and not 0 < self.min_probability <= 1:
            raise ConfigError(f"min_probability={self.min_probability}: must be above 0 and at most 1")
        if self.pictures_held < 2:
            raise ConfigError(f"pictures_held={self.pictures_held}: a pair needs 2")

    @property
    def looks(self) -> bool:
        """Whether what images show decides of any pair."""
        return self.verify and self.accepts_from <= 1

    @property
    def accepts_from(self) -> float:
        """Pairs of at least this probability are accepted."""
        point = OPERATING_POINTS[self.strictness]
        return point.min_probability if self.min_probability is None else self.min_probability


@dataclass(frozen=True)
class Verdicts:
    """Of N pairs: `probability` (N,) float32, 0..1, that the two are copies; `settled` (N,) bool, whether thumbnails
    sufficed (else the images were read and compared); `guess` (N, 2, 3), the map by which the thumbnails fit best, as
    `evidence.compare` takes it, of the image that `_by_content` puts first; `inverted` (N,) bool, whether that is so
    once one is inverted, as negatives are."""

    probability: Singles
    settled: Bools
    guess: Floats
    inverted: Bools

    def take(self, rows: Ints | Bools) -> Verdicts:
        return Verdicts(self.probability[rows], self.settled[rows], self.guess[rows], self.inverted[rows])


def verify_pairs(
    pairs: pa.Table,
    descriptors: pa.Table,
    read_image: Callable[[str], bytes],
    settings: VerifySettings,
    crowding: Singles | None = None,
    max_pixels: int = MAX_PIXELS,
    held: HeldPictures | None = None,
    first: Verdicts | None = None,
) -> Verdicts:
    """`pairs` with the columns a and b (sample_id, a < b); `descriptors` with at least sample_id, thumbnail, inner,
    width, height and information of every sample they name, in any order; `read_image` gives a sample's image bytes;
    `crowding` (N, 3) says how alike everything is around each pair's samples, the fields of `tile_looks.Around`; None
    means not at all. `held` are pictures that earlier calls prepared, of the same samples; this call adds its own.
    `first` is what `settle_pairs` says of these pairs, if it was asked before.

    Pairs are worked off in the order of a, then b: those of one sample in a row let its image be read once. Memory is
    bounded by `descriptors` and `settings.pictures_held`.

    A pair of an image that can no longer be decoded has the probability 0, and the log names the image.

    Raises ManifestError where a sample has no descriptor or no thumbnail, ShardError where a shard cannot be read.
    """
    a, b = (_rows(pairs[name], descriptors) for name in ("a", "b"))
    i, j = _by_content(a, b, descriptors)
    around = np.zeros((len(a), 3)) if crowding is None else np.asarray(crowding, np.float64)
    first = settle_pairs(pairs, descriptors, alone=around[:, 1] <= CROWD) if first is None else first
    probability = first.probability.copy()
    sides = np.maximum(_column(descriptors, "width"), _column(descriptors, "height"))
    crowds = around.tolist()
    held = HeldPictures(settings.pictures_held) if held is None else held
    thumbnails, tiny = _thumbnails(descriptors), np.flatnonzero(sides <= THUMBNAIL_SIDE).tolist()
    whole = {row: thumbnails[row] for row in tiny}
    load = Pictures(descriptors["sample_id"], descriptors["inner"], whole, read_image, held, max_pixels)
    undecided = np.flatnonzero(~first.settled)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # the pairs are what is shared out among cores, by the caller
    try:
        for row in undecided[np.lexsort((b[undecided], a[undecided]))]:
            try:
                one, other = load(int(i[row])), load(int(j[row]))
            except ImageError as error:
                logger.warning("%s; its pair with the other image is not accepted", error)
                probability[row] = 0.0
            else:
                if probability[row] == SAME_PROBABILITY:
                    probability[row] = UNLIKELY if contradict(one, other, first.guess[row]) else SAME_PROBABILITY
                else:
                    probability[row] = _judge(one, other, first, int(row), Around(*crowds[row]))
    finally:
        cv2.setNumThreads(threads)
    return replace(first, probability=probability)


def _judge(a: Views, b: Views, first: Verdicts, row: int, around: Around) -> float:
    """`looks.judge` of a row; where everything is alike, the negative of one looks like another, too."""
    if not first.inverted[row]:
        return judge(a, b, first.guess[row], around)
    return UNLIKELY if around.most > CROWD else judge(a, b.inverted(), first.guess[row], around)


def settle_pairs(
    pairs: pa.Table,
    descriptors: pa.Table,
    hopeful: Bools | None = None,
    alone: Bools | None = None,
    uniform: Bools | None = None,
) -> Verdicts:
    """`verify_pairs` as far as the thumbnails go: the probability of a pair that is not settled is not its last. Of
    pictures that are not small, pairs that are `hopeful` (N,) are not dismissed for their thumbnails, nor are those
    that accepted pairs or hashes of pictures on pages suggest, or of which what was taken off around one may belong to
    it, or that are `alone` (N,), where no crowd is known around either, if grey levels explain each other there. Pairs
    that are `uniform` (N,) are as `settle` takes them."""
    a, b = (_rows(pairs[name], descriptors) for name in ("a", "b"))
    i, j = _by_content(a, b, descriptors)
    sides = np.maximum(_column(descriptors, "width"), _column(descriptors, "height"))
    information = _column(descriptors, "information")
    kept = _suggested(pairs) | _reshaped(descriptors, i, j)
    hopeful = kept if hopeful is None else hopeful | kept
    thumbnails = _thumbnails(descriptors)
    found = settle(thumbnails, information, sides, i, j, hopeful, uniform)
    return found if alone is None else _unless_retoned(found, thumbnails, sides, i, j, alone)


def _unless_retoned(found: Verdicts, thumbnails: UInt8Array, sides: Floats, i: Ints, j: Ints, alone: Bools) -> Verdicts:
    """Without its word on pairs that it dismissed, if levels explain each other: what keeps no gradient's direction
    keeps no correlation."""
    dismissed = found.settled & (found.probability < SAME_PROBABILITY) & alone
    asked = np.flatnonzero(dismissed & (np.maximum(sides[i], sides[j]) > SMALL_SIDE))
    settled = found.settled.copy()
    used, place = np.unique(np.concatenate([i[asked], j[asked]]), return_inverse=True)
    greys, place = luma(thumbnails[used]), place.reshape(2, -1)
    settled[asked] = explained(greys[place[0]], greys[place[1]]) < RETONED
    return replace(found, settled=settled)


def settle(
    thumbnails: UInt8Array,
    information: Floats,
    sides: Floats,
    i: Ints,
    j: Ints,
    hopeful: Bools,
    uniform: Bools | None = None,
) -> Verdicts:
    """The cheap half: the verdicts of thumbnails on the pairs (i, j).

    `thumbnails` (M, 32, 32, 3), `information` (M,) and `sides` (M,), the longer side in pixels, are those of samples.
    Pairs that are `hopeful` (N,) are not dismissed for their thumbnails. Those that are `uniform` (N,), around both of
    which thumbnails are all alike, are not laid on each other exactly, which would dismiss hardly any of them. Drawings
    that thumbnails find to be the same have that probability, but it is not final: two names on one form are too small
    for a thumbnail.
    """
    small = np.maximum(sides[i], sides[j]) <= SMALL_SIDE
    telling = np.minimum(information[i], information[j]) >= MIN_INFORMATION
    wholes = whole_fits(thumbnails, i, j)
    found = wholes.likeness()
    same = (found.whole >= SAME_LIKENESS) & telling
    equal = np.zeros_like(same)
    rms, worst = residual(thumbnails, i[same], j[same])
    equal[same] = worst <= SAME_WORST_OF_DRAWINGS
    same[same] = (rms <= SAME_RESIDUAL) & (worst <= SAME_WORST)
    found = _fill(found, ~same, _likeness_by_size(thumbnails, i[~same], j[~same], sides))

    def turned(rows: Ints) -> tuple[Singles, Floats]:
        return turned_likeness(thumbnails, i[rows], j[rows])

    _otherwise(found, turned, TURNED, thumbnails, i, j)
    inverted = _otherwise(found, wholes.inverted, INVERTED, thumbnails, i, j)
    probability = MODELS["thumbnails"](thumbnail_features(found))
    hopeless = found.best < np.where(small, HOPELESS_SMALL, HOPELESS[0] + HOPELESS[1] * found.share)
    dismissible = telling & ~same & ~(hopeful & ~small) & ~inverted
    hopeless &= dismissible
    exactly = np.ones_like(small) if uniform is None else small | ~uniform
    left = np.flatnonzero(dismissible & ~hopeless & exactly)
    least = np.where(small[left], HOPELESS_ALIGNED_SMALL, HOPELESS_ALIGNED)
    aligned, maps = aligned_likeness(luma(thumbnails), i[left], j[left], found.map[left], least)
    hopeless[left] = aligned < least
    # Small ones are compared from there on: their pixels do not always find the place from where the window is. So it
    # finds 120 pairs more of CIFAR-10, nearly all of them copies.
    placed = small[left]
    found.map[left[placed]] = maps[placed]
    probability = np.where(same, SAME_PROBABILITY, np.where(hopeless, np.minimum(probability, 0.01), probability))
    settled = same | hopeless
    settled[same] = small[same] | equal[same] | ~_plain(thumbnails, i[same], j[same], THREE_LEVELS_OF_THUMBNAILS)
    return Verdicts(probability.astype(np.float32), settled, found.map, inverted)


def _plain(thumbnails: UInt8Array, i: Ints, j: Ints, three_levels: float) -> Bools:
    """(N,): whether in both pictures of a pair the three most frequent grey levels have so large a share."""
    used, place = np.unique(np.concatenate([i, j]), return_inverse=True)
    plain = plainness(luma(thumbnails[used]))[:, 1] >= three_levels
    return np.asarray(plain[place[: len(i)]] & plain[place[len(i) :]], bool)


def _suggested(pairs: pa.Table) -> Bools:
    """(N,): two crops of one picture may share a corner, and a picture may lie on a small part of a page, which no
    window of a thumbnail shows. Where accepted pairs suggest that two pictures are one, or the hash of what lies on a
    page does, they are worth a look at their pixels."""
    if "method" not in pairs.column_names:
        return np.zeros(len(pairs), bool)
    said = pa.array(["suggested", "page"])
    return np.asarray(pc.is_in(pairs["method"], value_set=said).to_numpy(zero_copy_only=False), bool)


def _reshaped(descriptors: pa.Table, i: Ints, j: Ints) -> Bools:
    """(N,): in which pairs what was taken off around pictures changes the shape of one far more than that of the other:
    what stands upright before white lies between white bars in one, and does not in a copy that was turned a little."""
    stretch = np.array(
        [1.0 if each is None else Inner.unpacked(each).stretch for each in descriptors["inner"].to_pylist()]
    )
    return np.asarray(np.abs(np.log(stretch[i] / stretch[j])) > math.log(RESHAPED))


def _likeness_by_size(thumbnails: UInt8Array, i: Ints, j: Ints, sides: Floats) -> Likeness:
    longer, shorter = np.maximum(sides[i], sides[j]), np.minimum(sides[i], sides[j])
    small = longer <= SMALL_SIDE
    cut = small & (longer >= CUT * shorter)
    best, whole, share = (np.empty(len(i), np.float32) for _ in range(3))
    found = Likeness(best, whole, share, np.empty((len(i), 2, 3)))
    for which, windows, side in (
        (~small, WINDOWS, SIGNATURE_SIDE),
        (cut, MANY_WINDOWS, COARSE_SIDE),
        (small & ~cut, FEW_WINDOWS, COARSE_SIDE),
    ):
        if which.any():
            _fill(found, which, likeness(thumbnails, i[which], j[which], windows, side))
    return found


def _otherwise(
    found: Likeness,
    likeness_otherwise: Callable[[Ints], tuple[Singles, Floats]],
    least: float,
    thumbnails: UInt8Array,
    i: Ints,
    j: Ints,
) -> Bools:
    """Puts into `found` what fits far better once one picture is turned, or inverted; not for flags, arrows and signs.
    `likeness_otherwise` gives the likeness and the maps of these rows of the pairs, so turned. Gives where (N,)."""
    unlike = np.flatnonzero(found.best < 1 - TURNED_BETTER)
    best, maps = likeness_otherwise(unlike)
    better = np.flatnonzero((best >= least) & (best >= found.best[unlike] + np.float32(TURNED_BETTER)))
    better = better[~_plain(thumbnails, i[unlike[better]], j[unlike[better]], UPRIGHT)]
    fits = Likeness(best[better], best[better], np.ones(len(better), np.float32), maps[better])
    _fill(found, unlike[better], fits)
    counts = np.zeros(len(i), bool)
    counts[unlike[better]] = True
    return counts


_FIELDS = tuple(Likeness.__dataclass_fields__)


def _fill(into: Likeness, which: Bools | Ints, part: Likeness) -> Likeness:
    for name in _FIELDS:
        getattr(into, name)[which] = getattr(part, name)
    return into


def _rows(sample_ids: pa.ChunkedArray, descriptors: pa.Table) -> Ints:
    rows = pc.index_in(sample_ids, value_set=descriptors["sample_id"].combine_chunks())
    if rows.null_count:
        missing = sample_ids.filter(pc.is_null(rows))[0]
        raise ManifestError(f"{missing}: a candidate without a descriptor; describe and search again")
    return np.asarray(rows.to_numpy(), np.intp)


def _by_content(a: Ints, b: Ints, descriptors: pa.Table) -> tuple[Ints, Ints]:
    """The ends of each pair, the larger image first, of equally large ones that whose thumbnail's bytes come first: a
    few decisions follow from which picture is laid onto the other, and are not to follow from the ids."""
    pixels = _column(descriptors, "width") * _column(descriptors, "height")
    swapped = pixels[b] > pixels[a]
    equal = np.flatnonzero(pixels[a] == pixels[b])
    thumbnails = _thumbnails(descriptors)
    content = {row: thumbnails[row].tobytes() for row in np.unique(np.concatenate([a[equal], b[equal]])).tolist()}
    pairs = zip(a[equal].tolist(), b[equal].tolist(), strict=True)
    swapped[equal] = [content[second] < content[first] for first, second in pairs]
    return np.where(swapped, b, a), np.where(swapped, a, b)


def _thumbnails(descriptors: pa.Table) -> UInt8Array:
    column = descriptors["thumbnail"].combine_chunks()
    if column.null_count:
        failed = descriptors["sample_id"].filter(pc.is_null(column))[0]
        raise ManifestError(f"{failed}: has no thumbnail, so it cannot be verified; leave failed samples out")
    side = THUMBNAIL_SIDE
    pixels: UInt8Array = np.frombuffer(b"".join(column.to_pylist()), np.uint8).reshape(-1, side, side, 3)
    return pixels


def _column(descriptors: pa.Table, name: str) -> npt.NDArray[np.float64]:
    return np.asarray(descriptors[name].to_numpy(), np.float64)
