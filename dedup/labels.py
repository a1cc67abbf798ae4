"""What a person says of pairs of pictures: yes, the same picture; no; or unsure. Kept as a CSV that anyone can edit.

The file has a header, one pair a line, and at least the columns a, b (sample_ids) and same; an empty `same` is a pair
that nobody looked at yet.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from dedup.errors import ConfigError
from dedup.intervals import wilson

Pair = tuple[str, str]  # sample_ids, the smaller first
Labels = Mapping[Pair, str]

ANSWERS = ("yes", "no", "unsure")
COLUMNS = ("a", "b", "same")


def read_labels(text: str, name: str, known: Collection[Pair] | None = None) -> dict[Pair, str]:
    """The labels that were given, by pair; pairs without one are left out. `name` is the file, for messages.

    Raises ConfigError, with the line, for a file without the three columns, an answer that is none of ANSWERS or
    of no pair, a pair that has two different ones, and, where `known` is given, a labelled pair that is not among them.
    """
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    if missing := [column for column in COLUMNS if column not in (reader.fieldnames or ())]:
        raise ConfigError(f"{name} has no column {', '.join(missing)}: its first line must name {', '.join(COLUMNS)}")
    labels: dict[Pair, str] = {}
    try:
        for row in reader:
            answer = (row["same"] or "").strip().lower()
            if not answer:
                continue
            first, second = sorted((row["a"] or "", row["b"] or ""))
            _check(answer, (first, second), f"{name}, line {reader.line_num}", labels, known)
            labels[first, second] = answer
    except csv.Error as error:
        raise ConfigError(f"{name}, after line {reader.line_num}: no CSV ({error})") from error
    return labels


def _check(answer: str, pair: Pair, where: str, labels: Labels, known: Collection[Pair] | None) -> None:
    if answer not in ANSWERS:
        raise ConfigError(f"{where}: same={answer!r}, which is none of {', '.join(ANSWERS)}")
    if not all(pair):
        raise ConfigError(f"{where}: a label needs two samples, a and b")
    if labels.get(pair, answer) != answer:
        raise ConfigError(f"{where}: {pair[0]} and {pair[1]} were {labels[pair]} before, now {answer}: leave one")
    if known is not None and pair not in known:
        raise ConfigError(f"{where}: {pair[0]} and {pair[1]} are no pair that was shown; labels.csv lists those")


def write_labels(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """The CSV of these rows."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def share_same(answers: Iterable[str]) -> dict[str, Any]:
    """Of labelled pairs: how many are the same picture (`yes`), are not (`no`) and could not be told (`unsure`); the
    `share` of yes among yes and no (None for none of both), with its 95 % Wilson interval `low` to `high`."""
    given = list(answers)
    counts = {answer: given.count(answer) for answer in ANSWERS}
    told = counts["yes"] + counts["no"]
    low, high = wilson(counts["yes"], told)
    return {**counts, "share": counts["yes"] / told if told else None, "low": low, "high": high}
