"""The benchmarks measure what they say: checked on sets small enough to count by hand."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dedup.errors import ConfigError
from dedup.images import decode
from dedup.neighbors import SearchSettings, brute_force_pairs
from dedup.planting import TRUTH_SCHEMA
from dedup.shards import ShardReader, list_shards, write_shard
from pipelines import benchmark, comparison, multiplied, peers, search_benchmark
from pipelines.comparison import Planting, make_planting
from pipelines.measured_run import dedup_run
from pipelines.sample import photographs


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    samples = [sample for sample in photographs() if sample.image is not None][:12]
    for shard in range(2):
        part = [sample for sample in samples[shard::2] if sample.image is not None]
        members = [(f"{sample.key}.jpg", sample.image.data) for sample in part if sample.image is not None]
        write_shard(str(folder / f"{shard}.tar"), members)
    return folder


class TestMultiply:
    def test_no_bytes_repeat_and_the_files_are_what_the_shards_hold(self, photos: Path, tmp_path: Path) -> None:
        assert multiplied.multiply(str(photos), tmp_path, 3) == 36
        files = {path.stem: path.read_bytes() for path in (tmp_path / "files").iterdir()}
        assert len(files) == len(set(files.values())) == 36
        assert {s.key: s.image.data for s in multiplied.samples(str(tmp_path / "shards")) if s.image} == files

    def test_the_copies_are_as_large_as_the_pictures(self, photos: Path, tmp_path: Path) -> None:
        multiplied.multiply(str(photos), tmp_path, 2)
        before = sum(len(s.image.data) for s in multiplied.samples(str(photos)) if s.image)
        after = sum(path.stat().st_size for path in (tmp_path / "files").iterdir()) / 2
        assert after == pytest.approx(before, rel=0.1)

    def test_what_is_there_is_used_again_unless_the_wish_changed(self, photos: Path, tmp_path: Path) -> None:
        def times() -> list[int]:
            return sorted(path.stat().st_mtime_ns for path in (tmp_path / "files").iterdir())

        multiplied.multiply(str(photos), tmp_path, 1)
        before = times()
        assert multiplied.multiply(str(photos), tmp_path, 1) == 12
        assert times() == before
        assert multiplied.multiply(str(photos), tmp_path, 2) == 24
        assert len(times()) == 24


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA"])
def test_any_picture_is_brightened_into_other_bytes(mode: str) -> None:
    buffer = io.BytesIO()
    picture = Image.new(mode, (40, 30), "grey")
    picture.save(buffer, "PNG" if mode == "RGBA" else "JPEG")
    copies = [multiplied.brightened(buffer.getvalue(), by) for by in range(4)]
    assert len(set(copies)) == 4
    levels = [np.asarray(decode(copy, min_side=0).rgb).mean() for copy in copies]
    assert levels == sorted(levels)
    assert levels[3] - levels[0] == pytest.approx(3, abs=1)


def test_hash_distances_are_counted_bit_by_bit(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = benchmark.phash_distances(str(photos))
    assert len(honest) == 12
    assert max(honest) <= 4
    real = benchmark.describe_shard

    def flipped(*arguments: object) -> pa.Table:
        table = real(*arguments)  # type: ignore[arg-type]
        codes = [bytes(255 - byte for byte in code) for code in table["phash"].to_pylist()]
        return table.set_column(table.schema.get_field_index("phash"), "phash", pa.array(codes, pa.binary(8)))

    monkeypatch.setattr(benchmark, "describe_shard", flipped)
    assert benchmark.phash_distances(str(photos)) == [64 - distance for distance in honest]


class TestSearch:
    def test_planted_pairs_are_as_near_as_said(self) -> None:
        x, planted = search_benchmark.planted_vectors(600, 64, seed=1)
        assert x.shape == (600, 64)
        assert np.linalg.norm(x.astype(float), axis=1) == pytest.approx(np.ones(600), abs=2e-3)
        pairs = brute_force_pairs(x, 0.9)
        assert planted <= set(zip(pairs.i.tolist(), pairs.j.tolist(), strict=True))
        assert len(planted) == 600 // 11

    def test_one_cell_finds_what_exhaustive_search_finds_and_several_nearly_so(self) -> None:
        x, _ = search_benchmark.planted_vectors(3000, 32, seed=2)
        settings = SearchSettings(min_cosine=0.9, candidate_cosine=0.9, candidates_per_image=0, cells=1)
        exact = brute_force_pairs(x, 0.9)
        reference = set(zip(exact.i.tolist(), exact.j.tolist(), strict=True))
        assert (
            search_benchmark.pairs_in_cells(x, settings)
            == search_benchmark.pairs_exhaustively(x, settings)
            == reference
        )
        found = search_benchmark.pairs_in_cells(x, SearchSettings(min_cosine=0.9, candidates_per_image=0, cells=8))
        assert found <= reference
        assert len(found) > 0.9 * len(reference)


@pytest.fixture
def planting(tmp_path: Path) -> Planting:
    """Four samples a, a1, b, b1 as files 0 to 3; a1 and b1 are copies."""
    rows = [
        {"sample_id": "s/a1", "original": "s/a", "transform": "grey"},
        {"sample_id": "s/b1", "original": "s/b", "transform": "mirror"},
    ]
    names = {f"{number}.jpg": name for number, name in enumerate(["s/a", "s/a1", "s/b", "s/b1"])}
    return Planting(tmp_path, tmp_path, names, pa.Table.from_pylist(rows, schema=TRUTH_SCHEMA), tmp_path)


class TestComparison:
    def test_a_peers_pairs_become_groups(self, planting: Planting, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: dict[str, object] = {}

        def run(name: str, images: Path, **options: object) -> peers.Outcome:
            asked.update(options, name=name, images=images)
            return peers.Outcome(2.0, 3.0, 4, frozenset({("0.jpg", "1.jpg"), ("1.jpg", "2.jpg")}))

        monkeypatch.setattr(peers, "run", run)
        result = comparison.peer("imagededup", max_bits=7)(planting)
        assert asked == {"name": "imagededup", "images": planting.files, "max_bits": 7}
        recall = result.score.by_transform.set_index("transform")["recall"]
        assert recall.to_dict() == {"grey": 1.0, "mirror": 0.0, "all": 0.5}
        assert result.false_pairs == 1  # 1-2
        assert result.score.wrong["sample_id"].tolist() == ["s/b"]
        assert result.seconds == 2.0

    def test_a_chain_joins_a_copy_to_its_original(self, planting: Planting) -> None:
        chain = {("s/a", "s/b"), ("s/b", "s/a1")}
        result = comparison._joined(chain, planting, 1.0)
        assert result.score.by_transform.set_index("transform").loc["grey", "recall"] == 1
        assert result.false_pairs == 2

    def test_a_tool_that_finds_nothing_scores_nothing(self, planting: Planting) -> None:
        result = comparison._joined(set(), planting, 1.0)
        assert result.score.by_transform["found"].sum() == 0
        assert (result.false_pairs, len(result.score.wrong)) == (0, 0)

    def test_the_table_has_a_row_for_each_tool_and_each_transform(self, planting: Planting) -> None:
        found = comparison._joined({("s/a", "s/a1")}, planting, 1.0)
        text = comparison.table({"one": found, "two": comparison._joined(set(), planting, 5.0)}, 4)
        assert "| one | 50.0% (9.5%-90.5%) | 0 | 0 | 1 |" in text
        assert "| two | 0.0% (0.0%-65.8%) | 0 | 0 | 5 |" in text
        assert "| transform | copies | one | two |" in text
        assert "| grey | 1 | 100% | 0% |" in text
        assert "| mirror | 1 | 0% | 0% |" in text

    def test_near_hashes_are_all_pairs_within_the_distance(self) -> None:
        bits = np.random.default_rng(0).integers(0, 2, (40, 64)).astype(np.float32)
        bits[7] = bits[3]
        bits[9] = bits[3]
        bits[9, :5] = 1 - bits[9, :5]
        assert list(zip(*comparison._near(bits, 4), strict=True)) == [(3, 7)]
        assert list(zip(*comparison._near(bits, 5), strict=True)) == [(3, 7), (3, 9), (7, 9)]

    def test_files_and_shards_hold_the_same(self, tmp_path: Path) -> None:
        made = make_planting(list(photographs())[:3], tmp_path, copies=2, seed=0)
        in_shards = {
            f"{shard.shard_id}/{sample.key}": sample.image.data
            for shard in list_shards([str(made.shards)])[1]
            for sample in ShardReader(shard)
            if sample.image
        }
        assert {made.names[path.name]: path.read_bytes() for path in made.files.iterdir()} == in_shards
        assert len(in_shards) == 9
        everything = comparison.imagehash_alone(64)(made)
        assert everything.score.by_transform["recall"].eq(1).all()
        assert everything.false_pairs == 36 - 3 * 3  # of 9 samples in 3 families

    def test_an_unknown_tool_is_named(self) -> None:
        with pytest.raises(ConfigError, match="unknown tools visipics"):
            comparison.compare([], ["visipics"], 1, 0)


class TestPeers:
    @pytest.fixture
    def peer(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A peer that needs no installation: this very Python, and a script in `tmp_path`."""
        monkeypatch.setattr(peers, "SCRIPTS", tmp_path)
        monkeypatch.setitem(peers.PEERS, "fake", peers.Peer("fake==1", "fake.py", ("3.12",)))
        monkeypatch.setattr(peers, "environment", lambda _: Path(sys.executable))
        return tmp_path / "fake.py"

    def test_options_reach_the_script_and_each_pair_counts_once(self, peer: Path, tmp_path: Path) -> None:
        peer.write_text(
            "import json, os, sys\n"
            "options = json.load(open(sys.argv[1]))\n"
            "assert os.listdir(options['work']) == [] and options['bits'] == 3\n"
            "pairs = [['b', 'a'], ['a', 'b'], ['a', 'a'], [os.path.basename(options['images']), 'c']]\n"
            "json.dump({'seconds': 1.5, 'read': 9, 'pairs': pairs}, open(sys.argv[2], 'w'))\n"
        )
        outcome = peers.run("fake", tmp_path / "pictures", bits=3)
        assert outcome.pairs == {("a", "b"), ("c", "pictures")}
        assert (outcome.seconds, outcome.read) == (1.5, 9)
        assert outcome.total_seconds > 0

    def test_a_peer_that_fails_is_named_with_its_last_line(self, peer: Path, tmp_path: Path) -> None:
        peer.write_text("raise SystemExit('no licence')")
        with pytest.raises(ConfigError, match="fake failed with exit status 1: no licence"):
            peers.run("fake", tmp_path)

    def test_no_fitting_python_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(peers.shutil, "which", lambda _: None)
        with pytest.raises(ConfigError, match=r"no Python 2\.6 or 2\.7 is on PATH"):
            peers.python_for(("2.6", "2.7"))

    def test_this_python_is_taken_where_it_fits(self) -> None:
        assert peers.python_for((f"{sys.version_info.major}.{sys.version_info.minor}",)) == sys.executable

    def test_an_environment_is_used_again_until_its_requirement_changes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setitem(peers.PEERS, "fake", peers.Peer("no-such-thing-as-this==0", "fake.py", ("3.11",)))
        python = tmp_path / "dedup" / "peers" / "fake" / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.symlink_to(sys.executable)
        marker = python.parent.parent / "installed.json"
        marker.write_text(json.dumps(["no-such-thing-as-this==0"]))
        assert peers.environment("fake") == python

        marker.write_text(json.dumps(["fake==0"]))
        monkeypatch.setattr(peers, "python_for", lambda _: "false")  # makes no environment
        with pytest.raises(ConfigError, match="no-such-thing-as-this==0 cannot be installed"):
            peers.environment("fake")
        assert not marker.exists()

    def test_every_script_is_there(self) -> None:
        for peer in peers.PEERS.values():
            assert (peers.SCRIPTS / peer.script).is_file()


def test_time_by_step_is_per_image() -> None:
    cpu = {"reading": 0.2, "decoding": 2.0, "hashing": 1.0, "embedding": 8.0}
    steps = {"describe": {"cpu_seconds": cpu, "wall_seconds": 6.0}, "search": {"wall_seconds": 0.5}}
    text = benchmark.by_step({"steps": steps}, 1000)
    assert text == (
        "CPU ms per image: reading 0.20, decoding 2.00, hashing 1.00, embedding 8.00; "
        "wall: describe 6.0 s, search 0.5 s"
    )


class TestDedupRun:
    def test_it_is_the_command_line_as_users_have_it(self, photos: Path, tmp_path: Path) -> None:
        measured = dedup_run(str(photos), tmp_path / "run", *benchmark.WITHOUT_EMBEDDER, "--workers", "1")
        assert measured.document["counts"]["input"] == 12
        assert measured.document["embedder"]["name"] == "none"
        assert 0 < measured.describe_seconds < measured.seconds
        assert "decoding" in benchmark.by_step(measured.document, 12)

    def test_its_error_is_handed_on(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"(?s)dedup run failed: .*nothing\.tar"):
            dedup_run(str(tmp_path / "nothing.tar"), tmp_path / "run")
