"""Rarer and harsher ways of copying a picture than `unseen_transforms.UNSEEN`: on screens, in frames, through filters.

Some are at the edge of what is a copy at all. They are for benchmarks; no coefficient was fitted on them, but what
finds phones' screenshots, turned pictures, negatives, noise and lines was built, and its thresholds were chosen, after
they were seen to be lost.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from dedup.photographs import embedded_photographs
from dedup.transforms import Rng, Transform
from pipelines.unseen_transforms import lines

Floats = npt.NDArray[np.float64]


def _floats(image: Image.Image) -> Floats:
    return np.asarray(image, np.float64)


def _image(pixels: npt.ArrayLike) -> Image.Image:
    return Image.fromarray(np.rint(np.clip(pixels, 0, 255)).astype(np.uint8))


def _within(image: Image.Image, width: int, height: int) -> Image.Image:
    """In the greatest size that fits."""
    scale = min(width / image.width, height / image.height)
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))


def _centred(page: Image.Image, picture: Image.Image, left: int = 0, top: int = 0) -> Image.Image:
    """In the middle of what lies right of `left` and below `top`."""
    page.paste(
        picture, (left + (page.width - left - picture.width) // 2, top + (page.height - top - picture.height) // 2)
    )
    return page


@cache
def _others() -> list[Image.Image]:
    return [image for _, _, image in embedded_photographs()]


def _another(rng: Rng, size: tuple[int, int]) -> Image.Image:
    return _others()[int(rng.integers(len(_others())))].resize(size)


# ---------------------------------------------------------------- on screens and pages


def _on_a_phone(image: Image.Image, rng: Rng) -> Image.Image:
    """The whole screen, 540 by 1170, black or white around the picture, with the time and a button."""
    paper, ink = (("black", "white"), ("white", "black"))[int(rng.integers(2))]
    screen = _centred(Image.new("RGB", (540, 1170), paper), _within(image, 540, 970))
    draw = ImageDraw.Draw(screen)
    draw.text((24, 14), "9:41", fill=ink, font=ImageFont.load_default(26))
    draw.ellipse((240, 1100, 300, 1160), outline=ink, width=4)
    return screen


def _in_a_story(image: Image.Image, _: Rng) -> Image.Image:
    down = np.linspace(0, 1, 960)[:, None, None]
    colours = (1 - down) * [120, 60, 180] + down * [250, 130, 80]
    page = _centred(_image(np.broadcast_to(colours, (960, 540, 3))), _within(image, 460, 560))
    ImageDraw.Draw(page).text((60, 110), "look at this one", fill="white", font=ImageFont.load_default(44))
    return page


def _in_a_window(image: Image.Image, _: Rng) -> Image.Image:
    """Of a viewer on a desktop, with a list of folders."""
    page = Image.new("RGB", (1280, 800), (240, 242, 245))
    draw = ImageDraw.Draw(page)
    draw.rectangle((0, 0, 1280, 60), fill=(50, 60, 80))
    draw.rectangle((0, 60, 220, 800), fill=(225, 228, 233))
    for number in range(9):
        place = (20, 90 + 50 * number)
        draw.text(place, f"Folder {number + 1} summer", fill=(60, 60, 60), font=ImageFont.load_default(20))
    return _centred(page, _within(image, 1000, 680), left=220, top=60)


def _polaroid(image: Image.Image, _: Rng) -> Image.Image:
    """On a table, with a shadow."""
    edge = max(4, image.width // 16)
    frame = Image.new("RGB", (image.width + 2 * edge, image.height + 5 * edge), (250, 250, 245))
    frame.paste(image, (edge, edge))
    table = Image.new("RGB", (frame.width + 2 * edge, frame.height + 2 * edge), (190, 170, 150))
    table.paste((120, 105, 90), (edge + edge // 3, edge + edge // 3, frame.width + edge, frame.height + edge))
    table = table.filter(ImageFilter.GaussianBlur(edge / 4))
    table.paste(frame, (edge, edge))
    return table


def _before_itself_blurred(image: Image.Image, _: Rng) -> Image.Image:
    """As players fill what a picture of another shape leaves of the screen."""
    width, height = image.size
    wide = height >= 0.7 * width
    size = (round(1.78 * width), height) if wide else (width, round(1.6 * height))
    return _centred(image.resize(size).filter(ImageFilter.GaussianBlur(0.03 * max(size))), image)


def _in_a_circle(image: Image.Image, _: Rng) -> Image.Image:
    square = ImageOps.fit(image, (min(image.size), min(image.size)))
    mask = Image.new("L", square.size, 0)
    ImageDraw.Draw(mask).ellipse((0, 0, *square.size), fill=255)
    return Image.composite(square, Image.new("RGB", square.size, "white"), mask)


# ---------------------------------------------------------------- with other pictures


def _through_another(image: Image.Image, rng: Rng) -> Image.Image:
    """Another photograph shines through, by 20 to 35 %."""
    return Image.blend(image, _another(rng, image.size), float(rng.uniform(0.2, 0.35)))


def _on_another(image: Image.Image, rng: Rng) -> Image.Image:
    """At 65 to 85 % of each side, somewhere on another photograph."""
    page, share = _another(rng, image.size), rng.uniform(0.65, 0.85)
    width, height = int(share * image.width), int(share * image.height)
    place = (int(rng.integers(image.width - width)), int(rng.integers(image.height - height)))
    page.paste(image.resize((width, height)), place)
    return page


def _large_sticker(image: Image.Image, rng: Rng) -> Image.Image:
    """A face of 45 % of the shorter side."""
    image, side = image.copy(), int(0.45 * min(image.size))
    x, y = (int(rng.integers(max(1, whole - side))) for whole in image.size)
    draw = ImageDraw.Draw(image)
    draw.ellipse((x, y, x + side, y + side), fill=(255, 205, 50), outline="black", width=3)
    for eye in (0.3, 0.6):
        draw.ellipse((x + eye * side, y + 0.3 * side, x + (eye + 0.1) * side, y + 0.45 * side), fill="black")
    return image


def _lines_all_over(image: Image.Image, _: Rng) -> Image.Image:
    """A tenth of the shorter side apart."""
    apart = max(2, min(image.size) // 10)
    return lines(image, apart, max(1, apart // 12))


def _an_agencys_lines(image: Image.Image, rng: Rng) -> Image.Image:
    """A sixth of the shorter side apart, and its name over and over, all by 30 to 60 %."""
    side, opacity = min(image.size), float(rng.uniform(0.3, 0.6))
    ink = lines(image, max(4, side // 6), max(1, side // 100))
    draw, font = ImageDraw.Draw(ink), ImageFont.load_default(max(8, side // 18))
    for left in range(0, image.width, max(20, side // 3)):
        for top in range(0, image.height, max(20, side // 4)):
            draw.text((left, top), "agency", fill="white", font=font)
    draw.text((image.width / 2, image.height / 2), "agency", "white", ImageFont.load_default(max(10, side // 8)), "mm")
    return Image.blend(image, ink, opacity)


# ---------------------------------------------------------------- moved


def _turned_in_place(image: Image.Image, rng: Rng) -> Image.Image:
    """By 15 to 40 degrees either way; what leaves the canvas is cut off, what is empty is black."""
    degrees = float(rng.uniform(15, 40)) * (1 if rng.random() < 0.5 else -1)
    return image.rotate(degrees, Image.Resampling.BICUBIC)


def _turned_and_cropped(image: Image.Image, rng: Rng) -> Image.Image:
    """By 5 to 20 degrees; of each side 16 % of the shorter one is cut off, so that hardly anything is empty."""
    degrees, edge = float(rng.uniform(5, 20)), int(0.16 * min(image.size))
    turned = image.rotate(degrees * (1 if rng.random() < 0.5 else -1), Image.Resampling.BICUBIC)
    return turned.crop((edge, edge, image.width - edge, image.height - edge))


def _two_fifths(image: Image.Image, rng: Rng) -> Image.Image:
    """A crop to 40 % of each side."""
    width, height = (max(8, int(0.4 * side)) for side in image.size)
    x, y = int(rng.integers(image.width - width + 1)), int(rng.integers(image.height - height + 1))
    return image.crop((x, y, x + width, y + height))


def _through_a_lens(image: Image.Image, rng: Rng) -> Image.Image:
    """Barrel or pincushion distortion by 10 to 25 % in the middle of an edge."""
    height, width = image.height, image.width
    strength = float(rng.uniform(0.1, 0.25)) * (1 if rng.random() < 0.5 else -1)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    scale = 1 + strength * (x**2 + y**2)
    scale /= max(1.0, float(scale.max()))
    across, down = ((scale * x + 1) / 2 * (width - 1), (scale * y + 1) / 2 * (height - 1))
    places = across.astype(np.float32), down.astype(np.float32)
    return Image.fromarray(cv2.remap(np.asarray(image), *places, cv2.INTER_LINEAR))


# ---------------------------------------------------------------- through filters


def _solarized(image: Image.Image, _: Rng) -> Image.Image:
    return ImageOps.solarize(image, 128)


def _much_noise(image: Image.Image, rng: Rng) -> Image.Image:
    """Gaussian, 45 levels."""
    return _image(_floats(image) + rng.normal(0, 45, (image.height, image.width, 3)))


def _large_pixels(image: Image.Image, rng: Rng) -> Image.Image:
    """4 to 8 times as large."""
    by = int(rng.integers(4, 9))
    small = image.resize((max(8, image.width // by), max(8, image.height // by)), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


def _halftone(image: Image.Image, _: Rng) -> Image.Image:
    """Dots of six pixels, as printed."""
    grey = _floats(image.convert("L"))
    y, x = np.mgrid[: image.height, : image.width] * (2 * math.pi / 6)
    screen = 128 + 64 * (np.sin(x + y) + np.sin(x - y))
    return _image(255.0 * (grey > screen)).convert("RGB").filter(ImageFilter.GaussianBlur(1))


def _old_print(image: Image.Image, rng: Rng) -> Image.Image:
    """Faded and brown, with grain and a dozen scratches."""
    grey = _floats(image.convert("L"))[..., None]
    aged = _image((0.7 * grey + 40 + rng.normal(0, 18, grey.shape)) * [1.1, 1, 0.8])
    draw = ImageDraw.Draw(aged)
    for start, lean in zip(rng.integers(0, image.width, 12), rng.integers(-9, 9, 12), strict=True):
        draw.line((int(start), 0, int(start + lean), image.height), fill=(230, 220, 190))
    return aged


def _half_in_shadow(image: Image.Image, rng: Rng) -> Image.Image:
    """Of the left 35 to 65 % little more than two fifths of the light is left."""
    pixels = _floats(image).copy()
    pixels[:, : int(rng.uniform(0.35, 0.65) * image.width)] *= 0.45
    return _image(pixels)


def _cartoon(image: Image.Image, _: Rng) -> Image.Image:
    """Smooth areas with black outlines."""
    pixels = np.asarray(image)
    grey = cv2.medianBlur(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), 5)
    outlines = cv2.adaptiveThreshold(grey, 255, cv2.ADAPTIVE_THRESH_MEAN_C, cv2.THRESH_BINARY, 9, 6)
    return Image.fromarray(np.where(outlines[..., None] > 0, cv2.bilateralFilter(pixels, 9, 75, 75), np.uint8(0)))


RARE: dict[str, Transform] = {
    "on a phone's screen": Transform(_on_a_phone),
    "in a story": Transform(_in_a_story),
    "in a window": Transform(_in_a_window),
    "a polaroid": Transform(_polaroid),
    "before itself, blurred": Transform(_before_itself_blurred),
    "in a circle": Transform(_in_a_circle),
    "through another picture": Transform(_through_another),
    "on another picture": Transform(_on_another),
    "a large sticker": Transform(_large_sticker),
    "lines all over it": Transform(_lines_all_over),
    "an agency's lines": Transform(_an_agencys_lines),
    "turned by 15-40 degrees": Transform(_turned_in_place),
    "turned and cropped": Transform(_turned_and_cropped),
    "two fifths of each side": Transform(_two_fifths),
    "through a lens": Transform(_through_a_lens),
    "a negative": Transform(lambda image, _: ImageOps.invert(image)),
    "solarized": Transform(_solarized),
    "much noise": Transform(_much_noise),
    "large pixels": Transform(_large_pixels),
    "halftone": Transform(_halftone),
    "an old print": Transform(_old_print),
    "half in shadow": Transform(_half_in_shadow),
    "a cartoon": Transform(_cartoon),
}
