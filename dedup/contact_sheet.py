"""Pictures side by side with captions, to be looked at: pairs in a grid, or groups in rows.

    sheet = pair_sheet([Panel((first, second), "0.93 verified\\n00000/cat\\n00007/dog"), ...], columns=4, side=128)
    sheet.save("borderline.png")

Each picture is fitted into a square of `side` pixels, small ones magnified, its shape kept. Every line of a caption
stays one line: what does not fit loses its middle, since ids differ at their ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from dedup.errors import ConfigError

_PAPER, _INK, _EMPTY = (255, 255, 255), (0, 0, 0), (238, 238, 238)
_TEXT_SIZE = 13  # pixels, of the captions
_TITLE_SIZE = 18
_LINE_SPACING = 1.3
_GAP = 4  # pixels between the pictures of one panel
_MARGIN = 12  # pixels around a panel
_ELLIPSIS = "..."


@dataclass(frozen=True)
class Panel:
    """What is shown together: `pictures`, RGB of any size, and below them `caption`, of one or more lines."""

    pictures: Sequence[Image.Image]
    caption: str = ""


def pair_sheet(pairs: Sequence[Panel], *, columns: int = 4, side: int = 128, title: str = "") -> Image.Image:
    """One panel per pair, its pictures side by side, in a grid of `columns` panels a row, left to right: an RGB image.

    `side` is the width and height in pixels of the square that a picture gets. Raises ConfigError where there are no
    pairs, a panel has no picture, or columns or side are too small.
    """
    _check(pairs, columns, side)
    return _grid(pairs, min(columns, len(pairs)), max(len(pair.pictures) for pair in pairs), side, title)


def group_sheet(groups: Sequence[Panel], *, columns: int = 8, side: int = 128, title: str = "") -> Image.Image:
    """One row per group, with its first `columns` pictures; the caption says how many more there are.

    Raises as `pair_sheet`.
    """
    _check(groups, columns, side)
    shown = [Panel(group.pictures[:columns], _counted(group, columns)) for group in groups]
    return _grid(shown, 1, max(len(group.pictures) for group in shown), side, title)


def _check(panels: Sequence[Panel], columns: int, side: int) -> None:
    if columns < 1 or side < 16:
        raise ConfigError(f"columns={columns}, side={side}: a contact sheet needs at least 1 column of 16 pixels")
    if not panels or not all(panel.pictures for panel in panels):
        raise ConfigError("a contact sheet needs pictures: none were given for at least one of its panels")


def _counted(group: Panel, columns: int) -> str:
    more = len(group.pictures) - columns
    return group.caption if more <= 0 else f"{group.caption} (and {more} more)".lstrip()


def _grid(panels: Sequence[Panel], columns: int, pictures: int, side: int, title: str) -> Image.Image:
    text, heading = (ImageFont.load_default(size) for size in (_TEXT_SIZE, _TITLE_SIZE))
    line, head = round(_TEXT_SIZE * _LINE_SPACING), round(_TITLE_SIZE * _LINE_SPACING) if title else 0
    width = pictures * (side + _GAP) - _GAP + 2 * _MARGIN
    rows = [panels[at : at + columns] for at in range(0, len(panels), columns)]
    heights = [side + line * max(len(panel.caption.splitlines()) for panel in row) + 2 * _MARGIN for row in rows]
    sheet = Image.new("RGB", (columns * width, head + _MARGIN * bool(title) + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), _fitted(title, heading, sheet.width - 2 * _MARGIN), _INK, heading)
    top = sheet.height - sum(heights)
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            left = column * width + _MARGIN
            for place, picture in enumerate(panel.pictures):
                _paste(sheet, picture, left + place * (side + _GAP), top + _MARGIN, side)
            for number, words in enumerate(panel.caption.splitlines()):
                place_of_line = (left, top + _MARGIN + side + _GAP + number * line)
                draw.text(place_of_line, _fitted(words, text, width - 2 * _MARGIN), _INK, text)
        top += height
    return sheet


def _paste(sheet: Image.Image, picture: Image.Image, left: int, top: int, side: int) -> None:
    """Centred in its square, of which the rest is grey."""
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    fitted = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    sheet.paste(_EMPTY, (left, top, left + side, top + side))
    sheet.paste(fitted, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))


def _fitted(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The words, without as much of their middle as it takes for them to be no wider than `width` pixels."""
    if font.getlength(words) <= width:
        return words
    kept = len(words) - 1
    while kept and font.getlength(_without_middle(words, kept)) > width:
        kept -= 1
    return _without_middle(words, kept)


def _without_middle(words: str, kept: int) -> str:
    return words[: (kept + 1) // 2] + _ELLIPSIS + words[len(words) - kept // 2 :]
