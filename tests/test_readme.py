"""The Python examples of the README, run one after the other as they stand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.settings import RunSettings
from tests.shard_makers import encode, jpeg, picture, sample_members, write_tar

README = Path(__file__).parents[1] / "README.md"

pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
]


def test_the_examples_run(tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    copy = encode(picture(0), quality=60)
    images = {"00000": [jpeg(0), copy], "00001": [jpeg(1), jpeg(2)], "00002": [b"broken", jpeg(3)]}
    for name, (first, second) in images.items():
        members = [*sample_members(f"{name[1:]}00011", first), *sample_members(f"{name[1:]}00012", second)]
        write_tar(tmp_path / "shards" / f"{name}.tar", members)
    deduplicate(["shards"], str(tmp_path / "runs" / "mine"), RunSettings(), cluster)

    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    found: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), found)

    assert sorted(found["kept"]["sample_id"].to_pylist()) == [
        "00000/000000011", "00001/000100011", "00001/000100012", "00002/000200012",
    ]  # fmt: skip
    assert found["mask"].tolist() == [False]
    assert len(list(found["data"])) == len(list(found["stream"])) == 5  # what failed passes, too
    assert [row["__key__"] for row in found["rows"]] == ["000000011", "000100011", "000100012", "000200012"]
    assert len(found["subset"]) == 0
    assert found["manifest"].equals(found["read_manifest"]("runs/mine").combine_chunks())
    assert found["groups"]["keeper"].to_pylist() == [None, "00000/000000011"]
