"""The figures in which published results stand beside what was measured, labelled: they are of another protocol."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dedup.attack.plot_style import Content, seeds_shown, style
from dedup.attack.published import PUBLISHED, PUBLISHED_GAN, PUBLISHED_UNIQUE
from dedup.attack.scoring import COMMON_COPIES

RATIOS_TO = 1.6  # the right end of the forest plot


def generations(content: Content) -> Figure:
    """Unique training images extracted against generations drawn: of each arm, of models that are told no captions
    where others are, and of the GAN. Where there are models without captions, of 32 pixels in colour, with what was
    published of such models, which were trained otherwise on other and more images."""
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    plain = {f"{arm}, no captions": (arm, entry) for arm, entry in content["unconditional"].items()}
    gan = {"GAN on duplicated": ("GAN", content["gan"])} if content["gan"]["seeds"] else {}
    for label, (arm, entry) in ({arm: (arm, e) for arm, e in content["arms"].items()} | plain | gan).items():
        colour, marker = style(arm, 0)
        dashed = "--" if label in plain else ":" if label in gan else "-"
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
    figure = Figure(figsize=(8.4, 1.6 + 0.36 * (len(rows) + len(published))), layout="constrained")
    axes = figure.subplots()
    labels = []
    for place, row in enumerate(rows):
        colour, marker = style(row["arm"], place)
        if row["ratio_low"] is not None:
            high = RATIOS_TO if row["ratio_high"] is None else row["ratio_high"]
            axes.plot([row["ratio_low"], high], [place, place], color=colour, linewidth=2)
            if high >= RATIOS_TO:
                axes.plot([RATIOS_TO], [place], color=colour, marker=">", clip_on=False)  # goes on to the right
        beyond = row["ratio"] > RATIOS_TO
        at, shape = (RATIOS_TO, ">") if beyond else (row["ratio"], marker)
        axes.plot([at], [place], color=colour, marker=shape, markersize=7, clip_on=False)
        _figure(axes, place, _interval(row))
        canaries = {True: "near copies", False: "exact copies", None: "canaries"}
        kind = f"{canaries[row['near']]} ≥ {COMMON_COPIES}" if "near" in row else "unique per unique image"
        labels.append(f"{row['arm']}: {kind}")
    for place, (label, ratio) in enumerate(published, start=len(rows)):
        axes.plot([ratio], [place], color="0.45", marker="x", linestyle="none")
        _figure(axes, place, f"{ratio:.2f}")
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


def _figure(axes: Axes, place: int, text: str) -> None:
    """To the right of the axes: so that nothing drawn is covered."""
    across = axes.get_yaxis_transform()
    axes.text(1.03, place, text, transform=across, fontsize=8, va="center", clip_on=False)


def _interval(row: Content) -> str:
    """The ratio in figures, with its interval where there is one; where nothing was hit the interval is a bound."""
    ratio = f"{row['ratio']:.2f}" if row["ratio"] else "no hit"
    if row["ratio_low"] is None:
        return ratio
    high = "no bound" if row["ratio_high"] is None else f"{row['ratio_high']:.2f}"
    return f"{ratio} ({row['ratio_low']:.2f} to {high})"


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
