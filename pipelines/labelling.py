"""Which pairs a person is asked about, how they are shown, and the answers from the terminal.

Shown are the accepted pairs of the sample with other images of the set, and the pairs nearest to the threshold; contact
sheets number them as labels.csv does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dedup.contact_sheet import Panel, pair_sheet
from dedup.images import decode
from dedup.labels import ANSWERS, COLUMNS, Labels, Pair, share_same
from dedup.manifest import split_by_shard
from dedup.shards import read_range
from pipelines.describing import descriptors_name
from pipelines.mixture import Mixture
from pipelines.run_state import Run

LABEL_COLUMNS = (*COLUMNS, "strength", "sample", "side", "sheet", "number")
_PER_SHEET = 48
_SHEETS = 4  # of one section; labels.csv has all pairs
_SIDE = 128
_SHORT = {"y": "yes", "n": "no", "u": "unsure"}


@dataclass(frozen=True)
class Section:
    """Pairs that are shown together: rows of `a`, `b`, `strength`, the first of them on sheets called `name`-01.png."""

    name: str
    title: str
    pairs: pd.DataFrame


def sections(mixture: Mixture, threshold: float) -> list[Section]:
    """What there is to look at, the sample's accepted pairs first."""
    joined = mixture.found.joined
    accepted = joined[joined["strength"] >= threshold].sort_values(["strength", "a", "b"], ascending=[True, True, True])
    above, below = (mixture.borderline[mixture.borderline["side"] == side] for side in ("above", "below"))
    return [
        Section("sample", "accepted pairs of drawn images, the weakest first", accepted),
        Section("above", "just above the threshold, the strongest first", above),
        Section("below", "just below the threshold, the strongest first", below),
    ]


def rows(shown: Sequence[Section], labels: Labels) -> list[dict[str, Any]]:
    """The rows of labels.csv, each pair once: LABEL_COLUMNS."""
    found: dict[Pair, dict[str, Any]] = {}
    for section in shown:
        for number, pair in enumerate(section.pairs.itertuples()):
            row = found.setdefault(
                (pair.a, pair.b),
                {"a": pair.a, "b": pair.b, "same": labels.get((pair.a, pair.b), ""), "strength": f"{pair.strength:.6g}",
                 "sample": "", "side": "", "sheet": "", "number": ""},
            )  # fmt: skip
            row["sample" if section.name == "sample" else "side"] = section.name
            if not row["sheet"] and number < _PER_SHEET * _SHEETS:
                row |= {"sheet": _sheet_name(section, number // _PER_SHEET), "number": number + 1}
    for (a, b), answer in labels.items():  # answers to what is shown no more are kept
        empty = dict.fromkeys(LABEL_COLUMNS, "")
        found.setdefault((a, b), {**empty, "a": a, "b": b, "same": answer})
    return list(found.values())


def shares(shown: Sequence[Section], labels: Labels) -> list[dict[str, Any]]:
    """For each section how many pairs are shown and what was said of them, as `labels.share_same`."""
    found = []
    for section in shown:
        pairs = section.pairs[["a", "b"]].itertuples(index=False, name=None)
        answers = (labels[pair] for pair in pairs if pair in labels)
        found.append({"what": section.title, "shown": len(section.pairs), **share_same(answers)})
    return found


def sheets(shown: Sequence[Section], run: Run) -> dict[str, Image.Image]:
    """The contact sheets by file name."""
    ids = {i for s in shown for side in "ab" for i in s.pairs[side].head(_PER_SHEET * _SHEETS)}
    pictures = _read_pictures(run, ids)
    made = {}
    for section in shown:
        for page in range(_SHEETS):
            part = section.pairs.iloc[page * _PER_SHEET : (page + 1) * _PER_SHEET]
            if not len(part):
                continue
            panels = [
                Panel((pictures[pair.a], pictures[pair.b]), f"{number}: {pair.strength:.4g}\n{pair.a}\n{pair.b}")
                for number, pair in enumerate(part.itertuples(), page * _PER_SHEET + 1)
            ]
            made[_sheet_name(section, page)] = pair_sheet(panels, side=_SIDE, title=section.title)
    return made


def _sheet_name(section: Section, page: int) -> str:
    return f"{section.name}-{page + 1:02d}.png"


def _read_pictures(run: Run, ids: set[str]) -> dict[str, Image.Image]:
    pictures = {}
    shards = {shard.shard_id: shard for shard in run.shards}
    for shard_id, part in split_by_shard(pa.table({"sample_id": sorted(ids)}), run.shards).items():
        table = run.folder.read_table(descriptors_name(shard_id), ["sample_id", "offset", "size"])
        table = table.filter(pc.is_in(table["sample_id"], value_set=part["sample_id"].combine_chunks()))
        for row in table.to_pylist():
            data = read_range(shards[shard_id].url, row["offset"], row["size"])
            pictures[row["sample_id"]] = decode(data, 2 * _SIDE, run.settings.describe.max_pixels).rgb
    return pictures


def ask(
    asked: Sequence[Mapping[str, Any]],
    path: Callable[[str], str],
    answered: Callable[[Pair, str], None],
    read: Callable[[str], str] = input,
) -> None:
    """Ask on the terminal about every row that has no answer, until all have one, `q` is typed or the input ends.

    `path` gives where a sheet lies, `answered` takes each answer as it comes.
    """
    waiting = [row for row in asked if not row["same"] and row["sheet"]]
    print(f"{len(waiting)} pairs to look at. Is it the same picture, retouched in any way? y, n, u (unsure), q (stop)")
    for place, row in enumerate(waiting, 1):
        where = f"[{place}/{len(waiting)}] {path(row['sheet'])}, number {row['number']} ({row['a']} | {row['b']}): "
        while True:
            try:
                word = read(where).strip().lower()
            except EOFError:
                return
            if word in ("q", "quit"):
                return
            if (answer := _SHORT.get(word, word)) in ANSWERS:
                answered((row["a"], row["b"]), answer)
                break
