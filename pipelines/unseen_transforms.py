"""Ways of copying a picture that nothing was fitted on, and things put over photographs that make no copies of them.

`UNSEEN` is disjoint from `dedup.transforms.TRANSFORMS`, by which calibration plants and verification was fitted; they
are for benchmarks. `SHARED` puts the same words, badge, lines or layout over or around whatever it is given.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from dedup.photographs import embedded_photographs
from dedup.transforms import Change, Encoded, Rng, Transform

WIDTH = 400  # pixels, of what `SHARED` makes


def _transposed(how: Image.Transpose) -> Change:
    return lambda image, _: image.transpose(how)


def _seen_from_the_side(image: Image.Image, rng: Rng) -> Image.Image:
    """Each corner moves inwards by up to a tenth of the side."""
    width, height = image.size
    inwards = rng.uniform(0, 0.1, (4, 2))
    corners = [(0, 0), (width, 0), (width, height), (0, height)]
    taken = [(abs(x - dx * width), abs(y - dy * height)) for (x, y), (dx, dy) in zip(corners, inwards, strict=True)]
    rows, values = [], []
    for (x, y), (u, v) in zip(corners, taken, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    coefficients = np.linalg.solve(np.array(rows, float), np.array(values, float))
    return image.transform(image.size, Image.Transform.PERSPECTIVE, coefficients.tolist(), Image.Resampling.BICUBIC)


def _sheared(image: Image.Image, rng: Rng) -> Image.Image:
    lean = float(rng.uniform(0.06, 0.14))
    affine = (1, lean, -lean * image.height / 2, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, affine, Image.Resampling.BICUBIC)


def _vignetted(image: Image.Image, _: Rng) -> Image.Image:
    """The corners at four tenths of their light."""
    y, x = np.mgrid[-1 : 1 : image.height * 1j, -1 : 1 : image.width * 1j]
    return Image.fromarray(np.rint(np.asarray(image) * (1 - 0.3 * (x**2 + y**2))[..., None]).astype(np.uint8))


def _duotone(image: Image.Image, rng: Rng) -> Image.Image:
    dark, light = rng.integers(0, 90, 3), rng.integers(180, 256, 3)
    return ImageOps.colorize(image.convert("L"), tuple(dark.tolist()), tuple(light.tolist()))


def _swapped_channels(image: Image.Image, _: Rng) -> Image.Image:
    return Image.merge("RGB", image.split()[::-1])


def _salt_and_pepper(image: Image.Image, rng: Rng) -> Image.Image:
    pixels = np.array(image)
    chance = rng.random(pixels.shape[:2])
    pixels[chance < 0.02], pixels[chance > 0.98] = 0, 255
    return Image.fromarray(pixels)


def _inner(rng: Rng, whole: int, part: int) -> int:
    return int(rng.integers(0, max(1, whole - part)))


def _stickers(image: Image.Image, rng: Rng) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(4):
        side = int(min(image.size) * rng.uniform(0.12, 0.2))
        x, y = _inner(rng, image.width, side), _inner(rng, image.height, side)
        draw.ellipse((x, y, x + side, y + side), fill=(255, 205, 50), outline="black", width=max(1, side // 20))
        for eye in (0.3, 0.6):
            draw.ellipse((x + eye * side, y + 0.3 * side, x + (eye + 0.12) * side, y + 0.45 * side), fill="black")
    return image


def _stripes(image: Image.Image, rng: Rng) -> Image.Image:
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for start, end in rng.uniform(0, image.height, (4, 2)):
        colour = tuple(rng.integers(0, 256, 3).tolist())
        draw.line((0, start, image.width, end), fill=colour, width=max(2, image.height // 40))
    return image


def _patches(image: Image.Image, rng: Rng) -> Image.Image:
    """Three opaque rectangles of 15-30 % of each side."""
    image = image.copy()
    for across, down in rng.uniform(0.15, 0.3, (3, 2)):
        width, height = int(across * image.width), int(down * image.height)
        x, y = _inner(rng, image.width, width), _inner(rng, image.height, height)
        image.paste(tuple(rng.integers(0, 256, 3).tolist()), (x, y, x + width, y + height))
    return image


def _large_words(image: Image.Image, _: Rng) -> Image.Image:
    """Above and below, an eighth of the height each, outlined."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(10, image.height // 8))
    for top, words in ((0.02, "ONE MORE CUP"), (0.84, "AND THEN BED")):
        stroke = max(1, image.height // 120)
        place = (0.05 * image.width, top * image.height)
        draw.text(place, words, fill="white", font=font, stroke_width=stroke, stroke_fill="black")
    return image


def _post(image: Image.Image, _: Rng) -> Image.Image:
    """As a network shows it: a bar, a name, words below."""
    width = 900
    picture = image.resize((width - 60, round(image.height * (width - 60) / image.width)))
    page = Image.new("RGB", (width, picture.height + 480), (245, 245, 247))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, width, 110), fill=(60, 90, 150))
    draw.ellipse((30, 130, 100, 200), fill=(200, 120, 90))
    draw.text((120, 150), "somebody, two hours ago", fill=(20, 20, 20), font=ImageFont.load_default(28))
    page.paste(picture, (30, 230))
    for row, words in enumerate(("what a day that was", "we should go there again", "and stay for longer")):
        draw.text((40, 250 + picture.height + 40 * row), words, fill=(30, 30, 30), font=ImageFont.load_default(26))
    return page


def _at_most(side: int) -> Change:
    def change(image: Image.Image, _: Rng) -> Image.Image:
        image = image.copy()
        image.thumbnail((side, side))
        return image

    return change


def _very_poor_jpeg(image: Image.Image, rng: Rng) -> Encoded:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(3, 11)))
    return Encoded(buffer.getvalue(), "jpg")


UNSEEN: dict[str, Transform] = {
    "turned 90": Transform(_transposed(Image.Transpose.ROTATE_90)),
    "turned 180": Transform(_transposed(Image.Transpose.ROTATE_180)),
    "turned 270": Transform(_transposed(Image.Transpose.ROTATE_270)),
    "upside down": Transform(_transposed(Image.Transpose.FLIP_TOP_BOTTOM)),
    "seen from the side": Transform(_seen_from_the_side),
    "sheared": Transform(_sheared),
    "jpeg of quality 3-10": Transform(lambda image, _: image, _very_poor_jpeg),
    "posterized": Transform(lambda image, _: ImageOps.posterize(image, 2)),
    "equalized": Transform(lambda image, _: ImageOps.equalize(image)),
    "swapped channels": Transform(_swapped_channels),
    "duotone": Transform(_duotone),
    "vignetted": Transform(_vignetted),
    "salt and pepper": Transform(_salt_and_pepper),
    "median of 7x7": Transform(lambda image, _: image.filter(ImageFilter.MedianFilter(7))),
    "at most 64 pixels": Transform(_at_most(64)),
    "at most 96 pixels": Transform(_at_most(96)),
    "four stickers": Transform(_stickers),
    "four stripes": Transform(_stripes),
    "three patches": Transform(_patches),
    "large words": Transform(_large_words),
    "a post": Transform(_post),
}


def _quotation(image: Image.Image) -> Image.Image:
    """Five lines over the darkened photograph."""
    image = Image.blend(image.resize((WIDTH, WIDTH)), Image.new("RGB", (WIDTH, WIDTH), (10, 10, 30)), 0.4)
    draw = ImageDraw.Draw(image)
    for row, words in enumerate(("WHO PLANTS", "A TREE WILL", "SIT IN ITS", "SHADE ONE", "FINE DAY.")):
        draw.text((30, 40 + 62 * row), words, fill="white", font=ImageFont.load_default(50))
    return image


def _poster(image: Image.Image) -> Image.Image:
    """The photograph in a third of a printed page."""
    page = Image.new("RGB", (WIDTH, 600), (250, 245, 230))
    draw = ImageDraw.Draw(page)
    draw.text((20, 10), "CITY MUSEUM", fill=(120, 0, 0), font=ImageFont.load_default(48))
    page.paste(image.resize((360, 220)), (20, 80))
    for row in range(13):
        words = "the exhibition is open to all on every day of the week"[4 * (row % 5) :]
        draw.text((20, 310 + 21 * row), words, fill="black", font=ImageFont.load_default(14))
    return page


def _badge(image: Image.Image) -> Image.Image:
    """A badge of six tenths of the side in the middle."""
    image = image.resize((WIDTH, WIDTH))
    draw = ImageDraw.Draw(image)
    draw.ellipse((80, 80, 320, 320), fill=(200, 20, 40), outline="white", width=14)
    draw.text((120, 160), "BRAND", fill="white", font=ImageFont.load_default(60))
    return image


def lines(image: Image.Image, apart: int, width: int, opacity: float = 1.0) -> Image.Image:
    """White lines both ways across all of it; `apart` and `width` in pixels, along a side and across a line."""
    ink = image.copy()
    draw = ImageDraw.Draw(ink)
    for start in range(-image.height, image.width, apart):
        for first, last in ((start, start + image.height), (start + image.height, start)):
            draw.line((first, 0, last, image.height), fill="white", width=width)
    return Image.blend(image, ink, opacity)


@cache
def _wallpaper() -> Image.Image:
    photographs = {name: image for name, _, image in embedded_photographs()}
    return photographs["coins.png"].resize((640, WIDTH))


def _desktop(image: Image.Image) -> Image.Image:
    """The photograph in a viewer, on a sixth of a screen, before another photograph."""
    screen = _wallpaper().copy()
    draw = ImageDraw.Draw(screen)
    draw.rectangle((194, 92, 445, 285), fill=(246, 247, 250))
    draw.text((204, 96), "Pictures", fill=(40, 60, 110), font=ImageFont.load_default(15))
    screen.paste(image.resize((240, 160)), (200, 120))
    draw.rectangle((0, 376, 640, WIDTH), fill=(30, 30, 34))
    return screen


SHARED: dict[str, Callable[[Image.Image], Image.Image]] = {
    "a quotation": _quotation,
    "a poster": _poster,
    "a badge": _badge,
    "lines": lambda image: lines(image.resize((WIDTH, WIDTH)), apart=68, width=4),
    "a desktop": _desktop,
}
