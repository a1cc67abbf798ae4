"""Fits the coefficients of verification for small images and writes them into dedup/verification_model.py.

    python -m pipelines.fit_small RUN

RUN: the folder of a run over CIFAR-10, of which pairs were judged by eye: verification_labels.csv holds them with
`same` yes, no or unsure. Most were drawn from where an earlier fit was undecided, so they are harder than what a run
meets. Unsure ones, most of them shots of a scene moments apart, are not fitted.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc
from PIL import Image

from dedup import images, pair_features, verification_model
from dedup.errors import ConfigError
from dedup.labels import Pair, read_labels
from dedup.small_evidence import compare_small, small_view, the_other_way
from dedup.thumbnails import COARSE_SIDE, FEW_WINDOWS, likeness
from pipelines.describing import descriptors_name
from pipelines.explain import read_pictures
from pipelines.fit_verification import Examples, fit, random_copy, report, write
from pipelines.run_state import Run
from pipelines.searching import crowding_name

logger = logging.getLogger(__name__)
app = cyclopts.App(help=__doc__)

UInt8Array = npt.NDArray[np.uint8]

LABELS = Path(__file__).with_name("verification_labels.csv")
# Puts the operating point, which is the same probability for all sizes of image, where about half of the pairs just
# below it are one photograph (`python -m pipelines.benchmark edges` shows them).
COPY_WEIGHT = 3.5
PLANTED = 400


def given_labels(path: Path = LABELS) -> dict[Pair, str]:
    """`labels.read_labels` of a file. Raises ConfigError where there is none, too."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; labels are a CSV with the columns a, b and same")
    return read_labels(path.read_text(encoding="utf-8"), str(path))


def small_examples(run: Run, rng: np.random.Generator) -> Iterator[Examples]:
    """The labelled pairs; as many planted copies, and random pairs of different images."""
    labels = {pair: same == "yes" for pair, same in given_labels().items() if same != "unsure"}
    needed = {name for pair in labels for name in pair}
    plain = list(itertools.islice((name for name in _decoded(run) if name not in needed), 2 * PLANTED))
    pictures = {name: np.asarray(each) for name, each in read_pictures(run, {*needed, *plain}).items()}
    alike = _alike(run)
    yield _examples("labelled", pictures, alike, [(a, b, same) for (a, b), same in labels.items()])
    first, second = plain[:PLANTED], plain[PLANTED:]
    for name in first:  # a copy lies where its picture does
        copy = random_copy(Image.fromarray(pictures[name]), rng)
        pictures[_copy_of(name)] = np.asarray(images.decode(copy, 0).rgb)
        alike[_copy_of(name)] = alike.get(name, 0.0)
    yield _examples("planted", pictures, alike, [(name, _copy_of(name), True) for name in first])
    yield _examples("different", pictures, alike, [(a, b, False) for a, b in zip(first, second, strict=True)])


def _copy_of(name: str) -> str:
    return f"{name} copied"


def _decoded(run: Run) -> Iterator[str]:
    for shard in run.shards:
        rows = run.folder.read_table(descriptors_name(shard.shard_id), ["sample_id"], pc.field("error").is_null())
        yield from rows["sample_id"].to_pylist()


def _alike(run: Run) -> dict[str, float]:
    """How alike thumbnails are around samples, as the run's search saw it; those that are not there lie in no crowd."""
    found: dict[str, float] = {}
    for shard in run.shards:
        if run.folder.exists(crowding_name(shard.shard_id)):
            rows = run.folder.read_table(crowding_name(shard.shard_id), ["sample_id", "alike"])
            found.update(zip(rows["sample_id"].to_pylist(), rows["alike"].to_pylist(), strict=True))
    return found


def _examples(
    name: str, pictures: dict[str, UInt8Array], alike: dict[str, float], pairs: list[tuple[str, str, bool]]
) -> Examples:
    features = []
    for a, b, _ in pairs:
        thumbnails = np.stack([images.thumbnail(Image.fromarray(pictures[each])) for each in (a, b)])
        found = likeness(thumbnails, np.array([0]), np.array([1]), FEW_WINDOWS, COARSE_SIDE)
        views = small_view(pictures[a]), small_view(pictures[b])
        evidence = compare_small(*views, found.map[0])
        other_way = the_other_way(*views, found.map[0], evidence)
        around = max(alike.get(a, 0.0), alike.get(b, 0.0))
        features.append(pair_features.small_features(evidence, other_way, around))
    return Examples(name, np.stack(features), np.array([same for _, _, same in pairs]))


@app.default
def main(run: str, *, seed: int = 1, dry: bool = False) -> None:
    """Fit, report, and write the coefficients.

    Parameters
    ----------
    run
        Folder of a run over CIFAR-10.
    seed
        Of the planted copies.
    dry
        Report only.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sets = list(small_examples(Run.reopen(run), np.random.default_rng(seed)))
    model = fit(sets, tuple(-1 if name == "alike" else 1 for name in pair_features.SMALL_FEATURES), COPY_WEIGHT)
    logger.info(report("small", model, sets, verification_model.OPERATING_POINTS["copies"].min_probability))
    if not dry:
        write({"small": model})


if __name__ == "__main__":
    app()
