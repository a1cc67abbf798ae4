"""The hash search, against all pairs counted one by one."""

from __future__ import annotations

from collections.abc import Iterator

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from dedup import hamming
from dedup.errors import ConfigError
from dedup.hamming import (
    HammingPairs,
    band_values,
    bands_agreeing,
    hamming_pairs,
    hamming_pairs_in_bands,
    limit_candidates,
    thin_equal,
)

Codes = npt.NDArray[np.uint8]
Found = set[tuple[int, int, int]]


def codes_near_each_other(n: int, nbytes: int, seed: int, spread: int) -> Codes:
    """Random codes and copies of them with up to `spread` flipped bits, so that every distance up to it is common."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 256, (n // 4, nbytes), dtype=np.uint8)
    codes = codes[rng.integers(0, len(codes), n)]
    for code in codes:
        for bit in rng.choice(8 * nbytes, rng.integers(0, spread + 1), replace=False):
            code[bit // 8] ^= 1 << (bit % 8)
    return codes


def brute_force(codes: Codes, max_bits: int) -> Found:
    bits = np.unpackbits(codes, axis=1).astype(int)
    distance = (bits[:, None] != bits[None]).sum(axis=2)
    i, j = np.nonzero(np.triu(distance <= max_bits, 1))
    return set(zip(i.tolist(), j.tolist(), distance[i, j].tolist(), strict=True))


def listed(pairs: HammingPairs) -> list[tuple[int, int, int]]:
    return list(zip(pairs.i.tolist(), pairs.j.tolist(), pairs.distance.tolist(), strict=True))


@pytest.fixture(params=["listed", "faiss", "mixed"])
def bucket_search(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every way to search a bucket, in blocks smaller than the larger buckets."""
    threads = faiss.omp_get_max_threads()
    dense = {"listed": 10**9, "faiss": 2, "mixed": 8}[request.param]
    monkeypatch.setattr(hamming, "_DENSE_BUCKET", dense)
    monkeypatch.setattr(hamming, "_PAIRS_PER_BLOCK", 500)
    monkeypatch.setattr(hamming, "_SMALL_SET", 0)
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.mark.usefixtures("bucket_search")
@pytest.mark.parametrize(("max_bits", "nbytes"), [(0, 8), (2, 8), (6, 8), (11, 2), (11, 8), (1, 9), (2, 32)])
def test_all_pairs_are_found(max_bits: int, nbytes: int) -> None:
    codes = codes_near_each_other(160, nbytes, seed=max_bits, spread=max_bits + 1)
    expected = brute_force(codes, max_bits)
    assert {distance for _, _, distance in expected} >= set(range(max_bits + 1)), "the data tests too little"
    assert listed(hamming_pairs(codes, max_bits)) == sorted(expected)


@pytest.mark.parametrize("max_bits", [0, 3, 8])
def test_small_sets_are_searched_at_once(max_bits: int) -> None:
    codes = codes_near_each_other(400, 8, seed=1, spread=max_bits + 1)
    assert listed(hamming_pairs(codes, max_bits)) == sorted(brute_force(codes, max_bits))


@pytest.mark.usefixtures("bucket_search")
@pytest.mark.parametrize("agreeing", [1, 2, 3])
@pytest.mark.parametrize("partitions", [1, 3, 50])
def test_partitions_find_each_pair_once(agreeing: int, partitions: int) -> None:
    max_bits = 4
    codes = codes_near_each_other(120, 8, seed=agreeing, spread=5)
    values = band_values(codes, max_bits, agreeing)
    code = np.repeat(np.arange(len(codes)), values.shape[1])
    band = np.tile(np.arange(values.shape[1]), len(codes))
    value = values.ravel()
    shuffle = np.random.default_rng(0).permutation(len(code))
    found = []
    for partition in range(partitions):
        rows = shuffle[value[shuffle] % np.uint64(partitions) == partition]
        pairs = hamming_pairs_in_bands(band[rows], value[rows], codes[code[rows]], max_bits, agreeing)
        assert (pairs.i < pairs.j).all()
        for i, j, distance in listed(pairs):
            a, b = sorted((int(code[rows[i]]), int(code[rows[j]])))
            found.append((a, b, distance))
    assert sorted(found) == sorted(brute_force(codes, max_bits))


@pytest.mark.usefixtures("bucket_search")
def test_bands_that_share_a_value_are_kept_apart() -> None:
    codes = np.zeros((4, 8), dtype=np.uint8)
    pairs = hamming_pairs_in_bands(np.array([0, 1, 0, 1]), np.zeros(4, dtype=np.uint64), codes, 1)
    assert listed(pairs) == [(0, 2, 0)]


@pytest.mark.parametrize("agreeing", [1, 2, 3])
def test_codes_within_the_radius_share_a_band(agreeing: int) -> None:
    rng = np.random.default_rng(2)
    a = rng.integers(0, 256, (500, 8), dtype=np.uint8)
    b = a.copy()
    for code in b:
        for bit in rng.choice(64, 6, replace=False):
            code[bit // 8] ^= 1 << (bit % 8)
    shared = band_values(a, 6, agreeing) == band_values(b, 6, agreeing)
    assert shared.any(axis=1).all()
    assert shared.mean() < 0.7, "bands that are always equal would make no buckets"


def test_values_differ_between_bands() -> None:
    values = band_values(np.zeros((1, 8), dtype=np.uint8), 6, 2)
    assert values.shape == (1, 28)
    assert len(np.unique(values)) == 28


@pytest.mark.parametrize(("n", "agreeing"), [(10, 1), (10**5, 1), (10**6, 2), (10**9, 3)])
def test_larger_sets_get_narrower_buckets(n: int, agreeing: int) -> None:
    assert bands_agreeing(n, 6, 64) == agreeing


@pytest.mark.usefixtures("bucket_search")
@pytest.mark.parametrize("n", [0, 1])
def test_too_few_codes_make_no_pair(n: int) -> None:
    codes = np.zeros((n, 8), dtype=np.uint8)
    assert listed(hamming_pairs(codes, 2)) == []


def test_radius_beyond_the_code_is_refused() -> None:
    with pytest.raises(ConfigError, match="hash of 16 bits cannot be searched within 16 bits"):
        band_values(np.zeros((1, 2), dtype=np.uint8), 16)


def test_limit_keeps_all_accepted_and_the_nearest_candidates_of_either_row() -> None:
    rows = [(0, 1, 2), (0, 2, 5), (0, 3, 4), (0, 4, 4), (0, 5, 4), (1, 2, 1), (3, 4, 3), (4, 5, 3)]
    i, j, distance = (np.array(column) for column in zip(*rows, strict=True))
    limited = limit_candidates(HammingPairs(i, j, distance.astype(np.int32)), max_bits=2, per_row=1)
    # 0-2 is the only candidate of 2; 0-3 the nearest of 0; 3-4 of 3 and 4, before 4-5 by number; 4-5 the nearest of 5.
    assert listed(limited) == [(0, 1, 2), (0, 2, 5), (0, 3, 4), (1, 2, 1), (3, 4, 3), (4, 5, 3)]


def test_limit_of_none_proposes_nothing() -> None:
    pairs = hamming_pairs(codes_near_each_other(100, 8, seed=0, spread=4), 4)
    limited = limit_candidates(pairs, max_bits=2, per_row=0)
    assert listed(limited) == [pair for pair in listed(pairs) if pair[2] <= 2]


def test_equal_codes_are_searched_up_to_a_limit_and_linked_beyond() -> None:
    rng = np.random.default_rng(0)
    common, rare = rng.integers(0, 256, (2, 8), np.uint8)
    codes = np.concatenate([np.tile(common, (10, 1)), rare[None], rng.integers(0, 256, (20, 8), np.uint8)])
    order = rng.permutation(len(codes))
    codes = codes[order]
    equal = np.flatnonzero((codes == common).all(axis=1))
    for band, links in ((0, 7 * 2), (1, 0)):
        keep, i, j = thin_equal(np.full(len(codes), band), codes, searched=3, linked=2)
        assert np.flatnonzero(~keep).tolist() == equal[3:].tolist()
        assert len(i) == links
        if links:
            assert sorted(zip(i.tolist(), j.tolist(), strict=True)) == sorted(
                (a, b) for a in equal[:2] for b in equal[3:]
            )
    keep, i, _ = thin_equal(np.repeat([0, 1], [16, 15]), codes, searched=10, linked=2)
    assert keep.all()
    assert len(i) == 0


def test_a_million_equal_codes_stay_linear() -> None:
    codes = np.zeros((1_000_000, 8), np.uint8)
    keep, i, j = thin_equal(np.zeros(len(codes), np.int32), codes, searched=256, linked=16)
    assert keep.sum() == 256
    assert len(i) == len(j) == (len(codes) - 256) * 16
