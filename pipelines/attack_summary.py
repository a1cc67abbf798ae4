"""What an attack tells its user on the terminal, from the content of attack.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dedup.attack.cleaning import cleaning_line
from dedup.attack.membership import ATTACKS
from dedup.attack.published import PER_IMAGE_LEFT
from dedup.attack.scoring import COMMON_COPIES
from dedup.attack.thresholds import MAX_FALSE_POSITIVES

_UNLIKELY = 0.001  # p of the closed-form check below which it speaks against the scoring
_MEASURES = {"auc": "AUC", "tpr_at_1%": "found at 1 % false", "tpr_at_0.1%": "found at 0.1 % false"}


def text(document: Mapping[str, Any]) -> str:
    """A table of rates by arm, the controls and checks, what else was attacked, and the verdict.

    False positives are those of held-out twins of exact and of near canaries, apart. `loss` and `distance` are the
    utility: the denoising loss on held-out pictures, and how far generations are distributed from these (the energy
    distance, about 0 for the same distribution), which a GAN has, too.
    """
    heads = f"{'copies >= 8':>11}  {'singles':>8}  {'twins':>8}  {'near':>8}  {'loss':>6}  {'distance':>8}"
    lines = [f"{'arm':26} {'images':>7}  {heads}"]
    for name, content in document["arms"].items():
        lines.append(_row(name, content["seeds"]))
    for name, content in document["unconditional"].items():
        lines.append(_row(f"uncaptioned, {name}", content["seeds"]))
    if document["gan"]["seeds"]:
        lines.append(_row("GAN on duplicated", document["gan"]["seeds"]))
    lines += _criterion(document["criterion"])
    lines.append(cleaning_line(document["cleaning"]))
    if check := document["closed_form"]:
        lines.append(_emissions(check))
    lines += _unique(document)
    lines += _never_hit(document["arms"])
    lines += _membership(document)
    lines += _prompts(document["prompts"])
    lines += [_equality(row) for row in document["equivalence"] if row["near"] is None and row["against"] == "oracle"]
    lines += [f"caution: {caution}" for caution in document["cautions"]]
    lines.append(document["verdict"])
    return "\n".join(lines)


def _emissions(check: Mapping[str, Any]) -> str:
    test = f"chi-squared {check['chi2']:.0f} with {check['df']} degrees of freedom, p = {check['p']:.2g}"
    if check["p"] < _UNLIKELY:
        return f"closed form: emissions do NOT follow the copies, so this criterion misses or invents some: {test}"
    return f"closed form: emissions follow the copies, {test}"


def _row(name: str, seeds: Sequence[Mapping[str, Any]]) -> str:
    many = [rate for seed in seeds for rate in seed["rates"] if rate["k"] >= COMMON_COPIES]
    losses = [seed["utility"]["held_out_loss"] for seed in seeds if seed["utility"]["held_out_loss"] is not None]
    twins = {near: [twin for seed in seeds for twin in seed["twins"] if twin["near"] is near] for near in (False, True)}
    columns = _share(many), _share([seed["singles"] for seed in seeds]), *map(_share, twins.values())
    loss = f"{sum(losses) / len(losses):6.3f}" if losses else "     -"
    distance = sum(seed["utility"]["distribution_distance"] for seed in seeds) / len(seeds)
    size = sum(seed["size"] for seed in seeds) / len(seeds)
    return (
        f"{name:26} {size:7,.0f}  {columns[0]:>11}  "
        + "".join(f"{column:>8}  " for column in columns[1:])
        + f"{loss}  {round(distance, 3) + 0.0:8.3f}"  # no -0.000
    )


def _criterion(criterion: Mapping[str, Any]) -> Iterator[str]:
    """Where the set's own pictures asked for a lower threshold."""
    lowest, highest = min(criterion["by_seed"]), max(criterion["by_seed"])
    if lowest < criterion["asked"]:
        below = f"{lowest:.3f}" + (f" or {highest:.3f}, by seed" if f"{highest:.3f}" != f"{lowest:.3f}" else "")
        yield (
            f"{criterion['attack']} counts up to {below}, not to {criterion['asked']:.3g}: beyond, more than "
            f"{MAX_FALSE_POSITIVES:.1%} of the set's unrelated pictures would pass for copies of each other"
        )


def _unique(document: Mapping[str, Any]) -> Iterator[str]:
    """Unique images extracted per unique image, cleaned against as it is, and diffusion against a GAN."""
    for row in document["unique"]:
        if row["arm"] == "deduplicated" and row["ratio"] is not None:
            yield (
                f"unique images extracted per unique image in the set, deduplicated / duplicated: {_ratio(row)}; "
                f"published, by another protocol: {PER_IMAGE_LEFT:.2f}"
            )
    if (row := document["gan"]["against_diffusion"]) and row["ratio"] is not None:
        yield (
            f"unique images extracted, GAN / diffusion on the same set: {_ratio(row)}; "
            "published, by another protocol: less than half"
        )


def _ratio(row: Mapping[str, Any]) -> str:
    """The ratio of a row with its interval, as far as there is one."""
    shown = f"{row['ratio']:.2f}"
    if row["ratio_low"] is None:
        return f"{shown} ({row['ratio_method']})"
    high = "no bound" if row["ratio_high"] is None else f"{row['ratio_high']:.2f}"
    return f"{shown} (95 % interval {row['ratio_low']:.2f} to {high})"


def _never_hit(arms: Mapping[str, Any]) -> Iterator[str]:
    parts = []
    for name, content in arms.items():
        missed, of = (sum(seed["never_hit"][what] for seed in content["seeds"]) for what in ("canaries", "of"))
        parts.append(f"{name} {missed} of {of}")
    bounds = [seed["never_hit"]["emitted_below"] for content in arms.values() for seed in content["seeds"]]
    if bounds:
        often = f"at most one in {1 / max(bounds):,.0f} generations is a copy of it, 95 %"
        yield f"canaries never hit (of each: {often}): {', '.join(parts)}"


def _membership(document: Mapping[str, Any]) -> Iterator[str]:
    """Both arms beside each other for each attack and population, and LiRA on the shadow models themselves."""
    rows = [row for row in document["membership"]["comparisons"] if row["against"] == "duplicated"]
    rows = [row for row in rows if row["arm"] == "deduplicated"]
    for attack, of in dict.fromkeys((row["attack"], row["of"]) for row in rows):
        said = [_pair(row) for row in rows if (row["attack"], row["of"]) == (attack, of)]
        pictures = {"single": "singles", "canary": "canaries"}[of]
        yield f"membership of {pictures} by {attack}, duplicated -> deduplicated: {'; '.join(said)}"
    if shadows := document["membership"]["shadows"]:
        for attack in ATTACKS:
            curve = shadows[attack]
            shown = [f"AUC {curve['auc']:.3f}"]
            shown += [
                f"{curve[at]:.1%} {_MEASURES[at]}" for at in ("tpr_at_1%", "tpr_at_0.1%") if curve[at] is not None
            ]
            models = f"{shadows['models']} shadow models of each of {shadows['seeds']} seeds"
            yield f"membership by {attack}, {models}: {', '.join(shown)}"
    labels = {seed["utility"].get("measured_with") for arm in document["arms"].values() for seed in arm["seeds"]}
    for label in sorted(filter(None, labels)):
        yield f"losses and membership of these conditional models are measured with the {label} label"


def _prompts(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Generate and filter: what each arm leaks, and how much less than the set as it is."""
    for row in rows:
        said = [f"{row['leaked']} of {row['captions']} captions give their picture away"]
        if row["flagged"] > row["leaked"]:
            said.append(f"{row['flagged'] - row['leaked']} more repeat another one")
        said.append(
            f"threshold set where {row['held_out_flagged']} of {row['held_out']} captions never seen are flagged"
        )
        if row.get("difference_low") is not None:
            ends = f"{100 * row['difference_low']:+.0f} to {100 * row['difference_high']:+.0f}"
            said.append(f"difference {100 * row['difference']:+.0f} points, 95 % interval {ends}")
        yield f"generate and filter, {row['arm']}: {'; '.join(said)}"


def _pair(row: Mapping[str, Any]) -> str:
    figures = (row["base"], row["value"], row["difference"], row["low"], row["high"])
    if row["measure"] == "auc":
        base, value, *change = (f"{figure:+.3f}" if figure is not None else None for figure in figures)
        base, value = f"{row['base']:.3f}", f"{row['value']:.3f}"
    else:
        base, value, *change = (f"{100 * figure:+.1f}" if figure is not None else None for figure in figures)
        base, value = f"{row['base']:.1%}", f"{row['value']:.1%}"
    interval = row["method"] if change[1] is None else f"{change[0]}, 95 % interval {change[1]} to {change[2]}"
    return f"{_MEASURES[row['measure']]} {base} -> {value} ({interval})"


def _equality(row: Mapping[str, Any]) -> str:
    shown = f"{row['arm']} against oracle, copies >= {row['k_min']}: {100 * row['difference']:+.0f} points"
    if row["low"] is None:
        return shown
    said = [f"95 % interval {100 * row['low']:+.0f} to {100 * row['high']:+.0f}"]
    said += [f"equal within {100 * row['margin']:.0f} points"] if row["equivalent"] else []
    said += ["differs"] if row["differs"] else []
    return f"{shown} ({', '.join(said)})"


def _share(counts: Sequence[Mapping[str, Any]]) -> str:
    groups = sum(count["groups"] for count in counts)
    return f"{sum(count['hit'] for count in counts) / groups:.1%}" if groups else "-"
