"""What the tiles of two pictures say: a look at 128 pixels, and where that is not sure one at 256.

    Views, Views ──by_tiles──▶ a first look at 128 pixels ─┬─ sure enough ─────────────────────────────▶ probability
                                                           └─ a second one at 256, at equal sharpness ─▶ probability

Outside of crowds the first look begins without local features, and plain copies need no more. In crowds its yes is not
enough, and the second look begins with its alignment. What else may speak for a pair or against it is asked by `looks`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dedup.disagreement import UNCONTESTED, is_contested
from dedup.evidence import ENOUGH_INLIERS, NO_EVIDENCE, Doubts, Evidence, compare, compare_as_laid
from dedup.local_features import GLANCE_SIDE, SIDE
from dedup.pair_features import CROWD, pixel_features
from dedup.verification_model import MODELS
from dedup.views import Views

Floats = npt.NDArray[np.float64]

UNLIKELY = 0.01  # what pairs get at most that are no copies, whatever their tiles say
FEW_TILES = 24  # of so few textured ones tiles alone do not decide
WHOLE = 0.5  # share of the picture that is covered
# Between these probabilities a first look at half the size is not final. Above, it accepted none that is no copy, of
# 1,927 pairs of photographs, drawn sets and potatoes. Below, it lost one of 7,453 pairs of copies of photographs that
# are accepted; it begins at the second value where one of the two is a part of the other, or blurred, or noisy, of
# which half the size shows little: without that crops to half of each side were lost.
UNSURE, UNSURE_OF_LITTLE = (0.05, 0.98), 0.01
# ... and no yes is final that so few local features speak for: two shirts of one seller agree in outline and ground,
# and the second look rejects them. It loses none of 2,727 pairs of copies of photographs, and of 862 of clothes.
FEW_FOR_A_YES = 10
# Where everything looks alike, and most pairs are none, the first look says no up to here: in three uniform sets, faces
# and clothes it lost one of 1,173 pairs of copies that the second accepts, and leaves 880 of the 6,589 other pairs to
# it; of 154 pairs that only `near` accepts, potatoes moments apart most of them, it lost one. What tells look-alikes
# apart may be too fine for it to say yes.
UNSURE_IN_A_CROWD = (0.5, 1.0)
# ... and up to here before alignments are moved to subpixel accuracy: so end 2,980 of 8,435 first looks there, and one
# of 1,980 pairs of copies that are accepted; at 0.05 it would be 4,014, and 3.
HOPELESS_IN_A_CROWD = 0.02
# ... and only up to the second of these where so many local features agree, as of covered copies (`looks`): it spares
# 16 of the 718 pairs between 0.2 and 0.5.
SOME_MATCHED_AT_A_GLANCE, UNSURE_OF_MATCHED = 25, 0.2
# Nor is there a second look there where by so much more is contested at the first. Elsewhere it may be the alignment
# that is wrong: of 2,178 pairs of copies of photographs that the second look accepts it would lose 6.
SURER = 0.05
# A second look there begins with the alignment of the first, and with so many times its inliers, as 256 pixels show two
# to three times as many local features as 128. If that leaves no doubt, none are looked for. It says no where tiles say
# no and the first look was not SURELY_ALIKE, and what they say where that is HARDLY_LIKELY; yes where it is
# LIKELY_ENOUGH and nothing at all speaks against the pair, or where the inliers suffice counted once, and counted twice
# are so MANY_INLIERS that strokes are asked, too (`looks`). So end 9 of 10 second looks at copies of potatoes, products
# and faces, and 7 of 10 at others. Of 270 pairs of copies that are accepted by local features it says no to none, and
# of 348 others yes to none. Where SOME_INLIERS made the alignment it is not doubted, and a little more is hardly
# likely: so end 59 more looks at potatoes, products, clothes and faces, of which none would be accepted.
MORE_INLIERS, SURELY_ALIKE, MANY_INLIERS = 2, 0.9, 35
UNLIKELY_CLOSER, HARDLY_LIKELY, LIKELY_ENOUGH = 0.2, 0.4, 0.95
SOME_INLIERS, HARDLY_LIKELY_BY_FEATURES = 3, 0.5
# Outside of crowds local features are not even looked for where the pixels, laid as thumbnails lie best, agree so much
# that with 20 of them this would be the probability, and hardly anything is contested. So are 63 of 100 copies of
# photographs; of 3,291 pairs of photographs that share a quotation, a poster or a badge 2 are, which lie in crowds, and
# of 377 of one photograph with different things before it none.
PLAINLY_SAME, HARDLY_CONTESTED = 0.995, 0.06
# Nor may one of the two hold detail where the other has none, on more than this share: two skirts of one outline lie on
# each other to the pixel, and at that size a check is too fine to be compared.
LOPSIDED = 0.08
# Where one picture keeps so many times less detail than the other, as a blurred copy does, hardly a local feature of
# the two is the same: where neither look was sure, the other is blurred alike, and they are compared once more. It
# finds the blurred copies of potatoes that were lost, and accepted no other pair of 2,400.
BLURRED = 3.0
# Noise, too, hides from a second look what a first one saw, at half the size. Where one of two pictures has so much of
# it (grey levels), and so many times that of the other, both are smoothed by so many pixels, and compared once more. It
# finds 5 of 6 noisy copies among potatoes and products that were lost, and accepts none of 226 other pairs, of which
# the likeliest gets 0.74; smoothed by 1.5 pixels it found 3.
NOISY, NOISIER, SMOOTHED = 1.2, 3.0, 2.0
# What noise would make contested is none where the two hold about as much of what is fine, and as much noise (grey
# levels, and some that is in any picture), and hardly any: one of 52 pairs of copies does.
GRAINIER, SOME_NOISE = 1.15, 0.5


class Around(NamedTuple):
    """How alike everything is around the two pictures of a pair, 0..1, higher is more alike, 0 where it is not known.

    `crowding` and `most`: to the embedding, the cosine of the fifth-nearest that is no known copy
    (`judgement.with_crowds`), the lesser of the two and the greater. `alike`: to thumbnails (`crowded.Crowds`), the
    greater.
    """

    crowding: float
    most: float
    alike: float

    @property
    def alone(self) -> bool:
        """Whether no crowd is known around either of the two."""
        return self.most <= CROWD


ALONE = Around(0.0, 0.0, 0.0)


class Told(NamedTuple):
    """What tiles say: the probability, the evidence that it comes of, whether that is of both pictures as they are at
    SIDE, and whether they are laid there by what a first look found."""

    probability: float
    evidence: Evidence
    full: bool
    by_first_look: bool = False


def by_tiles(a: Views, b: Views, guess: Floats, around: Around, anew: bool = False) -> Told:
    """What tiles say of a pair; with `anew` a second look finds its alignment itself, always."""
    crowding, crowded = around.crowding, around.crowding > CROWD
    sides = (SIDE,) if a.fine or b.fine else (GLANCE_SIDE, SIDE)
    alone = around.alone
    if alone and GLANCE_SIDE in sides:
        evidence = _as_laid(a, b, guess)
        if evidence is not None:
            return Told(probability_of(evidence, crowding), evidence, False)
    no_below, yes_from = UNSURE_IN_A_CROWD if crowded else UNSURE
    probability, evidence = 0.0, NO_EVIDENCE
    for side in sides:
        glance = side < SIDE
        if crowded and not (glance or anew):
            closer = _closer(a, b, evidence, crowding)
            if closer is not None:
                return closer
        roughly = HOPELESS_IN_A_CROWD if glance and crowded else 0.0
        doubts = Doubts(_below(roughly, crowding), _below(no_below if glance else UNLIKELY, crowding))
        evidence = compare(a.at(side), b.at(side), guess, doubts, alone=alone)
        if crowded and glance and evidence.laid is not None:
            guess = evidence.laid.onto
        probability = probability_of(evidence, crowding)
        if glance and not crowded and _shows_little(a, b, evidence):
            no_below = UNSURE_OF_LITTLE
        if glance and crowded and evidence.inliers >= SOME_MATCHED_AT_A_GLANCE:
            no_below = UNSURE_OF_MATCHED
        if probability < no_below and (glance or not uneven(a, b)):
            return Told(min(probability, UNLIKELY) if glance else probability, evidence, not glance)
        # Of what is contested a crowd gets no second look; elsewhere it may be seen from the side.
        contested = is_contested(evidence.contested, evidence.contested_faint, SURER if crowded else 0.0)
        few = glance and evidence.inliers < FEW_FOR_A_YES
        if (crowded and contested) or (probability >= yes_from and not few and not (alone and contested)):
            return Told(probability, evidence, not glance)
    if probability < UNSURE[1] and uneven(a, b):
        first, second = equally_sharp(a, b) if blurred(a, b) else (each.smoothed(SMOOTHED) for each in (a, b))
        softened = compare(first.at(SIDE), second.at(SIDE), guess, alone=alone)
        once_more = probability_of(softened, crowding)
        if once_more > probability:
            return Told(once_more, softened, False)
    return Told(probability, evidence, True)


def _shows_little(a: Views, b: Views, glance: Evidence) -> bool:
    """Whether half the size shows too little of one of the two: it is a part of the other, or blurred, or noisy."""
    return glance.covered_other < WHOLE or uneven(a, b)


def uneven(a: Views, b: Views) -> bool:
    """Whether what is fine in one of the two is lost in the other, blurred or under noise."""
    return blurred(a, b) or noisy(a, b)


def noisy(a: Views, b: Views) -> bool:
    """Whether one of the two is, and the other is not."""
    less, more = sorted((a.noise, b.noise))
    return more > NOISY and more > NOISIER * less


def blurred(a: Views, b: Views) -> bool:
    """Whether one of the two is, and the other is not."""
    return max(a.lost, b.lost) > BLURRED * min(a.lost, b.lost)


def as_grainy(a: Views, b: Views) -> bool:
    """Whether both hold as much that is fine, and it is no noise, which mostly is all over a picture: what they differ
    in is the grain of two things, as of two fruits."""
    lost, noise = (sorted(pair) for pair in ((a.lost, b.lost), (a.noise, b.noise)))
    even = lost[1] < GRAINIER * lost[0] and noise[1] + SOME_NOISE < GRAINIER * (noise[0] + SOME_NOISE)
    return even and noise[1] < NOISY


def equally_sharp(a: Views, b: Views) -> tuple[Views, Views]:
    return (a.softened(b.lost), b) if a.lost > b.lost else (a, b.softened(a.lost))


def _as_laid(a: Views, b: Views, guess: Floats) -> Evidence | None:
    """The evidence without local features, where that suffices: it counts as with as many as need no rival."""

    def too_little(found: Evidence) -> bool:
        counted = replace(found, inliers=ENOUGH_INLIERS)
        return found.tiles < FEW_TILES or found.covered_other < WHOLE or probability_of(counted, 0.0) < PLAINLY_SAME

    evidence = compare_as_laid(a.at(GLANCE_SIDE), b.at(GLANCE_SIDE), guess, Doubts(exactly=too_little))
    if too_little(evidence) or max(evidence.contested, evidence.contested_faint) > HARDLY_CONTESTED:
        return None
    if evidence.lopsided() > LOPSIDED:
        return None
    return replace(evidence, inliers=ENOUGH_INLIERS)


def _closer(a: Views, b: Views, glance: Evidence, crowding: float) -> Told | None:
    """What a second look in a crowd says, if it is sure without local features of its own."""
    if glance.laid is None:
        return None
    counted, by_features = MORE_INLIERS * glance.inliers, glance.inliers >= SOME_INLIERS

    def little(found: Evidence) -> bool:
        return probability_of(replace(found, inliers=counted), crowding) < UNLIKELY_CLOSER

    laid, stop = glance.laid.onto, Doubts(exactly=little)
    found = compare_as_laid(a.at(SIDE), b.at(SIDE), laid, stop, glance.inliers, alone=False)
    closer = replace(found, inliers=counted)
    even, probability = not uneven(a, b), probability_of(closer, crowding)
    if probability < UNLIKELY_CLOSER:
        # Where the first look was surer than that, its alignment may be what is wrong, if no local features made it.
        surer = not by_features and probability_of(glance, crowding) >= SURELY_ALIKE
        return Told(UNLIKELY, closer, True, by_first_look=True) if even and not surer else None
    if probability < (HARDLY_LIKELY_BY_FEATURES if by_features else HARDLY_LIKELY) and even:
        return Told(probability, closer, True)
    surely = counted >= MANY_INLIERS and probability_of(found, crowding) >= UNSURE[1]
    if surely or (probability >= LIKELY_ENOUGH and _nothing_speaks_against(closer)):
        return Told(probability, closer, True, by_first_look=True)
    return None


def _nothing_speaks_against(found: Evidence) -> bool:
    contradicted, _ = found.contradiction
    return not contradicted and max(found.contested, found.contested_faint) <= UNCONTESTED


def _below(probability: float, crowding: float) -> Callable[[Evidence], bool]:
    return lambda found: probability_of(found, crowding) < probability


def probability_of(evidence: Evidence, crowding: float) -> float:
    return float(MODELS["pixels"](pixel_features(evidence, crowding)[None])[0])
