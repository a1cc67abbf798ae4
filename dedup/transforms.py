"""The ways in which a picture is copied: what a near-duplicate search has to see through.

Each entry of `TRANSFORMS` takes an RGB picture and a random generator and gives the bytes of an encoded copy. Its
parameters (quality, angle, place, colour) are drawn from the generator, so that equal generators give equal bytes.
The list follows what scraped sets hold and what the copy-detection benchmarks plant (ISC2021, arXiv 2106.09672;
Copydays): recompressing, resizing, crops down to half of each side, mirror, small rotations, borders, text bars,
watermarks, overlays, colour and tone, blur, noise, aspect and format changes, and combinations of two.

Lengths below are shares of the picture's side, so that a transform means the same for small and large pictures.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps

Rng = np.random.Generator
Colour = tuple[int, int, int]
Change = Callable[[Image.Image, Rng], Image.Image]

WORDS = (
    "breaking",
    "news",
    "summer",
    "sale",
    "today",
    "photo",
    "stock",
    "gallery",
    "travel",
    "daily",
    "archive",
    "share",
    "this",
    "you",
    "see",
    "follow",
    "us",
    "official",
    "preview",
    "sample",
    "copyright",
    "monday",
)


@dataclass(frozen=True)
class Encoded:
    """An encoded picture: the bytes of the file, and its `extension` without the dot."""

    data: bytes
    extension: str

    def open(self) -> Image.Image:
        """The picture as RGB."""
        return Image.open(io.BytesIO(self.data)).convert("RGB")


Encode = Callable[[Image.Image, Rng], Encoded]


def _encode(image: Image.Image, extension: str, kind: str, **options: Any) -> Encoded:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return Encoded(buffer.getvalue(), extension)


def as_jpeg(image: Image.Image, rng: Rng) -> Encoded:
    """JPEG as websites write it, quality 75-95: the default, since no copy is saved without being encoded."""
    return _encode(image, "jpg", "JPEG", quality=int(rng.integers(75, 96)))


def as_poor_jpeg(image: Image.Image, rng: Rng) -> Encoded:
    """JPEG over the whole range that is still looked at, quality 30-95."""
    return _encode(image, "jpg", "JPEG", quality=int(rng.integers(30, 96)))


def as_progressive_jpeg(image: Image.Image, rng: Rng) -> Encoded:
    quality, subsampling = int(rng.integers(60, 96)), int(rng.integers(0, 3))
    return _encode(image, "jpg", "JPEG", quality=quality, subsampling=subsampling, progressive=True)


def as_png(image: Image.Image, _: Rng) -> Encoded:
    return _encode(image, "png", "PNG", compress_level=1)


def as_webp(image: Image.Image, rng: Rng) -> Encoded:
    return _encode(image, "webp", "WEBP", quality=int(rng.integers(40, 96)), method=2)


def as_gif(image: Image.Image, rng: Rng) -> Encoded:
    """A palette of 64-256 colours."""
    return _encode(image.quantize(int(rng.integers(64, 257)), Image.Quantize.FASTOCTREE), "gif", "GIF")


def unchanged(image: Image.Image, _: Rng) -> Image.Image:
    return image


def _side(value: float) -> int:
    return max(8, round(value))


def _scaled(image: Image.Image, factor_x: float, factor_y: float) -> Image.Image:
    size = (_side(image.width * factor_x), _side(image.height * factor_y))
    return image.resize(size, Image.Resampling.BICUBIC)


def shrink(image: Image.Image, rng: Rng) -> Image.Image:
    """To 0.3-0.8 of each side."""
    factor = rng.uniform(0.3, 0.8)
    return _scaled(image, factor, factor)


def enlarge(image: Image.Image, rng: Rng) -> Image.Image:
    """To 1.2-2 times each side."""
    factor = rng.uniform(1.2, 2.0)
    return _scaled(image, factor, factor)


def aspect(image: Image.Image, rng: Rng) -> Image.Image:
    """One side squeezed to 0.72-0.88 of its length."""
    factor = rng.uniform(0.72, 0.88)
    return _scaled(image, factor, 1) if rng.random() < 0.5 else _scaled(image, 1, factor)


def crop(share: float) -> Change:
    """Keep `share` of each side, at a place drawn uniformly."""

    def change(image: Image.Image, rng: Rng) -> Image.Image:
        width, height = _side(image.width * share), _side(image.height * share)
        left = int(rng.integers(0, max(1, image.width - width + 1)))
        top = int(rng.integers(0, max(1, image.height - height + 1)))
        return image.crop((left, top, min(image.width, left + width), min(image.height, top + height)))

    return change


def mirror(image: Image.Image, _: Rng) -> Image.Image:
    return ImageOps.mirror(image)


def _plain_colour(rng: Rng) -> Colour:
    """Mostly white or black, as borders and bars are; else any colour."""
    draw = rng.random()
    if draw < 0.4:
        return (255, 255, 255)
    return (0, 0, 0) if draw < 0.7 else _colour(rng)


def _colour(rng: Rng) -> Colour:
    red, green, blue = (int(value) for value in rng.integers(0, 256, 3))
    return red, green, blue


def rotate(image: Image.Image, rng: Rng) -> Image.Image:
    """By 3-10 degrees either way; the canvas grows or cuts the corners, what is empty is plain."""
    angle = rng.uniform(3, 10) * rng.choice((-1, 1))
    expand = bool(rng.random() < 0.5)
    return image.rotate(angle, Image.Resampling.BICUBIC, expand=expand, fillcolor=_plain_colour(rng))


def border(image: Image.Image, rng: Rng) -> Image.Image:
    """A plain border of 4-15 % of the shorter side, all around."""
    width = max(1, round(min(image.size) * rng.uniform(0.04, 0.15)))
    return ImageOps.expand(image, width, _plain_colour(rng))


def frame(image: Image.Image, rng: Rng) -> Image.Image:
    """A picture frame: three bands of different colours, 7-16 % of the shorter side together."""
    for share in rng.uniform(0.02, 0.05, 3) + np.array([0.01, 0.0, 0.0]):
        image = ImageOps.expand(image, max(1, round(min(image.size) * share)), _colour(rng))
    return image


def letterbox(image: Image.Image, rng: Rng) -> Image.Image:
    """Padded with plain bars to another shape: above and below, or left and right, 10-25 % of the side each."""
    share = rng.uniform(0.10, 0.25)
    if rng.random() < 0.5:
        return ImageOps.expand(image, (0, max(1, round(image.height * share))), _plain_colour(rng))
    return ImageOps.expand(image, (max(1, round(image.width * share)), 0), _plain_colour(rng))


def _words(rng: Rng, count: int) -> str:
    return " ".join(str(word) for word in rng.choice(WORDS, count))


def _font(height: float) -> Any:  # a FreeTypeFont, or Pillow's bitmap font where it was built without FreeType
    return ImageFont.load_default(max(6, round(height)))


def text_bar(image: Image.Image, rng: Rng) -> Image.Image:
    """A bar with words above or below the picture, 12-25 % of its height."""
    height = max(10, round(image.height * rng.uniform(0.12, 0.25)))
    colour = _plain_colour(rng)
    ink = (0, 0, 0) if sum(colour) > 382 else (255, 255, 255)
    above = bool(rng.random() < 0.5)
    canvas = Image.new("RGB", (image.width, image.height + height), colour)
    canvas.paste(image, (0, height if above else 0))
    top = 0 if above else image.height
    text = _words(rng, int(rng.integers(3, 7)))
    ImageDraw.Draw(canvas).text((image.width * 0.03, top + height * 0.25), text, fill=ink, font=_font(height * 0.45))
    return canvas


def caption(image: Image.Image, rng: Rng) -> Image.Image:
    """Outlined words written over the picture, letters of 7-13 % of its height."""
    image = image.copy()
    size = image.height * rng.uniform(0.07, 0.13)
    place = (image.width * rng.uniform(0.02, 0.2), image.height * rng.uniform(0.02, 0.8))
    text = _words(rng, int(rng.integers(2, 5)))
    stroke = max(1, round(size * 0.06))
    ImageDraw.Draw(image).text(
        place, text, fill=(255, 255, 255), font=_font(size), stroke_width=stroke, stroke_fill=(0, 0, 0)
    )
    return image


def _blend(image: Image.Image, layer: Image.Image) -> Image.Image:
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def watermark(image: Image.Image, rng: Rng) -> Image.Image:
    """Translucent words (opacity 25-50 %) repeated over the whole picture in slanted lines, as agencies do."""
    side = max(image.size)
    size = side * rng.uniform(0.04, 0.08)
    ink = (255, 255, 255, round(255 * rng.uniform(0.25, 0.5)))
    text = _words(rng, 2)
    layer = Image.new("RGBA", (2 * side, 2 * side), (*ink[:3], 0))
    draw, font = ImageDraw.Draw(layer), _font(size)
    step_x, step_y = max(1, round(size * (len(text) * 0.55 + 2))), max(1, round(size * 3))
    for y in range(0, 2 * side, step_y):
        for x in range(0, 2 * side, step_x):
            draw.text((x, y), text, fill=ink, font=font)
    layer = layer.rotate(rng.uniform(15, 40), Image.Resampling.BILINEAR)
    left, top = (2 * side - image.width) // 2, (2 * side - image.height) // 2
    return _blend(image, layer.crop((left, top, left + image.width, top + image.height)))


def overlay(image: Image.Image, rng: Rng) -> Image.Image:
    """An opaque face or badge of 20-35 % of the shorter side, anywhere in the picture."""
    side = max(8, round(min(image.size) * rng.uniform(0.20, 0.35)))
    left = int(rng.integers(0, max(1, image.width - side + 1)))
    top = int(rng.integers(0, max(1, image.height - side + 1)))
    image = image.copy()
    draw = ImageDraw.Draw(image)
    fill, ink = _colour(rng), _colour(rng)
    box = (left, top, left + side, top + side)
    if rng.random() < 0.5:
        draw.ellipse(box, fill=fill, outline=ink, width=max(1, side // 20))
        for eye in (0.3, 0.6):
            draw.ellipse((left + side * eye, top + side * 0.3, left + side * (eye + 0.1), top + side * 0.45), fill=ink)
        draw.arc(
            (left + side * 0.25, top + side * 0.35, left + side * 0.75, top + side * 0.8), 20, 160, ink, side // 12
        )
    else:
        draw.rectangle(box, fill=fill, outline=ink, width=max(1, side // 20))
        draw.text((left + side * 0.1, top + side * 0.3), _words(rng, 1)[:5], fill=ink, font=_font(side * 0.3))
    return image


def veil(image: Image.Image, rng: Rng) -> Image.Image:
    """A translucent coloured patch (opacity 30-60 %) over 30-60 % of each side."""
    width, height = (max(1, round(side * rng.uniform(0.3, 0.6))) for side in image.size)
    left = int(rng.integers(0, max(1, image.width - width + 1)))
    top = int(rng.integers(0, max(1, image.height - height + 1)))
    layer = Image.new("RGBA", image.size, (0, 0, 0, 0))
    layer.paste((*_colour(rng), round(255 * rng.uniform(0.3, 0.6))), (left, top, left + width, top + height))
    return _blend(image, layer)


def grey(image: Image.Image, _: Rng) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def sepia(image: Image.Image, _: Rng) -> Image.Image:
    return ImageOps.colorize(ImageOps.grayscale(image), (30, 18, 8), (255, 240, 205))


def _factor(rng: Rng, least: float, most: float) -> float:
    """A factor of `least`-`most`, or its inverse."""
    factor = rng.uniform(least, most)
    return float(factor if rng.random() < 0.5 else 1 / factor)


def brightness(image: Image.Image, rng: Rng) -> Image.Image:
    return ImageEnhance.Brightness(image).enhance(_factor(rng, 1.2, 1.6))


def contrast(image: Image.Image, rng: Rng) -> Image.Image:
    return ImageEnhance.Contrast(image).enhance(_factor(rng, 1.25, 1.8))


def saturation(image: Image.Image, rng: Rng) -> Image.Image:
    return ImageEnhance.Color(image).enhance(_factor(rng, 1.5, 3.0))


def hue(image: Image.Image, rng: Rng) -> Image.Image:
    """Every hue turned by 15-60 degrees either way."""
    turn = round(rng.uniform(15, 60) * rng.choice((-1, 1)) / 360 * 256)
    pixels = np.array(image.convert("HSV"))
    pixels[..., 0] = (pixels[..., 0].astype(np.int16) + turn) % 256
    return Image.frombytes("HSV", image.size, pixels.tobytes()).convert("RGB")


def gamma(image: Image.Image, rng: Rng) -> Image.Image:
    exponent = _factor(rng, 1.3, 1.9)
    return image.point([round(255 * (value / 255) ** exponent) for value in range(256)] * 3)


def blur(image: Image.Image, rng: Rng) -> Image.Image:
    """Gaussian, with a radius of 0.3-0.9 % of the longer side."""
    return image.filter(ImageFilter.GaussianBlur(max(0.5, max(image.size) * rng.uniform(0.003, 0.009))))


def sharpen(image: Image.Image, rng: Rng) -> Image.Image:
    return image.filter(ImageFilter.UnsharpMask(2, int(rng.integers(120, 300)), 2))


def noise(image: Image.Image, rng: Rng) -> Image.Image:
    """Gaussian, standard deviation 8-25 of 255, each channel apart."""
    pixels = np.asarray(image, np.float32)
    pixels = pixels + rng.standard_normal(pixels.shape, np.float32) * np.float32(rng.uniform(8, 25))
    return Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8))


@dataclass(frozen=True)
class Transform:
    """One way of copying a picture: a change of its pixels, then a file format.

    Called with an RGB picture and a generator it gives the encoded copy; the picture is left as it was.
    """

    change: Change
    encode: Encode = as_jpeg

    def __call__(self, image: Image.Image, rng: Rng) -> Encoded:
        return self.encode(self.change(image, rng), rng)


def compose(first: Transform, second: Transform) -> Transform:
    """A copy of a copy: the second is applied to what the first wrote, its losses included."""

    def change(image: Image.Image, rng: Rng) -> Image.Image:
        return second.change(first(image, rng).open(), rng)

    return Transform(change, second.encode)


TRANSFORMS: dict[str, Transform] = {
    "recompress": Transform(unchanged, as_poor_jpeg),
    "progressive": Transform(unchanged, as_progressive_jpeg),
    "png": Transform(unchanged, as_png),
    "webp": Transform(unchanged, as_webp),
    "gif": Transform(unchanged, as_gif),
    "shrink": Transform(shrink),
    "enlarge": Transform(enlarge),
    "aspect": Transform(aspect),
    "crop_90": Transform(crop(0.9)),
    "crop_70": Transform(crop(0.7)),
    "crop_50": Transform(crop(0.5)),
    "mirror": Transform(mirror),
    "rotate": Transform(rotate),
    "border": Transform(border),
    "frame": Transform(frame),
    "letterbox": Transform(letterbox),
    "text_bar": Transform(text_bar),
    "caption": Transform(caption),
    "watermark": Transform(watermark),
    "overlay": Transform(overlay),
    "veil": Transform(veil),
    "grey": Transform(grey),
    "sepia": Transform(sepia),
    "brightness": Transform(brightness),
    "contrast": Transform(contrast),
    "saturation": Transform(saturation),
    "hue": Transform(hue),
    "gamma": Transform(gamma),
    "blur": Transform(blur),
    "sharpen": Transform(sharpen),
    "noise": Transform(noise),
    "shrink+recompress": compose(Transform(shrink), Transform(unchanged, as_poor_jpeg)),
    "crop_90+brightness": compose(Transform(crop(0.9)), Transform(brightness)),
    "crop_70+mirror": compose(Transform(crop(0.7)), Transform(mirror)),
    "crop_70+text_bar": compose(Transform(crop(0.7)), Transform(text_bar)),
    "mirror+border": compose(Transform(mirror), Transform(border)),
    "mirror+hue": compose(Transform(mirror), Transform(hue)),
    "grey+contrast": compose(Transform(grey), Transform(contrast)),
    "rotate+shrink": compose(Transform(rotate), Transform(shrink)),
    "aspect+overlay": compose(Transform(aspect), Transform(overlay)),
    "watermark+webp": compose(Transform(watermark), Transform(unchanged, as_webp)),
    "blur+noise": compose(Transform(blur), Transform(noise)),
}
