"""What img2dataset tells of the shards that it wrote, in a file `<shard>_stats.json` beside each."""

from __future__ import annotations

import json
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from dedup.listing import open_filesystem
from dedup.records import Shard

logger = logging.getLogger(__name__)

_COUNTS = ("count", "successes", "failed_to_download", "failed_to_resize")


def read_statistics(shards: Sequence[Shard]) -> dict[str, int] | None:
    """How many URLs were listed (`count`) and what became of them, over the `shards` that have statistics, which are
    `shards` of the result; None where none has. Statistics that cannot be read are left out, and the log names one."""
    by_folder: dict[str, list[str]] = defaultdict(list)
    for shard in shards:
        by_folder[shard.url.rpartition("/")[0]].append(shard.url)
    totals: Counter[str] = Counter()
    unreadable = []
    for folder, urls in by_folder.items():
        for name, data in _statistics_in(folder, urls):
            try:
                told = json.loads(data)
                counts = {"count": int(told["count"])} | {key: int(told[key]) for key in _COUNTS if key in told}
                totals.update(counts, shards=1)
            except (ValueError, TypeError, KeyError):
                unreadable.append(name)
    if unreadable:
        logger.warning("%d statistics of downloads cannot be read, the first is %s", len(unreadable), unreadable[0])
    return dict(totals) if totals else None


def _statistics_in(folder: str, urls: Sequence[str]) -> list[tuple[str, Any]]:
    """Path and content of the statistics beside these shards of one folder."""
    fs, inner, _ = open_filesystem(folder)
    wanted = {f"{url.rpartition('/')[2].removesuffix('.tar')}_stats.json" for url in urls}
    try:
        there = [path for path in fs.ls(inner, detail=False) if path.rpartition("/")[2] in wanted]
        return sorted(fs.cat(there, on_error="omit").items()) if there else []
    except (OSError, NotImplementedError) as error:  # a server that lists nothing, as most of HTTP
        logger.debug("no statistics of downloads in %s: %s", folder, error)
        return []
