"""How much of an image is the picture, by accepted pairs, and who stays by it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from dedup.decisions import DecideSettings, columns_to_decide, decide_rows
from dedup.overrides import parse_overrides
from dedup.page_shares import page_columns, page_hashes, picture_shares
from dedup.records import PAIR_SCHEMA

PICTURE, OTHER, PAGE = 0x0F0F33335555AAAA, 0xAAAA00005555FFFF, 0x123456789ABCDEF0
Sample = tuple[int | None, int | None, float | None, int]


def rows(**samples: Sample) -> pa.Table:
    """Of each sample the hash, that of the picture inside, its share, and the longer side of a square."""
    whole, inside, share, side = zip(*samples.values(), strict=True)
    codes = [[None if code is None else code.to_bytes(8, "big") for code in column] for column in (whole, inside)]
    columns = {
        "sample_id": list(samples),
        "phash": pa.array(codes[0], pa.binary(8)),
        "page_phash": pa.array(codes[1], pa.binary(8)),
        "page_share": pa.array(share, pa.float32()),
        "width": side,
        "height": side,
        "error": pa.nulls(len(samples), pa.string()),
    }
    return pa.table(columns)


def pairs(*listed: str, method: str = "verified", accepted: bool = True) -> pa.Table:
    """Each of two letters."""
    a, b = ([pair[side] for pair in listed] for side in (0, 1))
    count = len(listed)
    columns = {"a": a, "b": b, "method": [method] * count, "score": [0.9] * count, "accepted": [accepted] * count}
    return pa.table({name: pa.array(values, PAIR_SCHEMA.field(name).type) for name, values in columns.items()})


def shares(joined: pa.Table, table: pa.Table) -> list[float]:
    return [round(share, 6) for share in picture_shares(joined, table).tolist()]


PHOTO: Sample = (PICTURE, None, None, 90)
STORY: Sample = (PAGE, PICTURE ^ 0b111111, 0.25, 100)


def test_an_accepted_pair_with_what_lies_on_a_page_tells_that_it_is_one() -> None:
    assert shares(pairs("ab"), rows(a=PHOTO, b=STORY)) == [1, 0.25]
    assert shares(pairs("ab"), rows(a=STORY, b=PHOTO)) == [0.25, 1]
    assert shares(pairs("ab", accepted=False), rows(a=PHOTO, b=STORY)) == [1, 1]


@pytest.mark.parametrize("other", [(PICTURE ^ 1 << 40, None, None, 9), (OTHER, None, None, 9), (PAGE, PICTURE, 0.5, 9)])
def test_a_window_is_no_page_and_two_pages_do_not_tell(other: Sample) -> None:
    """Seven bits apart, all of it apart, and alike inside alone."""
    assert shares(pairs("ab"), rows(a=other, b=STORY)) == [1, 1]


def test_a_frame_that_hashes_do_not_see_is_no_page() -> None:
    framed: Sample = (PICTURE ^ 0b11, PICTURE, 0.8, 100)
    assert shares(pairs("ab"), rows(a=PHOTO, b=framed)) == [1, 1]


def test_copies_of_a_page_are_pages_though_one_alone_has_pairs() -> None:
    table = rows(a=STORY, b=STORY, c=PHOTO, d=PHOTO)
    identical = pa.concat_tables([pairs("ab", "cd", method="exact"), pairs("ac")])
    assert shares(identical, table) == [0.25, 0.25, 1, 1]


@pytest.mark.parametrize("row", ["a,separate,b", "b,separate,a", "b,separate,c"])
def test_what_an_override_separates_tells_nothing(row: str) -> None:
    """Nor of the same file under another name."""
    table = rows(a=PHOTO, b=STORY, c=PHOTO)
    identical = pa.concat_tables([pairs("ac", method="exact"), pairs("ab")])
    by_hand = parse_overrides(f"sample_id,action,other\n{row}\n".encode())
    assert picture_shares(identical, table).tolist() == [1, 0.25, 1]
    assert picture_shares(identical, table, by_hand).tolist() == [1, 1, 1]


def test_samples_that_failed_or_are_in_no_pair_are_all_picture() -> None:
    table = rows(a=(None, None, None, 1), b=STORY, c=PHOTO)
    assert shares(pairs("bc"), table) == [1, 0.25, 1]
    assert shares(pairs("xy"), table) == [1, 1, 1]
    assert shares(pairs(), table.slice(0, 0)) == []


def test_the_photograph_stays_and_its_larger_screenshot_goes() -> None:
    table, settings = rows(a=STORY, b=PHOTO), DecideSettings()
    columns = columns_to_decide(settings, "phash")
    assert {*columns} == {*table.column_names}
    _, chosen = decide_rows(pairs("ab"), table.select(columns), settings)
    assert chosen["keeper"].to_pylist() == ["b", None]
    whatever = DecideSettings(keep="most_pixels")
    assert not {*page_columns("phash")} & {*columns_to_decide(whatever, "phash")}
    _, by_pixels = decide_rows(pairs("ab"), table, whatever)
    assert by_pixels["keeper"].to_pylist() == [None, "a"]
    larger = rows(a=(PAGE, PICTURE, 0.25, 200), b=PHOTO)  # the picture on it is larger, too
    assert decide_rows(pairs("ab"), larger, settings)[1]["keeper"].to_pylist() == [None, "a"]


def test_what_is_read_follows_from_the_policy() -> None:
    assert not {*page_columns("phash")} & {*columns_to_decide(DecideSettings(keep="first"), "phash")}
    assert page_hashes(["phash", "dhash", *page_columns("phash"), "page_dhash"]) == ["phash", "dhash"]
