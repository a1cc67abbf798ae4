"""The command line as a user meets it: what it prints, where it writes, how it fails."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from dedup.describe import DescribeSettings
from dedup.manifest import read_manifest
from dedup.verify import VerifySettings
from pipelines import cli, summary
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.settings import RunSettings


def dedup(*arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `dedup arguments...`."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    code = 0
    try:
        cli.main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_run_prints_the_summary_and_where_the_manifest_is(
    shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["run", str(shards), "--out", str(tmp_path / "run"), "--embedder", "none", "--scheduler"]
    code, out, err = dedup(*arguments, str(cluster.scheduler), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, err
    assert re.search(r"^input +16 +in 3 shards$", out, re.M)
    assert re.search(r"^kept +10$", out, re.M)
    assert re.search(r"^removed +4 +2 exact, 2 verified$", out, re.M)
    assert re.search(r"^failed +2$", out, re.M)
    assert "images/s described" in out
    assert "largest groups: 4 x 00000/a0, 2 x 00002/c0" in out
    assert out.rstrip().endswith(f"manifest {tmp_path / 'run' / 'manifest'}")
    assert "describe: 100%" in err
    assert len(read_manifest(str(tmp_path / "run"))) == 16


def test_a_toml_file_holds_any_option_and_the_command_line_wins(
    shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    config = tmp_path / "mine.toml"
    config.write_text(
        f'shards = ["{shards}"]\nout = "{tmp_path / "of-file"}"\nembedder = "none"\nkeep = "first"\n'
        f'scheduler = "{cluster.scheduler}"\nhashes = ["phash"]\n'
    )
    code, _, err = dedup("run", "--config", str(config), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, err
    first = {row["sample_id"]: row["status"] for row in read_manifest(str(tmp_path / "of-file")).to_pylist()}
    assert (first["00000/a1"], first["00002/c0"]) == ("kept", "removed")
    out = str(tmp_path / "of-flag")
    code, _, err = dedup(
        "run", "--config", str(config), "--keep", "largest", "--out", out, monkeypatch=monkeypatch, capsys=capsys
    )
    assert code == 0, err
    largest = {row["sample_id"]: row["status"] for row in read_manifest(out).to_pylist()}
    assert (largest["00000/a1"], largest["00002/c0"]) == ("removed", "kept")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "no shards given"),
        (["run", "nowhere/*.tar"], "nowhere"),
        (["run", "x.tar.gz"], r"x\.tar\.gz"),
        (["run", "x.tar", "--keep", "best"], "unknown keep policy 'best'"),
        (["run", "x.tar", "--grouping", "ring"], "grouping=ring"),
        (["run", "x.tar", "--min-cosine", "2"], "min_cosine"),
        (["run", "x.tar", "--workers", "0"], "workers=0"),
        (["run", "x.tar", "--hashes", "dhash"], "hash=phash is searched but not stored"),
        (["run", "x.tar", "--strictness", "lax"], "strictness 'lax'"),
        (["run", "x.tar", "--mincosine", "0.9"], "Unknown option"),
        (["calibrate"], "no shards given"),
        (["calibrate", "nowhere/*.tar"], "nowhere"),
        (["calibrate", "x.tar", "--copies", "0"], "copies=0"),
        (["calibrate", "x.tar", "--transforms", "melt", "--copies", "1"], "unknown transforms melt"),
        (["calibrate", "x.tar", "--target-precision", "99"], "target_precision=99"),
        (["run", "x.tar", "--config", "nowhere.toml"], r"nowhere\.toml"),
        (["decide", "nowhere"], "no run folder"),
        (["clean", "nowhere", "--out", "out"], "no run folder"),
        (["clean", "nowhere", "--out", "out", "--shard-size", "0"], "shard_size=0"),
        (["decied", "nowhere"], "decied"),
    ],
)
def test_errors_say_what_and_where_without_a_traceback(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = dedup(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert re.search(message, re.sub(r"[│\s]+", " ", err + out))
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_an_embedder_without_weights_names_the_ways_out(
    shards: Path, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    arguments = ["run", str(shards), "--out", str(tmp_path / "run"), "--embedder", "sscd:/nowhere/sscd.pt"]
    code, _, err = dedup(*arguments, "--scheduler", str(cluster.scheduler), monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert "/nowhere/sscd.pt" in err
    assert "efficientnet_lite0" in err
    assert "Traceback" not in err


def test_ctrl_c_ends_with_a_word_about_resuming(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "deduplicate", interrupted)
    code, _, err = dedup("run", "x.tar", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 130
    assert "the same command goes on from there" in err


def test_the_default_folder_is_the_same_at_every_rerun() -> None:
    first = cli.default_out(("s3://bucket/laion/{00000..41455}.tar",))
    assert first == cli.default_out(("s3://bucket/laion/{00000..41455}.tar",))
    assert re.fullmatch(r"runs/bucket-laion-00000-41455-[0-9a-f]{6}", first)
    assert len({cli.default_out((pattern,)) for pattern in ("a/b.tar", "a-b.tar", "a_b.tar")}) == 3


def test_help_lists_every_option_with_its_meaning(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = dedup("run", "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    for option in ("--out", "--embedder", "--min-cosine", "--keep", "--scheduler", "--workers", "--config", "--root"):
        [line] = [line for line in out.splitlines() if re.search(rf"(?<![\w-]){option}(?![\w-])", line)]
        assert len(line.split(option, 1)[1].strip(" │")) > 10


def test_the_sample_finds_its_planted_copies_and_no_others(
    tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "sample")
    arguments = ["sample", "--out", out, "--scheduler", str(cluster.scheduler)]
    code, printed, err = dedup(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0, err
    found = re.search(r"(\d+) of (\d+) planted copies found .* (\d+) of 45 originals removed", printed)
    assert found is not None
    copies, planted, wrong = map(int, found.groups())
    assert planted == 135
    assert copies >= 0.85 * planted
    assert wrong == 0
    assert "efficientnet_lite0" in printed
    recall = re.search(r"^recall +([\d.]+)% of the neighbours .* exact search for \d+ images", printed, re.M)
    assert recall is not None
    assert float(recall[1]) >= 99
    assert re.search(r"^accepts +pairs of a probability of at least 0\.\d+ \(copies: ", printed, re.M)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"min_probability": 0.75}, "of at least 0.75 (set by you)"),
        ({"min_probability": 0.75, "calibrated_on": "ten pictures, 2026-01-02"}, "0.75 (ten pictures, 2026-01-02)"),
        ({"verify": False}, "hashes within 2 bits; nothing is verified"),
        ({"strictness": "exact"}, "accepts  identical files only (exact)"),
    ],
)
def test_the_summary_says_what_is_accepted_and_on_what_data_that_was_measured(
    settings: dict[str, Any], line: str, shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    asked = RunSettings(DescribeSettings(embedder="none"), verify=VerifySettings(**settings))
    assert line in summary.text(deduplicate([str(shards)], str(tmp_path / "run"), asked, cluster))
