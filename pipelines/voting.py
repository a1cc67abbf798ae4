"""The search by local features of a set whose pictures all lie in one cell: what one task would do is shared out.

rows of all shards ──▶ words ──share by share──▶ words of each feature ──share by share──▶ votes ──▶ pairs
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from distributed import Client, wait

from dedup.candidates import in_order
from dedup.local_candidates import LOCAL_ROW, pairs_by_votes
from dedup.local_votes import Probed, Votes, probe, train_words, votes
from dedup.neighbors import SearchSettings
from pipelines.client import slots
from pipelines.progress import Progress
from pipelines.shuffle import Source

_MOST_SHARES = 16  # each holds the features of all pictures


def vote(client: Client, label: str, source: Source, items: Sequence[Any], settings: SearchSettings) -> pa.Table:
    """`local_candidates.local_pairs` of the rows of LOCAL_ROW that `source` gives of each item; the same for any number
    of shares. Each task holds the features of all pictures; the votes of its own share alone."""
    shares = min(slots(client), _MOST_SHARES)
    with Progress(label, 3, "pairs") as progress:
        rows = client.submit(_together, client.map(source, list(items), pure=False), pure=False)
        packed = client.submit(_features, rows, pure=False)
        words = client.submit(train_words, packed, settings.seed, pure=False)
        wait(words)
        progress.advance(1)
        probing = functools.partial(_probe, shares=shares)
        probed = client.map(probing, range(shares), packed=packed, words=words, pure=False)
        cast = client.map(_votes, range(shares), packed=packed, words=words, probed=probed, pure=False)
        wait(cast)
        progress.advance(1)
        found: pa.Table = client.submit(pairs_by_votes, rows, cast, settings, pure=False).result()
        progress.advance(1, len(found))
    return found


def _together(tables: Sequence[pa.Table]) -> pa.Table:
    return in_order(pa.concat_tables([LOCAL_ROW.empty_table(), *tables]))


def _features(rows: pa.Table) -> list[bytes]:
    return list(rows["features"].to_pylist())


def _probe(share: int, shares: int, packed: list[bytes], words: Any) -> Probed:
    return probe(packed, words, share, shares)


def _votes(share: int, packed: list[bytes], words: Any, probed: Sequence[Probed]) -> Votes:
    return votes(packed, words, probed, share)
