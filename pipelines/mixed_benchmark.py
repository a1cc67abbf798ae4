"""Photographs with planted copies among many small pictures: are the copies found, and does anything join the two?

Both lie in one folder and are cleaned by one `dedup run`. Whatever the run accepts between a photograph and one of the
small pictures is false, and so is a pair of two different photographs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dedup.errors import ConfigError
from dedup.intervals import expected_count, wilson
from dedup.manifest import read_manifest
from dedup.planting import TRUTH_SCHEMA, Score, plant, score
from dedup.run_folder import RunFolder
from dedup.shards import list_shards
from pipelines.measured_run import dedup_run
from pipelines.multiplied import samples
from pipelines.sample import write_planted

PHOTOGRAPHS, SMALL = "photographs", "small"  # the folders of both sets
_SHARDS = 4


@dataclass(frozen=True)
class Outcome:
    """`score` of the planted copies; `joined`: accepted pairs of a photograph with a small picture, of `pairs` that
    there are; `seconds` of the run's steps."""

    score: Score
    joined: int
    pairs: int
    seconds: dict[str, float]


def measure(photos: str, small: str, folder: Path, copies: int, seed: int, arguments: tuple[str, ...] = ()) -> Outcome:
    """Plant `copies` copies of each photograph, and run with `arguments` on these and the shards `small` in `folder`.

    Raises ConfigError where the small pictures' shards are not on this machine.
    """
    shards = folder / "shards"
    truth = write_planted(plant(samples(photos), copies=copies, seed=seed), shards / PHOTOGRAPHS, _SHARDS, seed)
    beside = shards / SMALL
    beside.mkdir()
    for shard in list_shards([small])[1]:
        if not Path(shard.url).is_file():
            raise ConfigError(f"{shard.url}: shards of small pictures are linked to, so they must be files here")
        (beside / Path(shard.url).name).symlink_to(Path(shard.url).resolve())
    measured = dedup_run(str(shards / "*" / "*.tar"), folder / "run", *arguments)
    names = [pc.binary_join_element_wise(PHOTOGRAPHS, truth[name], "/") for name in ("sample_id", "original")]
    manifest = read_manifest(str(folder / "run"), ["sample_id", "cluster", "keeper", "method", "score"])
    photographs = manifest.filter(_is_photograph(manifest["sample_id"]))
    # What stands for a photograph is none in pairs that `joined` counts.
    keeper = pc.if_else(_is_photograph(photographs["keeper"]), photographs["keeper"], None)
    scored = photographs.set_column(photographs.column_names.index("keeper"), "keeper", keeper)
    return Outcome(
        score(scored, pa.table([*names, truth["transform"]], schema=TRUTH_SCHEMA)),
        _joined(RunFolder(str(folder / "run"))),
        len(photographs) * (len(manifest) - len(photographs)),
        measured.step_seconds,
    )


def _is_photograph(sample_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.starts_with(sample_ids, f"{PHOTOGRAPHS}/")


def _joined(run: RunFolder) -> int:
    """Accepted pairs with one end in each set."""
    joined = 0
    for name in run.names("pairs"):
        pairs = run.read_table(name, ["a", "b"], pc.field("accepted"))
        joined += int(pc.sum(pc.xor(*(_is_photograph(pairs[side]) for side in ("a", "b")))).as_py() or 0)
    return joined


def report(photos: str, small: str, copies: int, seed: int) -> Iterator[str]:
    """The lines of the report."""
    with tempfile.TemporaryDirectory() as folder:
        outcome = measure(photos, small, Path(folder), copies, seed)
    total = outcome.score.by_transform.set_index("transform").loc["all"]
    low, high = wilson(int(total.found), int(total.copies))
    found = f"{int(total.found):,} of {int(total.copies):,} copies in the group of their original"
    yield f"{found}: {total.found / total.copies:.1%} ({low:.1%} to {high:.1%})"
    yield f"{outcome.score.wrong_originals} of {outcome.score.originals:,} photographs removed for another picture"
    bound = expected_count([1.0] * outcome.joined)[1] / outcome.pairs
    yield (
        f"{outcome.joined} of {outcome.pairs:,} pairs of a photograph with a small picture accepted; at most "
        f"{bound:.2g} of such pairs are (95 %)"
    )
    yield ", ".join(f"{step} {seconds:.1f} s" for step, seconds in outcome.seconds.items())
