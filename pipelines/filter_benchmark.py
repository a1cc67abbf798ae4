"""What `dedup.keep` costs of a webdataset loader's throughput.

Loaders with and without it take turns over the same shards, in one process. What the filter would drop passes here, so
that both give the same samples, and a difference is the filter's time: its reading of the manifest, too. It is CPU
time, which is what such a loader takes of files in memory, and what other programs on the machine change least.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import webdataset as wds

import dedup

DECODERS = {"decoding": "rgb8", "reading only": None}


class _Passing:
    """Asks the filter, and lets all pass."""

    def __init__(self, run: str) -> None:
        self._keep = dedup.keep(run)

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        return self._keep(sample) or True


def measure(urls: Sequence[str], run: str | None, decoder: str | None) -> tuple[float, int]:
    """CPU seconds, and samples, of one pass through a new loader, filtered where there is a `run`."""
    data = wds.WebDataset(list(urls), shardshuffle=False)
    if run is not None:
        data = data.select(_Passing(run))
    if decoder is not None:
        data = data.decode(decoder)
    started = time.process_time()
    samples = sum(1 for _ in data)
    return time.process_time() - started, samples


def report(urls: Sequence[str], run: str, rounds: int) -> Iterator[str]:
    """A line for each way to load: samples per second, and the filter's cost, the median over rounds."""
    for name, decoder in DECODERS.items():
        measure(urls, run, decoder)  # so that the shards are in memory for all
        rates: dict[str | None, list[float]] = {None: [], run: []}
        costs = []
        for number in range(rounds):
            for filtered in (None, run) if number % 2 else (run, None):  # neither is always first
                seconds, samples = measure(urls, filtered, decoder)
                rates[filtered].append(samples / seconds)
            costs.append(1 - rates[run][-1] / rates[None][-1])
        without, with_it = statistics.median(rates[None]), statistics.median(rates[run])
        yield (
            f"{name}, {samples:,} samples: {without:,.0f} samples/s without the filter, {with_it:,.0f} with it; "
            f"it costs {statistics.median(costs):.1%} (rounds {min(costs):.1%} to {max(costs):.1%})"
        )
