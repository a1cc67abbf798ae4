"""Finds near-duplicate images in LAION-style webdataset shards."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dedup.filters import keep, keep_ids
    from dedup.manifest import read_manifest

__all__ = ["keep", "keep_ids", "read_manifest"]
__version__ = version("dedup")

_MODULES = {"keep": "dedup.filters", "keep_ids": "dedup.filters", "read_manifest": "dedup.manifest"}


def __getattr__(name: str) -> Any:
    """The public names, imported when first asked for, so that `import dedup` stays light."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
