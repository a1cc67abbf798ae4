"""What img2dataset is told: its options, and the list of URLs that it reads."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup.errors import ConfigError
from dedup.run_folder import RunFolder
from pipelines.download import DownloadSettings, img2dataset_arguments, known_options
from pipelines.listed_urls import UrlList, carried_columns, read_url_list, write_copy


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
