"""Pairs of hashes within a Hamming distance, all of them.

Rows are cut into buckets such that two codes within the distance share at least one; a bucket is searched by itself, so
a run of any size needs memory for one bucket's pairs. Everything is numpy in, numpy out, and knows rows, not samples.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt

from dedup.errors import ConfigError

Codes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]
Ints = npt.NDArray[np.int64]
Distances = npt.NDArray[np.int32]

_PAIRS_PER_BLOCK = 1 << 22
_DENSE_BUCKET = 4096  # rows from which faiss is faster than listing a bucket's pairs
_SMALL_SET = 1 << 15  # rows up to which one search over all is faster than buckets


@dataclass(frozen=True)
class HammingPairs:
    """Pairs of rows i < j with their Hamming distance in bits, sorted by (i, j): three arrays of one length, int64,
    int64 and int32."""

    i: Ints
    j: Ints
    distance: Distances

    def take(self, rows: Ints | npt.NDArray[np.bool_]) -> HammingPairs:
        return HammingPairs(self.i[rows], self.j[rows], self.distance[rows])


def bands_agreeing(n: int, max_bits: int, code_bits: int) -> int:
    """How many parts of a code make one band, for `n` codes (see `band_values`).

    More parts make smaller buckets but more bands; this is the least number whose buckets would hold at most about
    256 of `n` evenly spread codes, within 100 bands.
    """
    agreeing = 1
    while (
        n / 2.0 ** (agreeing * code_bits / (max_bits + agreeing)) > 256
        and max_bits + agreeing < code_bits
        and math.comb(max_bits + agreeing + 1, agreeing + 1) <= 100
    ):
        agreeing += 1
    return agreeing


def band_values(codes: Codes, max_bits: int, agreeing: int = 1) -> Words:
    """Values of which two codes within `max_bits` share at least one (multi-index hashing, Norouzi et al. 2012).

    `codes` is (N, nbytes) uint8. They are cut into max_bits + agreeing parts of nearly equal width; two codes that
    differ in max_bits bits agree in at least `agreeing` parts, so each choice of so many parts is a band (Manku et
    al. 2007; with agreeing = 1 the bands are the parts). Returns (N, bands) uint64, bands =
    comb(max_bits + agreeing, agreeing), mixed so that they fill the range evenly. Raises ConfigError where the code
    has fewer bits than that has parts.
    """
    n, nbytes = codes.shape
    parts = max_bits + agreeing
    if parts > 8 * nbytes:
        raise ConfigError(f"a hash of {8 * nbytes} bits cannot be searched within {max_bits} bits; lower max_bits")
    bits = np.unpackbits(codes, axis=1)
    edges = [part * 8 * nbytes // parts for part in range(parts + 1)]
    words = [_words(np.packbits(bits[:, start:end], axis=1)).T for start, end in itertools.pairwise(edges)]
    bands = math.comb(parts, agreeing)
    # Each band starts from a number of its own, so that equal parts in different bands give different values.
    values = np.empty((n, bands), dtype=np.uint64, order="F")
    values[:] = _mix(np.arange(1, bands + 1, dtype=np.uint64))
    for band, chosen in enumerate(itertools.combinations(words, agreeing)):
        for word in itertools.chain.from_iterable(chosen):
            values[:, band] = _mix(values[:, band] ^ word)
    return values


def _mix(x: Words) -> Words:
    """A bijection of 64 bits that spreads near values (the finalizer of splitmix64)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _words(codes: Codes) -> Words:
    """(N, nbytes) uint8 -> (N, words) uint64, zeros appended."""
    n, nbytes = codes.shape
    padded = np.zeros((n, -(-nbytes // 8) * 8), dtype=np.uint8)
    padded[:, :nbytes] = codes
    return padded.view(np.uint64)


def hamming_pairs(codes: Codes, max_bits: int) -> HammingPairs:
    """All pairs of rows of `codes` (N, nbytes) uint8 within `max_bits`; complete.

    Memory: the pairs, and a fixed amount. Raises ConfigError as `band_values`.
    """
    if len(codes) <= _SMALL_SET:
        return _sorted(list(_searched(0, len(codes), codes, max_bits)))
    agreeing = bands_agreeing(len(codes), max_bits, 8 * codes.shape[1])
    values = band_values(codes, max_bits, agreeing)
    found = []
    for band in range(values.shape[1]):
        number = np.full(len(codes), band)
        found.append(hamming_pairs_in_bands(number, values[:, band], codes, max_bits, agreeing))
    return _sorted([(pairs.i, pairs.j, pairs.distance) for pairs in found])


def hamming_pairs_in_bands(
    band_no: npt.NDArray[np.integer], band_value: Words, codes: Codes, max_bits: int, agreeing: int = 1
) -> HammingPairs:
    """The pairs of rows within `max_bits` that share a band and its value.

    Row r says that a code `codes[r]` (R, nbytes) has the value `band_value[r]` (R,) in band `band_no[r]` (R,), as
    column band_no of `band_values(codes, max_bits, agreeing)`; rows come in any order, each code's row of each band in
    any one call. A pair is reported in the first band in which its codes agree and in no other, so the union over
    all calls holds each pair once, and exactly those of a brute force search.

    Memory: the pairs, and a fixed amount, however many rows share a value.
    """
    order = np.argsort(band_value)
    number, value = np.asarray(band_no)[order], band_value[order]
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = value[1:] != value[:-1]
    begin = np.flatnonzero(starts)
    end = np.append(begin, len(order))[1:]
    dense = end - begin >= _DENSE_BUCKET

    sorted_codes = codes[order]
    blocks = itertools.chain(
        _enumerated(begin[~dense], end[~dense], sorted_codes, max_bits),
        *(_searched(int(b), int(e), sorted_codes, max_bits) for b, e in zip(begin[dense], end[dense], strict=True)),
    )
    found = []
    for left, right, distance in blocks:
        first_band = _first_common_band(sorted_codes[left], sorted_codes[right], max_bits, agreeing)
        keep = (first_band == number[left]) & (number[left] == number[right])  # two bands might share a value
        i, j = order[left[keep]], order[right[keep]]
        found.append((np.minimum(i, j), np.maximum(i, j), distance[keep]))
    return _sorted(found)


def thin_equal(
    band_no: npt.NDArray[np.integer], codes: Codes, searched: int, linked: int
) -> tuple[npt.NDArray[np.bool_], Ints, Ints]:
    """What keeps a million equal codes (placeholders, say) from giving half a million million pairs.

    Rows as in `hamming_pairs_in_bands`. Of the rows of one band with equal codes the first `searched` are to be
    searched (the mask, (R,) bool); each further one is linked to the first `linked` of them instead: pairs (i, j) of
    distance 0, i < j, given in band 0 alone, so that no two calls repeat one.
    """
    band = np.asarray(band_no)
    columns = _words(codes).T
    order = np.lexsort((np.arange(len(codes)), *columns, band))
    new = np.ones(len(order), bool)
    new[1:] = (band[order[1:]] != band[order[:-1]]) | (columns[:, order[1:]] != columns[:, order[:-1]]).any(axis=0)
    first = np.flatnonzero(new)[np.cumsum(new) - 1]  # of the run of equal ones that each place belongs to
    place = np.arange(len(order)) - first
    keep = np.ones(len(codes), bool)
    keep[order[place >= searched]] = False
    rest = np.flatnonzero((place >= searched) & (band[order] == 0))
    count = np.full(len(rest), min(linked, searched), np.int64)
    i, j = order[_ranges(first[rest], count)], order[np.repeat(rest, count)]
    return keep, i, j


def limit_candidates(pairs: HammingPairs, max_bits: int, per_row: int) -> HammingPairs:
    """All pairs within `max_bits`, and of those beyond it the ones that are among the nearest `per_row` beyond it that
    a row has with earlier rows, or with later ones (equally near ones by row number).

    After `hamming_pairs_in_bands` a row is an image in one band, so what an image proposes does not depend on which
    bands and values share a call.
    """
    keep = pairs.distance <= max_bits
    beyond = np.flatnonzero(~keep)
    for row, other in ((pairs.i[beyond], pairs.j[beyond]), (pairs.j[beyond], pairs.i[beyond])):
        order = np.lexsort((other, pairs.distance[beyond], row))
        place = np.arange(len(order)) - np.searchsorted(row[order], row[order])
        keep[beyond[order[place < per_row]]] = True
    return pairs.take(keep)


_Block = tuple[Ints, Ints, Distances]


def _enumerated(begin: Ints, end: Ints, codes: Codes, max_bits: int) -> Iterator[_Block]:
    """The pairs within `max_bits` in each of many small runs [begin, end) of rows, by looking at all pairs."""
    words = np.ascontiguousarray(_words(codes).T)
    rows = _ranges(begin, end - begin)
    partners = np.repeat(end, end - begin) - rows - 1
    total = np.concatenate([[0], np.cumsum(partners)])
    start = 0
    while start < len(rows):
        stop = max(start + 1, int(np.searchsorted(total, total[start] + _PAIRS_PER_BLOCK, "right")) - 1)
        count = partners[start:stop]
        left = np.repeat(rows[start:stop], count)
        right = _ranges(rows[start:stop] + 1, count)
        distance = sum(
            (np.bitwise_count(word[left] ^ word[right]).astype(np.int32) for word in words), start=np.int32(0)
        )
        near = distance <= max_bits
        yield left[near], right[near], distance[near]
        start = stop


def _ranges(begin: Ints, count: Ints) -> Ints:
    """begin[0], begin[0] + 1, ... (count[0] of them), begin[1], ..."""
    offset: Ints = np.cumsum(count) - count
    return np.asarray(np.arange(int(count.sum())) + np.repeat(begin - offset, count))


def _searched(begin: int, end: int, codes: Codes, max_bits: int) -> Iterator[_Block]:
    """The pairs within `max_bits` in one large run [begin, end) of rows, by faiss."""
    n = end - begin
    codes = codes[begin:end]
    rows_per_block = max(1, _PAIRS_PER_BLOCK // max(1, n))
    for start in range(0, n - 1, rows_per_block):
        queries = codes[start : start + rows_per_block]
        index = faiss.IndexBinaryFlat(8 * codes.shape[1])
        index.add(codes[start:])
        limits, distance, right = index.range_search(queries, max_bits + 1)  # faiss keeps distances below its radius
        hits: Ints = np.diff(limits).astype(np.int64)
        left = np.repeat(np.arange(len(queries)), hits)
        half = left < right
        yield left[half] + (begin + start), right[half] + (begin + start), distance[half].astype(np.int32)


def _first_common_band(a: Codes, b: Codes, max_bits: int, agreeing: int) -> Ints:
    agree = band_values(a, max_bits, agreeing) == band_values(b, max_bits, agreeing)
    return np.asarray(agree.argmax(axis=1))


def _sorted(found: list[_Block]) -> HammingPairs:
    empty = np.zeros(0, dtype=np.int64)
    i, j = (np.concatenate([empty, *(block[side] for block in found)]) for side in (0, 1))
    distance = np.concatenate([np.zeros(0, dtype=np.int32), *(block[2] for block in found)])
    order = np.lexsort((j, i))
    return HammingPairs(i[order], j[order], distance[order])
