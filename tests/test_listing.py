"""listing.py: which shards there are."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest
from shard_makers import END, jpeg, write_tar

from dedup.errors import ConfigError, ShardError
from dedup.records import Shard
from dedup.shards import list_shards

JPEG = jpeg(0, 32, 24)


def listed(path: Path | str) -> Shard:
    return list_shards([str(path)])[1][0]


def ids(patterns: list[str], root: str | None = None) -> list[str]:
    return [shard.shard_id for shard in list_shards(patterns, root)[1]]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What img2dataset leaves, in two folders that hold same-named tars."""
    for folder in ("a", "b"):
        for number in range(3):
            write_tar(tmp_path / folder / f"{number:05d}.tar", [])
            (tmp_path / folder / f"{number:05d}.parquet").touch()
            (tmp_path / folder / f"{number:05d}_stats.json").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["a/{00000..00002}.tar"], ["00000", "00001", "00002"]),
        (["a/0000{0,2}.tar"], ["00000", "00002"]),
        (["a/*1.tar"], ["00001"]),
        (["a/*"], ["00000", "00001", "00002"]),
        (["a"], ["00000", "00001", "00002"]),
        (["a/"], ["00000", "00001", "00002"]),
        (["."], ["a/00000", "a/00001", "a/00002", "b/00000", "b/00001", "b/00002"]),
        (["*/00000.tar"], ["a/00000", "b/00000"]),
        (["{a,b}/00001.tar"], ["a/00001", "b/00001"]),
        (["{b,a}"], ["a/00000", "a/00001", "a/00002", "b/00000", "b/00001", "b/00002"]),
        (["**/*.tar"], ["a/00000", "a/00001", "a/00002", "b/00000", "b/00001", "b/00002"]),
        (["b/00002.tar", "a/00000.tar", "./a/00000.tar", "a/*0.tar"], ["a/00000", "b/00002"]),
    ],
)
def test_patterns_name_shards_sorted_and_once(tree: Path, patterns: list[str], expected: list[str]) -> None:
    assert ids(patterns) == expected
    assert ids([f"{tree}/{pattern}" for pattern in patterns]) == expected
    assert ids([f"file://{tree}/{pattern}" for pattern in patterns]) == expected


def test_a_listed_shard_has_an_absolute_path_size_and_version(tree: Path) -> None:
    root, (first, *_) = list_shards(["a"])
    assert root == f"{tree}/a"
    assert first == Shard(f"{tree}/a/00000.tar", "00000", 1024, str((tree / "a/00000.tar").stat().st_mtime_ns))
    os.utime(tree / "a/00000.tar", ns=(5, 5))
    assert list_shards(["a"])[1][0].version == "5"


def test_lists_hold_patterns_and_comments(tree: Path) -> None:
    Path("list.txt").write_text("# shards\n\na/{00000..00001}.tar\n  b/*2.tar  \n")
    assert ids(["@list.txt"]) == ["a/00000", "a/00001", "b/00002"]
    assert ids([f"@file://{tree}/list.txt", "b/00000.tar"]) == ["a/00000", "a/00001", "b/00000", "b/00002"]
    with pytest.raises(ConfigError, match=r"nowhere\.txt cannot be read"):
        list_shards(["@nowhere.txt"])
    Path("nested.txt").write_text("@list.txt\n")
    with pytest.raises(ConfigError, match="names another list"):
        list_shards(["@nested.txt"])


def test_the_root_can_be_given(tree: Path) -> None:
    assert ids(["a/00000.tar"], root=".") == ["a/00000"]
    assert ids(["a/00000.tar"], root=f"{tree}/") == ["a/00000"]
    assert ids(["a/00000.tar"], root=str(tree.parent)) == [f"{tree.name}/a/00000"]
    with pytest.raises(ConfigError, match=r"a/00000\.tar is not inside the root .*/b"):
        list_shards(["a", "b"], root="b")
    with pytest.raises(ConfigError, match="not inside the root"):
        list_shards(["a"], root="a/0")  # a prefix of the path, but no folder of it


@pytest.mark.parametrize("pattern", ["c/*.tar", "a/*.parquet", "a/[x]*", "empty"])
def test_a_pattern_that_matches_nothing_is_an_error(tree: Path, pattern: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"matches no \.tar file"):
        list_shards(["a/00000.tar", pattern])


def test_a_missing_shard_is_named(tree: Path) -> None:
    with pytest.raises(ShardError, match=rf"shard {tree}/a/00003\.tar: does not exist, and neither do 2 more"):
        list_shards(["a/{00000..00005}.tar"])
    with pytest.raises(ConfigError, match="no shards given"):
        list_shards([])


def test_other_files_are_refused_by_name(tree: Path) -> None:
    with pytest.raises(ConfigError, match=r"00000\.parquet is not named \.tar"):
        list_shards(["a/00000.parquet"])
    for name in ("x.tar.gz", "x.TGZ", "x.tar.zst"):
        (tree / "b" / name).touch()
        for pattern in (f"b/{name}", "b", "b/*", "."):
            with pytest.raises(ConfigError, match=rf"{name} is compressed"):
                list_shards([pattern])
        (tree / "b" / name).unlink()
    with pytest.raises(ConfigError, match="unbalanced braces"):
        list_shards(["a/{00000.tar"])


def test_a_dangling_link_is_named(tree: Path) -> None:
    (tree / "a" / "00009.tar").symlink_to(tree / "gone.tar")
    for pattern in ("a", "a/*.tar", "a/00009.tar"):
        with pytest.raises(ShardError, match=r"00009\.tar"):
            list_shards([pattern])


def test_a_name_that_looks_like_a_glob_may_be_a_file(tree: Path) -> None:
    write_tar(tree / "odd[1].tar", [])
    assert ids([f"{tree}/odd[1].tar"]) == ["odd[1]"]


@pytest.mark.usefixtures("tree")
def test_urls_list_like_paths(memory: fsspec.AbstractFileSystem) -> None:
    for number in range(3):
        memory.pipe_file(f"/set/x/{number:05d}.tar", END)
        memory.pipe_file(f"/set/x/{number:05d}.parquet", b"")
    memory.pipe_file("/set/y/00000.tar", END)
    expected = ["x/00000", "x/00001", "x/00002", "y/00000"]
    for patterns in (
        ["memory://set"],
        ["memory://set/*/*.tar"],
        ["memory://set/x/{00000..00002}.tar", "memory://set/y"],
    ):
        root, found = list_shards(patterns)
        assert [shard.shard_id for shard in found] == expected
        assert root == "memory:///set"
        assert found[0].url == "memory:///set/x/00000.tar"
        assert found[0].size == len(END)
        assert found[0].version
    assert ids(["memory://set/x"], root="memory://set") == expected[:3]
    with pytest.raises(ShardError, match=r"memory:///set/x/00009\.tar: does not exist"):
        list_shards(["memory://set/x/0000{0,9}.tar"])
    with pytest.raises(ConfigError, match="different filesystems"):
        list_shards(["memory://set", "a"])
    with pytest.raises(ConfigError, match="nosuch"):
        list_shards(["nosuch://bucket/0.tar"])
    with pytest.raises(ConfigError, match="chained"):
        list_shards(["simplecache::memory://set/x/00000.tar"])


def test_a_long_brace_list_asks_for_the_folder_not_for_each_shard(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(50):
        memory.pipe_file(f"/set/{number:05d}.tar", END)
    asked: list[str] = []
    listing = [{**entry, "ETag": '"tag"'} for entry in memory.ls("/set", detail=True)]

    def ls(_: object, path: str, **__: object) -> list[dict[str, object]]:
        asked.append(f"ls {path}")
        return listing

    def info(_: object, path: str, **__: object) -> None:
        asked.append(f"info {path}")

    monkeypatch.setattr(type(memory), "ls", ls)
    monkeypatch.setattr(type(memory), "info", info)
    found = list_shards(["memory://set/{00000..00049}.tar"])[1]
    assert len(found) == 50
    assert asked == ["ls /set"]
    assert found[0].version == "tag"


def test_listings_are_asked_for_anew(memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/set/0.tar", END)
    forgotten: list[str] = []
    monkeypatch.setattr(type(memory), "invalidate_cache", lambda *_: forgotten.append("all"))
    list_shards(["memory://set/{0..0}.tar", "memory://set/*.tar"])
    assert forgotten == ["all"]
