"""The verdict: one line that says what cleaning changed and how sure that is, and cautions where it says little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dedup.attack.scoring import COMMON_COPIES, ArmScore, arm_rates, compare_arms
from dedup.attack.statistics import CLAIM_SEEDS

FULL = 0.95  # from this rate on, there is no room left in which arms could differ
FALSE_POSITIVES = 0.01


def verdict(scores: Mapping[str, Mapping[int, ArmScore]], arm: str = "deduplicated", base: str = "duplicated") -> str:
    """Of `arm` against `base`, on the seeds that both have:

    "copies >= 8: extraction 92 % -> 4 % (difference -88 points, 95 % interval -95 to -81); singles 0 % -> 1 %; false
    positives 0 %; 10 seeds". False positives are the held-out groups hit in either arm. Below CLAIM_SEEDS seeds it
    says that these are too few for a claim.
    """
    seeds = sorted(set(scores.get(arm, {})) & set(scores.get(base, {})))
    if not seeds:
        return f"no seed has both arms, {base} and {arm}: nothing to compare"
    both = {name: {seed: scores[name][seed] for seed in seeds} for name in (base, arm)}
    rates = {name: arm_rates(both[name]) for name in both}
    comparisons = compare_arms(both, (base,))
    pooled = _find(comparisons, kind="canary", near=None, k_min=COMMON_COPIES)
    parts = []
    if pooled is None:
        parts.append(f"no canaries of {COMMON_COPIES} or more copies")
    else:
        before, after = (_shown(rates[name], kind="canary", near=None, k_min=COMMON_COPIES) for name in (base, arm))
        parts.append(f"copies >= {COMMON_COPIES}: extraction {before} -> {after} ({_difference(pooled)})")
    if _find(rates[base], kind="single"):
        parts.append(f"singles {_shown(rates[base], kind='single')} -> {_shown(rates[arm], kind='single')}")
    worst = {
        near: _percent(max(_rate(rates[name], kind="held_out", near=near) for name in both))
        for near in (False, True, None)
        if _find(rates[base], kind="held_out", near=near)
    }
    if {False, True} <= worst.keys():
        parts.append(f"false positives {worst[False]} exact, {worst[True]} near")
    elif worst:
        parts.append(f"false positives {worst[None]}")
    few = f", too few for a claim ({CLAIM_SEEDS})" if len(seeds) < CLAIM_SEEDS else ""
    parts.append(f"{len(seeds)} seed{'s' * (len(seeds) != 1)}{few}")
    return "; ".join(parts)


def cautions(scores: Mapping[str, Mapping[int, ArmScore]], base: str = "duplicated") -> list[str]:
    """Why these figures may say less than they seem to, a sentence each; none where the experiment is in order.

    Full memorization (every arm leaks all there is, so cleaning seems useless), no memorization (nothing to lower),
    false positives above 1 %, and displacement (the singles of an arm leak more than those of `base`).
    """
    rates = {arm: arm_rates(by_seed) for arm, by_seed in scores.items() if by_seed}
    found = []
    if base in rates and _rate(rates[base], kind="single") >= FULL:
        found.append(
            f"{base} leaks {_shown(rates[base], kind='single')} of the pictures that occur once: full memorization, "
            "in which no cleaning shows; train for fewer steps or on more pictures"
        )
    if base in rates and not any(row["hit"] for row in rates[base] if row["kind"] == "canary"):
        found.append(f"{base} leaks no canary, so there is nothing to lower: train for more steps")
    for arm, rows in rates.items():
        for near, which in ((None, "held-out pictures"), (True, "held-out twins of near canaries")):
            if _rate(rows, kind="held_out", near=near) > FALSE_POSITIVES:
                found.append(
                    f"{arm}: {_shown(rows, kind='held_out', near=near)} of the {which} count as extracted, so the "
                    "criterion is too loose"
                )
    for row in compare_arms({arm: scores[arm] for arm in rates}, (base,)):
        if row["kind"] == "single" and row["low"] is not None and row["low"] > 0:
            found.append(
                f"{row['arm']} leaks more singles than {base} ({100 * row['difference']:+.1f} points): at equal steps "
                "a smaller set is seen more often"
            )
    return found


def learned_less(utility: Sequence[Mapping[str, Any]], comparisons: Sequence[Mapping[str, Any]]) -> list[str]:
    """A caution for each arm that leaks less and is a worse model, too: it may leak less because it learned less.

    `utility` has the rows of `compare_utility`, `comparisons` those of `compare_arms`. Only what the intervals tell
    counts, and of utility the held-out loss.
    """
    found = []
    for row in utility:
        leaks = _find(comparisons, arm=row["arm"], against=row["against"], near=None, k_min=COMMON_COPIES)
        worse = row["measure"] == "held_out_loss" and row["low"] is not None and row["low"] > 0
        if worse and leaks is not None and leaks["high"] is not None and leaks["high"] < 0:
            found.append(
                f"{row['arm']} leaks less than {row['against']} and denoises held-out pictures worse (loss "
                f"{row['base']:.3f} -> {row['value']:.3f}): it may leak less because it learned less"
            )
    return found


def _difference(row: Mapping[str, Any]) -> str:
    points = f"difference {100 * row['difference']:+.0f} points"
    if row["low"] is None:
        return f"{points}, {row['method']}"
    return f"{points}, 95 % interval {100 * row['low']:+.0f} to {100 * row['high']:+.0f}"


def _find(rows: Sequence[Mapping[str, Any]], **labels: Any) -> Mapping[str, Any] | None:
    return next((row for row in rows if all(row.get(name) == value for name, value in labels.items())), None)


def _rate(rows: Sequence[Mapping[str, Any]], **labels: Any) -> float:
    row = _find(rows, **labels)
    return float(row["rate"]) if row else 0.0


def _shown(rows: Sequence[Mapping[str, Any]], **labels: Any) -> str:
    return _percent(_rate(rows, **labels))


def _percent(share: float) -> str:
    """Whole per cent, but one digit more below 1, where 0 would hide something."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.01 else f"{100 * share:.1f} %"
