"""Hashes have ImageHash's bits, for every real picture and for degenerate ones, and flat pictures are told apart."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import imagehash
import numpy as np
import pytest
import skimage
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from dedup.errors import ConfigError
from dedup.hashes import HASHES, MIN_INFORMATION, hamming, information

REFERENCES = {
    "phash": imagehash.phash,
    "dhash": imagehash.dhash,
    "ahash": imagehash.average_hash,
    "phash_simple": imagehash.phash_simple,
    "dhash_vertical": imagehash.dhash_vertical,
    "whash": lambda picture, size: imagehash.whash(picture, size, image_scale=8 * size),
}
PHOTOGRAPHS = ["astronaut", "camera", "chelsea", "coffee", "motorcycle_left", "rocket"]


@cache
def pictures() -> dict[str, Image.Image]:
    """Every picture in scikit-image's and scikit-learn's wheels, grey."""
    folder = Path(skimage.__file__).parent / "data"
    found = {p.stem: Image.open(p).convert("L") for p in sorted(folder.iterdir()) if p.suffix in (".png", ".jpg")}
    found |= {f"sklearn{i}": Image.fromarray(a).convert("L") for i, a in enumerate(load_sample_images().images)}
    assert len(found) >= 25
    return found


@cache
def many() -> list[Image.Image]:
    """The pictures, 25 crops of each, and pictures whose DCT coefficients tie: flat, symmetric, periodic."""
    random = np.random.default_rng(0)
    result = list(pictures().values())
    for picture in pictures().values():
        for share in random.uniform(0.1, 0.95, 25):
            width, height = (max(1, int(side * share)) for side in picture.size)
            x, y = random.integers(picture.width - width + 1), random.integers(picture.height - height + 1)
            result.append(picture.crop((x, y, x + width, y + height)))
    result += [Image.new("L", (40, 30), level) for level in range(256)]
    ramp = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    checks = (np.indices((64, 64)).sum(0) % 16 < 8).astype(np.uint8) * 255
    result += [Image.fromarray(a) for a in (ramp, ramp.T, ramp[:, ::-1], checks, np.minimum(ramp, ramp.T))]
    return result


def greys(images: list[Image.Image], height: int, width: int) -> torch.Tensor:
    resized = [np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)) for image in images]
    return torch.from_numpy(np.stack(resized))[:, None]


@pytest.mark.parametrize("name", HASHES)
@pytest.mark.parametrize("hash_size", [8, 16])
def test_every_picture_has_the_bits_of_imagehash(name: str, hash_size: int) -> None:
    images = many() if name != "whash" else many()[::8]  # 1 ms each
    codes = HASHES[name].compute(greys(images, *HASHES[name].grey_size(hash_size)), hash_size)
    assert codes.dtype == torch.uint8
    assert codes.shape == (len(images), hash_size**2 // 8)
    assert [bytes(code).hex() for code in codes.numpy()] == [str(REFERENCES[name](i, hash_size)) for i in images]


@pytest.mark.parametrize("name", HASHES)
def test_bits_do_not_depend_on_the_batch(name: str) -> None:
    grey = greys(many()[:6], *HASHES[name].grey_size())
    together = HASHES[name].compute(grey)
    assert torch.equal(torch.cat([HASHES[name].compute(one[None]) for one in grey]), together)
    assert HASHES[name].compute(grey[:0]).shape == (0, 8)


@pytest.mark.parametrize("name", HASHES)
def test_floating_point_greys_are_rounded_as_pillow_rounds(name: str) -> None:
    grey = greys(many()[:6], *HASHES[name].grey_size())
    assert torch.equal(HASHES[name].compute(grey.float() + 0.49), HASHES[name].compute(grey))


@pytest.mark.parametrize(("name", "hash_size"), [("phash", 6), ("dhash", 0), ("ahash", -8), ("whash", 12)])
def test_a_hash_size_that_cannot_be_is_refused(name: str, hash_size: int) -> None:
    with pytest.raises(ConfigError, match=f"hash size {hash_size} of {name}"):
        HASHES[name].grey_size(hash_size)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(B, 1, 8, 9\).*\(3, 1, 9, 8\)"):
        HASHES["dhash"].compute(torch.zeros(3, 1, 9, 8, dtype=torch.uint8))
    with pytest.raises(ConfigError, match=r"\(2, 1, 16, 16\)"):
        information(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))


def test_hamming_counts_the_bits_that_differ() -> None:
    random = np.random.default_rng(0)
    a, b = random.integers(0, 256, (2, 50, 8), dtype=np.uint8)
    expected = (np.unpackbits(a, axis=1)[:, None] != np.unpackbits(b, axis=1)[None]).sum(2)
    assert np.array_equal(hamming(a[:, None], b[None]), expected)
    assert hamming(np.zeros(32, np.uint8), np.full(32, 255, np.uint8)) == 256


def flats() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    y, x = np.mgrid[0:256, 0:256] / 255
    sky = 40 + 180 * y + 10 * np.exp(-20 * ((x - 0.3) ** 2 + (y - 0.4) ** 2)) + random.normal(0, 2, x.shape)
    return {
        "white": np.full((64, 64), 255.0),
        "blue": np.asarray(Image.new("RGB", (64, 64), "blue").convert("L"), float),
        "noise of 3 levels": 128 + random.normal(0, 3, (32, 32)),
        "gradient": 255 * (0.7 * x + 0.3 * y),
        "vignette": 255 * np.exp(-2 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)),
        "sky": sky,
    }


def test_information_tells_flat_pictures_from_photographs() -> None:
    flat = greys([Image.fromarray(a.round().clip(0, 255).astype(np.uint8)) for a in flats().values()], 32, 32)
    found = information(flat)
    assert found.dtype == torch.float32
    assert (found < MIN_INFORMATION / 4).all(), dict(zip(flats(), found.tolist(), strict=True))
    photographs = greys([pictures()[name] for name in PHOTOGRAPHS], 32, 32)
    assert (information(photographs) > MIN_INFORMATION).all(), information(photographs)


def test_information_is_in_grey_levels() -> None:
    photographs = greys([pictures()[name] for name in PHOTOGRAPHS], 32, 32).float()
    assert torch.allclose(information(photographs / 2), information(photographs) / 2)
    noise = torch.randn(400, 1, 32, 32, generator=torch.Generator().manual_seed(0)) * 5 + 128
    # Median distance of normal values from their median: 0.6745 standard deviations.
    assert information(noise).mean() == pytest.approx(0.6745 * 5, rel=0.05)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", HASHES)
def test_cuda_gives_the_same_bits(name: str) -> None:
    grey = greys(many(), *HASHES[name].grey_size())
    assert torch.equal(HASHES[name].compute(grey.cuda()).cpu(), HASHES[name].compute(grey))
