"""Contact sheets: everything is shown, whole, in its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFont

from dedup.contact_sheet import Panel, _fitted, group_sheet, pair_sheet
from dedup.errors import ConfigError

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def plain(colour: tuple[int, int, int], size: tuple[int, int] = (32, 32)) -> Image.Image:
    return Image.new("RGB", size, colour)


def extent(sheet: Image.Image, colour: tuple[int, int, int]) -> tuple[int, int, int, int]:
    """Left, top, width and height of all pixels of that colour, which fill their box."""
    rows, columns = np.nonzero((np.asarray(sheet) == colour).all(axis=2))
    left, top = int(columns.min()), int(rows.min())
    width, height = int(columns.max()) - left + 1, int(rows.max()) - top + 1
    assert len(rows) == width * height
    return left, top, width, height


def test_a_pair_lies_side_by_side_with_its_caption_below() -> None:
    first, second = Panel([plain(RED), plain(GREEN)], "0.93 verified\n00000/a\n00001/b"), Panel([plain(BLUE)])
    sheet = pair_sheet([first, second], columns=1, side=80)
    red, green, blue = (extent(sheet, colour) for colour in (RED, GREEN, BLUE))
    assert red[2:] == green[2:] == blue[2:] == (80, 80)  # magnified
    assert red[1] == green[1]
    assert green[0] > red[0] + 79
    assert blue[0] == red[0]  # in the next row of one column
    caption = np.asarray(sheet.convert("L"))[red[1] + 80 : blue[1]]
    lines = (caption < 128).any(axis=1)
    assert np.flatnonzero(np.diff(lines.astype(int)) == 1).size == 3


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (3000, 20), (20, 3000), (640, 480)])
def test_pictures_of_any_size_are_fitted_whole_and_keep_their_shape(size: tuple[int, int]) -> None:
    left, top, width, height = extent(pair_sheet([Panel([plain(RED, size)])], side=96), RED)
    assert max(width, height) == 96
    assert abs(width / height - size[0] / size[1]) < 0.02 * size[0] / size[1] or min(width, height) == 1
    assert (left - 12, top - 12) == ((96 - width) // 2, (96 - height) // 2)


def test_pairs_fill_rows_of_so_many_columns() -> None:
    one = pair_sheet([Panel([plain(RED)], "x")], columns=1, side=64)
    sheet = pair_sheet([Panel([plain(RED)], "x")] * 7, columns=3, side=64)
    assert sheet.size == (3 * one.width, 3 * one.height)
    assert pair_sheet([Panel([plain(RED)], "x")], columns=3, side=64).size == one.size


def test_a_group_is_a_row_that_counts_what_it_does_not_show() -> None:
    few, many = Panel([plain(RED), plain(GREEN)], "group 1"), Panel([plain(BLUE)] * 5, "group 2")
    sheet = group_sheet([few, many], columns=4, side=64)
    assert extent(sheet, GREEN)[1] == extent(sheet, RED)[1]
    rows = np.nonzero((np.asarray(sheet) == BLUE).all(axis=2))[0]
    assert len(rows) == 4 * 64 * 64
    assert rows.min() > extent(sheet, RED)[1] + 64
    # The same row of a group of four has no words that say "and 1 more".
    fewer = np.asarray(group_sheet([few, Panel([plain(BLUE)] * 4, "group 2")], columns=4, side=64).convert("L"))
    below = slice(int(rows.max()) + 1, None)
    assert (np.asarray(sheet.convert("L"))[below] < 128).sum() > (fewer[below] < 128).sum()


def test_a_title_stands_above_everything() -> None:
    panels = [Panel([plain(RED)], "x")]
    without, titled = pair_sheet(panels), pair_sheet(panels, title="Just below")
    above = np.asarray(titled.convert("L"))[: titled.height - without.height]
    assert (above < 128).any()
    assert np.array_equal(np.asarray(titled)[-without.height :], np.asarray(without))


@settings(deadline=None)
@given(st.text(min_size=1, max_size=300).filter(lambda words: words.isprintable()), st.integers(60, 400))
def test_a_caption_line_keeps_its_ends_and_never_runs_out_of_its_panel(words: str, width: int) -> None:
    font = ImageFont.load_default(13)
    shown = _fitted(words, font, width)
    assert font.getlength(shown) <= width
    if shown != words:
        start, end = shown.split("...") if shown.count("...") == 1 else ("", "")
        assert words.startswith(start)
        assert words.endswith(end)


@pytest.mark.parametrize("sheet", [pair_sheet, group_sheet])
def test_nothing_to_show_is_an_error(sheet: object) -> None:
    assert callable(sheet)
    for panels in ([], [Panel([])]):
        with pytest.raises(ConfigError, match="needs pictures"):
            sheet(panels)
    with pytest.raises(ConfigError, match="columns=0"):
        sheet([Panel([plain(RED)])], columns=0)
    with pytest.raises(ConfigError, match="side=4"):
        sheet([Panel([plain(RED)])], side=4)
