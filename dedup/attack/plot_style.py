"""What all figures of an attack share: colours and markers, intervals, files.

Colours are those of Okabe and Ito, told apart with any kind of colour vision; each arm also has a marker of its own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dedup.attack.statistics import INTERVAL_SEEDS

Content = Mapping[str, Any]

STYLES = {  # of the arms and the GAN; others take the last ones in turn
    "duplicated": ("#D55E00", "o"),
    "deduplicated": ("#0072B2", "s"),
    "deduplicated+refill": ("#56B4E9", "D"),
    "oracle": ("#009E73", "^"),
    "random-drop": ("#CC79A7", "v"),
    "GAN": ("#000000", "X"),
}
OTHERS = (("#E69F00", "P"), ("#0072B2", "s"), ("#999999", "*"))


def files(name: str, figure: Figure) -> dict[str, bytes]:
    """{name.png: ..., name.svg: ...}: what to write into the folder of results."""
    content = {}
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        for suffix, metadata in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, dpi=150, metadata=metadata, bbox_inches="tight")
            content[f"{name}.{suffix}"] = buffer.getvalue()
    return content


def style(name: str, number: int) -> tuple[str, str]:
    """Colour and marker of an arm or the GAN, or of the `number`-th of others."""
    return STYLES.get(name) or OTHERS[number % len(OTHERS)]


def seeds_shown(content: Content) -> str:
    """How many seeds there are, for a title, and whether they give intervals."""
    count = max(len(entry["seeds"]) for entry in content["arms"].values())
    intervals = "95 % intervals" if count >= INTERVAL_SEEDS else "too few for intervals"
    return f"{count} seed{'s' * (count != 1)}, {intervals}"


def point(axes: Axes, x: float, row: Content, colour: str, marker: str) -> None:
    """A rate with its interval, where it has one."""
    axes.plot([x], [row["rate"]], color=colour, marker=marker, markersize=5)
    if row["low"] is not None:
        axes.plot([x, x], [row["low"], row["high"]], color=colour, linewidth=1)
