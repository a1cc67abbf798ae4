"""Do two pictures look the same at 32x32? The cheap evidence, from stored thumbnails alone.

    likeness(thumbnails, i, j) -> Likeness: how well the pictures fit, and where one lies in the other
    whole_fits(thumbnails, i, j) -> WholeFits: the same of the whole pictures alone, and with one of them a negative
    turned_likeness(thumbnails, i, j): how well the wholes fit, one turned by 90 or 180 degrees, or flipped
    part_likeness(greys, i, j): how well some part of one fits the other; coarse and faster, to rank many pairs

Of each picture some 200 windows (the whole, crops down to half of each side, parts without a bar) are reduced to 16x16
grey levels and compared with the whole of the other picture, and with its mirror image, in both directions: either may
be the crop. Two correlations are averaged: that of the grey levels, and that of what is left without slow lighting.

All sums are over whole numbers small enough for float32 or float64 to be exact, so that a pair's likeness depends on
its two thumbnails alone: not on the batch, the number of threads, or the machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from dedup.records import THUMBNAIL_SIDE

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
UInt8Array = npt.NDArray[np.uint8]
UInt16Array = npt.NDArray[np.uint16]
Ints = npt.NDArray[np.integer]

SIGNATURE_SIDE = 16
# Coarser signatures cost a third of the time. They forgive small shifts, so they rank copies higher, and others, too.
COARSE_SIDE = 8
_UNIT = 4095  # length of a signature: products stay below 2**24, where float32 holds whole numbers exactly
_LUMA = np.array([77, 150, 29])  # ITU-R 601, times 256: sums stay below 2**16
_PAIRS_PER_BLOCK = 4096
_CELLS_PER_BLOCK = 125_000  # of all windows of the pictures that are held at a time: 1 MB, as a core's cache is
_PICTURES_PER_BLOCK = 256  # as a core's cache holds of one channel
_STEPS = 256  # resizing weights are multiples of 1/256

# (share of the width, share of the height, places across, places down)
WINDOWS = (
    (1.0, 1.0, 1, 1),
    (0.9, 0.9, 3, 3),
    (0.8, 0.8, 3, 3),
    (0.7, 0.7, 5, 5),
    (0.6, 0.6, 5, 5),
    (0.5, 0.5, 7, 7),
    (1.0, 0.85, 1, 3),
    (0.85, 1.0, 3, 1),
    (1.0, 0.7, 1, 5),
    (0.7, 1.0, 5, 1),
    (0.75, 0.55, 5, 5),
    (0.55, 0.75, 5, 5),
)
# For images that are hardly larger than their thumbnail, of which a small part is a few pixels: a third of the time.
FEW_WINDOWS = (
    (1.0, 1.0, 1, 1),
    (0.9, 0.9, 3, 3),
    (0.8, 0.8, 3, 3),
    (0.7, 0.7, 3, 3),
    (0.85, 1.0, 3, 1),
    (1.0, 0.85, 1, 3),
)
# For small images of which one may be cut out of the other: what lies between two of the windows above is a few pixels,
# too, and unlike either.
MANY_WINDOWS = (
    (1.0, 1.0, 1, 1),
    (0.9, 0.9, 3, 3),
    (0.8, 0.8, 5, 5),
    (0.7, 0.7, 7, 7),
    (0.6, 0.6, 9, 9),
    (0.5, 0.5, 13, 13),
    (1.0, 0.85, 1, 3),
    (0.85, 1.0, 3, 1),
    (1.0, 0.7, 1, 5),
    (0.7, 1.0, 5, 1),
    (0.75, 0.55, 5, 7),
    (0.55, 0.75, 7, 5),
)

Windows = tuple[tuple[float, float, int, int], ...]


@dataclass(frozen=True)
class Likeness:
    """Of N pairs: `best` (N,) float32, -1..1, the best correlation of a window of one picture with the other picture;
    `whole` (N,), that of the whole pictures (mirrored or not); `share` (N,), the window's share of its picture; `map`
    (N, 2, 3), where the point (x, y) of picture i, in 0..1, lies in picture j."""

    best: Singles
    whole: Singles
    share: Singles
    map: Floats


def likeness(
    thumbnails: UInt8Array, i: Ints, j: Ints, windows: Windows = WINDOWS, side: int = SIGNATURE_SIDE
) -> Likeness:
    """`thumbnails` (M, 32, 32, 3) uint8 RGB; `i`, `j` (N,) rows of it -> Likeness of the N pairs, by windows reduced to
    `side` (SIGNATURE_SIDE or COARSE_SIDE).

    Symmetric in i and j, but for `map`. Some pictures' windows are held at a time; give pairs in any order.
    """
    n = len(i)
    named, ends = _named(thumbnails, i, j)
    greys = _levels(named)
    others = np.concatenate([ends[n:], ends[:n]])
    wholes = _wholes(greys, side)
    mirrored = _mirror(wholes, side)
    per_block = max(1, _CELLS_PER_BLOCK // (len(_geometry(windows)[1]) * side**2))
    best = np.full((2, 2 * n), -np.inf, np.float32)  # not mirrored, mirrored
    window = np.zeros((2, 2 * n), np.intp)
    whole = np.full((2, 2 * n), -np.inf, np.float32)
    order = np.argsort(ends, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(ends[order])) + 1) if n else []
    for start in range(0, len(groups), per_block):
        block = groups[start : start + per_block]
        signed = _signatures(greys[[ends[rows[0]] for rows in block]], _geometry(windows)[0], side)
        for rows, parts in zip(block, signed, strict=True):
            for flip, signatures in enumerate((wholes, mirrored)):
                scores = parts @ signatures[others[rows]].T / np.float32(_UNIT**2)
                window[flip, rows] = scores.argmax(0)
                best[flip, rows] = scores.max(0)
                whole[flip, rows] = scores[0]
    found = best.reshape(4, n)  # i's window, j's window; the same two, mirrored
    choice = found.argmax(0)
    columns = np.arange(n)
    boxes = _geometry(windows)[1][window.reshape(4, n)[choice, columns]]
    return Likeness(
        best=found[choice, columns],
        whole=whole.max(0).reshape(2, n).max(0) if n else np.zeros(0, np.float32),
        share=(boxes[:, 2] * boxes[:, 3]).astype(np.float32),
        map=_maps(boxes, of_j=choice % 2 == 1, mirror=choice >= 2),
    )


@dataclass(frozen=True)
class WholeFits:
    """How well the whole pictures of N pairs fit, (N,) float32 each, -1..1, higher is closer: as they are, and with one
    of them mirrored."""

    plain: Singles
    mirrored: Singles

    def likeness(self) -> Likeness:
        """`likeness` of the N pairs by the whole pictures alone: `best` is `whole`, and `share` is 1."""
        best = np.maximum(self.plain, self.mirrored)
        ones = np.ones(len(best), np.float32)
        return Likeness(best, best.copy(), ones, _whole_maps(self.mirrored > self.plain))

    def inverted(self, rows: Ints) -> tuple[Singles, Floats]:
        """`turned_likeness` of the negative of picture i, mirrored or not, with picture j, of these pairs: a negative's
        signature is the picture's, with the other sign."""
        plain, mirrored = -self.plain[rows], -self.mirrored[rows]
        return np.maximum(plain, mirrored), _whole_maps(mirrored > plain)


def whole_fits(thumbnails: UInt8Array, i: Ints, j: Ints) -> WholeFits:
    """`thumbnails` (M, 32, 32, 3) uint8 RGB; `i`, `j` (N,) rows of it -> how well these N pairs fit as a whole."""
    named, ends = _named(thumbnails, i, j)
    wholes = _wholes(_levels(named), SIGNATURE_SIDE)
    first, second = ends[: len(i)], ends[len(i) :]
    plain, mirrored = (_fits(first, side, second, wholes) for side in (wholes, _mirror(wholes, SIGNATURE_SIDE)))
    return WholeFits(plain, mirrored)


def _whole_maps(mirrored: Bools) -> Floats:
    """(N,) -> (N, 2, 3): the maps of whole pictures onto whole pictures."""
    boxes = np.tile([0.0, 0.0, 1.0, 1.0], (len(mirrored), 1))
    return _maps(boxes, np.zeros(len(mirrored), bool), mirrored)


def turned_likeness(thumbnails: UInt8Array, i: Ints, j: Ints) -> tuple[Singles, Floats]:
    """`thumbnails` (M, 32, 32, 3) uint8 RGB; `i`, `j` (N,) rows of it -> (N,) float32, -1..1, higher is closer: the
    best correlation of picture i, turned by 90, 180 or 270 degrees, mirrored or not, with picture j; and (N, 2, 3):
    where the point (x, y) of picture i, in 0..1, lies in picture j by that. Symmetric in i and j, but for the maps.
    """
    best, turn = np.full(len(i), -1, np.float32), np.zeros(len(i), np.intp)
    named, place = _named(thumbnails, i, j)
    wholes = _wholes(_levels_of_grey(luma(named)), COARSE_SIDE)
    cells = wholes.reshape(-1, 2, COARSE_SIDE, COARSE_SIDE)
    for number, (quarters, mirrored) in enumerate(_TURNS):
        turned = np.rot90(cells[..., ::-1] if mirrored else cells, quarters, (2, 3)).reshape(wholes.shape)
        fits = _fits(place[: len(i)], turned, place[len(i) :], wholes)
        better = fits > best
        best[better], turn[better] = fits[better], number
    return best, np.stack([_turn(*each) for each in _TURNS])[turn]


# Quarters counterclockwise, after mirroring or not: all but the two that `likeness` tries.
_TURNS = ((1, False), (2, False), (3, False), (1, True), (2, True), (3, True))


def _turn(quarters: int, mirrored: bool) -> Floats:
    """The map (2, 3) of points in 0..1 that turns a picture so."""
    turn = np.array([[-1.0, 0, 1], [0, 1, 0], [0, 0, 1]]) if mirrored else np.eye(3)
    for _ in range(quarters):
        turn = np.array([[0.0, 1, 0], [-1, 0, 1], [0, 0, 1]]) @ turn
    return turn[:2]


def luma(thumbnails: UInt8Array) -> UInt8Array:
    """(N, 32, 32, 3) uint8 RGB -> (N, 32, 32) uint8."""
    return np.asarray((_levels(thumbnails) + 128) >> 8, np.uint8)  # below 2**16


def part_likeness(greys: UInt8Array, i: Ints, j: Ints) -> Singles:
    """`greys` (M, 32, 32) uint8; `i`, `j` (N,) rows of it -> (N,) float32, -1..1, higher is closer: the best
    correlation of a window of picture i with the whole of picture j, mirrored or not.

    Not symmetric: it is high where j is a crop of i. One picture's windows are held at a time.
    """
    named, place = _named(greys, i, j)
    wholes = _wholes(_levels_of_grey(named), COARSE_SIDE)
    mirrored = _mirror(wholes, COARSE_SIDE)
    others = place[len(i) :]
    best = np.empty(len(i), np.float32)
    order = np.argsort(i, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(i[order])) + 1) if len(i) else []:
        parts = _signatures(_levels_of_grey(greys[i[rows[0]]][None]), _geometry(WINDOWS)[0], COARSE_SIDE)[0]
        fits = [(parts @ side[others[rows]].T).max(0) for side in (wholes, mirrored)]
        best[rows] = np.maximum(*fits) / np.float32(_UNIT**2)
    return best


def residual(thumbnails: UInt8Array, i: Ints, j: Ints) -> tuple[Singles, Singles]:
    """(N,) and (N,) float32: the root mean square difference in grey levels (0..255) of two thumbnails, and the
    greatest one of luma, once brightness and contrast of all channels together are fitted; neither is moved.

    About 1 after recompressing, resizing or brightening. Both count in the levels of the flatter one, and are infinite
    where one is uniform or their contrasts differ more than 3 times. Colours are not fitted: the same drawing in red
    and in blue differs.
    """
    rms, worst = np.empty(len(i), np.float32), np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS_PER_BLOCK):
        block = slice(start, start + _PAIRS_PER_BLOCK)
        rms[block], worst[block] = _residual(thumbnails[i[block]], thumbnails[j[block]])
    return rms, worst


def _residual(first: UInt8Array, second: UInt8Array) -> tuple[Floats, Floats]:
    values = [pixels.reshape(len(pixels), -1).astype(np.int64) for pixels in (first, second)]
    n = values[0].shape[1]
    # All in whole numbers, so that the order of summing does not matter.
    sums = [value.sum(1) for value in values]
    spreads = [n * (value**2).sum(1) - total**2 for value, total in zip(values, sums, strict=True)]
    both = n * (values[0] * values[1]).sum(1) - sums[0] * sums[1]
    deviations = [np.sqrt(spread.astype(np.float64)) / n for spread in spreads]
    flatter, steeper = np.minimum(*deviations), np.maximum(*deviations)
    comparable = (flatter > 0) & (steeper <= 3 * flatter)
    scale = np.where(comparable, deviations[0] * deviations[1] * n * n, 1.0)
    rms = flatter * np.sqrt(np.maximum(2 * (1 - both / scale), 0))
    lumas = [
        ((pixels.astype(np.int64) @ _LUMA).reshape(len(pixels), -1) / 256 - (total / n)[:, None])
        / np.where(comparable, deviation, 1.0)[:, None]
        for pixels, total, deviation in zip((first, second), sums, deviations, strict=True)
    ]
    worst = np.abs(lumas[0] - lumas[1]).max(1, initial=0) * flatter
    return np.where(comparable, rms, np.inf), np.where(comparable, worst, np.inf)


def _levels(thumbnails: UInt8Array) -> UInt16Array:
    """(M, ..., 3) RGB -> (M, ...): luma times 256, as all windows are cut from it."""
    levels = np.empty(thumbnails.shape[:-1], np.uint16)
    for start in range(0, len(thumbnails), _PICTURES_PER_BLOCK):
        block = slice(start, start + _PICTURES_PER_BLOCK)
        red, green, blue = (np.uint16(weight) * thumbnails[block, ..., channel] for channel, weight in enumerate(_LUMA))
        levels[block] = red + green + blue
    return levels


def _levels_of_grey(greys: UInt8Array) -> UInt16Array:
    return np.asarray(greys.astype(np.uint16) << 8, np.uint16)


def _named(pictures: UInt8Array, i: Ints, j: Ints) -> tuple[UInt8Array, npt.NDArray[np.intp]]:
    """The pictures that pairs name, and where among them the ends (2 N,) of the pairs are, those of i first."""
    used, place = np.unique(np.concatenate([np.asarray(i, np.intp), np.asarray(j, np.intp)]), return_inverse=True)
    return pictures[used], place


def _wholes(levels: UInt16Array, side: int) -> Singles:
    """(M, 32, 32) levels times 256 -> (M, 2 * side**2): the signatures of whole pictures."""
    wholes = np.empty((len(levels), 2 * side**2), np.float32)
    per_block = _CELLS_PER_BLOCK // side**2
    for start in range(0, len(levels), per_block):
        block = slice(start, start + per_block)
        wholes[block] = _signatures(levels[block], [_whole()], side)[:, 0]
    return wholes


def _fits(i: Ints, first: Singles, j: Ints, second: Singles) -> Singles:
    """(N,): the correlations of rows i (N,) of `first` with rows j of `second`, which are signatures."""
    fits = np.empty(len(i), np.float32)
    for start in range(0, len(i), _PAIRS_PER_BLOCK):
        block = slice(start, start + _PAIRS_PER_BLOCK)
        fits[block] = np.einsum("nk,nk->n", first[i[block]], second[j[block]])  # exact, as all products of signatures
    return np.asarray(fits / np.float32(_UNIT**2), np.float32)


@cache
def _resizer(share: float, start: float, side: int) -> Floats:
    """(side, 32): averages of `side` equal parts of the stretch from `start` to `start + share`, times 256."""
    edges = (start + share * np.arange(side + 1) / side) * THUMBNAIL_SIDE
    pixels = np.arange(THUMBNAIL_SIDE)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.maximum(overlap, 0)
    # Cumulated, then rounded: so that each row still adds up to 256.
    cumulated = np.rint(np.cumsum(overlap / overlap.sum(1, keepdims=True), axis=1) * _STEPS)
    return np.diff(cumulated, axis=1, prepend=0)


@cache
def _around(side: int) -> Floats:
    """(side, side): sums of five neighbours in a row; at the ends the last one counts again."""
    rows = np.arange(side)
    sums = np.zeros((side, side))
    for offset in range(-2, 3):
        np.add.at(sums, (rows, np.clip(rows + offset, 0, side - 1)), 1)
    return sums


Window = tuple[float, float, tuple[float, ...], tuple[float, ...]]


@cache
def _geometry(windows: Windows) -> tuple[list[Window], Floats]:
    """The windows as (share across, share down, starts across, starts down), and as boxes (x, y, width, height)."""
    places, boxes = [], []
    for across, down, places_x, places_y in windows:
        starts_x = (
            tuple(float(x) for x in np.linspace(0, 1 - across, places_x)) if places_x > 1 else ((1 - across) / 2,)
        )
        starts_y = tuple(float(y) for y in np.linspace(0, 1 - down, places_y)) if places_y > 1 else ((1 - down) / 2,)
        places.append((across, down, starts_x, starts_y))
        boxes += [(x, y, across, down) for y, x in product(starts_y, starts_x)]
    return places, np.array(boxes)


def _whole() -> Window:
    return 1.0, 1.0, (0.0,), (0.0,)


def _signatures(levels: UInt16Array, windows: list[Window], side: int) -> Singles:
    """(B, 32, 32) -> (B, W, 2 * side**2) whole numbers: both signatures of each window, of length 4095 together."""
    parts, greys = [], levels.astype(np.float64)
    for across, down, starts_x, starts_y in windows:
        x = np.concatenate([_resizer(across, start, side) for start in starts_x])
        y = np.concatenate([_resizer(down, start, side) for start in starts_y])
        cells = (y @ greys @ x.T).reshape(len(greys), len(starts_y), side, len(starts_x), side)
        parts.append(cells.transpose(0, 1, 3, 2, 4).reshape(len(greys), -1, side, side))
    cells = np.concatenate(parts, axis=1)  # below 2**32
    # Both are shifted and scaled in whole numbers below 2**53, so that no rounding depends on the order of summing.
    level = cells * side**2 - cells.sum((2, 3), keepdims=True)
    detail = cells * 25 - _around(side) @ cells @ _around(side).T
    both = np.empty((*cells.shape[:2], 2, side**2), np.float32)
    for place, values in enumerate((level, detail)):
        both[:, :, place] = _to_length(values.reshape(*values.shape[:2], -1), _UNIT * 0.5**0.5)
    return both.reshape(*cells.shape[:2], 2 * side**2)


def _to_length(flat: Floats, goal: float) -> Floats:
    """(B, W, N), changed in place: each row of whole numbers, about as long as `goal`."""
    length = np.sqrt((flat**2).sum(2, keepdims=True))
    # A window that is flat to a tenth of a grey level has no pattern: it resembles nothing.
    least = 0.1 * flat.shape[-1] ** 0.5 * 256 * _STEPS**2 * 25
    flat /= np.maximum(length, 1.0)
    flat *= length > least
    flat *= goal
    return np.rint(flat, out=flat)


def _mirror(signatures: Singles, side: int) -> Singles:
    return np.ascontiguousarray(signatures.reshape(-1, 2, side, side)[..., ::-1]).reshape(signatures.shape)


def _maps(boxes: Floats, of_j: npt.NDArray[np.bool_], mirror: npt.NDArray[np.bool_]) -> Floats:
    """From picture i to picture j: the box is stretched to all of j (or, `of_j`, all of i shrinks into the box)."""
    start, size = boxes[:, :2], boxes[:, 2:]
    scale = np.where(of_j[:, None], size, 1 / size)
    shift = np.where(of_j[:, None], start, -start / size)
    maps = np.zeros((len(boxes), 2, 3))
    maps[:, 0, 0], maps[:, 1, 1], maps[:, :, 2] = scale[:, 0], scale[:, 1], shift
    # Mirrored: the whole that the box was compared with had x and 1 - x exchanged.
    shifted = np.where(of_j, scale[:, 0] + shift[:, 0], 1 - shift[:, 0])
    maps[:, 0, 2] = np.where(mirror, shifted, maps[:, 0, 2])
    maps[:, 0, 0] = np.where(mirror, -maps[:, 0, 0], maps[:, 0, 0])
    return maps
