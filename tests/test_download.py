"""`dedup download`: real images, and what goes wrong on the way, from a server on loopback; then a run, then again."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, DedupError
from dedup.manifest import read_manifest
from dedup.records import Shard
from dedup.run_folder import RunFolder
from dedup.shards import ShardReader, list_shards
from pipelines import cli, summary
from pipelines import download as downloading
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.download import DownloadSettings, download, img2dataset_arguments, known_options
from pipelines.download_statistics import read_statistics
from pipelines.listed_urls import UrlList, carried_columns, read_url_list, write_copy
from pipelines.run_state import Run
from pipelines.settings import RunSettings
from tests.shard_makers import encode, jpeg, picture

SETTINGS = RunSettings(describe=DescribeSettings(embedder="none"))
PICTURES = {
    "/0.jpg": jpeg(0),
    "/1.png": encode(picture(1), "PNG"),
    "/2.jpg": jpeg(2),
    "/copy.jpg": jpeg(0),
    "/corrupt.jpg": jpeg(3)[:700],
    "/page.jpg": b"<html>no picture</html>",
}
QUICK = ("--timeout=3", "--thread_count", "8", "--processes_count=1")


class Pictures(BaseHTTPRequestHandler):
    """Serves PICTURES; any other path is a 404, and /hang is answered when the test ends."""

    def __init__(self, ended: threading.Event, *arguments: Any) -> None:
        self._ended = ended
        super().__init__(*arguments)

    def do_GET(self) -> None:
        if self.path == "/hang":
            self._ended.wait()
            return
        self.send_response(200 if self.path in PICTURES else 404)
        self.end_headers()
        self.wfile.write(PICTURES.get(self.path, b"not here"))

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # connections that wait: a client's retry after one that was dropped would take a second


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    ended = threading.Event()
    with Server(("127.0.0.1", 0), partial(Pictures, ended)) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        ended.set()
        running.shutdown()
        thread.join()


def table(server: str) -> pa.Table:
    names = [*PICTURES, "/missing.jpg", "/hang"]
    return pa.table(
        {
            "URL": [server + name for name in names],
            "TEXT": [f"text of {name}" for name in names],
            "NSFW": ["no"] * len(names),
            "similarity": [n / 10 for n in range(len(names))],
            "boxes": [[[n, n + 1]] for n in range(len(names))],
            "sha256": ["of another time"] * len(names),
            "seen": pa.array([0] * len(names), pa.timestamp("s")),
        }
    )


def contents(folder: Path) -> dict[str, bytes | None]:
    """The image of each sample by the path it was served at."""
    found = {}
    for shard in list_shards([str(folder)])[1]:
        for sample in ShardReader(shard):
            url = json.loads(sample.json or b"{}")["url"]
            found["/" + url.rpartition("/")[2]] = sample.image.data if sample.image else None
    return found


def test_from_urls_to_the_urls_of_the_clean_set_and_back(
    server: str,
    tmp_path: Path,
    cluster: ClusterSettings,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pq.write_table(table(server), tmp_path / "urls.parquet")
    shards, run, again = tmp_path / "shards", tmp_path / "run", tmp_path / "again"
    with caplog.at_level(logging.WARNING, logger="pipelines.download"), pytest.raises(SystemExit, match=r"^0$"):
        cli.main(["download", str(tmp_path / "urls.parquet"), "--out", str(shards), "--", *QUICK])
    assert "yours get others in the json: sha256 as list_sha256" in caplog.text

    printed = capsys.readouterr().out
    assert re.search(r"^urls +8\ndownloaded +6\nfailed +2 ", printed)
    assert "1 HTTP Error 404: Not Found" in printed
    assert "timed out" in printed
    assert contents(shards) == PICTURES  # as served: nothing is decoded, so nothing is lost

    # Beside the tar lie img2dataset's table and statistics.
    assert {"00000.tar", "00000.parquet", "00000_stats.json"} <= {path.name for path in shards.iterdir()}
    deduplicate([str(shards)], str(run), SETTINGS, cluster)
    finished = Run.reopen(str(run))
    assert finished.document["downloaded"] == {
        "shards": 1, "count": 8, "successes": 6, "failed_to_download": 2, "failed_to_resize": 0,
    }  # fmt: skip
    assert "\nurls                8  listed, 6 came, 2 not downloaded\n" in summary.text(finished)
    status = {row["url"].removeprefix(server): row["status"] for row in read_manifest(str(run)).to_pylist()}
    assert sorted([status.pop("/0.jpg"), status.pop("/copy.jpg")]) == ["kept", "removed"]
    assert status == {"/1.png": "kept", "/2.jpg": "kept", "/corrupt.jpg": "failed", "/page.jpg": "failed"}

    kept = pq.read_table(run / "kept_urls.parquet")
    assert {"url", "caption", "NSFW", "similarity", "boxes", "sha256"} <= set(kept.column_names)
    assert set(kept["list_sha256"].to_pylist()) == {"of another time"}
    assert set(kept["seen"].to_pylist()) == {"1970-01-01 00:00:00.000"}
    assert not (shards / "_list").exists()
    assert kept.schema.field("boxes").type == pa.list_(pa.list_(pa.int64()))
    rows = {row["url"].removeprefix(server): row for row in kept.to_pylist()}
    assert (rows["/2.jpg"]["caption"], rows["/2.jpg"]["similarity"]) == ("text of /2.jpg", 0.2)
    removed = pq.read_table(run / "removed_urls.parquet")
    assert removed.num_rows == 1
    assert removed.schema == kept.schema

    # Another team downloads the clean set alone, verified to be the same bytes.
    verified = ("--compute_hash=sha256", '--verify_hash=["sha256","sha256"]')
    counts = download(str(run / "kept_urls.parquet"), str(again), (*QUICK, *verified), DownloadSettings())
    assert counts == {"success": 3}
    assert contents(again) == {path: PICTURES[path] for path in rows}


def test_statistics_that_are_partly_there_or_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = [Shard(str(tmp_path / name), name[:-4], 0, "") for name in ("a.tar", "b.tar", "c.tar")]
    assert read_statistics(shards) is None
    (tmp_path / "a_stats.json").write_text('{"count": 3, "successes": 2, "failed_to_download": 1}')
    (tmp_path / "other_stats.json").write_text('{"count": 9}')
    told = {"shards": 1, "count": 3, "successes": 2, "failed_to_download": 1}
    assert read_statistics(shards) == told
    (tmp_path / "b_stats.json").write_text("{")
    (tmp_path / "c_stats.json").write_text("[]")
    with caplog.at_level(logging.WARNING):
        assert read_statistics(shards) == told
    assert "2 statistics of downloads cannot be read, the first is" in caplog.text


class TestFolder:
    """What `download` makes of its folder; what img2dataset leaves there is written by hand."""

    @pytest.fixture
    def urls(self, tmp_path: Path) -> Path:
        (tmp_path / "urls.csv").write_text("url\nhttp://host/a\nhttp://host/b\n")
        return tmp_path / "urls.csv"

    @pytest.fixture
    def statistics(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
        """What img2dataset tells of its one shard."""
        told = {"success": 1, "HTTP Error 404: Not Found": 1}

        def write(*_: object) -> None:
            (tmp_path / "out" / "00000.tar").write_bytes(b"a tar")
            (tmp_path / "out" / "00000_stats.json").write_text(json.dumps({"status_dict": told}))

        monkeypatch.setattr(downloading, "_run_img2dataset", write)
        return told

    @pytest.mark.usefixtures("statistics")
    def test_the_same_command_goes_on_and_another_one_is_refused(self, urls: Path, tmp_path: Path) -> None:
        def call(*options: str) -> dict[str, int]:
            return download(str(urls), str(tmp_path / "out"), options, DownloadSettings())

        assert (
            call("--timeout=1") == call("--timeout=5", "--retries=2") == {"success": 1, "HTTP Error 404: Not Found": 1}
        )
        with pytest.raises(ConfigError, match="a download of other options"):
            call("--image_size=64")
        urls.write_text("url\nhttp://host/c\n")
        with pytest.raises(ConfigError, match="a download of other urls"):
            call()

    @pytest.mark.usefixtures("statistics")
    def test_a_mistyped_option_claims_no_folder(self, urls: Path, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no option of img2dataset"):
            download(str(urls), str(tmp_path / "out"), ("--timeuot=1",), DownloadSettings())
        assert download(str(urls), str(tmp_path / "out"), ("--timeout=1",), DownloadSettings())["success"] == 1

    @pytest.mark.usefixtures("statistics")
    def test_a_folder_of_something_else_is_refused(self, urls: Path, tmp_path: Path) -> None:
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "thesis.txt").write_text("precious")
        with pytest.raises(ConfigError, match=r"not empty and has no download\.info"):
            download(str(urls), str(tmp_path / "out"), (), DownloadSettings())
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.txt"]

    def test_no_image_at_all_is_an_error(self, urls: Path, tmp_path: Path, statistics: dict[str, int]) -> None:
        statistics.clear()
        statistics.update({f"reason {number}": 10 - number for number in range(7)})
        with pytest.raises(DedupError, match=r"none of 49 URLs .* 10 reason 0, .* 6 reason 4, and 2 other reasons"):
            download(str(urls), str(tmp_path / "out"), (), DownloadSettings())

    def test_a_shard_that_was_given_up_is_an_error(
        self, urls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            downloading, "_run_img2dataset", lambda *_: (tmp_path / "out" / "00007.tar").write_bytes(b"cut off")
        )
        with pytest.raises(DedupError, match=r"gave up on 1 shards, the first is .*00007\.tar"):
            download(str(urls), str(tmp_path / "out"), (), DownloadSettings())


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["Traceback", "ERROR: Could not consume arg: --imagesize=3", "Usage: main.py"], "^ERROR: .*--imagesize=3$"),
        (["ModuleNotFoundError: No module named 'imghdr'"], "pip install standard-imghdr"),
        ([f"line {number}" for number in range(99)], r"line 84\n(.*\n)*line 98$"),
    ],
)
def test_why_img2dataset_failed_is_told_by_its_own_words(
    lines: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "img2dataset"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "main.py").write_text(f"import sys\ndef main():\n  print({chr(10).join(lines)!r})\n  sys.exit(2)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(DedupError, match=r"img2dataset failed \(exit code 2\)") as caught:
        downloading._run_img2dataset("urls.txt", {})
    assert re.search(told, str(caught.value).partition("\n")[2])


def url_list(*columns: str) -> UrlList:
    return UrlList("urls.parquet", "parquet", pa.schema([(column, pa.string()) for column in columns]), [])


class TestArguments:
    def test_all_columns_and_bytes_are_kept_by_default(self) -> None:
        found = img2dataset_arguments(url_list("URL", "TEXT", "NSFW"), "out", (), DownloadSettings())
        assert found["url_col"] == "URL"
        assert found["caption_col"] == "TEXT"
        assert json.loads(found["save_additional_columns"]) == ["NSFW"]
        assert found["disable_all_reencoding"] == "True"
        assert (found["input_format"], found["output_format"]) == ("parquet", "webdataset")

    def test_columns_of_names_that_img2dataset_keeps_to_itself_get_others(self) -> None:
        columns = ("url", "width", "status", "list_status")
        found = img2dataset_arguments(
            dataclasses.replace(url_list(*columns), format="csv"), "out", (), DownloadSettings()
        )
        assert json.loads(found["save_additional_columns"]) == ["list_width", "list_list_status", "list_status"]
        assert found["input_format"] == "parquet"  # of the copy that has these names
        of_a_download = ("url", "key", "status", "error_message", "sha256", "mine")
        found = img2dataset_arguments(url_list(*of_a_download), "out", (), DownloadSettings())
        assert json.loads(found["save_additional_columns"]) == ["mine"]

    def test_every_option_of_img2dataset_is_known(self) -> None:
        # In a process of its own: importing it warns, and asks the network for news.
        code = "import inspect, img2dataset; print(*inspect.signature(img2dataset.download).parameters)"
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            env=os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert known_options() == set(done.stdout.split())

    def test_options_win_and_those_that_need_decoding_end_the_storing_as_served(self) -> None:
        options = ("--image-size", "512", "--resize_mode=keep_ratio", "--extract_exif", "--processes_count=3")
        found = img2dataset_arguments(url_list("url"), "out", options, DownloadSettings())
        assert (found["image_size"], found["resize_mode"]) == ("512", "keep_ratio")
        assert (found["extract_exif"], found["processes_count"]) == ("True", "3")
        assert "disable_all_reencoding" not in found
        assert "caption_col" not in found

    def test_columns_can_be_named(self) -> None:
        settings = DownloadSettings(url_column="where", caption_column="what")
        found = img2dataset_arguments(url_list("url", "what", "where"), "out", (), settings)
        assert (found["url_col"], found["caption_col"]) == ("where", "what")

    @pytest.mark.parametrize(
        ("columns", "options", "settings", "message"),
        [
            ("ab", (), DownloadSettings(), "no column url, but a, b: name it with --url-column"),
            ("ab", (), DownloadSettings(url_column="c"), "no column c in the list of URLs: it has a, b"),
            (["url"], ("image_size=3",), DownloadSettings(), "image_size=3: options of img2dataset are --name=value"),
            (["url"], ("--time_out=3",), DownloadSettings(), r"--time_out is no option .* did you mean --timeout\?"),
            (["url"], ("--zzzzz",), DownloadSettings(), "--zzzzz is no option of img2dataset; it has bbox_col, "),
            (["url"], ("--output_folder=x",), DownloadSettings(), "use --out"),
            (["url"], ("--output_format=files",), DownloadSettings(), "dedup reads webdataset shards"),
        ],
    )
    def test_what_cannot_be_is_refused(
        self, columns: str, options: tuple[str, ...], settings: DownloadSettings, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            img2dataset_arguments(url_list(*columns), "out", options, settings)


class TestLists:
    FRAME = pd.DataFrame({"url": ["http://host/a", "http://host/b"], "caption": ["x", "y"], "width": [1, 2]})

    @pytest.mark.parametrize("name", ["u.parquet", "u.csv", "u.csv.gz", "u.tsv", "u.tsv.gz", "u.json", "u.jsonl.gz"])
    def test_columns_are_found_in_every_format(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / name
        writers = {
            "parquet": lambda: self.FRAME.to_parquet(path),
            "csv": lambda: self.FRAME.to_csv(path, index=False),
            "tsv": lambda: self.FRAME.to_csv(path, index=False, sep="\t"),
            "json": lambda: self.FRAME.to_json(path),
            "jsonl": lambda: self.FRAME.to_json(path, orient="records", lines=True),
        }
        writers[name.split(".")[1]]()
        found = read_url_list(str(path))
        assert found.format == name.partition(".")[2]
        assert found.schema.names == ["url", "caption", "width"]

    @pytest.mark.parametrize("name", ["u.parquet", "u.csv", "u.tsv.gz", "u.json", "u.jsonl"])
    def test_dates_and_decimals_become_text_in_a_copy(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "lists" / name
        path.parent.mkdir()
        text = {"url": ["http://host/a", "http://host/b"], "date": ["2024-01-02 03:04:05", "2024-01-03 00:00:00"]}
        frame = pd.DataFrame(text | {"status": [1, 2]})
        writers = {
            "parquet": lambda: pq.write_table(
                pa.table(
                    {
                        **frame,
                        "date": pd.to_datetime(frame["date"]),
                        "price": [Decimal("1.10"), None],
                        "raw": [b"", b""],
                    }
                ),
                path,
            ),
            "csv": lambda: frame.to_csv(path, index=False),
            "tsv": lambda: frame.to_csv(path, index=False, sep="\t"),
            "json": lambda: frame.to_json(path),
            "jsonl": lambda: frame.to_json(path, orient="records", lines=True),
        }
        writers[name.split(".")[1]]()
        for url in (path, path.parent):  # a file, a folder of files
            found = read_url_list(str(url))
            carried = carried_columns(found.schema, {"url"})
            assert carried.as_text == (["date", "price"] if name == "u.parquet" else ["date"])
            assert carried.left_out == (["raw"] if name == "u.parquet" else [])
            copy = pq.read_table(write_copy(found, carried, RunFolder(tmp_path / "out")))
            assert [value[:19] for value in copy["date"].to_pylist()] == text["date"]
            assert copy["list_status"].to_pylist() == copy["status"].to_pylist() == [1, 2]
            if name == "u.parquet":
                assert copy["price"].to_pylist() == ["1.10", None]

    def test_a_folder_of_files_is_a_list(self, tmp_path: Path) -> None:
        for number in range(2):
            self.FRAME.to_parquet(tmp_path / f"{number}.parquet")
        found = read_url_list(str(tmp_path))
        assert (found.format, len(found.version)) == ("parquet", 2)

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("u.xlsx", b"", r"u\.xlsx: none of them; a list of URLs is one of parquet, csv"),
            ("u.parquet", b"no parquet", r"u\.parquet cannot be read as parquet"),
            ("u.csv", b"", r"u\.csv cannot be read as csv"),
            ("u.jsonl", b"{", r"u\.jsonl cannot be read as jsonl"),
            ("u.csv.gz", b"no gzip", r"u\.csv\.gz cannot be read as csv\.gz"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, name: str, content: bytes, message: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=message):
            read_url_list(str(tmp_path / name))

    def test_a_list_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no such list of URLs"):
            read_url_list(str(tmp_path / "urls.csv"))
