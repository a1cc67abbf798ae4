"""From what a calibration measured to what it means for a run: the precision of its removals.

Planted copies are far more frequent than real ones, so the precision among them says nothing of a run. What carries
over are two rates: `recall`, the share of copies found, and `rate`, the false pairs per pair of different pictures.
A run over N pictures, of which a share d are retouched copies of another one, then removes

    true    N * d * recall              each copy goes for one picture that stays
    false   N * (N - 1) / 2 * rate      at most: each false pair removes one picture that is no copy

and the precision of its removals is true / (true + false) = d * recall / (d * recall + rate * (N - 1) / 2). False pairs
grow with the square of the set, so a threshold that is good for a sample is not so for the whole. Byte-identical files
are on neither side: they are certain.

The conservative bound takes the lower end of recall's interval and the upper end of the rate's, each of 95 %: both hold
at once with at least 95 %, since each fails on that one side with at most 2.5 %.
"""

from __future__ import annotations

import math

from dedup.intervals import expected_count


def precision(recall: float, share: float, rate: float, images: int) -> float:
    """Of a run's removals the share that are copies; NaN where nothing would be removed.

    `recall` and `share` (of the pictures that are retouched copies) 0..1, `rate` false pairs per pair, `images` in the
    run.
    """
    true, false = share * recall, rate * (images - 1) / 2
    return true / (true + false) if true + false > 0 else math.nan


def highest_rate(target: float, recall: float, share: float, images: int) -> float:
    """The rate of false pairs at which the precision is `target`, 0..1."""
    return 2 * share * recall * (1 / target - 1) / max(images - 1, 1)


def possible_pairs(sample: int, images: int) -> int:
    """Pairs of a picture of the sample with any other of the set of `images`, each counted once."""
    return sample * (images - sample) + sample * (sample - 1) // 2


def sample_needed(target: float, recall: float, share: float, run_images: int, images: int) -> int | None:
    """How many of `images` pictures must be in the sample, for `target` to bound the precision of a run over
    `run_images` if no pair is false; None where all of them are too few."""
    pairs = expected_count([])[1] / highest_rate(target, recall, share, run_images)
    if pairs > possible_pairs(images, images):
        return None
    # possible_pairs(s) = s * (images - 1/2) - s^2 / 2, solved for s.
    half = images - 0.5
    return min(images, math.ceil(half - math.sqrt(max(half * half - 2 * pairs, 0.0))))


def set_needed(target: float, recall: float, share: float, run_images: int | None) -> int:
    """How many pictures a set needs, all of them in the sample, for the same; the run is over that set, or over
    `run_images`."""
    none = expected_count([])[1]
    if run_images is None:
        return math.ceil(none / (share * recall * (1 / target - 1)))
    return math.ceil(0.5 + math.sqrt(0.25 + 2 * none / highest_rate(target, recall, share, run_images)))
