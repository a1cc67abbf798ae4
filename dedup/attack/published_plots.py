"""The figures in which published results stand beside what was measured, labelled: they are of another protocol."""

from __future__ import annotations

from matplotlib.figure import Figure

from dedup.attack.plot_style import Content, seeds_shown, style
from dedup.attack.published import PUBLISHED, PUBLISHED_GAN, PUBLISHED_UNIQUE
from dedup.attack.scoring import COMMON_COPIES

RATIOS_TO = 1.6  # the right end of the forest plot


def generations(content: Content) -> Figure:
    """Unique training images extracted against generations drawn, of models that are told captions and of those that
    are not; where the latter are of 32 pixels in colour, with what was published of such models, which were trained
    otherwise on other and more images."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    plain = {f"{arm}, no captions": (arm, entry) for arm, entry in content["unconditional"].items()}
    for number, (label, (arm, entry)) in enumerate(
        ({arm: (arm, e) for arm, e in content["arms"].items()} | plain).items()
    ):
        colour, marker = style(arm, number)
        dashed = "--" if label in plain else "-"
        curves = [seed["generations_curve"] for seed in entry["seeds"] if seed.get("generations_curve")]
        for index, curve in enumerate(curves):
            x, y = ([point[name] for point in curve] for name in ("generations", "extracted"))
            name = None if index else label
            axes.plot(x, y, color=colour, marker=marker, markersize=4, linestyle=dashed, label=name)
    if _like_published(content):
        for number, (label, drawn, extracted) in enumerate(PUBLISHED_UNIQUE):
            name = f"published, another protocol: {label}"
            axes.plot([drawn], [extracted], color="0.45", marker="x+1234"[number], linestyle="none", label=name)
        axes.set_yscale("symlog", linthresh=1)
    axes.set_xscale("log")
    axes.set_xlabel("generations")
    axes.set_ylabel("unique training images extracted")
    axes.grid(axis="y", color="0.92")
    axes.legend(fontsize=8, frameon=False)
    figure.suptitle("Unique images against generations (one line per seed)", fontsize=11)
    return figure


def forest(content: Content) -> Figure:
    """Ratio of each arm to `duplicated`: of canaries of many copies, and of unique images extracted per unique image in
    the set; and of the GAN to diffusion. Below are the published ratios, labelled as what they are: figures of another
    protocol, of one retraining and without an interval."""
    rows = [
        row
        for row in content["comparisons"]
        if row["against"] == "duplicated" and row.get("k_min") is not None and row["ratio"] is not None
    ]
    rows = [row for row in rows if row["near"] is not None] or rows
    rows += [row for row in content["unique"] if row["ratio"] is not None]
    gan = content["gan"]["against_diffusion"]
    rows += [gan] if gan and gan["ratio"] is not None else []
    published = PUBLISHED + ((PUBLISHED_GAN,) if gan in rows else ())
    figure = Figure(figsize=(7.6, 1.6 + 0.36 * (len(rows) + len(published))), layout="constrained")
    axes = figure.subplots()
    labels = []
    for place, row in enumerate(rows):
        colour, marker = style(row["arm"], place)
        if row["ratio_low"] is not None:
            high = RATIOS_TO if row["ratio_high"] is None else row["ratio_high"]
            axes.plot([row["ratio_low"], high], [place, place], color=colour, linewidth=2)
            if high >= RATIOS_TO:
                axes.plot([RATIOS_TO], [place], color=colour, marker=">", clip_on=False)  # goes on to the right
        if row["ratio"] <= RATIOS_TO:
            axes.plot([row["ratio"]], [place], color=colour, marker=marker, markersize=7, clip_on=False)
        else:
            axes.plot([RATIOS_TO], [place], color=colour, marker=">", markersize=7, clip_on=False)
            axes.annotate(f"{row['ratio']:.1f}", (RATIOS_TO, place), (-22, -3), textcoords="offset points", fontsize=8)
        canaries = {True: "near copies", False: "exact copies", None: "canaries"}
        kind = f"{canaries[row['near']]} ≥ {COMMON_COPIES}" if "near" in row else "unique per unique image"
        none = " (no hit: 0 and its bound)" if row["ratio"] == 0 else ""
        labels.append(f"{row['arm']}: {kind}{none}")
    for place, (label, ratio) in enumerate(published, start=len(rows)):
        axes.plot([ratio], [place], color="0.45", marker="x", linestyle="none")
        axes.annotate(f"{ratio:.2f}", (ratio, place), (6, 4), textcoords="offset points", fontsize=8, color="0.35")
        labels.append(f"published, another protocol: {label}")
    axes.axhline(len(rows) - 0.5, color="0.8", linewidth=0.8)
    axes.axvline(1, color="0.4", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, RATIOS_TO)
    axes.grid(axis="x", color="0.92")
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("rate relative to duplicated (below 1: leaks less)")
    figure.suptitle(f"Risk ratios ({seeds_shown(content)}; published: Carlini et al. 2023, CIFAR-10)", fontsize=10)
    return figure


def _like_published(content: Content) -> bool:
    """Whether there are models like those of PUBLISHED_UNIQUE in what they see and are told, and diffusion U-Nets."""
    settings = content["settings"]
    plain = settings["captions"] == "none" or content["unconditional"]
    return bool(
        plain
        and settings["view"]["side"] == 32
        and settings["view"]["colour"]
        and settings["network"]["model"] == "unet"
    )
