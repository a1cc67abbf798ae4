"""`dedup download`: real images, and what goes wrong on the way, from a server on loopback; then a run, then again."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, DedupError
from dedup.manifest import read_manifest
from dedup.records import Shard
from dedup.shards import ShardReader, list_shards
from pipelines import cli, summary
from pipelines import download as downloading
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate
from pipelines.download import DownloadSettings, download
from pipelines.download_statistics import read_statistics
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
