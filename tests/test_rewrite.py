"""Cleaned shards hold the bytes that stay, in order, whatever the shard looks like."""

from __future__ import annotations

import itertools
import json
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.records import Shard
from dedup.rewrite import CleanSettings, Output, Rewriter, Written, plan
from dedup.shards import ShardReader
from tests.shard_makers import BROKEN_SHARDS, END, Members, entry, sample_members, write_tar

KEEP, GO, FAIL = "kept", "removed", "failed"


def shard_of(path: Path) -> Shard:
    return Shard(str(path), path.stem, path.stat().st_size, "")


def manifest_of(shard: Shard, statuses: Sequence[str], captions: dict[int, list[str]] | None = None) -> pa.Table:
    """A manifest of the shard as it lies there, with these statuses."""
    samples = list(ShardReader(shard))
    assert len(samples) == len(statuses)
    return pa.table(
        {
            "sample_id": [f"{shard.shard_id}/{sample.key}" for sample in samples],
            "status": pa.array(statuses, pa.string()),
            "crc32": pa.array([zlib.crc32(s.image.data) if s.image else None for s in samples], pa.int64()),
            "captions": pa.array([(captions or {}).get(n) for n in range(len(samples))], pa.list_(pa.string())),
            "caption": pa.array([s.text.decode() if s.text is not None else None for s in samples], pa.string()),
        }
    )


def clean(
    path: Path, statuses: Sequence[str], settings: CleanSettings | None = None, **captions: list[str]
) -> dict[str, bytes]:
    """The cleaned shard's members by name and order; pooled `captions`, if any, by position (c0, c1, ...)."""
    settings = settings or CleanSettings()
    shard = shard_of(path)
    manifest = manifest_of(shard, statuses, {int(name[1:]): value for name, value in captions.items()})
    [output] = plan([shard], [_staying(statuses, settings)], settings)
    with Rewriter(lambda _: manifest, settings, pools=bool(captions)) as rewriter:
        rewriter.write(output, path.with_name("out.tar"))
    return members(path.with_name("out.tar"))


def _staying(statuses: Sequence[str], settings: CleanSettings) -> int:
    return settings.staying({status: list(statuses).count(status) for status in (KEEP, GO, FAIL)})


def members(path: Path) -> dict[str, bytes]:
    """Content by name, and by position where a name comes twice."""
    found: dict[str, bytes] = {}
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            file = tar.extractfile(info) if info.isreg() else None
            name = f"{info.name} again" if info.name in found else info.name
            found[name] = file.read() if file else b""
    return found


def three(path: Path) -> Path:
    """Three samples: a, b, c."""
    return write_tar(path, [m for key in "abc" for m in sample_members(key, f"image {key}".encode(), f"text {key}")])


def test_a_removed_sample_goes_with_all_its_members_and_nothing_else_changes(tmp_path: Path) -> None:
    path = three(tmp_path / "in.tar")
    before = members(path)
    found = clean(path, [KEEP, GO, KEEP])
    assert list(found) == ["a.jpg", "a.txt", "a.json", "c.jpg", "c.txt", "c.json"]
    assert found == {name: content for name, content in before.items() if not name.startswith("b.")}


def test_failed_samples_stay_unless_they_are_to_go(tmp_path: Path) -> None:
    path = three(tmp_path / "in.tar")
    assert {name[0] for name in clean(path, [FAIL, GO, KEEP])} == {"a", "c"}
    assert {name[0] for name in clean(path, [FAIL, GO, KEEP], CleanSettings(drop_failed=True))} == {"c"}


def test_members_of_no_sample_stay_where_they_are(tmp_path: Path) -> None:
    parts: Members = [
        ("README", b"read me"), ("a.jpg", b"a"), ("LICENSE", b"free"), ("a.txt", b"ta"),
        ("b.jpg", b"b"), ("NOTE", b"of b"), ("c.jpg", b"c"), ("END", b"bye"),
    ]  # fmt: skip
    found = clean(write_tar(tmp_path / "in.tar", parts), [KEEP, GO, KEEP])
    assert list(found) == ["README", "a.jpg", "LICENSE", "a.txt", "NOTE", "c.jpg", "END"]


def test_unknown_extensions_folders_links_and_long_names_stay(tmp_path: Path) -> None:
    long, strange = "dir/" * 30 + "x.jpg", "d/ä😀.cls"
    path = tmp_path / "in.tar"
    path.write_bytes(
        entry("dir", b"", type=tarfile.DIRTYPE)
        + entry(long, b"long")
        + entry("link.jpg", b"", type=tarfile.SYMTYPE, linkname=long)
        + entry(strange, b"7")
        + entry(b"d/\xe9.npy".decode("utf-8", "surrogateescape"), b"bytes")
        + END
    )
    found = clean(path, [KEEP, KEEP, KEEP])
    assert found == members(path)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert tar.getmember("link.jpg").linkname == long
        assert tar.getmember("dir").isdir()


def test_headers_say_nothing_of_time_and_owner(tmp_path: Path) -> None:
    cleaned = []
    for number in (1, 2):
        path = tmp_path / str(number) / "in.tar"
        path.parent.mkdir()
        owner = {"mtime": 1e9 + number / 3, "uid": number, "gid": number, "uname": f"u{number}", "mode": 0o600}
        pax = {"pax_headers": {"comment": f"written at {number}", "mtime": f"{number}.5"}}
        path.write_bytes(entry("a.jpg", b"image", **owner, **pax) + entry("a.txt", b"text", **owner) + END)
        clean(path, [KEEP])
        cleaned.append((path.with_name("out.tar")).read_bytes())
    assert cleaned[0] == cleaned[1]
    with tarfile.open(tmp_path / "1" / "out.tar") as tar:
        assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in tar} == {(0, 0, 0, "", "", 0o644)}


def test_keys_that_occur_twice_go_by_position(tmp_path: Path) -> None:
    parts = [("k.jpg", b"1"), ("k.txt", b"t1"), ("x.jpg", b"x"), ("k.jpg", b"2"), ("k.txt", b"t2"), ("k.jpg", b"3")]
    path = write_tar(tmp_path / "in.tar", parts)
    assert list(clean(path, [GO, GO, KEEP, GO]).values()) == [b"2", b"t2"]
    assert list(clean(path, [KEEP, GO, GO, KEEP]).values()) == [b"1", b"t1", b"3"]


def test_samples_of_one_key_are_not_let_become_one(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "in.tar", [("k.jpg", b"1"), ("x.jpg", b"x"), ("k.txt", b"of another")])
    with pytest.raises(ShardError, match=r"k\.txt would join another sample of key k"):
        clean(path, [KEEP, GO, FAIL])


def test_pooled_captions_follow_the_members_of_their_sample(tmp_path: Path) -> None:
    found = clean(three(tmp_path / "in.tar"), [KEEP, GO, KEEP], c0=["text a", "ein Bär"], c2=["text c"], c1=["gone"])
    assert list(found) == ["a.jpg", "a.txt", "a.json", "a.captions.json", "c.jpg", "c.txt", "c.json", "c.captions.json"]
    assert json.loads(found["a.captions.json"]) == ["text a", "ein Bär"]
    assert found["a.txt"] == b"text a"


def test_a_sample_that_has_captions_json_does_not_get_a_second_one(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "in.tar", [("a.jpg", b"a"), ("a.captions.json", b"[]"), ("b.jpg", b"b")])
    assert "a.captions.json" in clean(path, [KEEP, KEEP])
    with pytest.raises(ShardError, match=r"a\.captions\.json already"):
        clean(path, [KEEP, GO], c0=["one", "two"])


def test_where_captions_are_pooled_every_sample_has_a_list_of_them(tmp_path: Path) -> None:
    samples = [
        *(sample_members(key, b"i", text) for key, text in (("a", "ta"), ("b", " "), ("c", None), ("d", "td"))),
        [("e.jpg", b"e"), ("e.captions.json", b'["its own"]')],
        [("f.txt", b"of no image")],
    ]
    path = write_tar(tmp_path / "in.tar", [member for sample in samples for member in sample])
    found = clean(path, [KEEP, FAIL, KEEP, GO, KEEP, FAIL], c0=["ta", "td"])
    lists = {name[0]: json.loads(content) for name, content in found.items() if name.endswith(".captions.json")}
    assert lists == {"a": ["ta", "td"], "b": [], "c": [], "e": ["its own"], "f": ["of no image"]}


def test_a_shard_of_which_nothing_stays_is_an_empty_tar(tmp_path: Path) -> None:
    assert clean(three(tmp_path / "in.tar"), [GO, GO, GO]) == {}
    assert list(ShardReader(shard_of(tmp_path / "out.tar"))) == []


@pytest.mark.parametrize("kind", ["hard link", "sparse"])
def test_what_cannot_be_copied_faithfully_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "in.tar"
    if kind == "sparse":
        extra = entry("hole", b"", type=tarfile.GNUTYPE_SPARSE)
    else:
        extra = entry("copy.jpg", b"", type=tarfile.LNKTYPE, linkname="a.jpg")
    path.write_bytes(entry("a.jpg", b"a") + extra + END)
    shard = shard_of(path)
    manifest = pa.table({"sample_id": ["in/a"], "status": ["kept"], "crc32": pa.nulls(1, pa.int64())})
    with Rewriter(lambda _: manifest, CleanSettings()) as rewriter, pytest.raises(ShardError, match=kind):
        rewriter.write(plan([shard], [1], CleanSettings())[0], tmp_path / "out.tar")


class TestAgainstTheManifest:
    def write(self, path: Path, manifest: pa.Table, staying: int) -> Written:
        [output] = plan([shard_of(path)], [staying], CleanSettings())
        with Rewriter(lambda _: manifest, CleanSettings()) as rewriter:
            return rewriter.write(output, path.with_name("out.tar"))

    def test_what_was_written_is_told(self, tmp_path: Path) -> None:
        path = three(tmp_path / "in.tar")
        written = self.write(path, manifest_of(shard_of(path), [KEEP, KEEP, GO]), 2)
        others = b"".join(
            zlib.crc32(content).to_bytes(4, "big")
            for name, content in members(tmp_path / "out.tar").items()
            if not name.endswith(".jpg")
        )
        assert written == Written("in", 2, (tmp_path / "out.tar").stat().st_size, f"{zlib.crc32(others):08x}")

    def test_an_image_that_changed_is_found(self, tmp_path: Path) -> None:
        path = three(tmp_path / "in.tar")
        manifest = manifest_of(shard_of(path), [KEEP, KEEP, KEEP])
        path.write_bytes(path.read_bytes().replace(b"image b", b"imagE b"))
        with pytest.raises(ShardError, match=r"in\.tar: is no longer .* sample in/b has CRC-32 [0-9a-f]{8}, not "):
            self.write(path, manifest, 3)

    def test_an_image_that_the_manifest_does_not_know_is_found(self, tmp_path: Path) -> None:
        path = three(tmp_path / "in.tar")
        manifest = manifest_of(shard_of(path), [KEEP, KEEP, KEEP])
        manifest = manifest.set_column(2, "crc32", pa.nulls(3, pa.int64()))
        with pytest.raises(ShardError, match=r"image of sample in/a has CRC-32 [0-9a-f]{8}, not none"):
            self.write(path, manifest, 3)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda data: data.replace(b"image c", b"imagE c"), "image of sample in/c has CRC-32"),
            (lambda data: data.replace(b"text a", b"texT a"), "other than its images"),
            (lambda data: data[:512], "truncated"),
            (lambda data: data[: 6 * 512] + END, "holds 1 samples, the manifest 2"),
            (lambda data: data.replace(b"a.txt", b"e.txt"), "damaged tar header"),
            (lambda data: entry("x.jpg", b"x") + data, "more than the 2 samples"),
            (lambda data: entry("x.jpg", b"x") + data[: 6 * 512] + END, "image of sample in/a has CRC-32"),
            (lambda data: data + entry("NOTE", b"x") + END, "other than its images"),
        ],
    )
    def test_a_written_shard_that_changed_is_found(
        self, change: Callable[[bytes], bytes], message: str, tmp_path: Path
    ) -> None:
        path, out = three(tmp_path / "in.tar"), tmp_path / "out.tar"
        manifest = manifest_of(shard_of(path), [KEEP, GO, KEEP])
        written = self.write(path, manifest, 2)
        [output] = plan([shard_of(path)], [2], CleanSettings())
        with Rewriter(lambda _: manifest, CleanSettings()) as rewriter:
            rewriter.check(output, written, str(out))
            out.write_bytes(change(out.read_bytes()))
            with pytest.raises(ShardError, match=rf"out\.tar: .*{message}"):
                rewriter.check(output, written, str(out))

    @pytest.mark.parametrize(("keys", "message"), [("abcd", "more than the 3"), ("ab", "holds 2 samples")])
    def test_a_shard_with_other_samples_is_found(self, keys: str, message: str, tmp_path: Path) -> None:
        manifest = manifest_of(shard_of(three(tmp_path / "in.tar")), [KEEP, GO, GO])
        path = write_tar(tmp_path / "in.tar", [(f"{key}.jpg", f"image {key}".encode()) for key in keys])
        with pytest.raises(ShardError, match=message):
            self.write(path, manifest, 1)

    def test_a_manifest_of_another_decision_is_found(self, tmp_path: Path) -> None:
        path = three(tmp_path / "in.tar")
        with pytest.raises(ManifestError, match="2 samples stay, 3 by the counts"):
            self.write(path, manifest_of(shard_of(path), [KEEP, KEEP, GO]), 3)

    @pytest.mark.parametrize("broken", BROKEN_SHARDS)
    def test_broken_shards_are_named(self, broken: str, tmp_path: Path) -> None:
        path = three(tmp_path / "in.tar")
        manifest = manifest_of(shard_of(path), [KEEP, GO, KEEP])
        path.write_bytes(BROKEN_SHARDS[broken])
        with pytest.raises(ShardError, match=r"in\.tar"):
            self.write(path, manifest, 2)


class TestRepacked:
    @given(counts=st.lists(st.integers(0, 7), min_size=1, max_size=8), size=st.integers(1, 9))
    def test_every_sample_has_one_place_and_shards_are_full(self, counts: list[int], size: int) -> None:
        shards = [Shard(f"{n}.tar", str(n), 0, "") for n in range(len(counts))]
        outputs = plan(shards, counts, CleanSettings(shard_size=size))
        assert [output.name for output in outputs] == [f"{n:05d}" for n in range(len(outputs))]
        full, rest = divmod(sum(counts), size)
        assert [output.samples for output in outputs] == [size] * full + ([rest] if rest or not full else [])
        pieces = [piece for output in outputs for piece in output.pieces]
        places = [(piece.shard.shard_id, n) for piece in pieces for n in range(piece.first, piece.last)]
        assert places == [(str(shard), n) for shard, count in enumerate(counts) for n in range(count)]
        assert {piece.shard for piece in pieces} == set(shards)  # those without samples have a place, too

    @pytest.mark.parametrize("size", [1, 2, 3, 4, 100])
    def test_all_members_come_out_in_order(self, size: int, tmp_path: Path) -> None:
        statuses = [[KEEP, GO, KEEP], [GO, GO], [FAIL, KEEP, KEEP, KEEP]]
        shards, manifests, wanted = [], {}, []
        for number, chosen in enumerate(statuses):
            samples = [sample_members(f"{number}{n}", f"{number}{n}".encode(), "t") for n in range(len(chosen))]
            parts: Members = [(f"README{number}", b"")] + [member for sample in samples for member in sample]
            shard = shard_of(write_tar(tmp_path / f"{number}.tar", parts))
            manifests[shard.shard_id] = manifest_of(shard, chosen)
            shards.append(shard)
            wanted += parts[:1] + [m for sample, s in zip(samples, chosen, strict=True) if s != GO for m in sample]
        settings = CleanSettings(shard_size=size)
        outputs = plan(shards, [_staying(chosen, settings) for chosen in statuses], settings)
        found = []
        for _, group in itertools.groupby(outputs, lambda output: output.pieces[0].shard):
            with Rewriter(lambda shard: manifests[shard.shard_id], settings) as rewriter:
                for output in group:
                    written = rewriter.write(output, tmp_path / "out.tar")
                    assert written.samples <= size
                    rewriter.check(output, written, str(tmp_path / "out.tar"))
                    found += list(members(tmp_path / "out.tar").items())
        assert found == wanted

    def test_a_later_output_can_be_written_without_the_earlier_ones(self, tmp_path: Path) -> None:
        shard = shard_of(three(tmp_path / "in.tar"))
        settings = CleanSettings(shard_size=1)
        last: Output = plan([shard], [3], settings)[2]
        with Rewriter(lambda _: manifest_of(shard, [KEEP] * 3), settings) as rewriter:
            rewriter.write(last, tmp_path / "out.tar")
        assert list(members(tmp_path / "out.tar")) == ["c.jpg", "c.txt", "c.json"]


def test_a_shard_behind_a_url_is_read_the_same_way(tmp_path: Path) -> None:
    import fsspec

    path = three(tmp_path / "in.tar")
    fsspec.filesystem("memory").pipe_file("/rewrite/in.tar", path.read_bytes())
    shard = Shard("memory://rewrite/in.tar", "in", path.stat().st_size, "")
    manifest = manifest_of(shard, [GO, KEEP, KEEP])
    with Rewriter(lambda _: manifest, CleanSettings()) as rewriter:
        rewriter.write(plan([shard], [2], CleanSettings())[0], tmp_path / "remote.tar")
    clean(path, [GO, KEEP, KEEP])
    assert (tmp_path / "remote.tar").read_bytes() == (tmp_path / "out.tar").read_bytes()


def test_content_larger_than_any_buffer_is_copied(tmp_path: Path) -> None:
    large = bytes(range(256)) * 20_000
    parts = [("a.jpg", b"a"), ("b.bin", large), ("b.jpg", b"b"), ("c.bin", large), ("c.jpg", b"c")]
    path = write_tar(tmp_path / "in.tar", parts)
    assert clean(path, [KEEP, GO, KEEP]) == {"a.jpg": b"a", "c.bin": large, "c.jpg": b"c"}


def test_a_shard_holds_at_least_one_sample() -> None:
    with pytest.raises(ConfigError, match="shard_size=0"):
        CleanSettings(shard_size=0)
