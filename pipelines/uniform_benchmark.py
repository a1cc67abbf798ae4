"""Uniform sets, in which everything looks alike: are planted copies found, and what goes that is no copy?

Each set is cleaned by `dedup run` with copies of its pictures planted among them. A picture that goes for one of
another family (a picture and its copies) is no planted copy: it is a mistake, or the set held it twice from the start.
The contact sheets show all of these, to be looked at. Each set is cleaned a second time with its pictures reduced to
64 pixels, of which less can be seen. Then half of it is cleaned with the same quotation, poster or badge over all of
it, without copies: whatever goes, goes for another picture.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from PIL import Image

from dedup.contact_sheet import Panel, pair_sheet
from dedup.errors import ImageError
from dedup.images import decode
from dedup.intervals import wilson
from dedup.manifest import read_manifest
from dedup.planting import Score, plant, score
from dedup.records import Member, Sample
from dedup.run_folder import RunFolder
from dedup.small_evidence import SMALL_SIDE
from pipelines.explain import read_pictures
from pipelines.lookalikes import LOOKALIKES
from pipelines.measured_run import dedup_run
from pipelines.run_state import Run
from pipelines.sample import write_planted
from pipelines.unseen_benchmark import removed
from pipelines.unseen_transforms import SHARED

logger = logging.getLogger(__name__)

DRAWN = ("xrays", "products")  # the drawn sets with texture and noise
_SHARDS = 4
_SHOWN = 60  # pairs on a sheet
_LAYOUT_STEP = 2  # each second picture is enough to tell


@dataclass(frozen=True)
class Outcome:
    """What a run made of one set. `proposed`: planted copies that became a candidate with their original; `direct`:
    those whose pair with it was accepted, though they may stand in the group of another picture; `seconds`: of the
    run's steps."""

    score: Score
    proposed: int
    direct: int
    seconds: dict[str, float]

    def row(self, name: str) -> dict[str, object]:
        """One line of the table: shares with their 95 % Wilson intervals."""
        total = self.score.by_transform.set_index("transform").loc["all"]
        return {
            "set": name,
            "pictures": self.score.originals,
            "removed for another picture": _share(self.score.wrong_originals, self.score.originals),
            "copies": int(total.copies),
            "proposed": _share(self.proposed, int(total.copies)),
            "accepted with their original": _share(self.direct, int(total.copies)),
            "found": _share(int(total.found), int(total.copies)),
            **{step: f"{seconds:.1f} s" for step, seconds in self.seconds.items()},
        }


def _share(hits: int, of: int) -> str:
    low, high = wilson(hits, of)
    return f"{hits} = {hits / of:.1%} ({low:.1%} to {high:.1%})"


def drawn(name: str, count: int, seed: int) -> Iterator[Sample]:
    """The pictures of a drawn set (of `pipelines.lookalikes`) as PNG."""
    for number, picture in enumerate(LOOKALIKES[name](count, np.random.default_rng(seed))):
        yield _as_png(f"{name}{number:05d}", picture)


def reduced(originals: Iterable[Sample]) -> Iterator[Sample]:
    """The same pictures, of SMALL_SIDE pixels at most, as PNG."""
    for sample in originals:
        if sample.image is None:
            continue
        try:
            picture = decode(sample.image.data, 0).rgb.copy()
        except ImageError as error:
            logger.warning("%s is left out: %s", sample.key, error)
        else:
            picture.thumbnail((SMALL_SIDE, SMALL_SIDE))
            yield _as_png(sample.key, picture)


def _as_png(key: str, picture: Image.Image) -> Sample:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return Sample(key, Member(f"{key}.png", "png", 0, buffer.getvalue()), None, None)


def measure(
    originals: Iterable[Sample], folder: Path, copies: int, seed: int, arguments: tuple[str, ...] = ()
) -> Outcome:
    """Plant `copies` copies of each picture and run `dedup run` with `arguments`; the run lies in folder/run."""
    truth = write_planted(plant(originals, copies=copies, seed=seed), folder / "shards", _SHARDS, seed)
    run = folder / "run"
    seconds = dedup_run(str(folder / "shards"), run, *arguments).step_seconds
    return Outcome(score(read_manifest(str(run)), truth), *_judged(RunFolder(str(run)), truth), seconds)


def _judged(run: RunFolder, truth: pa.Table) -> tuple[int, int]:
    """Of how many copies the pair with their original was judged, and of how many it was accepted."""
    wanted = {
        (min(copy, original), max(copy, original))
        for copy, original in zip(truth["sample_id"].to_pylist(), truth["original"].to_pylist(), strict=True)
    }
    judged: set[tuple[str, str]] = set()
    accepted: set[tuple[str, str]] = set()
    for name in run.names("pairs"):
        pairs = run.read_table(name, ["a", "b", "accepted"])
        for found, rows in ((judged, pairs), (accepted, pairs.filter(pairs["accepted"]))):
            found |= wanted.intersection(zip(rows["a"].to_pylist(), rows["b"].to_pylist(), strict=True))
    return len(judged), len(accepted)


def write_sheet(folder: Path, outcome: Outcome, path: Path, title: str) -> bool:
    """The pictures that went for one of another family beside it, the least sure first; whether there are any."""
    wrong = outcome.score.wrong.sort_values(["score", "sample_id"])[:_SHOWN]
    if not len(wrong):
        return False
    pictures = read_pictures(Run.reopen(str(folder / "run")), {*wrong["sample_id"], *wrong["keeper"]})
    panels = [
        Panel((pictures[row.sample_id], pictures[row.keeper]), f"{row.score:.3f}\n{row.sample_id}\n{row.keeper}")
        for row in wrong.itertuples()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pair_sheet(panels, columns=4, side=112, title=title).save(path, quality=80)
    return True


def report(
    sets: Mapping[str, Iterable[Sample]],
    copies: int,
    seed: int,
    sheets: Path,
    arguments: tuple[str, ...] = (),
    otherwise: bool = True,
) -> Iterator[str]:
    """The lines of the report; the contact sheets go into `sheets`, as NAME.jpg. With `otherwise` each set is cleaned
    reduced and in layouts, too. Holds one set."""
    rows = []
    for name, pictures in sets.items():
        originals = list(pictures)
        measured = {name: originals} | ({f"{name}_{SMALL_SIDE}": list(reduced(originals))} if otherwise else {})
        for title, samples in measured.items():
            with tempfile.TemporaryDirectory() as folder:
                outcome = measure(samples, Path(folder), copies, seed, arguments)
                path = sheets / f"{title}.jpg"
                count = len(outcome.score.wrong)
                shown = write_sheet(Path(folder), outcome, path, f"{title}: {count} removed for another picture")
            rows.append(outcome.row(title))
            yield f"{title}: {count} removed for another picture{f', shown in {path}' if shown else ''}"
        for layout in SHARED if otherwise else ():
            yield _in_layout(name, originals[::_LAYOUT_STEP], layout, seed, arguments)
    yield pd.DataFrame(rows).to_string(index=False)


def _in_layout(name: str, originals: list[Sample], layout: str, seed: int, arguments: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory() as folder:
        wrong, total = removed(originals, layout, Path(folder), seed, arguments)
    return f"{name}, all with {layout} over them: {_share(wrong, total)} removed"
