"""Intervals over seeds, paired by seed.

Data are hits, (S, n) bool: of S seeds, each with n canaries, which were extracted. A seed draws everything anew (which
picture becomes a canary, the weights, the noise), so it is the unit: canaries of one seed share one model.

- below 3 seeds: no interval
- 3 to 9: Student's t over the seeds, paired; for ratios Fieller's, which is the same test of `arm - ratio * base`
- 10 and more: a hierarchical bootstrap, seed -> canary, paired (a bootstrap of three seeds covers too little)

Rates of few canaries are coarse, three seeds may agree to the last canary by chance, and where nothing was extracted so
does every resample. So no interval is narrower than that of the canaries taken together as if independent, which no
seed's effect can shrink.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from dedup.errors import ConfigError
from dedup.intervals import wilson

Hits = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

CONFIDENCE = 0.95
INTERVAL_SEEDS = 3  # fewer give no interval
CLAIM_SEEDS = 10  # from here the bootstrap; fewer support no claim
RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval, and in a few words the method; `nan` for what cannot be told, `inf` for no
    bound."""

    estimate: float
    low: float
    high: float
    method: str

    def to_json(self, name: str = "estimate", prefix: str = "") -> dict[str, Any]:
        """{name: ..., prefix + "low": ..., prefix + "high": ...}; JSON has no nan and no inf, so both become null."""
        values = {name: self.estimate, f"{prefix}low": self.low, f"{prefix}high": self.high}
        return {key: value if math.isfinite(value) else None for key, value in values.items()}

    def within(self, margin: float) -> bool:
        """Whether the whole interval lies between -margin and +margin: equivalence, as by two one-sided tests (here at
        2.5 % each; Schuirmann 1987). An interval that holds 0 is no such evidence."""
        return -margin < self.low and self.high < margin

    def excludes(self, value: float) -> bool:
        """Whether the interval lies wholly on one side of this value."""
        return self.low > value or self.high < value


def zero_hits_bound(trials: int, confidence: float = CONFIDENCE) -> float:
    """The upper bound of a rate of which `trials` trials showed nothing: the rule of three, exactly.

    About 3 / trials. For one canary the trials are the generations, and the rate is that of its emission.
    """
    return 1.0 if trials == 0 else float(1 - (1 - confidence) ** (1 / trials))


def t_interval(values: Floats) -> Interval:
    """Of the mean of (S,) values, one per seed, by Student's t; for paired data give the differences."""
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < INTERVAL_SEEDS:
        return Interval(mean, math.nan, math.nan, f"too few seeds for an interval: {len(values)}")
    half = _t(len(values)) * float(values.std(ddof=1)) / len(values) ** 0.5
    return Interval(mean, mean - half, mean + half, "t over seeds")


def rate_interval(hits: Hits) -> Interval:
    """Of the share of hits among (S, n). Raises ConfigError for no canaries."""
    _check(hits, hits)
    rates = hits.mean(1)
    over_seeds = t_interval(rates)
    if len(rates) >= CLAIM_SEEDS:
        resampled, _ = _resample(hits, hits)
        over_seeds = Interval(float(rates.mean()), *_quantiles(resampled), "hierarchical bootstrap")
    return _clip(_widen(over_seeds, *wilson(int(hits.sum()), hits.size)), 0, 1)


def difference_interval(arm: Hits, base: Hits) -> Interval:
    """Of rate(arm) - rate(base); negative means that the arm leaks less.

    `arm` and `base` (S, n), the same canaries of the same seeds in the same order. At least as wide
    as the adjusted Wald interval for matched pairs (Agresti and Min 2005, Statistics in Medicine 24). Raises
    ConfigError for arrays that do not correspond.
    """
    _check(arm, base)
    differences = arm.mean(1) - base.mean(1)
    over_seeds = t_interval(differences)
    if len(differences) >= CLAIM_SEEDS:
        of_arm, of_base = _resample(arm, base)
        interval = _quantiles(of_arm - of_base)
        over_seeds = Interval(float(differences.mean()), *interval, "paired hierarchical bootstrap")
    only_arm, only_base = float((arm & ~base).sum()), float((base & ~arm).sum())
    total = arm.size + 2
    middle = (only_arm - only_base) / total
    half = _z() * math.sqrt(only_arm + only_base + 1 - total * middle**2) / total
    return _clip(_widen(over_seeds, middle - half, middle + half), -1, 1)


def ratio_interval(arm: Hits, base: Hits) -> Interval:
    """Of rate(arm) / rate(base), as ratio of the means over seeds; below 1 means that the arm leaks less.

    `arm` and `base` (S, n) as in `difference_interval`. Undefined (nan) where `base` has no hit. Where `arm` has none,
    the ratio is 0 and its bound `zero_hits_bound` over the rate of `base`. Fieller's interval has no upper bound where
    the seeds do not tell the rate of `base` from 0.
    """
    _check(arm, base)
    x, y = base.mean(1), arm.mean(1)
    if not base.any():
        return Interval(math.nan, math.nan, math.nan, "undefined: the other arm has no hit")
    if len(x) < INTERVAL_SEEDS:
        return Interval(float(y.mean() / x.mean()), math.nan, math.nan, f"too few seeds for an interval: {len(x)}")
    if not arm.any():
        return Interval(0.0, 0.0, zero_hits_bound(arm.size) / float(x.mean()), "rule of three")
    ratio = float(y.mean() / x.mean())
    over_seeds = _fieller(x, y)
    if len(x) >= CLAIM_SEEDS:
        of_arm, of_base = _resample(arm, base)
        resampled = np.divide(of_arm, of_base, out=np.full_like(of_arm, np.inf), where=of_base > 0)
        over_seeds = Interval(ratio, *_quantiles(resampled), "paired hierarchical bootstrap")
    discordant = float((arm != base).sum())
    spread = _z() * math.sqrt((discordant + 1) / ((arm.sum() + 0.5) * (base.sum() + 0.5)))
    return _widen(over_seeds, ratio * math.exp(-spread), ratio * math.exp(spread))


def share_ratio_interval(arm: Counts, base: Counts) -> Interval:
    """Of share(arm) / share(base), as ratio of the means over seeds, where the two count different groups.

    `arm` and `base` (S, 2): hit and all of each seed. Fieller's over seeds, and at least as wide as that of two
    independent shares of all seeds taken together (Katz et al. 1978). Undefined and bounded as `ratio_interval`.
    """
    if arm.shape != base.shape or arm.ndim != 2 or not arm.size or min(arm[:, 1].min(), base[:, 1].min()) < 1:
        raise ConfigError(f"counts of shapes {arm.shape} and {base.shape} are not hits and groups of the same seeds")
    y, x = arm[:, 0] / arm[:, 1], base[:, 0] / base[:, 1]
    if not base[:, 0].any():
        return Interval(math.nan, math.nan, math.nan, "undefined: the other arm has no hit")
    ratio = float(y.mean() / x.mean())
    if len(x) < INTERVAL_SEEDS:
        return Interval(ratio, math.nan, math.nan, f"too few seeds for an interval: {len(x)}")
    (hit, groups), (base_hit, base_groups) = arm.sum(0), base.sum(0)
    if not hit:
        return Interval(0.0, 0.0, zero_hits_bound(int(groups)) / float(x.mean()), "rule of three")
    spread = _z() * math.sqrt(1 / hit - 1 / groups + 1 / base_hit - 1 / base_groups)
    return _widen(_fieller(x, y), ratio * math.exp(-spread), ratio * math.exp(spread))


def emission_test(emitted: npt.NDArray[np.int64], weights: Floats) -> dict[str, float]:
    """One chi-squared test over all images: is image i emitted in proportion to weights[i]?

    `emitted` (N,) counts the generations that are copies of each image, `weights` (N,) is how often each stands in the
    training set: what the empirical-optimal denoiser must reproduce. Returns chi2, df and p; a small p speaks against
    it. Raises ConfigError where an image is expected fewer than 5 times, for then the test is not valid.
    """
    expected = emitted.sum() * weights / weights.sum()
    if expected.min() < 5:
        raise ConfigError(
            f"an image is expected {expected.min():.1f} times in {emitted.sum()} generations, and 5 are needed: "
            f"draw {math.ceil(5 * emitted.sum() / expected.min())} generations or more"
        )
    test = stats.chisquare(emitted, expected)
    return {"chi2": float(test.statistic), "df": len(emitted) - 1, "p": float(test.pvalue)}


def _check(arm: Hits, base: Hits) -> None:
    if arm.shape != base.shape or arm.ndim != 2:
        raise ConfigError(f"hits of shapes {arm.shape} and {base.shape} are not of the same canaries and seeds")
    if not arm.size:
        raise ConfigError("no canaries, so no rate")


def _t(seeds: int) -> float:
    return float(stats.t.ppf((1 + CONFIDENCE) / 2, seeds - 1))


def _z() -> float:
    return float(stats.norm.ppf((1 + CONFIDENCE) / 2))


def _quantiles(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], method="inverted_cdf")
    return float(low), float(high)


def _widen(interval: Interval, low: float, high: float) -> Interval:
    """At least from `low` to `high`; what has no interval keeps none."""
    if math.isnan(interval.low):
        return interval
    return Interval(interval.estimate, min(interval.low, low), max(interval.high, high), interval.method)


def _clip(interval: Interval, least: float, most: float) -> Interval:
    if math.isnan(interval.low):
        return interval
    return Interval(interval.estimate, max(interval.low, least), min(interval.high, most), interval.method)


def _resample(arm: Hits, base: Hits) -> tuple[Floats, Floats]:
    """(RESAMPLES,) rates of each arm: seeds drawn with replacement, then canaries within each, both arms together.

    A canary has one of four outcomes, so its resampling is a multinomial draw. Seeded, so that results repeat.
    """
    rng = np.random.default_rng(0)
    seeds, canaries = arm.shape
    shares = np.stack([arm & base, arm & ~base, ~arm & base, ~arm & ~base], 2).mean(1)
    drawn = rng.integers(0, seeds, (RESAMPLES, seeds))
    both, only_arm, only_base, _ = np.moveaxis(rng.multinomial(canaries, shares[drawn]), 2, 0)
    return (both + only_arm).mean(1) / canaries, (both + only_base).mean(1) / canaries


def _fieller(x: Floats, y: Floats) -> Interval:
    """Of mean(y) / mean(x): the ratios r that a t test of mean(y - r * x) = 0 does not reject (Fieller 1954)."""
    ratio = float(y.mean() / x.mean())
    squared_t = _t(len(x)) ** 2 / len(x)
    covariance = np.cov(x, y)
    a = float(x.mean() ** 2 - squared_t * covariance[0, 0])
    b = float(x.mean() * y.mean() - squared_t * covariance[0, 1])
    c = float(y.mean() ** 2 - squared_t * covariance[1, 1])
    if a <= 0:
        return Interval(ratio, 0.0, math.inf, "Fieller over seeds")
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return Interval(ratio, max((b - root) / a, 0.0), (b + root) / a, "Fieller over seeds")
