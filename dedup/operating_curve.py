"""Acceptance thresholds: what each comes to, and the lowest that is good enough.

    Found, labels ──▶ a verdict on each pair ──▶ operating_point at every threshold ──▶ curve ──▶ pick

A pair of different pictures that a run joins is false, or shows that the set held duplicates before: only a look can
tell. Until then it is open: counted as no error, but as one by every conservative bound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from dedup.calibrate import Found
from dedup.connected import component_labels
from dedup.errors import ConfigError
from dedup.intervals import expected_count, wilson
from dedup.labels import Labels
from dedup.projection import precision, sample_needed, set_needed

# Where the curve is drawn, and among which a threshold is picked: finer towards 1, where verified copies lie.
THRESHOLDS = tuple(
    float(f"{value:.4f}")
    for start, stop, step in ((0.01, 0.99, 0.01), (0.99, 0.999, 0.001), (0.999, 1.0, 0.0001))
    for value in np.arange(start, stop - step / 2, step)
)


@dataclass(frozen=True)
class ProjectSettings:
    """What the rates are projected to. Nothing here is measured again. Raises ConfigError for values that cannot be."""

    target_precision: float | None = None
    """Pick the lowest threshold whose projected precision is at least this, by its conservative bound."""

    run_images: int | None = None
    """Images of the run to come; by default those of the shards given here."""

    duplicate_share: float | None = None
    """Share of images that are retouched copies of another one; by default as the run finds it in the shards."""

    distinct: bool = False
    """The images are known to be all different: every pair of them that is accepted is false without a look."""

    borderline: int = 100
    """How many of the pairs nearest to the threshold are shown, half of them above it."""

    def __post_init__(self) -> None:
        if self.target_precision is not None and not 0 < self.target_precision < 1:
            raise ConfigError(f"target_precision={self.target_precision}: must be between 0 and 1, such as 0.999")
        if self.duplicate_share is not None and not 0 < self.duplicate_share < 1:
            raise ConfigError(f"duplicate_share={self.duplicate_share}: must be between 0 and 1, such as 0.1")
        if self.run_images is not None and self.run_images < 2:
            raise ConfigError(f"run_images={self.run_images}: a run needs at least 2")
        if self.borderline < 0:
            raise ConfigError(f"borderline={self.borderline}: must be 0 or more")


def verdicts(found: Found, labels: Labels, distinct: bool) -> pd.Series:
    """Of each pair in `found.joined`: `same`, `false`, or `open` (nobody looked, or could not tell)."""
    words = {"yes": "same", "no": "false"}
    unknown = "false" if distinct else "open"
    rows = found.joined[["a", "b"]].itertuples(index=False, name=None)
    given = [labels.get((a, b), "") for a, b in rows]
    return pd.Series([words.get(label, "open" if label else unknown) for label in given], dtype=object)


@dataclass(frozen=True)
class Projection:
    """To what a run the rates are projected: `images` in it, of which the share `share` are retouched copies."""

    images: int
    share: float


def projection_of(found: Found, verdict: pd.Series, threshold: float, settings: ProjectSettings) -> Projection:
    """The run's own size, and its share of copies: of what the run removes in the set, what false pairs do not explain,
    divided by the recall."""
    images = settings.run_images or found.images
    if settings.duplicate_share is not None:
        return Projection(images, settings.duplicate_share)
    point = operating_point(found, verdict, threshold)
    by_mistake = point["false"] / max(found.pairs, 1) * found.images * (found.images - 1) / 2
    true = max(found.removed - by_mistake, 0.0)
    return Projection(images, min(1.0, true / (found.images * point["recall"])) if point["recall"] else 0.0)


def operating_point(found: Found, verdict: pd.Series, threshold: float) -> dict[str, float]:
    """What acceptance from `threshold` on comes to.

    `found` copies by their direct pair, `recall` with its interval `recall_low` to `recall_high`; pairs of different
    pictures that are `same`, `false` and `open`; `rate`, false pairs per possible pair, and `rate_high`, its upper 95 %
    bound, for which open pairs are false, and pairs that hang together count as one event of their number.
    """
    hits, total = int((found.copies["strength"] >= threshold).sum()), len(found.copies)
    low, high = wilson(hits, total)
    accepted = (found.joined["strength"] >= threshold).to_numpy()
    kinds = verdict[accepted].value_counts()
    pairs = max(found.pairs, 1)
    suspect = found.joined[accepted & (verdict != "same").to_numpy()]
    return {
        "threshold": threshold,
        "found": hits,
        "recall": hits / total,
        "recall_low": low,
        "recall_high": high,
        **{kind: int(kinds.get(kind, 0)) for kind in ("same", "false", "open")},
        "rate": int(kinds.get("false", 0)) / pairs,
        "rate_high": min(1.0, expected_count(_clumps(suspect))[1] / pairs),
    }


def _clumps(pairs: pd.DataFrame) -> list[int]:
    """How many of the pairs hang together, for each connected part of them: a blank page that resembles fifty others is
    one mishap, not fifty."""
    if not len(pairs):
        return []
    codes, _ = pd.factorize(pd.concat([pairs["a"], pairs["b"]]))
    first, second = codes[: len(pairs)], codes[len(pairs) :]
    part = component_labels(int(codes.max()) + 1, first, second)
    return [int(count) for count in np.bincount(part[first]) if count]


def projected(point: Mapping[str, float], projection: Projection) -> dict[str, float]:
    """`precision` and `precision_low`, its conservative bound, of a run's removals at an operating point."""
    images, share = projection.images, projection.share
    return {
        "precision": precision(point["recall"], share, point["rate"], images),
        "precision_low": precision(point["recall_low"], share, point["rate_high"], images),
    }


def curve(found: Found, verdict: pd.Series, projection: Projection) -> pd.DataFrame:
    """`operating_point` and `projected` at each of THRESHOLDS."""
    points = [operating_point(found, verdict, threshold) for threshold in THRESHOLDS]
    return pd.DataFrame([{**point, **projected(point, projection)} for point in points])


def pick(points: pd.DataFrame, found: Found, projection: Projection, settings: ProjectSettings) -> dict[str, float]:
    """The row of the curve with the lowest threshold whose bound reaches the target.

    Raises ConfigError where there is none, and says why: no share of copies to project to, a sample that is too small,
    pairs that nobody looked at, or false pairs.
    """
    target = settings.target_precision
    assert target is not None
    if not projection.share:
        raise ConfigError(
            "the run found no near copies in your images, so that there is no share of copies to project a precision "
            "to: say what share you expect (--duplicate-share 0.01)"
        )
    reaching = points[points["precision_low"] >= target]
    if len(reaching):
        return dict(reaching.iloc[0])
    best = points.iloc[points["precision_low"].argmax()]
    reached = f"no threshold reaches a precision of {target:g} for sure; the best bound is {best['precision_low']:.4g}"
    recall = float(points["recall_low"].max())
    if not recall:
        raise ConfigError(f"{reached}: none of the planted copies was found")
    needed = sample_needed(target, recall, projection.share, projection.images, found.images)
    if needed is None:
        images = set_needed(target, recall, projection.share, settings.run_images)
        raise ConfigError(
            f"{reached}. {found.images:,} images are too few to support it: with copies making up "
            f"{projection.share:.2%}, a set of at least {images:,} images is needed, all of them drawn "
            f"(--images {images}), and no false pair among them"
        )
    if needed > found.sample:
        raise ConfigError(
            f"{reached}. A sample of {found.sample:,} images is too small to support it: with copies making up "
            f"{projection.share:.2%}, at least {needed:,} of the {found.images:,} are needed (--images {needed}), and "
            "no false pair among them"
        )
    if best["open"]:
        raise ConfigError(
            f"{reached}, for {best['open']:.0f} accepted pairs of your own images were not looked at, or could not be "
            "told: they may be duplicates that the set held before. Say which in labels.csv (yes, no), run this again"
        )
    raise ConfigError(
        f"{reached}: {best['false']:.0f} pairs of different pictures are accepted even there. Look at them in "
        "calibration.html; what they share cannot be told apart by this threshold"
    )
