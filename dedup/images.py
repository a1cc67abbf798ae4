"""Bytes to the picture as a person sees it, and the small views of it that descriptors are made from.

    bytes ──decode──▶ DecodedImage ──greys──▶ input of the hashes
                                   ──thumbnail──▶ the 32x32 picture that verification reads
                                   ──square──▶ input of an embedder

Pillow decodes. For JPEG it asks libjpeg-turbo for 1/2, 1/4 or 1/8 of each side (`draft`) where that still is enough;
simplejpeg gives the same pixels bit for bit and up to a tenth sooner, which a second decoder is not worth.

Everything here may be called from several threads at once. The one thing it changes globally is a warnings filter,
which silences Pillow's parsers.
"""

from __future__ import annotations

import io
import re
import struct
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dedup.errors import ImageError
from dedup.records import THUMBNAIL_SIDE

MAX_PIXELS = 200_000_000

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DecodedImage:
    """`rgb` (mode RGB) is the picture as seen, perhaps reduced; `width` and `height` are those stored in the file,
    before orientation and reduction; `format` is what the bytes are, whatever the member's extension says."""

    rgb: Image.Image
    width: int
    height: int
    format: str


# Pillow warns of odd metadata, and does not let a caller say no. This filter, for the modules that parse files and
# nothing else, is put in front and stays there, which is safe between threads; warnings.catch_warnings is not.
_PARSERS = r"PIL\.\w+ImagePlugin"
_QUIET = ("ignore", None, Warning, re.compile(_PARSERS), 0)


# The plugins are used directly, not through Image.open: that one warns above 89 megapixels, refuses above 179 whatever
# our own limit is, and would hand bytes from the internet to some forty more parsers.
FORMATS: dict[str, tuple[Callable[[bytes], bool], Callable[[io.BytesIO], ImageFile.ImageFile]]] = {
    "JPEG": (lambda head: head.startswith(b"\xff\xd8\xff"), JpegImagePlugin.JpegImageFile),
    "PNG": (lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"), PngImagePlugin.PngImageFile),
    "WEBP": (lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP", WebPImagePlugin.WebPImageFile),
    "GIF": (lambda head: head.startswith((b"GIF87a", b"GIF89a")), GifImagePlugin.GifImageFile),
    "BMP": (lambda head: head.startswith(b"BM"), BmpImagePlugin.BmpImageFile),
    "TIFF": (lambda head: head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")), TiffImagePlugin.TiffImageFile),
}

_TURN = {  # by EXIF orientation (tag 0x0112); 1 is upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, min_side: int, max_pixels: int = MAX_PIXELS) -> DecodedImage:
    """Decodes one image to RGB as a person sees it.

    EXIF orientation is applied, transparency composed on white, of an animation or a multi-page file the first frame
    is taken, and greys of more than 8 bits are scaled as `_to_8_bits` says. Colour profiles are not applied.

    The result may be smaller than the file says, never larger: a JPEG by 2, 4 or 8 while both sides stay at least
    `min_side`, any other format by a whole number while both stay at least twice `min_side`. `min_side` 0 keeps the
    full size.

    Raises ImageError, with a reason of one line, for bytes that are empty, truncated, damaged, of a format not in
    FORMATS, or of more than `max_pixels` pixels; that limit is checked before any pixel is decoded.
    """
    if not data:
        raise ImageError("empty: 0 bytes")
    head = bytes(data[:16])
    format_name = next((name for name, (matches, _) in FORMATS.items() if matches(head)), None)
    if format_name is None:
        raise ImageError(f"not an image in a format that is read ({', '.join(FORMATS)}): begins with {head!r}")
    open_image = FORMATS[format_name][1]
    if not warnings.filters or warnings.filters[0] != _QUIET:
        warnings.filterwarnings("ignore", module=_PARSERS)
    try:
        with open_image(io.BytesIO(data)) as image:
            width, height = _stored_size(image)
            if width * height > max_pixels:
                raise ImageError(f"{format_name} of {width}x{height} pixels, over the limit of {max_pixels} pixels")
            if min_side > 0:
                image.draft("", (min_side, min_side))  # does something for JPEG only
            image.load()
            rgb = _to_rgb(image)
            if min_side > 0 and format_name != "JPEG":
                factor = min(rgb.size) // (2 * min_side)
                rgb = rgb.reduce(factor) if factor > 1 else rgb
            # A TIFF has no such block, and Pillow turns it on loading.
            turn = _TURN.get(_orientation(image.info.get("exif")))
            rgb = rgb.transpose(turn) if turn is not None else rgb
    except ImageError:
        raise
    except Exception as error:  # Pillow's parsers raise nearly every kind there is on damaged bytes
        raise ImageError(f"damaged {format_name}: {_one_line(error)}") from error
    return DecodedImage(rgb, width, height, format_name)


def grey(image: Image.Image, width: int, height: int) -> UInt8Array:
    """(height, width) uint8, by the same operation as ImageHash: to luma (ITU-R 601), then Lanczos."""
    return np.asarray(image.convert("L").resize((width, height), Image.Resampling.LANCZOS))


def greys(image: Image.Image, sizes: Sequence[tuple[int, int]]) -> list[UInt8Array]:
    """For each (width, height) a (height, width) uint8 array: as `grey`, at a fraction of the time.

    One conversion serves all, and large pictures are averaged in whole boxes before Lanczos. Of the bits of ImageHash
    on the full image at most 2 of 64 change for 99 % of photographs or more: dhash and ahash, from fewer pixels, are
    the touchier, and so leave more to Lanczos than phash.
    """
    luma = image.convert("L")
    lanczos = Image.Resampling.LANCZOS
    gaps = [3.0 if min(size) >= 32 else 128 / min(size) for size in sizes]
    return [np.asarray(luma.resize(size, lanczos, reducing_gap=gap)) for size, gap in zip(sizes, gaps, strict=True)]


def thumbnail(image: Image.Image) -> UInt8Array:
    """(32, 32, 3) uint8: the whole picture, squashed."""
    return square(image, THUMBNAIL_SIDE)


def square(image: Image.Image, side: int) -> UInt8Array:
    """(side, side, 3) uint8: the whole picture, squashed, antialiased (triangle filter)."""
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR, reducing_gap=2.0))


def _stored_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    if isinstance(image, TiffImagePlugin.TiffImageFile):  # its `size` is that after orientation
        return int(image.tag_v2[256]), int(image.tag_v2[257])
    return image.size


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        values = np.asarray(image)
        flat = Image.fromarray(_to_8_bits(values)).convert("RGB")
        transparent = image.info.get("transparency")
        if isinstance(transparent, int):  # the one grey that a PNG may declare transparent
            flat.paste((255, 255, 255), mask=Image.fromarray(values == transparent))
        return flat
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgba).convert("RGB")


def _to_8_bits(values: npt.NDArray[Any]) -> UInt8Array:
    """Greys of any depth to 0..255, so that nothing is blown out to white and 12 bits in 16 do not come out black.

    Values within 0..1 (floats only) fill that range, others within 0..65535 the smallest of 8, 10, 12, 14 and 16 bits
    that holds the largest; negative or larger values are stretched from their least to their greatest. NaN is black.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not finite.size:
        return np.zeros(values.shape, np.uint8)
    low, high = float(finite.min()), float(finite.max())
    if low >= 0 and high <= 1 and values.dtype.kind == "f":
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 65535:
        low, high = 0.0, next(2.0**bits - 1 for bits in (8, 10, 12, 14, 16) if high <= 2**bits - 1)
    scale = 255 / (high - low) if high > low else 0.0
    numbers = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.asarray(np.rint((numbers - low) * scale), dtype=np.uint8)


def _orientation(exif: object) -> int:
    """The orientation in an EXIF block (Exif 2.32, 4.6.4), 1 where it has none or makes no sense.

    Pillow's own reader does much more, and fails on blocks that are damaged elsewhere.
    """
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None or len(tiff) < 8:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", tiff, entry)
            if tag == 0x0112 and kind == 3:
                return int(value)
    except struct.error:  # the block ends early
        pass
    return 1


def _one_line(error: Exception) -> str:
    text = re.sub(r"<[^<>]* at 0x[0-9a-f]+>", "the data", f"{error}")  # addresses differ from run to run
    return " ".join(f"{type(error).__name__}: {text}".split())[:200]
