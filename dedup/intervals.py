"""Confidence intervals of shares."""

from __future__ import annotations


def wilson(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of the share `successes` / `trials` (Wilson 1927); (0, 1) for no trials."""
    from scipy.stats import binomtest  # here, because it takes a second that most commands need not spend

    if trials == 0:
        return 0.0, 1.0
    interval = binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
