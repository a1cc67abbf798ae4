"""Contact sheets of the pairs nearest to a run's threshold, and how many of them are one picture by the labels.

    python -m pipelines.benchmark edges RUN --out SHEETS

`above.jpg` and `below.jpg` show the pairs just accepted and just rejected, the nearest first; `edges.csv` lists them
with the judgement that a person gave of each: yes, no, unsure, or none yet. Filled in and given as --labels, it turns
into shares with intervals.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dedup.contact_sheet import Panel, pair_sheet
from dedup.errors import ConfigError
from dedup.intervals import wilson
from pipelines.explain import read_pictures
from pipelines.fit_small import given_labels
from pipelines.run_state import Run

_COLUMNS = ["a", "b", "probability"]
_SORTED = {
    "above": [("probability", "ascending"), ("a", "ascending"), ("b", "ascending")],
    "below": [("probability", "descending"), ("a", "ascending"), ("b", "ascending")],
}


@dataclass(frozen=True)
class Edge:
    """A verified pair, and what a person said of it: yes, no, unsure, or nothing."""

    a: str
    b: str
    probability: float
    same: str


def nearest(run: Run, each: int, labels: dict[tuple[str, str], str]) -> dict[str, list[Edge]]:
    """above: the `each` accepted pairs of least probability; below: as many rejected ones of the greatest.

    Nearest first. Holds these and one file of pairs. Raises ConfigError where the run has not verified any.
    """
    kept: dict[str, pa.Table] = {}
    for name in run.folder.names("pairs"):
        pairs = run.folder.read_table(name, [*_COLUMNS, "method", "accepted"], pc.field("method") == "verified")
        for side, accepted in (("above", True), ("below", False)):
            part = pairs.filter(pc.equal(pairs["accepted"], accepted)).select(_COLUMNS)
            part = pa.concat_tables([kept[side], part]) if side in kept else part
            kept[side] = part.sort_by(_SORTED[side])[:each]
    if not any(len(part) for part in kept.values()):
        raise ConfigError(f"{run.folder.url} has no verified pairs; run it with verification")
    return {
        side: [Edge(**row, same=labels.get((row["a"], row["b"]), "")) for row in part.to_pylist()]
        for side, part in kept.items()
    }


def share(edges: list[Edge]) -> str:
    """How many are one picture, of those that a person could tell."""
    said = Counter(edge.same for edge in edges)
    low, high = wilson(said["yes"], said["yes"] + said["no"])
    told = f"{said['yes']} of {said['yes'] + said['no']} the same ({low:.0%} to {high:.0%})"
    return f"{told}, {said['unsure']} unsure, {said['']} not judged"


def report(run: str, out: Path, each: int, labels: Path, columns: int, side: int) -> Iterator[str]:
    """Write above.jpg, below.jpg and edges.csv into `out`: `each` pairs on either side, `columns` in a row, pictures of
    `side` pixels. Gives a line for each side."""
    opened = Run.reopen(run)
    found = nearest(opened, each, given_labels(labels))
    pictures = read_pictures(opened, {name for edges in found.values() for edge in edges for name in (edge.a, edge.b)})
    out.mkdir(parents=True, exist_ok=True)
    threshold = opened.settings.verify.accepts_from
    for name, edges in found.items():
        panels = [
            Panel((pictures[edge.a], pictures[edge.b]), f"{edge.probability:.3f} {edge.same}\n{edge.a}\n{edge.b}")
            for edge in edges
        ]
        title = f"{len(edges)} pairs just {name} the threshold of {threshold:g}, the nearest first"
        if panels:
            pair_sheet(panels, columns=columns, side=side, title=title).save(out / f"{name}.jpg", quality=85)
        yield f"just {name} {threshold:g}: {len(edges)} pairs, {share(edges)}"
    with (out / "edges.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["a", "b", "same", "probability", "side"])
        for name, edges in found.items():
            writer.writerows([edge.a, edge.b, edge.same, f"{edge.probability:.6f}", name] for edge in edges)
