"""Small shards and pictures, whole and broken, for the tests of everything that reads them."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

Members = list[tuple[str, bytes]]
END = bytes(1024)  # the two blocks of zeros that end an archive


def picture(seed: int = 0, width: int = 160, height: int = 120) -> Image.Image:
    """An RGB picture with large shapes and fine texture, as photographs have; another one for each seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).filter(ImageFilter.GaussianBlur(1))
    return Image.blend(coarse, noise, 0.15)


def encode(image: Image.Image, format_name: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_name, **options)
    return buffer.getvalue()


def jpeg(seed: int = 0, width: int = 160, height: int = 120, quality: int = 90) -> bytes:
    return encode(picture(seed, width, height), quality=quality)


def sample_members(
    key: str, image: bytes | None, text: str | None = None, extension: str = "jpg", **fields: Any
) -> Members:
    """The members of one sample as img2dataset writes them: image, txt, json."""
    members: Members = [] if image is None else [(f"{key}.{extension}", image)]
    if text is not None:
        members.append((f"{key}.txt", text.encode()))
        fields = {"caption": text, **fields}
    if fields:
        members.append((f"{key}.json", json.dumps({"key": key, **fields}).encode()))
    return members


def entry(name: str, content: bytes, **attributes: Any) -> bytes:
    """One member as it lies in a tar: header(s), content, padding."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    padding = -len(content) % tarfile.BLOCKSIZE
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape") + content + bytes(padding)


def tar_bytes(members: Iterable[tuple[str, bytes]], end: bytes = END) -> bytes:
    return b"".join(entry(name, content) for name, content in members) + end


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], end: bytes = END) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, end))
    return path


def shard(path: Path, samples: int = 3, seed: int = 0) -> Path:
    """A shard of different small pictures with txt and json, as img2dataset names them."""
    members: Members = []
    for number in range(samples):
        members += sample_members(
            f"{number:09d}", jpeg(seed * 1000 + number), f"picture {number}", width=160, height=120
        )
    return write_tar(path, members)


_THREE = [
    member for number in range(3) for member in sample_members(f"{number}", b"\xff\xd8\xff" * 400, f"text {number}")
]
_WHOLE = tar_bytes(_THREE)

# What no tool may take for a shard, by what is wrong with it.
BROKEN_SHARDS: dict[str, bytes] = {
    "empty file": b"",
    "text": b"<html>404 not found</html>" * 100,
    "gzip": b"\x1f\x8b\x08\0" + bytes(range(256)) * 8,
    "cut between two members": tar_bytes(_THREE[:3], end=b""),
    "cut inside a member": _WHOLE[:2000],
    "cut inside a header": _WHOLE[: len(entry(*_THREE[0])) + 100],
    "cut inside padding": _WHOLE[: len(_WHOLE) - len(END) - 10],
    "cut inside the end marker": tar_bytes(_THREE, end=bytes(100)),
    "damaged header": tar_bytes(_THREE[:2], end=b"") + b"\xaa" * 512 + tar_bytes(_THREE[2:]),
    "garbage at the end": _WHOLE + b"\xaa" * 4096,
}


def quadrants(mode: str = "RGB", side: int = 64) -> Image.Image:
    """Red, green / blue, white: tells every turn and every swap of channels."""
    image = Image.new("RGB", (side, side // 2), (255, 0, 0))
    w, h = side // 2, side // 4
    image.paste((0, 255, 0), (w, 0, side, h))
    image.paste((0, 0, 255), (0, h, w, 2 * h))
    image.paste((255, 255, 255), (w, h, side, 2 * h))
    return image.convert(mode)


def half_transparent(mode: str = "RGBA", side: int = 64) -> Image.Image:
    """Black on the left, opaque; black on the right, fully transparent: that is to look white."""
    image = Image.new("RGBA", (side, side // 2), (0, 0, 0, 255))
    image.paste((0, 0, 0, 0), (side // 2, 0, side, side // 2))
    return image.convert(mode)


def ramp(dtype: str, low: float, high: float, side: int = 64) -> npt.NDArray[Any]:
    """(side, side) from `low` on the left to `high` on the right."""
    return np.broadcast_to(np.linspace(low, high, side), (side, side)).astype(dtype)


def ycck_jpeg(image: Image.Image) -> bytes:
    """A JPEG in Adobe's YCCK, which Pillow reads but does not write: written as CMYK, then the marker patched."""
    inverted = Image.fromarray(255 - np.asarray(image.convert("RGB"))).convert("YCbCr")
    planes = [Image.fromarray(255 - np.asarray(plane)) for plane in inverted.split()]
    black = Image.new("L", image.size, 0)
    data = encode(Image.merge("CMYK", [*planes, black]), quality=98, subsampling=0)
    marker = data.index(b"Adobe")
    assert data[marker + 11] == 0  # the transform: 0 CMYK, 2 YCCK
    return data[: marker + 11] + b"\x02" + data[marker + 12 :]


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises `width` x `height` pixels, followed by hardly any."""
    data = bytearray(encode(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def fuzzed(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` cut short, with some bytes changed, or both."""
    damaged = bytearray(data)
    if rng.random() < 0.4:
        del damaged[int(rng.integers(1, len(damaged))) :]
    if rng.random() < 0.8:
        # Half of the damage goes to the first bytes, where the structure is.
        reach = min(len(damaged), 100) if rng.random() < 0.5 else len(damaged)
        for _ in range(int(rng.integers(1, 12))):
            damaged[int(rng.integers(reach))] = int(rng.integers(256))
    return bytes(damaged)


IMAGE_MAKERS: dict[str, Callable[[Image.Image], bytes]] = {
    "jpeg": lambda image: encode(image, quality=90),
    "progressive jpeg": lambda image: encode(image, quality=90, progressive=True),
    "grey jpeg": lambda image: encode(image.convert("L"), quality=90),
    "cmyk jpeg": lambda image: encode(image.convert("CMYK"), quality=90),
    "ycck jpeg": ycck_jpeg,
    "png": lambda image: encode(image, "PNG"),
    "palette png": lambda image: encode(image.quantize(64), "PNG"),
    "webp": lambda image: encode(image, "WEBP", lossless=True),
    "gif": lambda image: encode(image, "GIF"),
    "bmp": lambda image: encode(image, "BMP"),
    "tiff": lambda image: encode(image, "TIFF"),
    "lzw tiff": lambda image: encode(image, "TIFF", compression="tiff_lzw"),
}
"""One picture in every format that is read."""
