"""What the fit for small images is given: labelled pairs, planted copies and other pictures, of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedup import pair_features, verification_model
from pipelines import fit_small
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.run_state import Run
from pipelines.settings import RunSettings

LABELLED = {("00000/a0", "00001/b1"): "yes", ("00000/a1", "00000/a2"): "no", ("00000/a3", "00000/a4"): "unsure"}


def test_examples_come_from_the_pictures_of_a_run(
    shards: Path, out: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    deduplicate([str(shards)], str(out), RunSettings(), cluster)
    monkeypatch.setattr(fit_small, "given_labels", lambda: LABELLED)
    monkeypatch.setattr(fit_small, "PLANTED", 3)
    labelled, planted, different = fit_small.small_examples(Run.reopen(str(out)), np.random.default_rng(0))
    assert labelled.copies.tolist() == [True, False]  # nobody could tell the third
    assert planted.copies.tolist() == [True] * 3
    assert different.copies.tolist() == [False] * 3
    for examples in (labelled, planted, different):
        assert examples.features.shape == (len(examples.copies), len(pair_features.SMALL_FEATURES))
    said = verification_model.MODELS["small"](labelled.features)
    assert said[0] > 0.9 > 0.1 > said[1]


def test_what_is_alike_around_a_sample_is_read_from_the_run(shards: Path, out: Path, cluster: ClusterSettings) -> None:
    deduplicate([str(shards)], str(out), RunSettings(), cluster)
    run = Run.reopen(str(out))
    found = fit_small._alike(run)
    assert found
    assert set(found) <= set(fit_small._decoded(run))
    assert all(0 <= alike <= 1 for alike in found.values())
