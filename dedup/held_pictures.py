"""Images read back for verification and for the search by local features, and held while their pairs are compared.

sample ──Pictures──▶ `views.Views` of its picture, cut out of the image ──HeldPictures──▶ for further pairs
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dedup.errors import ImageError
from dedup.inner import Inner, inner_picture
from dedup.local_features import SIDE
from dedup.views import Views

UInt8Array = npt.NDArray[np.uint8]

# Of an image with two pictures beside each other one may have been taken for a bar; what is left ends in a seam of the
# image, and is no part of a collage. That leaves less of the area; so does cutting to a disc, which is none either.
_MUCH_CUT_OFF = 0.8


class HeldPictures:
    """The pictures that were prepared last, by sample_id, at most so many; tasks of one process may share them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: OrderedDict[str, Views] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, sample_id: str, make: Callable[[], Views]) -> Views:
        """The picture of that name, made if it is not held."""
        with self._lock:
            if sample_id in self._held:
                self._held.move_to_end(sample_id)
                return self._held[sample_id]
        made = make()  # outside the lock: it takes milliseconds, and another thread's is as good
        with self._lock:
            self._held[sample_id] = made
            if len(self._held) > self._most:
                self._held.popitem(last=False)
        return made


class Pictures:
    """The pictures of the samples, by row, read and prepared when first asked for. `tiny` has those of images that are
    no larger than their thumbnail, which are not read."""

    def __init__(
        self,
        sample_ids: pa.ChunkedArray,
        inner: pa.ChunkedArray,
        tiny: Mapping[int, UInt8Array],
        read_image: Callable[[str], bytes],
        held: HeldPictures,
        max_pixels: int,
    ) -> None:
        self._sample_ids, self._inner, self._tiny = sample_ids, inner, tiny
        self._read, self._held, self._max_pixels = read_image, held, max_pixels

    def __call__(self, row: int) -> Views:
        return self._held.get(self._sample_ids[row].as_py(), lambda: Views(self._pixels(row), self._cut(row)))

    def _cut(self, row: int) -> bool:
        inner = self._inner[row].as_py()
        return inner is not None and Inner.unpacked(inner).share < _MUCH_CUT_OFF

    def _pixels(self, row: int) -> UInt8Array:
        if row in self._tiny:
            return self._tiny[row]
        sample_id = self._sample_ids[row].as_py()
        try:
            return np.asarray(inner_picture(self._read(sample_id), SIDE, self._max_pixels, self._inner[row].as_py()))
        except ImageError as error:
            raise ImageError(f"{sample_id} cannot be read again: {error}") from error
