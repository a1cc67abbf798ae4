"""The figures, drawn from the content of attack.json and, for pictures, from matches.

Each function returns a matplotlib Figure; `plot_style.files` turns it into PNG and SVG, the same bytes each time. Bands
and bars are 95 % intervals over seeds; where there are too few seeds none is drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from matplotlib.figure import Figure

from dedup.attack.extraction import MATCH_SCHEMA, attack_named, copied_group
from dedup.attack.membership import MIN_NON_MEMBERS, Roc
from dedup.attack.plot_style import Content, point, seeds_shown, style
from dedup.attack.published_plots import forest, generations
from dedup.attack.reference import Reference
from dedup.attack.scoring import COMMON_COPIES, ArmScore, arm_rates
from dedup.errors import ConfigError

OUTLIER_ARMS = ("duplicated", "deduplicated")
COPIES = {False: "exact copies", True: "near copies", None: "no copies"}
TERCILE_STYLES = {
    "most ordinary third": ("#56B4E9", "o"),
    "middle third": ("#999999", "s"),
    "third that stands most apart": ("#D55E00", "^"),
}


def figures(content: Content) -> dict[str, Figure]:
    """Every figure for which attack.json has data, by name."""
    seeds = [seed for arm in content["arms"].values() for seed in arm["seeds"]]
    drawn = {"extraction": extraction_by_copies(content), "ratios": forest(content)}
    if any(seed.get("curve") for seed in seeds):
        drawn["steps"] = steps(content)
    if any(seed.get("generations_curve") for seed in seeds):
        drawn["generations"] = generations(content)
    if content["outliers"]:
        drawn["outliers"] = outliers(content)
    return drawn


def extraction_by_copies(content: Content) -> Figure:
    """Extraction rate against copies, exact and near copies apart; to the left singles, and the held-out twins of the
    canaries of that kind."""
    rates = {arm: arm_rates(_scores(entry)) for arm, entry in content["arms"].items()}
    kinds = sorted({row["near"] for rows in rates.values() for row in rows if row.get("k") and row["kind"] == "canary"})
    figure = Figure(figsize=(5.2 * max(len(kinds), 1), 4.2), layout="constrained")
    panels = figure.subplots(1, max(len(kinds), 1), sharey=True, squeeze=False)[0]
    for axes, near in zip(panels, kinds, strict=False):
        levels = sorted(
            {
                row["k"]
                for rows in rates.values()
                for row in rows
                if row["near"] is near and row["kind"] == "canary" and row.get("k")
            }
        )
        for number, (arm, rows) in enumerate(rates.items()):
            colour, marker = style(arm, number)
            shift = 2 ** (0.05 * (number - (len(rates) - 1) / 2))  # so that arms at one rate can be told apart
            at = [row for row in rows if row.get("k") and row["kind"] == "canary" and row["near"] is near]
            x = np.array([row["k"] for row in at]) * shift
            axes.plot(x, [row["rate"] for row in at], color=colour, marker=marker, label=arm)
            if all(row["low"] is not None for row in at):
                low, high = ([row[end] for row in at] for end in ("low", "high"))
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            for row in (row for row in rows if row["kind"] == "single"):
                point(axes, levels[0] / 2.5 * shift, row, colour, marker)
            for row in (row for row in rows if row["kind"] == "held_out" and row["near"] is near):
                point(axes, levels[0] / 5 * shift, row, colour, marker)
        axes.axvline(levels[0] / 1.6, color="0.8", linewidth=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xticks(
            [levels[0] / 5, levels[0] / 2.5, *levels], ["held-out\ntwins", "singles", *map(str, levels)], fontsize=8
        )
        axes.set_xticks([], minor=True)
        axes.set_xlabel("copies of the picture in the set before cleaning")
        axes.set_title(COPIES[near], fontsize=10)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(axis="y", color="0.92")
    panels[0].set_ylabel("share extracted at least once")
    panels[0].legend(fontsize=8, loc="upper left", frameon=False)
    figure.suptitle(f"Extraction against copies ({seeds_shown(content)})", fontsize=11)
    return figure


def steps(content: Content) -> Figure:
    """Extraction of canaries of many copies and, apart, of singles, and held-out loss, against training steps."""
    measures: dict[str, Callable[[Content], float]] = {
        f"share extracted,\ncopies ≥ {COMMON_COPIES}": lambda point: _common(point["rates"]),
        "share extracted,\nsingles": lambda point: _share([point["singles"]]),
        "denoising loss on\nheld-out pictures": lambda point: point["held_out_loss"],
    }
    figure = Figure(figsize=(6.4, 7), layout="constrained")
    panels = figure.subplots(3, 1, sharex=True)
    for axes, (label, measure) in zip(panels, measures.items(), strict=True):
        for number, (arm, entry) in enumerate(content["arms"].items()):
            colour, marker = style(arm, number)
            curves = [seed["curve"] for seed in entry["seeds"] if seed.get("curve")]
            for index, curve in enumerate(curves):
                shown = {"color": colour, "marker": marker, "markersize": 4, "label": None if index else arm}
                axes.plot([point["steps"] for point in curve], [measure(point) for point in curve], **shown)
        axes.set_ylabel(label)
        axes.grid(axis="y", color="0.92")
    panels[0].set_ylim(-0.03, 1.03)
    # Of singles there are a few per cent, which a scale to 1 would hide: but nothing is not to look like much.
    panels[1].set_ylim(-0.003, max(0.1, panels[1].get_ylim()[1]))
    panels[0].legend(fontsize=8, frameon=False)
    panels[-1].set_xlabel("training steps")
    figure.suptitle("Against training steps (one line per seed)", fontsize=11)
    return figure


def outliers(content: Content) -> Figure:
    """Extraction by tercile of the outlier score within each level of copies, a row of panels for each of the arms
    before and after cleaning."""
    arms = [arm for arm in content["arms"] if arm in OUTLIER_ARMS] or list(content["arms"])[:1]
    rows = [row for row in content["outliers"] if row["arm"] in arms]
    kinds: list[bool | None] = sorted({row["near"] for row in rows if row["kind"] == "canary"})
    kinds = kinds or [None]  # too few canaries of each level: singles alone
    size = 5.2 * len(kinds), 3.4 * len(arms) + 0.4
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(arms), len(kinds), sharey=True, squeeze=False)
    for arm, line in zip(arms, panels, strict=True):
        for near, axes in zip(kinds, line, strict=True):
            shown = [row for row in rows if row["arm"] == arm and (row["kind"] == "single" or row["near"] is near)]
            levels = sorted({(row["kind"] != "single", row["k"]) for row in shown})
            for tercile, (name, (colour, marker)) in enumerate(TERCILE_STYLES.items()):
                at = [row for row in shown if row["tercile"] == tercile]
                for row in at:
                    place = levels.index((row["kind"] != "single", row["k"])) + 0.2 * (tercile - 1)
                    point(axes, place, row, colour, marker)
                axes.plot([], [], color=colour, marker=marker, linestyle="none", markersize=5, label=name)
            axes.set_xlim(-0.6, max(len(levels), 1) - 0.4)
            axes.set_xticks(range(len(levels)), [str(k) if canary else "singles" for canary, k in levels])
            axes.set_ylim(-0.03, 1.03)
            axes.grid(axis="y", color="0.92")
            axes.set_title(f"{arm}, {COPIES[near]}", fontsize=10)
        line[0].set_ylabel("share extracted at least once")
    for axes in panels[-1]:
        axes.set_xlabel("copies of the picture in the set before cleaning")
    panels[0][0].legend(fontsize=8, loc="upper left", frameon=False)
    figure.suptitle(f"Extraction of pictures that stand apart ({seeds_shown(content)})", fontsize=11)
    return figure


def contact_sheet(
    made: npt.NDArray[np.float32],
    reference: Reference,
    matches: pa.Table,
    extracted: npt.NDArray[np.bool_],
    attack: str = "gap",
    rows: int = 4,
) -> Figure:
    """Generation, nearest and second-nearest image: of the extracted ones the best, the median and the worst by what
    `attack` asks, where the best of each group stands for it.

    `rows` of each. The nearest is so by the attack's own distance; where that is not l2, the other one is the nearest
    by l2 of the other groups. Where nothing was extracted the generations nearest to that are shown, and it is said.
    Raises ConfigError for no generations and for an unknown attack.
    """
    if matches.schema != MATCH_SCHEMA or not len(matches):
        raise ConfigError("a contact sheet needs the matches of at least one generation")
    criterion = attack_named(attack)
    asked = matches[criterion.column].to_numpy()
    chosen = np.flatnonzero(extracted) if extracted.any() else np.arange(len(asked))
    chosen = chosen[np.argsort(asked[chosen], kind="stable")]
    _, best = np.unique(copied_group(matches, attack)[chosen], return_index=True)
    chosen = chosen[np.sort(best)]
    parts = _parts(chosen, rows) if extracted.any() else {"": chosen[:rows]}
    first_of_group = np.searchsorted(np.sort(reference.group), np.arange(len(reference.groups)))
    first = np.argsort(reference.group, kind="stable")[first_of_group]
    rows = max(len(members) for members in parts.values())
    figure = Figure(figsize=(3.4 * len(parts), 1.1 * rows + 0.9), layout="constrained")
    grid = figure.subplots(rows, 3 * len(parts), squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
    for part, (name, members) in enumerate(parts.items()):
        other = "second\nnearest" if criterion.group == "group" else "another,\nby l2"
        for column, title in enumerate((f"{name}generated", "nearest", other)):
            grid[0, 3 * part + column].set_title(title, fontsize=8, multialignment="center")
        for row, number in enumerate(members.tolist()):
            found = matches.slice(number, 1).to_pylist()[0]
            rival = found["second_group"] if found["group"] == found[criterion.group] else found["group"]
            pictures = made[number], reference.images[found[criterion.variant]], reference.images[first[rival]]
            for column, picture in enumerate(pictures):
                shown = picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)
                grid[row, 3 * part + column].imshow(shown, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            note = f"{criterion.column.replace('_', ' ')} {found[criterion.column]:.2f}"
            grid[row, 3 * part + 1].text(
                0.5, -0.04, note, transform=grid[row, 3 * part + 1].transAxes, fontsize=7, ha="center", va="top"
            )
    said = "nothing extracted; the nearest to it"
    if extracted.any():
        said = (
            f"{int(extracted.sum())} of {len(asked)} generations extracted, of {len(chosen)} images; the best of each"
        )
    figure.suptitle(said, fontsize=10)
    return figure


def _parts(ranked: npt.NDArray[np.int64], rows: int) -> dict[str, npt.NDArray[np.int64]]:
    """The best, those around the median and the worst, `rows` of each; where there are fewer, none twice."""
    if len(ranked) <= 3 * rows:
        parts = np.array_split(ranked, 3)
    else:
        middle = (len(ranked) - rows) // 2
        parts = [ranked[:rows], ranked[middle : middle + rows], ranked[-rows:]]
    return {f"{name}:\n": part for name, part in zip(("best", "median", "worst"), parts, strict=True) if len(part)}


def roc(curves: Mapping[str, Roc]) -> Figure:
    """Membership inference on logarithmic axes, where the certain guesses are seen (Carlini et al. 2022)."""
    figure = Figure(figsize=(5.2, 4.8), layout="constrained")
    axes = figure.subplots()
    for number, (name, curve) in enumerate(curves.items()):
        colour, _ = style(name, number)
        # Below one false positive in all non-members nothing was measured.
        seen = curve.false_positive_rate >= 1 / curve.non_members
        axes.step(
            curve.false_positive_rate[seen],
            curve.true_positive_rate[seen],
            where="post",
            color=colour,
            label=f"{name} (AUC {curve.auc:.2f})",
        )
    least = min(1 / curve.non_members for curve in curves.values())
    axes.plot([least, 1], [least, 1], color="0.6", linestyle=":", label="guessing")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(least, 1)
    axes.set_ylim(least, 1.1)
    axes.set_xlabel("false-positive rate")
    axes.set_ylabel("true-positive rate")
    axes.grid(color="0.92")
    axes.legend(fontsize=8, frameon=False, loc="lower right")
    fewest = min(curve.non_members for curve in curves.values())
    few = f", too few below 1 % ({MIN_NON_MEMBERS} needed)" if fewest < MIN_NON_MEMBERS else ""
    figure.suptitle(f"Membership inference ({fewest} non-members{few})", fontsize=10)
    return figure


def _scores(entry: Content) -> dict[int, ArmScore]:
    return {seed["seed"]: ArmScore.from_json(seed) for seed in entry["seeds"]}


def _common(rates: Sequence[Content]) -> float:
    """The share hit of all canaries of many copies."""
    return _share([rate for rate in rates if rate["k"] >= COMMON_COPIES])


def _share(counts: Sequence[Content]) -> float:
    groups = sum(count["groups"] for count in counts)
    return sum(count["hit"] for count in counts) / groups if groups else float("nan")
