"""What a loader's filter holds of one shard: the fate of each key, and digests that tell other images from these."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from typing import Any

import pyarrow as pa

from dedup.errors import ManifestError

_IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
_REPEATED = re.compile(r"(.+)#\d+")
_BYTES_EACH = 2048  # of an instance without its rows
_CHECKED_EVERY = 64  # images of the manifest; hashing each would cost a loader of small ones too much


class ShardFates:
    """`passes` has the fate of each key that a loader may see, `ids` that of each key of the manifest.

    `table` (N) has the columns key and sha256 of the shard's part of the manifest, `chances` (N,) says with what
    probability each row passes, 0 to 1, and `draw` gives a number in [0, 1) for a key. A loader gives all samples of
    one key the same name, where the manifest has `k`, `k#2`, `k#3`: these share one draw, at the mean of their chances,
    and where some may pass and others never do, the key has no fate. `members` gives, for keys of the manifest, the
    names of their images in the tar, as far as they are known: they tell a repeated `k` from one that is called `k#2`.
    """

    def __init__(
        self,
        name: str,
        table: pa.Table,
        chances: Sequence[float],
        draw: Callable[[str], float],
        members: Callable[[], Mapping[str, str | None]],
    ) -> None:
        self._name = name
        keys = table["key"].to_pylist()
        self.ids = {
            key: chance >= 1 or (chance > 0 and draw(key) < chance) for key, chance in zip(keys, chances, strict=True)
        }
        self.passes = self.ids
        self.unchecked = True  # no image was compared yet
        self.digests: dict[str, str] = {}  # of the images to compare once the first was
        self._sha256: pa.ChunkedArray | None = table["sha256"]  # until then
        self._repeated: dict[str, list[str]] = {}  # key in the tar -> keys of the manifest
        self._doubtful: set[str] = set()
        suspected = {
            key: match[1] for key in keys if "#" in key if (match := _REPEATED.fullmatch(key)) and match[1] in self.ids
        }
        if suspected:
            self._share(suspected, members(), dict(zip(keys, chances, strict=True)), draw)
        self.nbytes = _BYTES_EACH + sum(map(sys.getsizeof, [*keys, self.ids])) + table["sha256"].nbytes
        if self.passes is not self.ids:
            self.nbytes += sys.getsizeof(self.passes)

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
        """Compare an image that the loader read with the one that the run saw: the first that comes, then some."""
        image = next((value for name, value in sample.items() if name.lower() in _IMAGES), None)
        if image is None:
            return
        expected = self.digests.get(key)
        if self._sha256 is not None and key in self.ids and key not in self._repeated:
            expected = self._sha256[[*self.ids].index(key)].as_py()
        if expected is None:
            return
        if not isinstance(image, bytes | bytearray | memoryview):
            raise ManifestError(
                f"{self._name}: the image of key {key!r} comes decoded ({type(image).__name__}), so that it cannot be "
                "compared with the one that the run saw: filter before you decode"
            )
        if sha256(image).hexdigest() != expected:
            raise ManifestError(
                f"{self._name}: the image of key {key!r} is another one than the run saw; the loader reads other "
                "shards, or they changed since: run again"
            )
        if self._sha256 is not None:
            some = self._sha256.take(pa.array(range(0, len(self.ids), _CHECKED_EVERY))).to_pylist()
            names = [*self.ids][::_CHECKED_EVERY]
            # Images of a repeated key cannot be told apart.
            self.digests = {
                name: digest
                for name, digest in zip(names, some, strict=True)
                if digest is not None and name not in self._repeated
            }
            self.unchecked, self._sha256 = False, None

    def _share(
        self,
        suspected: Mapping[str, str],
        members: Mapping[str, str | None],
        chances: Mapping[str, float],
        draw: Callable[[str], float],
    ) -> None:
        """Give all samples that a loader sees under one key one fate; `suspected` has the key without `#2` of each."""
        self.passes = dict(self.ids)
        for key, base in suspected.items():
            member = members.get(key) or ""
            if member.startswith(f"{key}."):
                continue  # so it is called
            self._repeated.setdefault(base, [base]).append(key)
            if member.startswith(f"{base}."):
                del self.passes[key]  # no loader gives that name
        for base, keys in self._repeated.items():
            own = [chances[key] for key in keys]
            if min(own) <= 0 < max(own):
                self._doubtful.add(base)
                self.passes.pop(base, None)
                continue
            mean = sum(own) / len(own)
            fate = mean >= 1 or (mean > 0 and draw(base) < mean)
            for key in keys:
                self.ids[key] = fate
                if key in self.passes:
                    self.passes[key] = fate
