"""What each worker holds of images from the search by local features on, until verification has ended."""

from __future__ import annotations

import functools

from distributed import Client

from dedup.held_pictures import HeldPictures
from dedup.records import Shard


@functools.lru_cache(maxsize=1)
def held_pictures(run: str, shards: tuple[Shard, ...], max_pixels: int, most: int) -> HeldPictures:  # noqa: ARG001
    """Those of this process: where everything looks alike, an image has pairs in every partition."""
    return HeldPictures(most)


def let_go(client: Client) -> None:
    """Forget them: a cluster outlives the run."""
    client.run(held_pictures.cache_clear)
