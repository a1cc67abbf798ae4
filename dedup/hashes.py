"""Perceptual hashes: batches of small grey pictures in, packed bits out.

    HASHES["phash"].grey_size(8)          -> (32, 32), the (height, width) to resize the picture to
    HASHES["phash"].compute(grey, 8)      -> (B, 8) uint8, the 64 bits of each picture
    hamming(a, b)                         -> bits that differ
    information(grey)                     -> below MIN_INFORMATION a hash says nothing

The bits are those of ImageHash (github.com/JohannesBuchner/imagehash), equal for every picture whose resized grey
values are equal: `code.hex() == str(imagehash.phash(picture))`. phash, dhash and ahash run in torch on any device, the
others through ImageHash itself on the CPU. Algorithms: hackerfactor.com, "Looks Like It" and "Kind of Like That".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import imagehash
import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from dedup.errors import ConfigError

INFORMATION_SIDE = 32

# In grey levels, see `information`. Measured: flat pictures with noise of 5 grey levels reach 5, gradients 0.4, skies
# 2; printed pages, forms and line charts, whose hashes collide within 4 bits though they differ, up to 20; of
# photographs and of CIFAR-10's pictures 99 % lie above 22.
MIN_INFORMATION = 20.0


@dataclass(frozen=True)
class Hash:
    """One kind of perceptual hash of `hash_size`² bits.

    `bits(grey, hash_size)` maps (B, H, W) uint8, H and W as `grey_size` says, to (B, hash_size²) bool in row-major
    order. `scale` and `extra` give that size: scale * hash_size + extra, for height and width.
    """

    name: str
    bits: Callable[[torch.Tensor, int], torch.Tensor]
    scale: int
    extra: tuple[int, int] = (0, 0)
    powers_of_two_only: bool = False

    def grey_size(self, hash_size: int = 8) -> tuple[int, int]:
        """(height, width) of the grey picture to hash: ITU-R 601 luma (Pillow's "L"), resized with Lanczos and
        antialiasing, without regard to its aspect ratio.

        Raises ConfigError for a `hash_size` that this hash does not have.
        """
        if hash_size < 4 or hash_size % 4:
            raise ConfigError(f"hash size {hash_size} of {self.name}: choose a multiple of 4, so that bits fill bytes")
        if self.powers_of_two_only and hash_size & (hash_size - 1):
            raise ConfigError(f"hash size {hash_size} of {self.name}: choose a power of two from 4")
        return self.scale * hash_size + self.extra[0], self.scale * hash_size + self.extra[1]

    def compute(self, grey: torch.Tensor, hash_size: int = 8) -> torch.Tensor:
        """(B, 1, H, W) grey levels 0..255 on any device -> (B, hash_size² / 8) uint8 on that device.

        Bits are packed most significant first, as `np.packbits` does. Floating-point input is rounded to whole grey
        levels first, as Pillow does when it resizes. Raises ConfigError where H and W are not `grey_size`.
        """
        height, width = self.grey_size(hash_size)
        if grey.ndim != 4 or tuple(grey.shape[1:]) != (1, height, width):
            raise ConfigError(
                f"{self.name} of size {hash_size} takes grey pictures of shape (B, 1, {height}, {width}), "
                f"not {tuple(grey.shape)}: resize them to grey_size({hash_size})"
            )
        levels = grey if grey.dtype == torch.uint8 else (grey + 0.5).floor().clamp(0, 255).to(torch.uint8)
        bits = self.bits(levels[:, 0], hash_size)
        weights = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.int32, device=bits.device)
        octets = bits.reshape(len(bits), hash_size**2 // 8, 8).to(torch.int32)
        return (octets * weights).sum(2).to(torch.uint8)


@cache
def _dct_rows(count: int, size: int) -> torch.Tensor:
    """First `count` rows of the unnormalised DCT-II of `size` points (scipy's), (count, size) float64 on the CPU."""
    k = np.arange(count)[:, None]
    n = np.arange(size)[None, :]
    return torch.from_numpy(2.0 * np.cos(np.pi * k * (2 * n + 1) / (2 * size)))


def _low_frequencies(grey: torch.Tensor, count: int) -> torch.Tensor:
    """(B, S, S) -> (B, count²) float64, the lowest `count` DCT-II coefficients each way, row-major."""
    rows = _dct_rows(count, grey.shape[-1]).to(grey.device)
    return (rows @ grey.double() @ rows.T).flatten(1)


def _median(values: torch.Tensor) -> torch.Tensor:
    """(B, even n) -> (B, 1), the mean of the middle two, as numpy has it (torch.median takes the lower one)."""
    ordered = values.sort(1).values
    half = values.shape[1] // 2
    return (ordered[:, half - 1 : half] + ordered[:, half : half + 1]) / 2


def _phash_bits(grey: torch.Tensor, hash_size: int) -> torch.Tensor:
    coefficients = _low_frequencies(grey, hash_size)
    distance = coefficients - _median(coefficients)
    bits = distance > 0
    # Flat, symmetric and periodic pictures have coefficients that equal the median: then the rounding of scipy's FFT
    # decides, and only scipy has that. The bound is far above the rounding of either (1e-9), far below real pictures.
    undecided = (distance.abs() < 1e-12 * 4 * 255 * grey.shape[1] ** 2).any(1)
    if undecided.any():
        bits[undecided] = _IMAGEHASH_PHASH(grey[undecided], hash_size)
    return bits


def _dhash_bits(grey: torch.Tensor, hash_size: int) -> torch.Tensor:  # noqa: ARG001 (the shape tells)
    return (grey[:, :, 1:] > grey[:, :, :-1]).flatten(1)


def _ahash_bits(grey: torch.Tensor, hash_size: int) -> torch.Tensor:
    pixels = grey.flatten(1).to(torch.int32)
    return pixels * hash_size**2 > pixels.sum(1, keepdim=True)  # in whole numbers: no rounding on any device


def _by_imagehash(function: Callable[..., Any]) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """The bits of an ImageHash function, one picture after the other on the CPU."""

    def bits(grey: torch.Tensor, hash_size: int) -> torch.Tensor:
        found = [function(Image.fromarray(picture), hash_size).hash.ravel() for picture in grey.cpu().numpy()]
        return torch.from_numpy(np.array(found, bool).reshape(-1, hash_size**2)).to(grey.device)

    return bits


_IMAGEHASH_PHASH = _by_imagehash(imagehash.phash)

HASHES: dict[str, Hash] = {
    "phash": Hash("phash", _phash_bits, scale=4),
    "dhash": Hash("dhash", _dhash_bits, scale=1, extra=(0, 1)),
    "ahash": Hash("ahash", _ahash_bits, scale=1),
    "phash_simple": Hash("phash_simple", _by_imagehash(imagehash.phash_simple), scale=4),
    "dhash_vertical": Hash("dhash_vertical", _by_imagehash(imagehash.dhash_vertical), scale=1, extra=(1, 0)),
    # ImageHash lets the input size depend on the picture; here it is fixed: whash(picture, image_scale=8 * hash_size).
    "whash": Hash("whash", _by_imagehash(imagehash.whash), scale=8, powers_of_two_only=True),
}


def information(grey: torch.Tensor) -> torch.Tensor:
    """How far a picture's phash bits stand clear of chance, in grey levels: (B, 1, 32, 32) -> (B,) float32.

    A bit of phash says whether a DCT coefficient exceeds the median of the 64 lowest. With the DCT orthonormal, noise
    of s grey levels moves each coefficient by about s. So this is the median of the 64 distances to that median: half
    of the bits hold against noise clearly below it. Near 0 for flat pictures, slow gradients and flat pictures with
    noise, whose hashes collide; higher is more informative. Below MIN_INFORMATION a hash is no evidence.

    Raises ConfigError for another shape.
    """
    if grey.ndim != 4 or tuple(grey.shape[1:]) != (1, INFORMATION_SIDE, INFORMATION_SIDE):
        raise ConfigError(
            f"information takes grey pictures of shape (B, 1, {INFORMATION_SIDE}, {INFORMATION_SIDE}), "
            f"not {tuple(grey.shape)}"
        )
    coefficients = _low_frequencies(grey[:, 0], 8)
    norm = torch.full((8,), (2 * INFORMATION_SIDE) ** -0.5, dtype=torch.float64, device=grey.device)
    norm[0] /= 2**0.5
    orthonormal = coefficients * torch.outer(norm, norm).flatten()
    return _median((orthonormal - _median(orthonormal)).abs())[:, 0].float()


def hamming(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> npt.NDArray[np.int32]:
    """Bits that differ between packed codes: (..., n) and (..., n) uint8, broadcast together -> (...) int32."""
    return np.asarray(_POPCOUNT[np.bitwise_xor(a, b)].sum(-1, dtype=np.int32))


_POPCOUNT = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
