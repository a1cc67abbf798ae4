"""Loaders that read only what a run kept, and refuse what the run does not know."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset as wds
from torch.utils.data import DataLoader

import dedup
from dedup import filters
from dedup.errors import ManifestError
from dedup.records import MANIFEST_SCHEMA
from dedup.run_folder import RunFolder
from tests.shard_makers import jpeg, sample_members, write_tar

# webdataset leaves the file of a shard to the garbage collector.
pytestmark = [
    pytest.mark.usefixtures("collected"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning"),
    # torch is loaded, and with it threads, where a test forks.
    pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning"),
]

Rows = dict[str, tuple[str, bytes]]  # key: status, image

IMAGES = [jpeg(seed, 32, 24) for seed in range(4)]
SET: dict[str, Rows] = {
    "a/0": {"k0": ("kept", IMAGES[0]), "k1": ("removed", IMAGES[1]), "k2": ("failed", b"broken")},
    "b/0": {"k0": ("removed", IMAGES[2]), "k1": ("kept", IMAGES[3])},
}


def make_run(folder: Path, shards: dict[str, Rows], weights: dict[str, float] | None = None) -> Path:
    """A finished run of these shards, and the shards themselves under `folder`/shards."""
    for shard_id, samples in shards.items():
        members = [m for key, (_, image) in samples.items() for m in sample_members(key.split("#")[0], image)]
        write_tar(folder / "shards" / f"{shard_id}.tar", members)
        rows = [
            {
                "sample_id": f"{shard_id}/{key}", "shard": str(folder / "shards" / f"{shard_id}.tar"), "key": key,
                "status": status, "cluster_size": 1, "component_size": 1,
                "sha256": hashlib.sha256(image).hexdigest(), "weight": (weights or {}).get(f"{shard_id}/{key}"),
            }
            for key, (status, image) in samples.items()
        ]  # fmt: skip
        path = folder / "run" / "manifest" / f"{shard_id}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA), path)
    entries = [{"shard_id": shard_id} for shard_id in shards]
    document = {"root": str(folder / "shards"), "shards": entries, "steps": {"decide": {"fingerprint": "1"}}}
    (folder / "run" / "run.json").write_text(json.dumps(document))
    return folder / "run"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path, SET)


def loader(folder: Path, *shard_ids: str) -> Any:
    return wds.WebDataset([str(folder / f"{shard_id}.tar") for shard_id in shard_ids], shardshuffle=False)


def loaded(samples: Any) -> list[str]:
    return sorted(f"{Path(sample['__url__']).parent.name}/{sample['__key__']}" for sample in samples)


def test_a_webdataset_loader_gives_what_the_run_kept(run: Path, tmp_path: Path) -> None:
    everything = loader(tmp_path / "shards", "a/0", "b/0")
    assert loaded(everything.select(dedup.keep(run))) == ["a/k0", "a/k2", "b/k1"]
    assert loaded(loader(tmp_path / "shards", "a/0", "b/0").select(dedup.keep(run, drop_failed=True))) == [
        "a/k0",
        "b/k1",
    ]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_loader_workers_give_the_same(context: str, run: Path, tmp_path: Path) -> None:
    data = loader(tmp_path / "shards", "a/0", "b/0").select(dedup.keep(run))
    batches = DataLoader(data, batch_size=None, num_workers=2, multiprocessing_context=context)
    assert loaded(batches) == ["a/k0", "a/k2", "b/k1"]


@pytest.mark.parametrize("by_weight", [False, True])
def test_nodes_and_their_workers_load_what_is_kept_once(
    by_weight: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = ("kept", "removed", "failed")
    shards = {f"x/{n}": {f"k{n}{k}": (status[(n + k) % 3], IMAGES[k % 4]) for k in range(5)} for n in range(6)}
    weights = {f"{name}/{key}": 0.5 for name, rows in shards.items() for key in rows}
    run = make_run(tmp_path, shards, weights)
    found = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        urls = [str(tmp_path / "shards" / f"{shard_id}.tar") for shard_id in shards]
        data = wds.WebDataset(urls, shardshuffle=False, nodesplitter=wds.split_by_node)
        data = data.select(dedup.keep(run, by_weight=by_weight))
        node = loaded(DataLoader(data, batch_size=None, num_workers=2))
        assert node
        found += node
    mask = dedup.keep_ids(run, list(weights), by_weight=by_weight)
    kept = [f"x/{name.rpartition('/')[2]}" for name, passes in zip(weights, mask, strict=True) if passes]
    assert sorted(found) == sorted(kept)
    assert 0 < len(kept) < (20 if by_weight else 21)


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/elsewhere/a/0.tar",
        "pipe:aws s3 cp s3://bucket/elsewhere/a/0.tar -",
        "pipe:curl -s -L 'https://host/a/0.tar'",
        "file:///mnt/a/0.tar",
        "https://host/x/a/0.tar?signature=b/0.tar",
        "/mnt/x/../a/0.tar",
        "a/0.tar",
    ],
)
def test_a_shard_is_known_under_any_prefix(url: str, run: Path) -> None:
    keep = dedup.keep(run)
    assert [keep({"__key__": key, "__url__": url}) for key in ("k0", "k1", "k2")] == [True, False, True]


@pytest.mark.parametrize("url", ["/mnt/c/0.tar", "/mnt/0.tar", "/mnt/xa/0.tar", "/mnt/a/0", "pipe:cat"])
def test_an_unknown_shard_is_refused(url: str, run: Path) -> None:
    with pytest.raises(ManifestError, match="is no shard of the run"):
        dedup.keep(run)({"__key__": "k0", "__url__": url})


def test_a_url_that_may_be_two_shards_is_refused_except_where_the_run_read_it(tmp_path: Path) -> None:
    keep = dedup.keep(make_run(tmp_path, {"0": SET["a/0"], "b/0": SET["b/0"]}))
    with pytest.raises(ManifestError, match="any of the shards 0, b/0"):
        keep({"__key__": "k1", "__url__": "s3://bucket/b/0.tar"})
    assert keep({"__key__": "k1", "__url__": str(tmp_path / "shards" / "b" / "0.tar")})


def test_a_key_that_the_shard_does_not_have_is_refused(run: Path) -> None:
    with pytest.raises(ManifestError, match="has no key 'k9'"):
        dedup.keep(run)({"__key__": "k9", "__url__": "a/0.tar"})


def test_other_images_under_the_same_names_are_refused(run: Path, tmp_path: Path) -> None:
    write_tar(tmp_path / "other" / "a" / "0.tar", sample_members("k0", IMAGES[3]))
    with pytest.raises(ManifestError, match="another one than the run saw"):
        list(loader(tmp_path / "other", "a/0").select(dedup.keep(run)))


@pytest.mark.parametrize("decoder", ["rgb8", "pil"])
def test_images_that_come_decoded_are_refused(decoder: str, run: Path, tmp_path: Path) -> None:
    decoded = loader(tmp_path / "shards", "a/0").decode(decoder)
    with pytest.raises(ManifestError, match=r"key 'k0' comes decoded \(\w+\).* filter before you decode"):
        list(decoded.select(dedup.keep(run)))


def test_not_only_the_first_image_is_compared(tmp_path: Path) -> None:
    keys = [f"k{n:03d}" for n in range(200)]
    run = make_run(tmp_path, {"0": dict.fromkeys(keys, ("kept", IMAGES[0]))})

    def refused(others: slice) -> bool:
        images = dict.fromkeys(keys, IMAGES[0]) | dict.fromkeys(keys[others], IMAGES[1])
        keep = dedup.keep(run)
        try:
            return not all(keep({"__key__": key, "__url__": "0.tar", "jpg": images[key]}) for key in keys)
        except ManifestError as error:
            return "another one than the run saw" in str(error)

    assert refused(slice(0, 1))
    assert refused(slice(100, 200))
    assert refused(slice(128, 129))
    assert not refused(slice(1, 2))  # hashing every image would cost too much


def test_what_has_no_image_is_not_compared(run: Path) -> None:
    keep = dedup.keep(run)
    assert keep({"__key__": "k0", "__url__": "a/0.tar", "txt": b"text"})
    assert keep({"__key__": "k0", "__url__": "a/0.tar", "jpg": None})
    with pytest.raises(ManifestError, match="another one"):
        keep({"__key__": "k0", "__url__": "a/0.tar", "jpg": IMAGES[3]})


@pytest.mark.parametrize(("second", "passes"), [("removed", None), ("kept", True)])
def test_keys_that_repeat_need_one_fate(second: str, passes: bool | None, tmp_path: Path) -> None:
    samples = {"k": ("kept", IMAGES[0]), "l": ("kept", IMAGES[1]), "k#2": (second, IMAGES[2])}
    keep = dedup.keep(make_run(tmp_path, {"0": samples}))
    if passes is None:
        with pytest.raises(ManifestError, match="key 'k' occurs several times"):
            list(loader(tmp_path / "shards", "0").select(keep))
    else:
        assert len(list(loader(tmp_path / "shards", "0").select(keep))) == 3


def write_members(run: Path, shard_id: str, members: dict[str, str]) -> None:
    """The part of a shard's descriptors that tells names in the tar."""
    (run / "descriptors").mkdir(exist_ok=True)
    table = pa.table({"key": list(members), "member": list(members.values())})
    pq.write_table(table, run / "descriptors" / f"{shard_id}.parquet")


def test_a_key_that_only_looks_repeated_has_its_own_fate(tmp_path: Path) -> None:
    samples = {"p": ("kept", IMAGES[0]), "p#2": ("removed", IMAGES[1]), "q": ("removed", IMAGES[2])}
    run = make_run(tmp_path, {"0": samples | {"q#2": ("kept", IMAGES[3])}})
    write_members(run, "0", {"p": "p.jpg", "p#2": "p#2.jpg", "q": "q.jpg", "q#2": "q.jpg"})
    keep = dedup.keep(run)
    assert keep({"__key__": "p", "__url__": "0.tar", "jpg": IMAGES[0]})
    assert not keep({"__key__": "p#2", "__url__": "0.tar", "jpg": IMAGES[1]})
    with pytest.raises(ManifestError, match="key 'q' occurs several times"):
        keep({"__key__": "q", "__url__": "0.tar", "jpg": IMAGES[2]})
    with pytest.raises(ManifestError, match="has no key 'q#2'"):
        keep({"__key__": "q#2", "__url__": "0.tar", "jpg": IMAGES[3]})


def test_samples_of_one_key_share_their_draw(tmp_path: Path) -> None:
    samples = {"k": ("kept", IMAGES[0]), "k#2": ("kept", IMAGES[1]), "l": ("kept", IMAGES[2])}
    run = make_run(tmp_path, {"0": samples}, {"0/k": 0.5, "0/k#2": 0.25, "0/l": 0.375})
    passed = []
    for epoch in range(400):
        keep = dedup.keep(run, by_weight=True, epoch=epoch)
        passed.append(keep({"__key__": "k", "__url__": "0.tar"}))
        assert keep.mask(["0/k", "0/k#2"]).tolist() == [passed[-1]] * 2
    assert 110 < sum(passed) < 190  # 150 expected, standard deviation 9.7


def test_weights_decide_by_seed_epoch_and_sample_alone(tmp_path: Path) -> None:
    samples = {f"{n}": ("kept", IMAGES[0]) for n in range(400)}
    weights = {f"0/{n}": 1.0 if n < 100 else 0.25 for n in range(400)}
    run = make_run(tmp_path, {"0": samples}, weights)
    ids = list(weights)
    first, again, later = (dedup.keep_ids(run, ids, by_weight=True, epoch=epoch) for epoch in (0, 0, 1))
    assert first[:100].all()
    assert 45 < first[100:].sum() < 105  # 75 expected, standard deviation 7.5
    assert (first == again).all()
    assert (first != later).any()
    assert (first != dedup.keep_ids(run, ids, by_weight=True, seed=1)).any()


def test_a_run_without_weights_cannot_be_sampled_by_them(run: Path) -> None:
    with pytest.raises(ManifestError, match="has no weights"):
        dedup.keep(run, by_weight=True)({"__key__": "k0", "__url__": "a/0.tar"})


def test_lists_of_sample_ids(run: Path) -> None:
    ids = ["b/0/k1", "a/0/k0", "b/0/k0", "a/0/k2"]
    assert dedup.keep_ids(run, ids).tolist() == [True, True, False, True]
    assert dedup.keep_ids(run, ids, drop_failed=True).tolist() == [True, True, False, False]
    for wrong in ("c/0/k0", "a/0/k9"):
        with pytest.raises(ManifestError, match=wrong):
            dedup.keep_ids(run, [wrong])
    with pytest.raises(ManifestError, match="row 1 is None, no sample id"):
        dedup.keep_ids(run, ["a/0/k0", None])  # type: ignore[list-item]


def test_unusable_runs_are_refused_at_once(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no run folder"):
        dedup.keep(tmp_path / "nowhere")
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"steps": {}}))
    with pytest.raises(ManifestError, match="unfinished"):
        dedup.keep(run)


def test_a_manifest_without_a_column_is_named_with_it(run: Path) -> None:
    path = run / "manifest" / "a" / "0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["sha256"]), path)
    with pytest.raises(ManifestError, match=r"a/0\.parquet has no column sha256"):
        dedup.keep(run)({"__key__": "k0", "__url__": "a/0.tar"})


def test_a_filter_travels_without_what_it_read_and_notices_another_decision(run: Path) -> None:
    keep = dedup.keep(run)
    before = pickle.dumps(keep)
    assert keep({"__key__": "k0", "__url__": "a/0.tar"})
    assert pickle.dumps(keep) == before
    decide_anew(run, decide={"fingerprint": "2"})
    with pytest.raises(ManifestError, match="decided anew"):
        pickle.loads(before)({"__key__": "k0", "__url__": "a/0.tar"})


def decide_anew(run: Path, **steps: Any) -> None:
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(document | {"steps": steps}))


@pytest.mark.parametrize("steps", [{}, {"decide": {"fingerprint": "2"}}], ids=["under way", "finished"])
def test_a_filter_that_is_in_use_does_not_mix_two_decisions(steps: dict[str, Any], run: Path) -> None:
    keep = dedup.keep(run)
    assert keep({"__key__": "k0", "__url__": "a/0.tar"})
    decide_anew(run, **steps)
    with pytest.raises(ManifestError, match=r"decided anew since this filter was made.* make the filter again"):
        keep({"__key__": "k0", "__url__": "b/0.tar"})


def test_the_same_decision_made_again_is_no_other(run: Path) -> None:
    keep = dedup.keep(run)
    assert keep({"__key__": "k0", "__url__": "a/0.tar"})
    decide_anew(run, decide={"fingerprint": "1", "wall_seconds": 2.5})
    assert keep({"__key__": "k1", "__url__": "b/0.tar"})


@pytest.mark.parametrize(("bytes_held", "reads"), [(1 << 20, 40), (20_000, 80)])
def test_a_filter_holds_what_memory_allows(
    bytes_held: int, reads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, {f"{n:02d}": {"k": ("kept", IMAGES[0])} for n in range(40)})
    monkeypatch.setattr(filters, "_BYTES_HELD", bytes_held)
    found = []
    read_table = RunFolder.read_table
    monkeypatch.setattr(RunFolder, "read_table", lambda *given: found.append(given) or read_table(*given))
    keep = dedup.keep(run)
    for n in [*range(40), *range(40)]:
        assert keep({"__key__": "k", "__url__": f"{n:02d}.tar"})
    assert len(found) == reads
    assert 0 < sum(part.nbytes for part in keep._parts.values()) == keep._bytes_held <= bytes_held


def test_a_sample_without_its_url_says_where_the_filter_belongs(run: Path) -> None:
    with pytest.raises(ManifestError, match="before to_tuple"):
        dedup.keep(run)({"__key__": "k0"})


def test_the_filter_imports_no_model_library(run: Path) -> None:
    code = (
        f"import sys, dedup; dedup.keep({str(run)!r})({{'__key__': 'k0', '__url__': 'a/0.tar'}}); "
        "print(sorted({'torch', 'faiss', 'openvino', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
