"""What is found of a pair -> the features of the logistic models in `verification_model`."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from dedup.evidence import Evidence
from dedup.small_evidence import SmallEvidence
from dedup.thumbnails import Likeness

Floats = npt.NDArray[np.float64]

CROWD = 0.8  # crowding up to here tells nothing

THUMBNAIL_FEATURES = ("best", "whole", "share")
PIXEL_FEATURES = ("matches", "correlation", "pixels", "crowding")
SMALL_FEATURES = ("directions", "centre", "outline", "colour", "tiles", "chroma")


def thumbnail_features(found: Likeness) -> Floats:
    """(N, 3), in the order of THUMBNAIL_FEATURES."""
    return np.stack([_near_one(found.best), _near_one(found.whole), np.log(found.share)], axis=1).astype(np.float64)


def pixel_features(evidence: Evidence, crowding: float) -> Floats:
    """(4,), in the order of PIXEL_FEATURES."""
    return np.array(
        [
            # Matches count as far as the tiles agree: fifty of them in a caption say nothing of the picture.
            math.log1p(min(evidence.inliers, 100)) * evidence.agreeing,
            _one_near_one(evidence.correlation),
            _one_near_one(evidence.pixels),
            max(_one_near_one(crowding) - _one_near_one(CROWD), 0.0),
        ],
        np.float64,
    )


def small_features(evidence: SmallEvidence) -> Floats:
    """(6,), in the order of SMALL_FEATURES."""
    differences = np.log1p([evidence.centre, evidence.outline, evidence.colour])
    agreement = [np.log1p(evidence.tiles), evidence.chroma]
    return np.array([_near_one(evidence.directions), *-differences, *agreement], np.float64)


def _near_one(correlation: npt.ArrayLike) -> Floats:
    """Between 0.98 and 0.99 lies as much as between 0.5 and 0.75."""
    return np.asarray(-np.log(1.02 - np.clip(correlation, -1, 1)), np.float64)


def _one_near_one(correlation: float) -> float:
    """The same of one, without arrays: it is asked for a dozen times for each pair."""
    return -math.log(1.02 - min(max(correlation, -1.0), 1.0))
