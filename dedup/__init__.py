"""Finds near-duplicate images in LAION-style webdataset shards."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedup.describe import describe_shard
    from dedup.filters import keep, keep_ids
    from dedup.in_memory import decide, find_pairs, group_pairs
    from dedup.manifest import read_manifest

__all__ = ["decide", "describe_shard", "find_pairs", "group_pairs", "keep", "keep_ids", "read_manifest"]
__version__ = version("dedup")

_MODULES = {
    "decide": "dedup.in_memory",
    "describe_shard": "dedup.describe",
    "find_pairs": "dedup.in_memory",
    "group_pairs": "dedup.in_memory",
    "keep": "dedup.filters",
    "keep_ids": "dedup.filters",
    "read_manifest": "dedup.manifest",
}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for, so that `import dedup` stays light."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
