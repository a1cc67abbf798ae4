"""Pictures that agree in many blocks of their thumbnails, whatever covers the rest of one of them.

    grey thumbnails ──agreeing_pairs──▶ of each row that asks the rows that agree with it in most blocks

An embedding sees a picture with stickers, stripes or large words over it as another picture, and ranks the original
behind dozens of others. But where nothing covers it the thumbnail is what it was. So each of its 64 blocks of 4 by 4
pixels is compared with the block in that place, as it is, mirrored, upside down and turned by quarters, apart from
light and contrast, and the blocks that agree are counted. Two different photographs rarely agree in a dozen.

Everything is compared with everything; but a block is 16 numbers, so that a pair takes a fifth of a microsecond for all
six. Blocks are whole numbers, so that their products are exact in float32, and counts do not depend on the
batch, the number of threads, or the machine.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dedup.records import THUMBNAIL_SIDE

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Singles = npt.NDArray[np.float32]
UInt8Array = npt.NDArray[np.uint8]

_SIDE = 4  # of a block, in pixels
_PLACES = THUMBNAIL_SIDE // _SIDE
BLOCKS = _PLACES**2
_UNIT = 127  # length of a block
_AGREES = np.float32(0.85 * _UNIT**2)  # correlation
_TEXTURE = 4.0  # grey levels, standard deviation: flatter blocks agree with none
# Of 149 planted copies of photographs that embeddings and hashes do not propose, and that would be accepted, 82 agree
# with their original in so many blocks, and are among its first two or it among theirs. With 8 instead six more are
# found, for three times as many other pairs.
LEAST_BLOCKS = 20
_ROWS, _COLUMNS = 256, 2048  # a block of the products stays in the processor's cache


def agreeing_pairs(greys: UInt8Array, asking: Bools, per_row: int) -> tuple[Ints, Ints]:
    """`greys` (N, 32, 32) uint8 -> the pairs (i, j), i < j, each once and sorted: of each row that is `asking` (N,) the
    up to `per_row` others that agree with it in most blocks, in LEAST_BLOCKS or more; of equal ones the earlier.

    Memory: some 4 kB for each row.
    """
    rows = np.flatnonzero(asking)
    if not len(rows) or per_row < 1 or len(greys) < 2:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    others = _blocks(greys)
    found = []
    for start in range(0, len(rows), _ROWS):
        here = rows[start : start + _ROWS]
        count = _counts(greys[here], others)
        count[np.arange(len(here)), here] = 0
        found += [
            (row, other) for row, best in zip(here.tolist(), _first(count, per_row), strict=True) for other in best
        ]
    pairs = np.unique(np.sort(np.array(found, np.int64).reshape(-1, 2), axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def _blocks(greys: UInt8Array) -> Singles:
    """(N, 32, 32) -> (BLOCKS, N, 16) whole numbers, each block without its mean, of one length; 0 where it is flat."""
    parts = greys.reshape(-1, _PLACES, _SIDE, _PLACES, _SIDE).transpose(1, 3, 0, 2, 4).reshape(BLOCKS, -1, _SIDE**2)
    blocks = np.empty(parts.shape, np.float32)
    for block, part in zip(blocks, parts.astype(np.int32), strict=True):
        centred = part * _SIDE**2 - part.sum(axis=1, keepdims=True)  # in sixteenths of a level, to be exact
        length = np.sqrt(np.square(centred).sum(axis=1, keepdims=True, dtype=np.int64))
        flat = length < _TEXTURE * _SIDE**3
        block[:] = np.where(flat, 0, np.rint(_UNIT * centred / np.maximum(length, 1)))
    return blocks


def _counts(asking: UInt8Array, others: Singles) -> UInt8Array:
    """(A, 32, 32) and `_blocks` of N -> (A, N): in how many blocks they agree, at most, of the six ways to turn one."""
    count = np.zeros((len(asking), others.shape[1]), np.uint8)
    shape = (len(asking), min(_COLUMNS, others.shape[1]))
    likeness, agrees = np.empty(shape, np.float32), np.empty(shape, bool)
    for turned in _turned(asking):
        blocks = _blocks(turned)
        for start in range(0, others.shape[1], _COLUMNS):
            there = others[:, start : start + _COLUMNS]
            width = there.shape[1]
            agreeing = np.zeros((len(asking), width), np.uint8)
            for place in range(BLOCKS):
                np.matmul(blocks[place], there[place].T, out=likeness[:, :width])
                np.greater(likeness[:, :width], _AGREES, out=agrees[:, :width])
                agreeing += agrees[:, :width]
            part = count[:, start : start + width]
            np.maximum(part, agreeing, out=part)
    return count


def _turned(greys: UInt8Array) -> list[UInt8Array]:
    """As they are, mirrored, upside down, and turned by 180, 90 and 270 degrees."""
    quarters = [np.rot90(greys, turns, (1, 2)) for turns in (2, 1, 3)]
    return [greys, greys[:, :, ::-1], greys[:, ::-1], *quarters]


def _first(count: UInt8Array, per_row: int) -> list[list[int]]:
    """Of each row the columns of its largest counts, from LEAST_BLOCKS on, the largest first."""
    rows, columns = np.nonzero(count >= LEAST_BLOCKS)
    order = np.lexsort((columns, -count[rows, columns].astype(np.int64), rows))
    rows, columns = rows[order], columns[order]
    starts = np.searchsorted(rows, np.arange(len(count) + 1))
    return [columns[start:stop][:per_row].tolist() for start, stop in pairwise(starts)]
