"""Fits the coefficients of verification for small images and writes them into dedup/verification_model.py.

    python -m pipelines.fit_small SHARDS

SHARDS: those of CIFAR-10, of which pairs were judged by eye: verification_labels.csv holds them with `same` yes, no or
unsure. Most were drawn from where an earlier fit was undecided, so they are harder than what a run meets. Unsure ones,
most of them shots of a scene moments apart, are not fitted. 442 pairs were judged after the last fit, and
pairs are laid onto each other better since, so that another one gives somewhat other coefficients.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import cyclopts
import numpy as np

from dedup import images, pair_features, verification_model
from dedup.errors import ConfigError
from dedup.labels import Pair, read_labels
from dedup.small_evidence import compare_small, small_view
from dedup.verify import settle
from pipelines.fit_verification import Examples, fit, random_copy, read, report, write

logger = logging.getLogger(__name__)
app = cyclopts.App(help=__doc__)

LABELS = Path(__file__).with_name("verification_labels.csv")
# Puts the operating point, which is the same probability for all sizes of image, where some five of six pairs just
# above it are one photograph (`python -m pipelines.benchmark edges` shows them).
COPY_WEIGHT = 2.45
PLANTED = 400


def given_labels(path: Path = LABELS) -> dict[Pair, str]:
    """`labels.read_labels` of a file. Raises ConfigError where there is none, too."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; labels are a CSV with the columns a, b and same")
    return read_labels(path.read_text(encoding="utf-8"), str(path))


def small_examples(shards: str, rng: np.random.Generator) -> Iterator[Examples]:
    """The labelled pairs; as many planted copies, and random pairs of different images."""
    labels = {pair: same == "yes" for pair, same in given_labels().items() if same != "unsure"}
    needed = {name for pair in labels for name in pair}
    held: dict[str, bytes] = {}
    plain: list[bytes] = []
    for name, data in read(shards):
        if name in needed:
            held[name] = data
        elif len(plain) < 2 * PLANTED:
            plain.append(data)
    yield _examples("labelled", ((held[a], held[b], same) for (a, b), same in labels.items()))
    first, second = plain[:PLANTED], plain[PLANTED:]
    copies = ((data, random_copy(images.decode(data, 0).rgb, rng), True) for data in first)
    yield _examples("planted", copies)
    yield _examples("different", ((a, b, False) for a, b in zip(first, second, strict=True)))


def _examples(name: str, pairs: Iterable[tuple[bytes, bytes, bool]]) -> Examples:
    features, copies = [], []
    for first, second, same in pairs:
        a, b = (images.decode(data, 0).rgb for data in (first, second))
        thumbnails = np.stack([images.thumbnail(a), images.thumbnail(b)])
        sides, telling = np.array([max(a.size), max(b.size)], np.float64), np.full(2, np.inf)
        found = settle(thumbnails, telling, sides, np.array([0]), np.array([1]), np.zeros(1, bool))
        other = 255 - np.asarray(b) if found.inverted[0] else np.asarray(b)
        evidence = compare_small(small_view(np.asarray(a)), small_view(other), found.guess[0])
        features.append(pair_features.small_features(evidence))
        copies.append(same)
    return Examples(name, np.stack(features), np.array(copies))


@app.default
def main(shards: str, *, seed: int = 1, dry: bool = False) -> None:
    """Fit, report, and write the coefficients.

    Parameters
    ----------
    shards
        CIFAR-10's.
    seed
        Of the planted copies.
    dry
        Report only.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sets = list(small_examples(shards, np.random.default_rng(seed)))
    model = fit(sets, (1,) * len(pair_features.SMALL_FEATURES), COPY_WEIGHT)
    logger.info(report("small", model, sets, verification_model.OPERATING_POINTS["copies"].min_probability))
    if not dry:
        write({"small": model})


if __name__ == "__main__":
    app()
