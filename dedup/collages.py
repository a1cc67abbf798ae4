"""A collage: pictures side by side, of which one is the other picture of a pair.

    whole ──is_divided──▶ whether a seam runs from border to border
    whole, part ──fills_a_cell──▶ whether the part is in one cell of the whole, and other pictures are in the rest

Whoever takes a collage for a copy of one of its pictures takes that picture for a copy of the others, and what only the
collage shows goes with it. A crop is as small a part of the picture that it comes from, but where it ends nothing ends
in that picture; a cell of a collage ends in seams and at borders all around. So may a picture that lies on a page; but
there the rest is plain, drawn or blurred, or no seam runs from border to border. And where the rest shows the same
picture once more nothing else goes with it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from dedup.drawings import is_drawn
from dedup.geometry import band_pass, determinant, quantile
from dedup.pages import seams
from dedup.tiles import BAND

UInt8Array = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]
Span = tuple[int, int]  # in pixels, from the first to before the second

# Shares of a line that are a seam: from border to border, and of each of its parts. Of 730 pairs of a photograph and a
# collage with it (rows, columns and squares of two to four, with gaps and without) that all else accepts 191 are left;
# with 0.5 it would be 135, but then 6 of 488 parts that one straight cut leaves of a photograph are lost, where now one
# is, and of 205 that are cut along its straightest line 55, where now 18 are.
_ANY_SEAM, _SEAM = 0.4, 0.6
_INSIDE = 0.1  # of a side, from the border
_NEAR = 5  # pixels, of 256, from where the part ends to the seam
_AT_BORDER = 0.04  # of a side
_SMALLEST, _LARGEST = 0.1, 0.75  # of the whole: words, bars and banners leave more
_ALL = 0.9  # of the whole: a part that lies on so much of it lies on one picture, however it was covered
_STRIP = 12  # pixels
# Correlation of bands before a seam that lies within the part, at least, and beyond it, at most; and the variance of
# both bands from which it says anything.
_SAME, _OTHER, _TELLING = 0.4, 0.25, 4.0
_UPRIGHT = 0.06  # of its length, by which a side of the part may lean
# The longer side, in pixels, of a cell that is looked for elsewhere, the least shorter one, and the correlation from
# which a place shows the same picture again.
_SMALL, _LEAST_SHOWN, _REPEATED = 32, 4, 0.7
# A picture is neither drawn nor so plain or blurred that less of its blocks, pixels wide, hold so much detail.
_DETAILED, _DETAIL, _FINE, _BLOCK = 0.35, 2.0, (0.8, 2.4), 16
_AS_SHARP = 0.5  # times the detail of the cell: the rest may be the picture itself, a little blurred


def is_divided(whole: UInt8Array) -> bool:
    """(H, W) uint8, 256 pixels the longer side -> whether a seam may run from border to border."""
    if min(whole.shape) < 2 * _BLOCK:
        return False
    for grey in (whole, whole.T):
        share = seams([np.ascontiguousarray(grey)]).mean(0)
        margin = int(_INSIDE * len(share))
        if share[margin : len(share) - margin].max(initial=0.0) >= _ANY_SEAM:
            return True
    return False


def fills_a_cell(part: UInt8Array, whole: UInt8Array, onto: Floats) -> bool:
    """`part`, `whole` (H, W) uint8, 256 pixels the longer side; `onto` (2, 3) maps the first onto the second, in units
    of their sides. The part may be more than its cell shows of it."""
    height, width = whole.shape
    pixels = np.diag([width, height]) @ onto
    leaning = [min(along) / max(*along, 1e-9) for along in np.abs(pixels[:, :2])]
    if max(leaning) > _UPRIGHT:
        return False
    corners = pixels @ np.array([[0, 1], [0, 1], [1, 1]], np.float64)
    (left, top), (right, bottom) = np.rint(np.sort(corners).T).astype(int).tolist()
    cell = _Box(max(0, left), max(0, top), min(width, right), min(height, bottom))
    if not _SMALLEST * whole.size <= cell.area <= _ALL * whole.size:
        return False
    sides = _Sides(whole, _Sums.of(_laid(part, whole, pixels), whole))
    ends = []
    for across in (True, False):
        for far in (False, True):
            end = sides.end(cell, across, far)
            if end is None:
                return False
            if end.seam:
                cell = cell.ending(end)
                ends.append(end)
    if not _SMALLEST * whole.size <= cell.area <= _LARGEST * whole.size:
        return False
    shown = whole[cell.top : cell.bottom, cell.left : cell.right]
    dividing = (end for end in ends if sides.divides(end, cell))
    if not any(_is_picture(end.beyond(whole, _NEAR), _AS_SHARP * _detail(shown)) for end in dividing):
        return False
    return not _repeated(whole, cell)


class _End(NamedTuple):
    """One side of a cell: `at`, in pixels, `across` the whole or down, the `far` one or the near one; whether a seam is
    there, or the border of the whole."""

    across: bool
    far: bool
    at: int
    seam: bool

    def beyond(self, whole: UInt8Array, by: int) -> UInt8Array:
        """What lies by so many pixels beyond it."""
        span = slice(self.at + by, None) if self.far else slice(max(0, self.at - by))
        return np.ascontiguousarray(whole[:, span] if self.across else whole[span])


class _Box(NamedTuple):
    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)

    def span(self, across: bool) -> Span:
        return (self.left, self.right) if across else (self.top, self.bottom)

    def ending(self, end: _End) -> _Box:
        begin, stop = self.span(end.across)
        return self.with_span(end.across, (begin, end.at) if end.far else (end.at, stop))

    def with_span(self, across: bool, span: Span) -> _Box:
        if across:
            return self._replace(left=span[0], right=span[1])
        return self._replace(top=span[0], bottom=span[1])


class _Sums(NamedTuple):
    """Sums over all rectangles from the corner of the squares of two bands and of their products, (3, H + 1, W + 1)."""

    table: Floats

    @classmethod
    def of(cls, first: Any, second: Any) -> _Sums:
        a, b = (band_pass(grey.astype(np.float32), BAND) for grey in (first, second))
        return cls(np.stack([cv2.integral(product, sdepth=cv2.CV_64F) for product in (a * a, b * b, a * b)]))

    def correlation(self, box: _Box, otherwise: float) -> float:
        """How much the bands correlate in the box, 0..1, whatever the sign; `otherwise` where that says nothing."""
        left, top, right, bottom = box
        table = self.table
        sums = table[:, bottom, right] - table[:, top, right] - table[:, bottom, left] + table[:, top, left]
        if not box.area or min(sums[:2]) < _TELLING * box.area:
            return otherwise
        return float(abs(sums[2]) / math.sqrt(sums[0] * sums[1]))


class _Sides:
    """Where the whole has seams, and where the part, laid onto it, is the same."""

    def __init__(self, whole: UInt8Array, sums: _Sums) -> None:
        self._lengths = {True: whole.shape[1], False: whole.shape[0]}
        self._sums = sums
        # How much of a seam each line has, before which it lies, down to a pixel.
        self._seams = {
            across: cv2.integral(seams([np.ascontiguousarray(grey)]), sdepth=cv2.CV_64F)
            for across, grey in ((True, whole), (False, whole.T))
        }

    def end(self, box: _Box, across: bool, far: bool) -> _End | None:
        """Where the cell ends on one side of the box: at a seam near that side, or within, if the part is the same
        before it, and not beyond; None where nothing ends."""
        begin, stop = box.span(across)
        at, length = box.span(across)[far], self._lengths[across]
        first, last = (begin + _STRIP + 1, stop + _NEAR) if far else (begin - _NEAR, stop - _STRIP - 1)
        share = self._share(across, box.span(not across))
        lines = [line for line in range(max(first, 1), min(last, length - 1) + 1) if share[line] >= _SEAM]
        for line in sorted(lines, key=lambda line: -share[line]):
            if abs(line - at) <= _NEAR or self._ends(box, across, far, line):
                return _End(across, far, line, True)
        near = at >= (1 - _AT_BORDER) * length if far else at <= _AT_BORDER * length
        return _End(across, far, at, False) if near else None

    def _ends(self, box: _Box, across: bool, far: bool, line: int) -> bool:
        begin, stop = box.span(across)
        before = (line - _STRIP - 1, line - 1) if far else (line + 1, line + _STRIP + 1)
        beyond = (line + 1, stop) if far else (begin, line - 1)
        same = self._sums.correlation(box.with_span(across, before), otherwise=0.0)
        return same >= _SAME and self._sums.correlation(box.with_span(across, beyond), otherwise=1.0) <= _OTHER

    def _share(self, across: bool, span: Span) -> Any:
        """Of each line, the share of that part of it that is a seam."""
        summed = self._seams[across]
        share = np.diff(summed[span[1]] - summed[span[0]]) / max(span[1] - span[0], 1)
        return np.concatenate([[0.0], share])

    def divides(self, end: _End, cell: _Box) -> bool:
        """Whether the seam goes on from the cell to both borders."""
        begin, stop = cell.span(not end.across)
        rest = [span for span in ((0, begin), (stop, self._lengths[not end.across])) if span[1] - span[0] > 2 * _NEAR]
        near = slice(max(0, end.at - 2), end.at + 3)
        return all(float(self._share(end.across, span)[near].max()) >= _SEAM for span in rest)


def _laid(part: UInt8Array, whole: UInt8Array, pixels: Floats) -> Any:
    """The part as it lies on the whole; `pixels` maps it there, from units of its sides."""
    affine = pixels @ np.diag([1 / part.shape[1], 1 / part.shape[0], 1.0])
    scale = abs(determinant(affine)) ** 0.5
    source = part.astype(np.float32)
    if scale < 1:
        source = cv2.GaussianBlur(source, (0, 0), max(0.5 * (1 / max(scale, 0.05) ** 2 - 1) ** 0.5, 0.1))
    size = (whole.shape[1], whole.shape[0])
    return cv2.warpAffine(source, affine, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _is_picture(rest: UInt8Array, least: float) -> bool:
    """Whether it is neither plain, nor drawn, as pages with words are, nor blurred: `least` detail is asked of it."""
    if min(rest.shape) < 2 * _BLOCK or is_drawn(rest, fine=True):
        return False
    return float((_details(rest) > max(_DETAIL, least)).mean()) >= _DETAILED


def _detail(grey: UInt8Array) -> float:
    return quantile(_details(grey), 0.5) if min(grey.shape) >= _BLOCK else 0.0


def _details(grey: UInt8Array) -> Any:
    """Of each block the fine detail that it holds, in levels."""
    band = band_pass(grey.astype(np.float32), _FINE)
    blocks = (grey.shape[1] // _BLOCK, grey.shape[0] // _BLOCK)
    return np.sqrt(cv2.resize(band * band, blocks, interpolation=cv2.INTER_AREA))


def _repeated(whole: UInt8Array, cell: _Box) -> bool:
    """Whether the whole shows what is in the cell once more elsewhere: as it is, mirrored, turned over or inverted."""
    shrink = _SMALL / max(cell.right - cell.left, cell.bottom - cell.top)
    size = (max(1, round(whole.shape[1] * shrink)), max(1, round(whole.shape[0] * shrink)))
    small = cv2.resize(whole, size, interpolation=cv2.INTER_AREA)
    left, top, right, bottom = (int(edge * shrink) for edge in cell)
    shown = np.ascontiguousarray(small[top:bottom, left:right])
    if min(shown.shape) < _LEAST_SHOWN or shown.std() < 1:
        return False  # what is next to nothing, or plain, is everywhere
    for again in (shown, shown[:, ::-1], shown[::-1], shown[::-1, ::-1]):
        found = np.abs(cv2.matchTemplate(small, np.ascontiguousarray(again), cv2.TM_CCOEFF_NORMED))
        beside = np.ones_like(found, bool)
        reach_x, reach_y = (right - left) // 2, (bottom - top) // 2
        beside[max(0, top - reach_y) : top + reach_y + 1, max(0, left - reach_x) : left + reach_x + 1] = False
        if float(found[beside].max(initial=0.0)) >= _REPEATED:
            return True
    return False
