"""What can go wrong, as one tree.

DedupError                 every error that this project raises on purpose
├── ConfigError            a setting is unusable, or contradicts the run folder it is applied to
├── ShardError             a shard is unreadable as a whole: missing, truncated, not a tar
├── ImageError             one image cannot be decoded; it becomes a `failed` row and ends nothing
├── EmbedderError          an embedder's weights are missing or not what its name says
├── ClusterError           all workers of the cluster that the work runs on are gone
└── ManifestError          a run folder or manifest is absent, unfinished or of other input

Each message says what was wrong, where, and what to do.
"""

from __future__ import annotations


class DedupError(Exception):
    """Base of every error that this project raises on purpose."""


class ConfigError(DedupError):
    """A setting is unusable, or contradicts the run folder it is applied to."""


class ShardError(DedupError):
    """A shard is unreadable as a whole.

    `shard` is the shard as it was listed, `reason` one line.
    """

    def __init__(self, shard: str, reason: str) -> None:
        super().__init__(shard, reason)  # both in args, so that the error survives pickling between processes
        self.shard = shard
        self.reason = reason

    def __str__(self) -> str:
        return f"shard {self.shard}: {self.reason}"


class ImageError(DedupError):
    """One image cannot be decoded; the message is the one line that goes into the manifest."""


class EmbedderError(DedupError):
    """An embedder's weights are missing or not what its name says."""


class ClusterError(DedupError):
    """All workers of the cluster that the work runs on are gone; it is no fault of any one shard."""


class ManifestError(DedupError):
    """A run folder or manifest is absent, unfinished or belongs to other input."""
