"""One pair of pictures: which evidence is asked, and the probability that the two are one picture.

    Views, Views ──by_tiles──▶ what tiles say ─┬─ unless something speaks against it: strokes, prints, pages, colours
                                               └─ or once what hides it is taken off: overlays, lines, other tones

Small pictures are asked by `small_evidence`, in uniform sets by both. The evidence becomes the features of a logistic
model, whose coefficients lie in `verification_model`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from dedup.disagreement import CONTRADICTED, UNCONTESTED, UNSHARED, is_contested
from dedup.drawings import STRONG
from dedup.evidence import Doubts, Evidence, compare, whole_on_whole
from dedup.local_features import GLANCE_SIDE, SIDE
from dedup.overlays import PERHAPS, SURELY, THIN, THIN_AT_A_GLANCE
from dedup.pair_features import CROWD, small_features
from dedup.small_evidence import SmallEvidence, compare_small
from dedup.tile_looks import (
    ALONE,
    FEW_TILES,
    LOPSIDED,
    UNLIKELY,
    WHOLE,
    Around,
    Told,
    as_grainy,
    blurred,
    by_tiles,
    equally_sharp,
    probability_of,
)
from dedup.verification_model import MODELS, OPERATING_POINTS
from dedup.views import AS_FLAT_AS_FLAGS, Views, both_drawn

Floats = npt.NDArray[np.float64]

# Of a copy with opaque things over it, half of the tiles may differ. But no two other pictures, and hardly two moments
# of one scene, share so many local features at distinct places, all in one affine map, and all that is faint around
# them, if tiles leave it this likely. Of such pairs of photographs, potatoes, X-rays and products that tiles alone do
# not accept 531 of 535 are copies, planted under stickers, stripes, patches and words; the others are moments apart,
# under the same words.
MATCHED, MATCHED_FROM = 80, 0.2
MATCHED_PROBABILITY = 0.95
# Outside of crowds fewer will do for what is more likely than not, where as little is contested, of all and of what is
# faint: of 20 such pairs of photographs and their copies that were lost all are copies, and none of 377 pairs of one
# photograph with different things before it, of 3,291 under one quotation, poster or badge, or of drawings.
LIKELY, SOME_MATCHED, LITTLE_CONTESTED = 0.5, 25, (0.15, 0.06)
# Product shots, X-rays or potatoes that all have the same words, badge or layout over them agree in all that is strong,
# in what is faint around it, and in their background. Where everything is as alike as that, a pair that shares so many
# local features is no copy if strokes contradict each other and that is mutual (`disagreement.contradiction`). In nine
# such sets of 120 to 213 pictures 24 are removed for another one, some hundreds without this; among as uniform pictures
# without words it lost 9 of 906 planted copies, most of which have words over them.
UNIFORM, SHARED_FEATURES, MUTUAL = 0.9, 35, 0.8
# Where that holds around one of the two alone, the other may be a copy that words or patches took out of the crowd, or
# lie at its edge: 27 of 30 such copies among X-rays are less mutual than this, and 27 of 30 products under one
# quotation are more.
MUTUAL_AT_THE_EDGE = 1.8
# In a uniform set pixels are alike, too, and not only what an embedding sees in them: the thumbnail that fits a picture
# eighth-best of those nearest fits it so well. That holds for more than 95 of 100 potatoes, X-rays and products, at 32
# and 64 pixels; of what is as crowded in CIFAR-10 for less than 5, some of which occur many times.
ALIKE = 0.9
# Small pictures of a uniform set agree in all that `small_evidence` asks: of 426 potatoes at 64 pixels 392 went for
# another one. So there its word is taken only where it is as sure, and as little is contested: that leaves none of
# 45,000 pairs of potatoes, X-rays and products that are not moments apart, half of the pairs of their copies, and half
# of those of the advertisements that CIFAR-10 holds dozens of times; at 0.99 a few more of all.
SURE_OF_SMALL, CONTESTED_OF_SMALL = 0.995, 0.15
# Of the others the evidence of larger pictures is asked. Its odds are this many times as good once small evidence
# accepts, so that half as sure will do (0.5 for 0.9): of 1,412 such pairs of potatoes it leaves two, which are moments
# apart, and of 310 copies 237; of 786 pairs of products one, and 103 of 124 copies.
SMALL_AND_UNIFORM = 9.0
# Where small evidence leaves a pair less likely than any strictness accepts nothing more is asked, which could only
# make it less likely: so it is with half of the pairs of CIFAR-10 that larger evidence was asked of, and with two of
# five whose strokes were. A lower `min_probability` accepts some of these, so it is no way to find more small copies.
LEAST_ACCEPTED = min(point.min_probability for point in OPERATING_POINTS.values())
# Of plain shapes, as in flags and marks, little more than outlines is compared, and these agree whatever their colours
# are. So pictures with so few textured tiles are others where their colours, brightness and contrast fitted, differ by
# more levels (`SmallEvidence.centre`): flags of three colours have 16 to 32 tiles and differ by 45 to 116. Of copies of
# photographs, potatoes and vases 99 in 100 have 27 tiles and more; asked of all below 40, it lost 2 of 100 of them.
# Of a lemon before white a grey copy is one, so that holds only where either has nearly all of its pixels in three grey
# levels.
FEW_TILES_OF_DRAWINGS, OTHER_COLOURS = 40, 40.0
# Of two colours and the edge between them, as in a part of a flag, there are many.
FEW_INLIERS = 3  # feature matches
# One outline, as of two skirts, is in so few tiles, too, and has few features, at its corners: where one of the two
# holds detail and the other none (LOPSIDED), they are others. None of 7,005 pairs of copies that are accepted is so.
INLIERS_OF_OUTLINES = 5
# Of a photograph with a wide sky, a copy with words over it counts as drawn, with strokes of up to 13; pages and
# crosswords, of which a blurred copy does not, have 15 and more.
VERY_STRONG = 14.0
# A stroke that is missing is missed where one has STRONG strokes, and the other some as strong as these: a playing card
# whose hue was turned has 9, another card 20.
STRONG_ENOUGH = 5.0
# Photographs under lines all over them, as agencies put them there, agree with the originals once what is thin is taken
# off both. It is asked where one of the two has so many times more of it (grey levels; some are in any picture), and
# tiles are not quite unlike. It counts where tiles then agree by so much more: so did 404 of 420 pairs of copies that
# would be accepted (with a smaller ellipse), and of 7 others, things in one scene, none; and where so much of what is
# thin in the other is there, too: so it is in 243 of 285 pairs of copies, and in 10 of 102 of other words, wires and
# trees on one ground.
FAR_MORE, THIN_ANYWAY, UNLIKE, ALIKE_BY_IT, THIN_KEPT = 1.5, 0.5, 0.15, 0.1, 0.85
# ... and where it is at least so likely at half the size: of 129 pairs of copies that are accepted all are more likely
# than 0.5 there, and of 883 pairs of photographs of clothes that come so far two.
PERHAPS_BENEATH = 0.2
# Where everything is alike and both have so much of it (grey levels), as five of six photographs have, too, lines or
# words over both may be what agrees, so what is left has to be as likely: in five uniform sets under one grid, poster
# or quotation, with a copy of each picture, 196 of 1,680 were removed for another one without asking, and 23 are.
MUCH_THIN = 5.0
# Outside of crowds photographs under the same opaque lines are accepted, too, so there hardly anything has to be left:
# seven such pairs were less likely than 0.01 without.
VERY_MUCH_THIN, LEAST_BENEATH = 20.0, 0.05
# Solarized copies, false colours and blown-out lights keep edges, but not their directions. Where the grey levels of
# one picture explain so much of the other's variance, and leave at most so much of what brightness and contrast leave,
# the two are compared once more with these levels brought to those of the other. Then hardly anything may be contested:
# the curve also brings two things before one background nearer to each other. And local features have to fit: two
# silhouettes of one outline have few (8 to 11, where such copies of photographs have 58 and more).
EXPLAINED, LEFT_BY_TONES = 0.65, 0.5
# Two screenshots of one program agree nearly all over, with whatever pictures in it. Where in both a picture lies in
# one place on the page, so many of its own tiles have to agree, too: of 29 pairs of screenshots with different
# photographs fewer did in 27, and of 8,000 pairs of copies in 3, which have patches there or were bent (counted before
# pictures were compared without their margins, too).
OTHER_ON_PAGE = 0.3


def judge(a: Views, b: Views, guess: Floats, around: Around = ALONE) -> float:
    """The costly half, for one pair: its probability by the evidence of both images; `guess` as `compare` takes it."""
    if not (a.small or b.small):
        return _judge_large(a, b, guess, around)
    uniform = around.alike >= ALIKE
    small = compare_small(a.as_small, b.as_small, guess, _surely if uniform else None)
    probability = _of_small(small)
    if probability < LEAST_ACCEPTED:
        return min(probability, UNLIKELY) if uniform else probability
    # Strokes decide of small drawings, too: of 280 charts, forms and boards at 64 pixels 67 went for another one, and
    # 17 do now; of 71 pairs of copies that are drawings it loses 5, and of 510 of CIFAR-10 none.
    if both_drawn(a, b) and _contradict(a, b, guess, ALONE):
        return UNLIKELY
    if not uniform or (probability >= SURE_OF_SMALL and small.contested <= CONTESTED_OF_SMALL):
        return probability
    as_large = _judge_large(a, b, guess, around)
    if as_large <= UNLIKELY:
        return UNLIKELY
    odds = SMALL_AND_UNIFORM * _odds(as_large)
    return min(probability, odds / (1 + odds))


def _of_small(evidence: SmallEvidence) -> float:
    return float(MODELS["small"](small_features(evidence)[None])[0])


def _surely(evidence: SmallEvidence) -> bool:
    return _of_small(evidence) >= SURE_OF_SMALL


def _odds(probability: float) -> float:
    return probability / max(1 - probability, 1e-6)


def _judge_large(a: Views, b: Views, guess: Floats, around: Around) -> float:
    told = by_tiles(a, b, guess, around)
    probability = _unless_otherwise(a, b, guess, around, told)
    if told.by_first_look and probability <= UNLIKELY < told.probability:
        # What speaks against a pair has to be asked of an alignment that is exact.
        return _unless_otherwise(a, b, guess, around, by_tiles(a, b, guess, around, anew=True))
    return probability


def _unless_otherwise(a: Views, b: Views, guess: Floats, around: Around, told: Told) -> float:
    """The probability that comes of what tiles say once everything else has had its say."""
    probability, evidence, full, _ = told
    if probability <= UNLIKELY and around.crowding > CROWD:
        return probability  # nothing below would be asked
    drawn = both_drawn(a, b)
    if probability > UNLIKELY:
        probability = _unless_contested(a, b, guess, around, probability, evidence, full)
        if probability > UNLIKELY and _other_on_page(a, b, guess, evidence if full else None, around.alone):
            probability = UNLIKELY
        if probability < MATCHED_PROBABILITY and full and around.alone and not drawn:
            probability = max(probability, _uncovered(a, b, guess, around, evidence))
    if probability < MATCHED_PROBABILITY and around.alone and not drawn:
        probability = max(probability, _toned(a, b, guess, evidence))
    if probability < MATCHED_PROBABILITY and around.crowding <= CROWD and not (a.drawn or b.drawn):
        return max(probability, _under_lines(a, b, guess, evidence, full))
    return probability if drawn else _unless_by_lines(a, b, around, probability, evidence, full)


def _other_on_page(a: Views, b: Views, guess: Floats, at_side: Evidence | None, alone: bool) -> bool:
    """Whether the two are pages on which other pictures lie in one place. `at_side` is what `compare` finds at SIDE, if
    it was asked."""
    if not (a.on_page and b.on_page):
        return False

    def others(found: Evidence) -> bool:
        return found.agreeing_on_page() < OTHER_ON_PAGE

    if at_side is not None and not others(at_side):
        return False
    # A doubt lets it try the mirrored alignment, too.
    return others(compare(a.at(SIDE), b.at(SIDE), guess, Doubts(exactly=others), alone))


def _uncovered(a: Views, b: Views, guess: Floats, around: Around, evidence: Evidence) -> float:
    """The probability once what lies over one of the two is taken off; 0 where nothing does."""
    left = evidence.uncovered()
    if left is None:
        return 0.0
    return _unless_contested(a, b, guess, around, probability_of(left, around.crowding), left, full=True)


def _toned(a: Views, b: Views, guess: Floats, evidence: Evidence) -> float:
    """The probability once the grey levels of one are brought to those of the other; 0 where that explains too
    little, or hardly more than brightness and contrast do, which nothing here depends on."""
    found = _explaining(evidence)
    if found is None:  # thumbnails that are not alike suggest any map
        found, guess = _explaining(whole_on_whole(a.at(GLANCE_SIDE), b.at(GLANCE_SIDE))), np.eye(2, 3)
    if found is None:
        return 0.0
    levels, of_second = found
    first, second = (a, b.with_levels(levels)) if of_second else (a.with_levels(levels), b)
    toned = compare(first.at(SIDE), second.at(SIDE), guess, alone=True)
    if toned.inliers < SOME_MATCHED or max(toned.contested, toned.contested_faint) > UNCONTESTED:
        return 0.0
    return _unless_contested(first, second, guess, ALONE, probability_of(toned, 0.0), toned, full=True)


def _explaining(evidence: Evidence) -> tuple[npt.NDArray[np.uint8], bool] | None:
    """What each grey level of one of the two becomes in the other, and whether it is of the second; None where that
    explains too little."""
    found = evidence.tones()
    if found is None:
        return None
    curve, of_second = found
    enough = curve.explained >= EXPLAINED and 1 - curve.explained <= LEFT_BY_TONES * (1 - curve.linear)
    return (curve.levels, of_second) if enough else None


def _under_lines(a: Views, b: Views, guess: Floats, evidence: Evidence, full: bool) -> float:
    """The probability once what is thin is taken off both, as agencies put lines and fine words all over a picture; 0
    where neither has far more of it, where it is not what they differ in, or where what the other has of it is not
    there, too, as on two cards with other words. A crowd that one of the two lies in is that of the lines, so it has no
    say."""
    more = (max(pair) / (min(pair) + THIN_ANYWAY) for pair in zip(a.thin, b.thin, strict=True))
    if evidence.correlation < UNLIKE or max(more) < FAR_MORE:
        return 0.0
    brighter = _brighter(a, b)
    first, second = (views.without_thin(brighter) for views in (equally_sharp(a, b) if blurred(a, b) else (a, b)))
    glance = compare(first.at(GLANCE_SIDE), second.at(GLANCE_SIDE), guess, alone=True)
    if probability_of(glance, 0.0) < PERHAPS_BENEATH:
        return 0.0
    beneath = compare(first.at(SIDE), second.at(SIDE), guess, alone=True)
    probability = _unless_contested(first, second, guess, ALONE, probability_of(beneath, 0.0), beneath, full=True)
    if probability <= UNLIKELY:
        return 0.0
    before = evidence if full else compare(a.at(SIDE), b.at(SIDE), guess, alone=True)
    more_alike = beneath.correlation >= before.correlation + ALIKE_BY_IT
    return probability if more_alike and before.thin_kept(brighter) >= THIN_KEPT else 0.0


def _unless_by_lines(a: Views, b: Views, around: Around, probability: float, evidence: Evidence, full: bool) -> float:
    """The probability, unless it comes of lines or words that lie over both."""
    alone = around.alone
    if probability <= UNLIKELY or min(max(a.thin), max(b.thin)) < (VERY_MUCH_THIN if alone else MUCH_THIN):
        return probability
    left = evidence.without_thin(_brighter(a, b), THIN if full else THIN_AT_A_GLANCE, blurred(a, b))
    beneath = probability_of(left, around.crowding)
    if alone:
        return probability if beneath >= LEAST_BENEATH else UNLIKELY
    return min(probability, beneath)


def _brighter(a: Views, b: Views) -> bool:
    """Whether most of what is thin in one of the two is brighter than what is around it."""
    brighter, darker = (max(pair) for pair in zip(a.thin, b.thin, strict=True))
    return brighter >= darker


def _unless_contested(
    a: Views, b: Views, guess: Floats, around: Around, probability: float, evidence: Evidence, full: bool
) -> float:
    """The probability that comes of that of the tiles once local features have had their say, and all that may speak
    against it."""
    shared = around if evidence.inliers >= SHARED_FEATURES else ALONE
    contested = is_contested(evidence.contested, evidence.contested_faint)
    if contested or (evidence.grain and as_grainy(a, b)):
        return UNLIKELY
    if _contradict(a, b, guess, shared, evidence if full else None, around.alone):
        return UNLIKELY
    if _replaced(a, b, guess, evidence, full, around.alone) or _beside_others(a, b, evidence):
        return UNLIKELY
    if _matched(probability, evidence, around.crowding):
        probability = max(probability, MATCHED_PROBABILITY)
    drawn = both_drawn(a, b)
    by_outline = evidence.inliers <= INLIERS_OF_OUTLINES and evidence.tiles < FEW_TILES_OF_DRAWINGS
    if by_outline and evidence.lopsided() > LOPSIDED:
        return UNLIKELY
    as_flags = drawn and max(a.flat, b.flat) >= AS_FLAT_AS_FLAGS
    if evidence.tiles >= (FEW_TILES_OF_DRAWINGS if as_flags else FEW_TILES):
        return probability
    if drawn and evidence.covered_other < WHOLE and evidence.inliers < FEW_INLIERS:
        return UNLIKELY
    colours = compare_small(a.as_small, b.as_small, guess)
    return UNLIKELY if colours.centre > OTHER_COLOURS else probability


def _replaced(a: Views, b: Views, guess: Floats, evidence: Evidence, full: bool, alone: bool) -> bool:
    """Whether something in the one is another thing in the other, as two prints on one shirt are. Where a first look
    says perhaps, a closer one decides."""
    if not alone:
        return False
    if not full:
        if not evidence.replaced(PERHAPS):
            return False
        evidence = compare(a.at(SIDE), b.at(SIDE), guess, alone=alone)
    return evidence.replaced(SURELY)


def _beside_others(a: Views, b: Views, evidence: Evidence) -> bool:
    """Whether one of the two is a collage, in which the other lies beside other pictures."""
    if evidence.laid is None:
        return False
    onto = evidence.laid.onto
    return b.holds_beside_others(a, onto) or a.holds_beside_others(b, cv2.invertAffineTransform(onto))


def _matched(probability: float, evidence: Evidence, crowding: float) -> bool:
    """Whether local features say so surely that it is one picture that covered tiles do not matter."""
    if probability >= MATCHED_FROM and evidence.inliers >= MATCHED and evidence.contested_faint <= UNCONTESTED:
        return True
    whole, faint = LITTLE_CONTESTED
    hardly_contested = evidence.contested <= whole and evidence.contested_faint <= faint
    return crowding <= CROWD and probability >= LIKELY and evidence.inliers >= SOME_MATCHED and hardly_contested


def contradict(a: Views, b: Views, guess: Floats) -> bool:
    """Whether both are drawings, and what is drawn is not the same, however much of it is. One will do if its strokes
    are very strong: the other may be a blurred copy of it. Of small pictures nothing is said."""
    return not (a.small or b.small) and _contradict(a, b, guess, ALONE)


def _contradict(
    a: Views, b: Views, guess: Floats, around: Around, at_side: Evidence | None = None, alone: bool = False
) -> bool:
    """Also, where it is so alike around one of the two, whether strokes contradict each other, neither being what was
    put over one of them: the more alike it is around both, the less of it. `at_side` is what `compare` finds at
    SIDE, if it was asked."""
    both, uniform = both_drawn(a, b), around.most > UNIFORM
    drawn = both or any(each.drawn and each.strength >= VERY_STRONG for each in (a, b))
    if not drawn and not uniform:
        return False
    evidence = compare(a.at(SIDE), b.at(SIDE), guess, alone=alone) if at_side is None else at_side
    contradicted, mutual = evidence.contradiction
    if uniform:
        allowed = CONTRADICTED * (1 - max(around.crowding, UNIFORM)) / (1 - UNIFORM)
        if contradicted > allowed and mutual > (MUTUAL if around.crowding > UNIFORM else MUTUAL_AT_THE_EDGE):
            return True
    if not drawn:
        return False
    weaker, stronger = sorted((a.strength, b.strength))
    strong = both and stronger >= STRONG and weaker >= STRONG_ENOUGH
    allowed = CONTRADICTED if both else 2 * CONTRADICTED  # of fine print, a blurred copy keeps other shapes
    return contradicted > allowed or (strong and evidence.unshared() > UNSHARED)
