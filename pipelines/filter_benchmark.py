"""What `dedup.keep` costs of a webdataset loader's throughput.

Two loaders, with the filter and without, go over the same shards in one process, and take turns after every few hundred
samples, so that what else the machine does meets both alike. What the filter would drop passes here, so that both give
the same samples, and a difference is the filter's time: its reading of the manifest, too. It is CPU time, which is what
such a loader takes of files in memory.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import webdataset as wds

import dedup

DECODERS = {"decoding": "rgb8", "reading only": None}
_SAMPLES_A_TURN = 250


class _Passing:
    """Asks the filter, and lets all pass."""

    def __init__(self, run: str) -> None:
        self._keep = dedup.keep(run)

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        return self._keep(sample) or True


def loader(urls: Sequence[str], run: str | None, decoder: str | None) -> Iterable[Any]:
    """A new loader, filtered where there is a `run`."""
    data: Iterable[Any] = wds.WebDataset(list(urls), shardshuffle=False)
    if run is not None:
        data = data.select(_Passing(run))  # type: ignore[attr-defined]
    if decoder is not None:
        data = data.decode(decoder)  # type: ignore[attr-defined]
    return data


def measure(loaders: Sequence[Iterable[Any]]) -> list[tuple[float, int]]:
    """CPU seconds, and samples, of each loader in one pass through all of them, by turns."""
    streams = [iter(each) for each in loaders]
    seconds, samples = [0.0] * len(loaders), [0] * len(loaders)
    running, turn = set(range(len(loaders))), 0
    while running:
        order = sorted(running, reverse=bool(turn % 2))  # none is always first
        for which in order:
            started = time.process_time()
            taken = sum(1 for _ in itertools.islice(streams[which], _SAMPLES_A_TURN))
            seconds[which] += time.process_time() - started
            samples[which] += taken
            if taken < _SAMPLES_A_TURN:
                running.remove(which)
        turn += 1
    return list(zip(seconds, samples, strict=True))


def report(urls: Sequence[str], run: str, rounds: int) -> Iterator[str]:
    """A line for each way to load: samples per second, and the filter's cost, the median over rounds."""
    for name, decoder in DECODERS.items():
        measure([loader(urls, run, decoder)])  # so that the shards are in memory for all
        bare, filtered = [], []
        for _ in range(rounds):
            (without, samples), (with_it, _) = measure([loader(urls, None, decoder), loader(urls, run, decoder)])
            bare.append(samples / without)
            filtered.append(samples / with_it)
        costs = [1 - rate / best for rate, best in zip(filtered, bare, strict=True)]
        yield (
            f"{name}, {samples:,} samples: {statistics.median(bare):,.0f} samples/s without the filter, "
            f"{statistics.median(filtered):,.0f} with it; "
            f"it costs {statistics.median(costs):.1%} (rounds {min(costs):.1%} to {max(costs):.1%})"
        )
