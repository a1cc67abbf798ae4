"""What the fit for small images is given: labelled pairs, planted copies and other pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dedup import pair_features, verification_model
from pipelines import fit_small
from tests.shard_makers import encode, sample_members, write_tar
from tests.verification import photograph

LABELLED = {("0/coffee", "0/copy"): "yes", ("0/chelsea", "0/coffee"): "no", ("0/astronaut", "0/chelsea"): "unsure"}


def test_examples_come_from_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("astronaut", "chelsea", "coffee", "rocket", "china", "flower", "coins")
    pictures = {name: photograph(name).resize((48, 48)) for name in names}
    members = [sample_members(name, encode(image)) for name, image in pictures.items()]
    members.append(sample_members("copy", encode(pictures["coffee"], quality=60)))
    write_tar(tmp_path / "0.tar", [member for sample in members for member in sample])
    monkeypatch.setattr(fit_small, "given_labels", lambda: LABELLED)
    monkeypatch.setattr(fit_small, "PLANTED", 2)
    labelled, planted, different = fit_small.small_examples(str(tmp_path), np.random.default_rng(0))
    assert labelled.copies.tolist() == [True, False]  # nobody could tell the third
    assert planted.copies.tolist() == [True] * 2
    assert different.copies.tolist() == [False] * 2
    for examples in (labelled, planted, different):
        assert examples.features.shape == (len(examples.copies), len(pair_features.SMALL_FEATURES))
    said = verification_model.MODELS["small"](labelled.features)
    assert said[0] > 0.9 > 0.1 > said[1]
