"""Where in an image its picture lies, without what was put around it.

    image ──borders.find_inner──▶ Inner ──of──▶ the picture, in the same image decoded at any size

To look for borders takes longer than to decode an image. So descriptors keep what was found (`packed`), and whoever
reads the image back only cuts it out.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from PIL import Image

from dedup.images import decode
from dedup.rotation import Turn, turned_back

_EXACT = 1e-6  # pixels by which shares may miss the line that they were made from


class Part(NamedTuple):
    """A part of an image, in shares (0..1) of its width and height."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def of(cls, box: Sequence[int], size: tuple[int, int]) -> Part:
        """Of a box (left, top, right, bottom) in an image of that size (width, height), both in pixels."""
        (left, top, right, bottom), (width, height) = box, size
        return cls(left / width, top / height, right / width, bottom / height)

    @property
    def area(self) -> float:
        return (self.right - self.left) * (self.bottom - self.top)

    def crop(self, image: Image.Image) -> Image.Image:
        """Rounded inwards: a line that belongs half to the edge is worse than one that is missing."""
        if self == WHOLE:
            return image
        left, top = math.ceil(self.left * image.width - _EXACT), math.ceil(self.top * image.height - _EXACT)
        right, bottom = int(self.right * image.width + _EXACT), int(self.bottom * image.height + _EXACT)
        return image.crop((left, top, right, bottom))


WHOLE = Part(0.0, 0.0, 1.0, 1.0)


@dataclass(frozen=True)
class Inner:
    """An image shows its picture in the part `before`; turned there, unless `turn` is None; and once it is turned back,
    in the part `after` of what that gives."""

    before: Part = WHOLE
    turn: Turn | None = None
    after: Part = WHOLE

    def of(self, image: Image.Image) -> Image.Image:
        """The picture, as large as the RGB image shows it; that may be decoded at another size than it was found in."""
        inside = self.before.crop(image)
        return inside if self.turn is None else self.after.crop(turned_back(inside, self.turn))

    @property
    def share(self) -> float:
        """Of the image's area, 0..1."""
        return self.before.area * self.after.area

    @property
    def stretch(self) -> float:
        """How many times as wide for its height the picture is as its image, turning apart."""
        return math.prod((part.right - part.left) / (part.bottom - part.top) for part in (self.before, self.after))

    @property
    def packed(self) -> bytes:
        """As the descriptor column `inner` holds it, in float64: the four of `before`, and where the picture is turned,
        the degrees, 1 or 0 for whether the canvas grew, and the four of `after`."""
        turned = [] if self.turn is None else [self.turn.degrees, float(self.turn.grew), *self.after]
        return struct.pack(f"<{4 + len(turned)}d", *self.before, *turned)

    @classmethod
    def unpacked(cls, packed: bytes) -> Inner:
        values = struct.unpack(f"<{len(packed) // 8}d", packed)
        if len(values) == 4:
            return cls(Part(*values))
        return cls(Part(*values[:4]), Turn(values[4], bool(values[5])), Part(*values[6:]))


def inner_picture(data: bytes, min_side: int, max_pixels: int, inner: bytes | None) -> Image.Image:
    """The picture in an image file, decoded as `images.decode` does, whose errors it raises; `inner` is what the column
    of that name holds, None where nothing is around the picture."""
    image = decode(data, min_side, max_pixels).rgb
    return image if inner is None else Inner.unpacked(inner).of(image)
