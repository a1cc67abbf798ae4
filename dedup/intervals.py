"""Confidence intervals of shares and of counts."""

from __future__ import annotations

from collections.abc import Sequence


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the share `successes` / `trials` (Wilson 1927); (0, 1) for no trials."""
    from scipy.stats import binomtest  # here, because it takes a second that most commands need not spend

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def expected_count(weights: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Interval of the expected sum of the weights of rare independent events, given those that happened.

    For events of weight 1 the exact interval of a Poisson mean (Garwood 1936): (0, 3.69) for none. Heavier events are
    fewer for the same sum and say less: the scaled Poisson distribution (Bohm and Zech 2014, arXiv 1309.1287), with
    sum(w) / s events of weight s = sum(w^2) / sum(w).
    """
    from scipy.stats import chi2

    total = float(sum(weights))
    scale = sum(weight * weight for weight in weights) / total if total else 1.0
    tail, events = (1 - confidence) / 2, total / scale
    low = scale * chi2.ppf(tail, 2 * events) / 2 if total else 0.0
    return float(low), float(scale * chi2.ppf(1 - tail, 2 * (events + 1)) / 2)
