"""Finds near-duplicate images in LAION-style webdataset shards."""

from importlib.metadata import version

__version__ = version("dedup")
