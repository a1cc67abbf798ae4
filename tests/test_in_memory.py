"""The steps as functions of tables: the manifest of a run, without a run folder, workers or shuffles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

import dedup
from dedup.decisions import DecideSettings
from dedup.describe import DescribeSettings
from dedup.embedders import resolve
from dedup.errors import ConfigError, ManifestError
from dedup.groups import GROUP_SCHEMA
from dedup.judgement import doubtful
from dedup.listing import list_shards
from dedup.looks import ALIKE
from dedup.neighbors import SearchSettings
from dedup.overrides import parse_overrides
from dedup.records import MANIFEST_SCHEMA, PAIR_SCHEMA, Shard
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.lookalikes import LOOKALIKES
from pipelines.settings import RunSettings
from tests.shard_makers import encode, picture, sample_members, write_tar
from tests.verification import photograph

NO_EMBEDDER = DescribeSettings(embedder="none")
RUNS = {
    "verified": RunSettings(describe=DescribeSettings(embedder="efficientnet_lite0")),
    "hashes alone": RunSettings(describe=NO_EMBEDDER, verify=VerifySettings(verify=False)),
    "identical files alone": RunSettings(describe=NO_EMBEDDER, verify=VerifySettings(strictness="exact")),
    "identical files and cosines": RunSettings(
        describe=DescribeSettings(embedder="efficientnet_lite0"),
        search=SearchSettings(min_cosine=0.99),
        verify=VerifySettings(strictness="exact"),
    ),
    "by cosine": RunSettings(
        describe=DescribeSettings(embedder="efficientnet_lite0"),
        search=SearchSettings(min_cosine=0.6, cells=2),
        decide=DecideSettings(weights="inverse"),
    ),
}

Described = tuple[list[Shard], list[pa.Table]]


def described(folder: Path, settings: DescribeSettings) -> Described:
    _, shards = list_shards([str(folder)])
    embedder = resolve(settings.embedder)
    return shards, [dedup.describe_shard(shard, settings, embedder) for shard in shards]


@pytest.fixture
def plain(shards: Path) -> Described:
    return described(shards, NO_EMBEDDER)


def in_order(pairs: pa.Table) -> list[dict[str, object]]:
    return list(pairs.sort_by([("a", "ascending"), ("b", "ascending")]).to_pylist())


@pytest.mark.parametrize("name", RUNS)
def test_pairs_and_manifest_are_those_of_a_run(
    name: str, shards: Path, tmp_path: Path, cluster: ClusterSettings
) -> None:
    settings = RUNS[name]
    out = tmp_path / "run"
    run = deduplicate([str(shards)], str(out), settings, cluster)
    of_run = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")])

    listed, tables = described(shards, settings.describe)
    pairs = dedup.find_pairs(listed, tables, settings.search, settings.verify)
    assert pairs.schema == PAIR_SCHEMA
    assert in_order(pairs) == in_order(of_run)
    manifest = dedup.decide(listed, tables, pairs, settings.decide)
    assert manifest.schema == MANIFEST_SCHEMA
    assert manifest.equals(dedup.read_manifest(str(out)).combine_chunks())


@pytest.mark.parametrize("verify", [True, False])
def test_where_the_same_bytes_are_asked_for_no_hash_is_enough(verify: bool, shards: Path) -> None:
    listed, tables = described(shards, DescribeSettings(embedder="efficientnet_lite0"))
    never = SearchSettings(min_cosine=1.0)
    pairs = dedup.find_pairs(listed, tables, never, VerifySettings(verify=verify, strictness="exact"))
    assert pairs["probability"].null_count == len(pairs)
    assert set(pairs.filter(pairs["accepted"])["method"].to_pylist()) == {"exact"}
    assert len(pairs) > 2  # others were found, and hashes within max_bits among them


def test_suggested_pairs_are_those_of_a_run(tmp_path: Path, cluster: ClusterSettings) -> None:
    whole = picture(3, 240, 180)
    crops = [whole.crop((3 * n, 2 * n, 240, 180)) for n in range(7)]  # each names the next ones only
    for shard in (0, 1):
        members = [sample_members(f"{n}", encode(crops[n])) for n in range(shard, 7, 2)]
        write_tar(tmp_path / "shards" / f"{shard}.tar", [member for sample in members for member in sample])
    search = SearchSettings(max_bits=0, candidates_per_image=1)
    settings = RunSettings(describe=NO_EMBEDDER, search=search)
    run = deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), settings, cluster)
    assert run.document["steps"]["verify"]["suggested"]
    of_run = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")])
    assert in_order(dedup.find_pairs(*described(tmp_path / "shards", NO_EMBEDDER), search)) == in_order(of_run)


def test_pairs_by_local_features_are_those_of_a_run(tmp_path: Path, cluster: ClusterSettings) -> None:
    images = LOOKALIKES["xrays"](16, np.random.default_rng(3))
    copies = [TRANSFORMS["crop_70+mirror"](image, np.random.default_rng(1)).open() for image in images[:4]]
    for shard, pictures in enumerate((images[:8], [*images[8:], *copies])):
        members = [sample_members(f"{n}", encode(image)) for n, image in enumerate(pictures)]
        write_tar(tmp_path / "shards" / f"{shard}.tar", [member for sample in members for member in sample])
    settings = RUNS["verified"]
    run = deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), settings, cluster)
    assert run.document["steps"]["search"]["candidates"]["local"]
    of_run = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")])
    copied = {("0/0", "1/8"), ("0/1", "1/9"), ("0/2", "1/10"), ("0/3", "1/11")}
    assert copied <= set(zip(of_run["a"].to_pylist(), of_run["b"].to_pylist(), strict=True))
    assert in_order(dedup.find_pairs(*described(tmp_path / "shards", settings.describe))) == in_order(of_run)


def test_copies_of_a_picture_that_occurs_many_times_are_no_crowd(tmp_path: Path, cluster: ClusterSettings) -> None:
    plain = ("recompress", "webp", "shrink", "crop_90", "grey", "brightness", "mirror", "blur")
    covered = ("overlay", "aspect+overlay", "caption", "veil")
    families = [[], []]
    for shard, name in enumerate(("chelsea", "coffee")):
        original = photograph(name)
        copies = [TRANSFORMS[each](original, np.random.default_rng(1)).open() for each in (*plain, *covered)]
        families[shard] = [original, *copies]
    for shard, pictures in enumerate(zip(*families, strict=True)):
        members = [sample_members(f"{n}", encode(image)) for n, image in enumerate(pictures)]
        write_tar(tmp_path / "shards" / f"{shard:02d}.tar", [member for sample in members for member in sample])
    settings = RUNS["verified"]
    run = deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), settings, cluster)
    assert run.document["steps"]["verify"]["again"]
    of_run = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")])
    assert len(of_run.group_by(["a", "b"]).aggregate([])) == len(of_run)
    assert in_order(dedup.find_pairs(*described(tmp_path / "shards", settings.describe))) == in_order(of_run)
    accepted = of_run.filter(of_run["accepted"])
    found = set(zip(accepted["a"].to_pylist(), accepted["b"].to_pylist(), strict=True))
    with_original = {(f"00/{n}", f"{copy:02d}/{n}") for n in range(2) for copy in range(1, 1 + len(plain + covered))}
    assert with_original <= found
    assert not any(a[-1] != b[-1] for a, b in found)


def alone_and_on_pages(folder: Path) -> None:
    """Eight versions of one photograph, and each on a page, in shards of their own."""
    flower = photograph("flower")
    versions = [
        flower.crop((3 * n, 3 * (n % 3), flower.width - 3 * (7 - n), flower.height - 3 * (n % 2))) for n in range(8)
    ]
    pages = [Image.new("RGB", (360, 640), (240, 235, 225)) for _ in versions]
    for page, version in zip(pages, reversed(versions), strict=True):
        page.paste(version.resize((300, 200)), (30, 220))
    for shard, pictures in enumerate((versions, pages)):
        members = [sample_members(f"{n}", encode(image)) for n, image in enumerate(pictures)]
        write_tar(folder / f"{shard}.tar", [member for sample in members for member in sample])


def test_copies_on_pages_of_a_picture_that_occurs_many_times_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copies are a crowd, so are their pages, and nothing but the hashes of the pages brings both together."""
    alone_and_on_pages(tmp_path)
    shards, plain = described(tmp_path, NO_EMBEDDER)
    tables, rng = [], np.random.default_rng(0)
    for number, table in enumerate(plain):
        rows = np.eye(16)[number] + rng.normal(0, 0.02, (len(table), 16))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        flat = pa.array(rows.astype(np.float16).ravel())
        tables.append(table.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, 16)))
    monkeypatch.setattr("dedup.judgement._ALIKE_ON_PAGE", 2)  # no two hashes are as nearly equal
    pairs = dedup.find_pairs(shards, tables, SearchSettings(cells=2, assignments=1))
    accepted = pairs.filter(pairs["accepted"])
    across = [a for a, b in zip(accepted["a"].to_pylist(), accepted["b"].to_pylist(), strict=True) if a[0] != b[0]]
    assert len(across) == 64


@pytest.mark.parametrize("of_pieces", [20, 1000])
def test_what_is_doubted_in_a_uniform_set_is_so_in_a_run(
    of_pieces: int, tmp_path: Path, cluster: ClusterSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few pairs a task is given."""
    monkeypatch.setattr("pipelines.judging._PIECE_PAIRS", of_pieces)
    images = LOOKALIKES["products"](40, np.random.default_rng(3))
    members = [sample_members(f"{n}", encode(image)) for n, image in enumerate(images)]
    write_tar(tmp_path / "shards" / "0.tar", [member for sample in members for member in sample])
    settings, doubted = RUNS["verified"], []

    def watched(candidates: pa.Table) -> npt.NDArray[np.bool_]:
        found = doubtful(candidates)
        doubted.append(found.sum())
        return found

    monkeypatch.setattr("dedup.judgement.doubtful", watched)
    run = deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), settings, cluster)
    of_run = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")])
    assert in_order(dedup.find_pairs(*described(tmp_path / "shards", settings.describe))) == in_order(of_run)
    assert sum(doubted)


def test_pairs_of_a_small_uniform_set_are_those_of_a_run(tmp_path: Path, cluster: ClusterSettings) -> None:
    images = [image.resize((64, 64)) for image in LOOKALIKES["xrays"](24, np.random.default_rng(3))]
    for shard, pictures in enumerate((images[:12], images[12:])):
        members = [sample_members(f"{n}", encode(image, "PNG"), extension="png") for n, image in enumerate(pictures)]
        write_tar(tmp_path / "shards" / f"{shard}.tar", [member for sample in members for member in sample])
    settings = RUNS["verified"]
    run = deduplicate([str(tmp_path / "shards")], str(tmp_path / "run"), settings, cluster)
    seen = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("crowding")])
    assert (seen["alike"].to_numpy() >= ALIKE).mean() >= 0.75
    of_run = pa.concat_tables([run.folder.read_table(part) for part in run.folder.names("pairs")])
    assert in_order(dedup.find_pairs(*described(tmp_path / "shards", settings.describe))) == in_order(of_run)
    assert pc.sum(of_run["accepted"]).as_py() == 0
    assert pc.max(of_run["probability"]).as_py() > 0.1  # some are a little like each other


def test_groups_name_the_keeper_of_each_sample_in_a_pair(plain: Described) -> None:
    shards, tables = plain
    groups = dedup.group_pairs(dedup.find_pairs(shards, tables), tables)
    assert groups.schema == GROUP_SCHEMA
    assert dict(zip(groups["sample_id"].to_pylist(), groups["keeper"].to_pylist(), strict=True)) == {
        "00000/a0": None, "00001/b0": "00000/a0", "00001/b1": "00000/a0", "00002/c1": "00000/a0",
        "00000/a1": "00002/c0", "00002/c0": None,
    }  # fmt: skip


def test_decisions_by_hand_apply(plain: Described) -> None:
    shards, tables = plain
    pairs = dedup.find_pairs(shards, tables)
    by_hand = parse_overrides(b"sample_id,action,other\n00000/a1,keep,\n00000/a4,remove,\n")
    manifest = dedup.decide(shards, tables, pairs, overrides=by_hand)
    status = dict(zip(manifest["sample_id"].to_pylist(), manifest["status"].to_pylist(), strict=True))
    assert (status["00000/a1"], status["00000/a4"]) == ("kept", "removed")
    with pytest.raises(ConfigError, match="line 1: no sample of this run is called 'no/such'"):
        dedup.group_pairs(pairs, tables, overrides=parse_overrides(b"no/such,remove,\n"))


def test_tables_that_do_not_fit_the_shards_are_refused(plain: Described) -> None:
    shards, tables = plain
    pairs = dedup.find_pairs(shards, tables)
    with pytest.raises(ManifestError, match="3 shards, but 2 tables"):
        dedup.find_pairs(shards, tables[:2])
    with pytest.raises(ManifestError, match="3 shards, but 2 tables"):
        dedup.decide(shards, tables[:2], pairs)
    with pytest.raises(ManifestError, match="have no keep rank, first '00002/c0'"):
        dedup.decide(shards[:2], tables[:2], pairs)
    with pytest.raises(ConfigError, match="hash=dhash is searched, but not in the descriptors"):
        dedup.find_pairs(shards, tables, SearchSettings(hash="dhash"))


def test_of_no_shards_nothing_is_found() -> None:
    assert dedup.find_pairs([], []).equals(PAIR_SCHEMA.empty_table())


def test_descriptors_of_another_version_are_named(plain: Described) -> None:
    shards, tables = plain
    with pytest.raises(ManifestError, match=f"{shards[1].shard_id}: its descriptors lack inner; describe it"):
        dedup.find_pairs(shards, [tables[0], tables[1].drop_columns("inner"), *tables[2:]])
