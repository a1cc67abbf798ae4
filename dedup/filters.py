"""Load only what a run kept: one line in a webdataset, torch or Hugging Face loader.

    wds.WebDataset(urls).select(dedup.keep("runs/mine"))

The filter reads the manifest part of the shard that the loader is at, and holds those that it read last, up to 256 MiB
(some 1.8 million samples): its memory does not follow the set. So it goes before a shuffle over more samples than
that. It is picklable and shares nothing, so each loader worker has its own.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.errors import ManifestError
from dedup.manifest import manifest_name
from dedup.run_folder import RUN_FILE, RunFolder
from dedup.shard_fates import ShardFates

_BYTES_HELD = 256 << 20
_COLUMNS = ("key", "status", "sha256")
_AS_HUGGING_FACE_DOWNLOADS = re.compile(r"(.*/)?downloads/[0-9a-f]{64}(\.[0-9a-f]{64})?")


def keep(run: str | Path, *, drop_failed: bool = False, by_weight: bool = False, seed: int = 0, epoch: int = 0) -> Keep:
    """A predicate of loader samples that is true for what the run kept.

    `run` is the folder of a finished run, local or an fsspec URL. A sample is a mapping with `__key__` and `__url__`,
    as webdataset and the webdataset loader of Hugging Face `datasets` give, not decoded yet. Samples that could not be
    decoded (`failed`) pass, unless `drop_failed`. With `by_weight`, of a run with weights, a sample passes with the
    probability `weight`, decided by `seed`, `epoch` and its sample_id alone, so equally in every worker; samples of one
    key pass together, with the mean of their probabilities.

    Raises ManifestError where there is no finished run; the predicate raises it for a shard or a key that the run does
    not know, for a shard with other images than the run saw (it compares the first that comes of a shard, and every
    64th), for images that are decoded already, for keys that occur several times with several fates, and where the run
    was decided anew since the filter was made.
    """
    return Keep(run, drop_failed=drop_failed, by_weight=by_weight, seed=seed, epoch=epoch)


def keep_ids(
    run: str | Path,
    sample_ids: Sequence[str],
    *,
    drop_failed: bool = False,
    by_weight: bool = False,
    seed: int = 0,
    epoch: int = 0,
) -> npt.NDArray[np.bool_]:
    """(N,) bool: which of `sample_ids` the run kept, by the options of `keep`. Raises ManifestError as `keep` does, and
    for what is no string."""
    return Keep(run, drop_failed=drop_failed, by_weight=by_weight, seed=seed, epoch=epoch).mask(sample_ids)


class Keep:
    """What `keep` returns."""

    def __init__(
        self, run: str | Path, *, drop_failed: bool = False, by_weight: bool = False, seed: int = 0, epoch: int = 0
    ) -> None:
        self._run = str(run)
        self._drop_failed, self._by_weight, self._seed, self._epoch = drop_failed, by_weight, seed, epoch
        # In the pickled state, so that Hugging Face's cache of filtered sets knows one decision from the next.
        self._decision = _decision(self._read())
        self._forget()

    def _forget(self) -> None:
        self._shards: frozenset[str] | None = None
        self._root = ""
        self._version = ""  # of run.json when it last had the decision of this filter
        self._parts: OrderedDict[str, ShardFates] = OrderedDict()  # by shard_id
        self._bytes_held = 0
        self._by_url: dict[str, str] = {}
        self._url: str | None = None
        self._part: ShardFates | None = None

    def __getstate__(self) -> dict[str, Any]:
        held = ("_shards", "_root", "_version", "_parts", "_bytes_held", "_by_url", "_url", "_part")
        return {name: value for name, value in self.__dict__.items() if name not in held}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def __call__(self, sample: Mapping[str, Any]) -> bool:
        """Whether this sample passes."""
        try:
            key, url = sample["__key__"], sample["__url__"]
        except (KeyError, TypeError) as error:
            raise ManifestError(
                "the filter needs each sample's __key__ and __url__: select before to_tuple, map or anything that "
                "drops them"
            ) from error
        if self._part is None or url != self._url:
            self._part, self._url = self._of_url(url), url
        part = self._part
        if key in part.digests or part.unchecked:
            part.check(key, sample)
        passes: bool | None = part.passes.get(key)
        return part.look_up(key) if passes is None else passes

    def mask(self, sample_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(N,) bool: which of `sample_ids` pass. Reads the manifest parts of their shards, one after the other."""
        shards = self._known()
        by_shard: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for row, identity in enumerate(sample_ids):
            if not isinstance(identity, str):
                raise ManifestError(f"row {row} is {identity!r}, no sample id: give strings like <shard id>/<key>")
            owners = [prefix for prefix in _prefixes(identity) if prefix in shards]
            if not owners:
                raise ManifestError(f"{identity}: the run in {self._run} has no shard of this sample")
            # Where a shard is named like a folder of another, only one of the two has the key.
            owner = owners[0] if len(owners) == 1 else self._owner(identity, owners)
            by_shard[owner].append((row, identity))
        result = np.zeros(len(sample_ids), bool)
        for shard_id, rows in by_shard.items():
            part = self._of_shard(shard_id)
            for row, identity in rows:
                key = identity[len(shard_id) + 1 :]
                if key not in part.ids:
                    raise ManifestError(f"{identity}: the run in {self._run} has no such sample")
                result[row] = part.ids[key]
        return result

    def _owner(self, identity: str, owners: Sequence[str]) -> str:
        return next((o for o in owners if identity[len(o) + 1 :] in self._of_shard(o).ids), owners[0])

    def _read(self) -> dict[str, Any]:
        document = RunFolder(self._run).read_json(RUN_FILE)
        if document is None:
            raise ManifestError(f"{self._run} is no run folder: it has no {RUN_FILE}")
        if "decide" not in document.get("steps", {}):
            raise ManifestError(f"the run in {self._run} is unfinished; start it again to finish it, then load")
        return document

    def _known(self) -> frozenset[str]:
        if self._shards is None:
            document = self._same_decision()
            self._root = document["root"].rstrip("/")
            self._shards = frozenset(shard["shard_id"] for shard in document["shards"])
        return self._shards

    def _same_decision(self) -> dict[str, Any]:
        """run.json, where it has the decision that this filter was made for."""
        version = RunFolder(self._run).version(RUN_FILE)  # before it is read, so that no change goes unseen
        document = RunFolder(self._run).read_json(RUN_FILE)
        if document is None or _decision(document) != self._decision:
            raise ManifestError(
                f"{self._run} was decided anew since this filter was made, and one epoch cannot follow two decisions; "
                "make the filter again, and begin the epoch again"
            )
        self._version = version
        return document

    def _of_url(self, url: str) -> ShardFates:
        if url not in self._by_url:
            self._by_url[url] = self._match(url)
        return self._of_shard(self._by_url[url])

    def _match(self, url: str) -> str:
        """The shard_id that the URL ends with, under whatever folder or bucket the loader has it."""
        shards = self._known()
        found: set[str] = set()
        for path in _paths(url):
            for listed in (path, os.path.abspath(path)):  # noqa: PTH100 (as shards are listed: links stay)
                shard_id = listed.removeprefix(f"{self._root}/").removesuffix(".tar")
                if listed.startswith(f"{self._root}/") and shard_id in shards:
                    return shard_id
            found.update(suffix for suffix in _suffixes(path) if suffix in shards)
        if len(found) > 1:
            raise ManifestError(
                f"{url} may be any of the shards {', '.join(sorted(found))} of the run in {self._run}: load the shards "
                f"from where the run read them ({self._root}), or run again with another --root"
            )
        if not found and _AS_HUGGING_FACE_DOWNLOADS.fullmatch(url):
            raise ManifestError(
                f"{url} is a copy that Hugging Face datasets made of a shard, under a name of its own, so that nothing "
                "tells which shard it is: load with streaming=True, or download the shards and load the files"
            )
        if not found:
            raise ManifestError(
                f"{url} is no shard of the run in {self._run}: its {len(shards)} shards are {_some(shards)}; use the "
                "run that was made of the shards that you load"
            )
        return found.pop()

    def _of_shard(self, shard_id: str) -> ShardFates:
        if shard_id not in self._parts:
            part = self._load(shard_id)
            self._parts[shard_id] = part
            self._bytes_held += part.nbytes
            while self._bytes_held > _BYTES_HELD and len(self._parts) > 1:
                _, oldest = self._parts.popitem(last=False)
                self._bytes_held -= oldest.nbytes
        self._parts.move_to_end(shard_id)
        return self._parts[shard_id]

    def _load(self, shard_id: str) -> ShardFates:
        folder = RunFolder(self._run)
        columns = [*_COLUMNS, "weight"] if self._by_weight else list(_COLUMNS)
        table = folder.read_table(manifest_name(shard_id), columns)
        # A new decision changes run.json before the manifest, so what was read before this is of the old one.
        if folder.version(RUN_FILE) != self._version:
            self._same_decision()
        return ShardFates(
            f"shard {shard_id} of the run in {self._run}",
            table,
            self._chances(table),
            lambda key: self._draw(f"{shard_id}/{key}"),
            lambda: self._members(shard_id),
        )

    def _members(self, shard_id: str) -> dict[str, str | None]:
        """The name of each image in the tar, by key; none where the manifest came without the descriptors."""
        try:
            table = RunFolder(self._run).read_table(f"descriptors/{shard_id}.parquet", ["key", "member"])
        except ManifestError:
            return {}
        return dict(zip(table["key"].to_pylist(), table["member"].to_pylist(), strict=True))

    def _chances(self, table: pa.Table) -> list[float]:
        """(N,) the probability that each row passes."""
        chance_of = {"kept": 1.0, "removed": 0.0, "failed": float(not self._drop_failed)}
        chances = [chance_of[status] for status in table["status"].to_pylist()]
        if not self._by_weight:
            return chances
        for row, (status, weight) in enumerate(
            zip(table["status"].to_pylist(), table["weight"].to_pylist(), strict=True)
        ):
            if status == "kept":
                if weight is None:
                    raise ManifestError(
                        f"the run in {self._run} has no weights: `dedup decide {self._run} --weights inverse`"
                    )
                chances[row] = weight
        return chances

    def _draw(self, identity: str) -> float:
        digest = blake2b(f"{self._seed}/{self._epoch}/{identity}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


def _decision(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What tells one decision of a run from the next; None while it is made."""
    facts: dict[str, Any] | None = document.get("steps", {}).get("decide")
    return None if facts is None else {name: fact for name, fact in facts.items() if name != "wall_seconds"}


def _paths(url: str) -> Iterator[str]:
    """The paths in a URL, or in a `pipe:` command, that name a tar."""
    command = url.startswith("pipe:")
    for word in shlex.split(url[len("pipe:") :]) if command else [url]:
        scheme = re.match(r"[a-zA-Z][a-zA-Z0-9+.-]*:(?://)?", word)
        path = word[scheme.end() :] if scheme else word
        if scheme and scheme[0].startswith("http"):
            path = unquote(urlsplit(word).netloc + urlsplit(word).path)
        if path.endswith(".tar"):
            yield posixpath.normpath(path)
            if scheme:
                yield word


def _suffixes(path: str) -> Iterator[str]:
    names = path.removesuffix(".tar").split("/")
    return ("/".join(names[start:]) for start in range(len(names)))


def _prefixes(identity: str) -> Iterator[str]:
    names = identity.split("/")
    return ("/".join(names[:stop]) for stop in range(len(names) - 1, 0, -1))


def _some(names: frozenset[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (", ..." if len(names) > 3 else "")
