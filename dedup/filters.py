"""Load only what a run kept: one line in a webdataset, torch or Hugging Face loader.

    wds.WebDataset(urls).select(dedup.keep("runs/mine"))

The filter reads the manifest part of the shard that the loader is at, and holds those of the last few shards: its
memory follows the shard, not the set. It is picklable and shares nothing, so each loader worker has its own.
"""

from __future__ import annotations

import os
import posixpath
import re
import shlex
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.errors import ManifestError
from dedup.manifest import manifest_name
from dedup.run_folder import RUN_FILE, RunFolder

_PARTS_HELD = 16
_COLUMNS = ("sample_id", "key", "status", "sha256")
_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_REPEATED = re.compile(r"(.+)#\d+")


def keep(run: str | Path, *, drop_failed: bool = False, by_weight: bool = False, seed: int = 0, epoch: int = 0) -> Keep:
    """A predicate of loader samples that is true for what the run kept.

    `run` is the folder of a finished run, local or an fsspec URL. A sample is a mapping with `__key__` and `__url__`,
    as webdataset and the webdataset loader of Hugging Face `datasets` give. Samples that could not be decoded
    (`failed`) pass, unless `drop_failed`. With `by_weight`, of a run with weights, a sample passes with the probability
    `weight`, decided by `seed`, `epoch` and its sample_id alone, so equally in every worker.

    Raises ManifestError where there is no finished run; the predicate raises it for a shard or a key that the run does
    not know, for a shard with other images than the run saw, and for keys that occur several times with several fates.
    """
    return Keep(run, drop_failed=drop_failed, by_weight=by_weight, seed=seed, epoch=epoch)


def keep_ids(run: str | Path, sample_ids: Sequence[str], *, drop_failed: bool = False) -> npt.NDArray[np.bool_]:
    """(N,) bool: which of `sample_ids` the run kept. Raises ManifestError as `keep` does."""
    return Keep(run, drop_failed=drop_failed).mask(sample_ids)


class Keep:
    """What `keep` returns."""

    def __init__(
        self, run: str | Path, *, drop_failed: bool = False, by_weight: bool = False, seed: int = 0, epoch: int = 0
    ) -> None:
        self._run = str(run)
        self._drop_failed, self._by_weight, self._seed, self._epoch = drop_failed, by_weight, seed, epoch
        # In the pickled state, so that Hugging Face's cache of filtered sets knows one decision from the next.
        self._decision = self._read()["steps"]["decide"]
        self._forget()

    def _forget(self) -> None:
        self._shards: frozenset[str] | None = None
        self._root = ""
        self._parts: OrderedDict[str, _Part] = OrderedDict()  # by shard_id
        self._by_url: dict[str, str] = {}
        self._url: str | None = None
        self._part: _Part | None = None

    def __getstate__(self) -> dict[str, Any]:
        held = ("_shards", "_root", "_parts", "_by_url", "_url", "_part")
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
        if self._part.unchecked:
            self._part.check(key, sample)
        passes: bool | None = self._part.passes.get(key)
        return self._part.look_up(key) if passes is None else passes

    def mask(self, sample_ids: Sequence[str]) -> npt.NDArray[np.bool_]:
        """(N,) bool: which of `sample_ids` pass. Reads the manifest parts of their shards, one after the other."""
        shards = self._known()
        by_shard: dict[str, list[tuple[int, str]]] = defaultdict(list)
        for row, identity in enumerate(sample_ids):
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
            document = self._read()
            if document["steps"]["decide"] != self._decision:
                raise ManifestError(f"{self._run} was decided anew since this filter was made; make the filter again")
            self._root = document["root"].rstrip("/")
            self._shards = frozenset(shard["shard_id"] for shard in document["shards"])
        return self._shards

    def _of_url(self, url: str) -> _Part:
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
        if not found:
            raise ManifestError(
                f"{url} is no shard of the run in {self._run}: its {len(shards)} shards are {_some(shards)}; use the "
                "run that was made of the shards that you load"
            )
        return found.pop()

    def _of_shard(self, shard_id: str) -> _Part:
        if shard_id not in self._parts:
            self._parts[shard_id] = self._load(shard_id)
            if len(self._parts) > _PARTS_HELD:
                self._parts.popitem(last=False)
        self._parts.move_to_end(shard_id)
        return self._parts[shard_id]

    def _load(self, shard_id: str) -> _Part:
        columns = [*_COLUMNS, "weight"] if self._by_weight else list(_COLUMNS)
        table = RunFolder(self._run).read_table(manifest_name(shard_id), columns)
        return _Part(f"shard {shard_id} of the run in {self._run}", table, self._fates(table))

    def _fates(self, table: pa.Table) -> list[bool]:
        statuses = table["status"].to_pylist()
        if not self._by_weight:
            return [status == "kept" or (status == "failed" and not self._drop_failed) for status in statuses]
        fates = []
        ids, weights = table["sample_id"].to_pylist(), table["weight"].to_pylist()
        for identity, status, weight in zip(ids, statuses, weights, strict=True):
            if status == "kept" and weight is None:
                raise ManifestError(
                    f"the run in {self._run} has no weights: `dedup decide {self._run} --weights inverse`"
                )
            fates.append(
                self._draw(identity) < weight if status == "kept" else status == "failed" and not self._drop_failed
            )
        return fates

    def _draw(self, identity: str) -> float:
        digest = blake2b(f"{self._seed}/{self._epoch}/{identity}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64


class _Part:
    """What the filter holds of one shard: `passes` by the key that a loader sees, `ids` by the key of the manifest."""

    def __init__(self, name: str, table: pa.Table, fates: Sequence[bool]) -> None:
        self._name = name
        self.ids: dict[str, bool] = dict(zip(table["key"].to_pylist(), fates, strict=True))
        self._sha256: dict[str, str | None] = dict(zip(self.ids, table["sha256"].to_pylist(), strict=True))
        self.unchecked = True
        self.passes = dict(self.ids)
        self._doubtful: set[str] = set()
        for key, fate in self.ids.items():
            if (match := _REPEATED.fullmatch(key)) and match[1] in self.ids:
                # A loader gives all samples of one key the same name; their digests cannot be told apart either.
                self._sha256[match[1]] = None
                if fate != self.ids[match[1]]:
                    self._doubtful.add(match[1])
        for key in self._doubtful:
            del self.passes[key]

    def look_up(self, key: str) -> bool:
        """The fate of a key that is not found as it is."""
        if key in self._doubtful:
            raise ManifestError(
                f"{self._name}: key {key!r} occurs several times, and not all of these samples are kept; a filter sees "
                "keys only, so write cleaned shards instead: dedup clean"
            )
        printable = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if printable in self.passes:
            return self.passes[printable]
        raise ManifestError(
            f"{self._name} has no key {key!r}: the loader reads other shards than the run did, or they were rewritten"
        )

    def check(self, key: str, sample: Mapping[str, Any]) -> None:
        """Compare the first image that the loader reads of this shard with the one that the run saw."""
        expected = self._sha256.get(key)
        if expected is None:
            return
        self.unchecked, self._sha256 = False, {}
        image = next((value for name, value in sample.items() if name.lower() in _IMAGES), None)
        if isinstance(image, bytes) and sha256(image).hexdigest() != expected:
            raise ManifestError(
                f"{self._name}: the image of key {key!r} is another one than the run saw; the loader reads other "
                "shards, or they changed since: run again"
            )


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
