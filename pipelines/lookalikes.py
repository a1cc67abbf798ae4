"""Uniform sets: pictures that look alike and are no copies of each other, drawn from a seed.

X-rays, product shots, charts, printed pages, icons, screenshots, dials, placeholders: each maker gives `count`
pictures that share nearly everything but what makes each its own. Search proposes them as duplicates; none of them is.
They serve to fit and to test verification.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Rng = np.random.Generator
Floats = npt.NDArray[np.float32]

_WORDS = "the of and a to in is was he for it with as his on be at by had not are but from or have an they which one"


def _smooth_noise(rng: Rng, height: int, width: int, sigma: float) -> Floats:
    """Gaussian noise smoothed by `sigma` pixels, of mean 0 and standard deviation 1."""
    noise = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
    return np.asarray((noise - noise.mean()) / (noise.std() + 1e-6), np.float32)


def _picture(pixels: Floats) -> Image.Image:
    array = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(array).convert("RGB")


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(max(8, round(size)))


def xrays(count: int, rng: Rng) -> list[Image.Image]:
    """One anatomy, warped a little for each patient, with lung texture and film grain of its own."""
    height = width = 360
    body = Image.new("L", (width, height), 10)
    draw = ImageDraw.Draw(body)
    draw.ellipse((40, 20, 320, 400), fill=120)
    for left in (80, 195):
        draw.ellipse((left, 70, left + 85, 290), fill=45)
    for row in range(60, 300, 30):
        draw.arc((60, row, 180, row + 70), 180, 360, fill=150, width=6)
        draw.arc((180, row, 300, row + 70), 180, 360, fill=150, width=6)
    draw.rectangle((170, 20, 190, 350), fill=170)
    draw.ellipse((165, 190, 255, 290), fill=140)
    anatomy = cv2.GaussianBlur(np.asarray(body, np.float32), (0, 0), 2.5)
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32)
    pictures = []
    for _ in range(count):
        shift_x, shift_y = (_smooth_noise(rng, height, width, 40) * rng.uniform(2, 6) for _ in range(2))
        warped = cv2.remap(anatomy, grid_x + shift_x, grid_y + shift_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        texture = _smooth_noise(rng, height, width, 3) * 6 + _smooth_noise(rng, height, width, 8) * 6
        pictures.append(_picture(warped + texture + rng.standard_normal((height, width)).astype(np.float32) * 2))
    return pictures


def products(count: int, rng: Rng) -> list[Image.Image]:
    """Vases of slightly different outline before one background, in one light, each with its own grain and pattern."""
    height, width = 400, 320
    grid_y, grid_x = np.mgrid[:height, :width].astype(np.float32)
    background = 235 - 25 * grid_y / height
    pictures = []
    for _ in range(count):
        knots = np.interp(np.arange(height), np.linspace(60, 360, 6), rng.uniform(50, 85, 6)).astype(np.float32)
        outline = cv2.GaussianBlur(knots[:, None], (0, 0), 18)[:, 0]
        inside = (np.abs(grid_x - width / 2) < outline[:, None]) & (grid_y > 60) & (grid_y < 360)
        across = (grid_x - width / 2) / outline[:, None]
        shade = 150 - 50 * across**2 - 30 * across
        glaze = _smooth_noise(rng, height, width, 5) * 5 + _smooth_noise(rng, height, width, 1.5) * 4
        for _ in range(int(rng.integers(0, 12))):
            spot = (int(rng.integers(100, 220)), int(rng.integers(80, 340)))
            cv2.circle(glaze, spot, int(rng.integers(2, 6)), float(rng.uniform(-40, 10)), -1, cv2.LINE_AA)
        shadow = 60 * np.exp(-(((grid_x - 190) / 90) ** 2) - ((grid_y - 362) / 10) ** 2)
        pixels = np.where(inside, shade + glaze, background - shadow)
        tint = np.array([1.0, 0.86, 0.7], np.float32)
        colour = np.clip(np.where(inside[..., None], pixels[..., None] * tint, pixels[..., None]), 0, 255)
        pictures.append(Image.fromarray(colour.astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.7)))
    return pictures


def charts(count: int, rng: Rng) -> list[Image.Image]:
    """Bar charts with the same axes, labels and colours; only the bars differ."""
    pictures = []
    for _ in range(count):
        image = Image.new("RGB", (420, 300), "white")
        draw = ImageDraw.Draw(image)
        draw.text((130, 8), "Sales by month", fill="black", font=_font(20))
        for step in range(6):
            draw.line((50, 260 - 40 * step, 400, 260 - 40 * step), fill=(210, 210, 210))
            draw.text((20, 252 - 40 * step), str(20 * step), fill="black", font=_font(12))
        draw.line((50, 40, 50, 260), fill="black", width=2)
        draw.line((50, 260, 400, 260), fill="black", width=2)
        for month in range(12):
            left, high = 58 + 28 * month, float(rng.uniform(15, 205))
            draw.rectangle((left, 260 - high, left + 20, 260), fill=(60, 110, 180))
            draw.text((left + 4, 266), "JFMAMJJASOND"[month], fill="black", font=_font(13))
        pictures.append(image)
    return pictures


def pages(count: int, rng: Rng) -> list[Image.Image]:
    """Scanned pages: one layout and letterhead, other words, a little skew and paper grain."""
    words = _WORDS.split()
    pictures = []
    for _ in range(count):
        image = Image.new("L", (340, 440), 255)
        draw = ImageDraw.Draw(image)
        draw.text((100, 14), "JOURNAL", fill=0, font=_font(26))
        draw.line((30, 50, 310, 50), fill=0, width=2)
        for row in range(64, 420, 13):
            text = ""
            while draw.textlength(text, font=_font(10)) < 270:
                text += str(rng.choice(words)) + " "
            draw.text((30, row), text, fill=20, font=_font(10))
        turned = image.rotate(float(rng.uniform(-0.7, 0.7)), Image.Resampling.BICUBIC, fillcolor=255)
        grain = rng.standard_normal((440, 340)).astype(np.float32) * 3
        pictures.append(_picture(np.asarray(turned, np.float32) * 0.92 + grain))
    return pictures


def icons(count: int, rng: Rng) -> list[Image.Image]:
    """App icons: one rounded badge, another glyph of two strokes on each."""
    pictures = []
    for _ in range(count):
        image = Image.new("RGB", (192, 192), "white")
        draw = ImageDraw.Draw(image)
        draw.rounded_rectangle((12, 12, 180, 180), 40, fill=(40, 120, 220))
        for _ in range(int(rng.integers(2, 4))):
            a, b = rng.integers(50, 142, 2), rng.integers(50, 142, 2)
            box = (*(int(v) for v in np.minimum(a, b)), *(int(v) + 8 for v in np.maximum(a, b)))
            kind = int(rng.integers(0, 3))
            if kind == 0:
                draw.ellipse(box, outline="white", width=9)
            elif kind == 1:
                draw.rectangle(box, outline="white", width=9)
            else:
                draw.line((int(a[0]), int(a[1]), int(b[0]), int(b[1])), fill="white", width=11)
        pictures.append(image)
    return pictures


def screenshots(count: int, rng: Rng) -> list[Image.Image]:
    """One application's window: the same bars and buttons, other messages in the middle."""
    words = _WORDS.split()
    pictures = []
    for _ in range(count):
        image = Image.new("RGB", (480, 320), (245, 245, 247))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 480, 36), fill=(50, 60, 80))
        draw.text((12, 8), "Messages", fill="white", font=_font(18))
        for button in range(5):
            draw.rounded_rectangle((300 + 34 * button, 8, 326 + 34 * button, 28), 5, fill=(90, 110, 140))
        draw.rectangle((0, 36, 110, 320), fill=(225, 228, 235))
        for row in range(8):
            draw.text((10, 48 + 32 * row), f"Folder {row + 1}", fill=(60, 60, 70), font=_font(13))
        top = 50
        while top < 290:
            wide = int(rng.integers(90, 240))
            left = 125 if rng.random() < 0.5 else 465 - wide
            draw.rounded_rectangle((left, top, left + wide, top + 28), 9, fill=(200, 220, 250))
            text = " ".join(str(w) for w in rng.choice(words, max(1, wide // 38)))
            draw.text((left + 8, top + 7), text, fill=(20, 20, 40), font=_font(12))
            top += int(rng.integers(34, 48))
        pictures.append(image)
    return pictures


def dials(count: int, rng: Rng) -> list[Image.Image]:
    """One clock at different times."""
    pictures = []
    for _ in range(count):
        image = Image.new("RGB", (300, 300), (120, 90, 60))
        draw = ImageDraw.Draw(image)
        draw.ellipse((20, 20, 280, 280), fill=(240, 238, 230), outline=(30, 30, 30), width=8)
        for hour in range(12):
            turn = hour * np.pi / 6
            x, y = 150 + 100 * np.sin(turn), 150 - 100 * np.cos(turn)
            draw.text((x - 8, y - 10), str(hour or 12), fill="black", font=_font(20))
        for length, wide in ((60, 9), (92, 6), (98, 2)):
            turn = rng.uniform(0, 2 * np.pi)
            draw.line((150, 150, 150 + length * np.sin(turn), 150 - length * np.cos(turn)), fill="black", width=wide)
        pictures.append(image.filter(ImageFilter.GaussianBlur(0.6)))
    return pictures


def textures(count: int, rng: Rng) -> list[Image.Image]:
    """Close-ups of one kind of surface: other grains of one statistic."""
    tint = np.array([0.95, 0.85, 0.7], np.float32)
    pictures = []
    for _ in range(count):
        surface = 130 + 28 * _smooth_noise(rng, 288, 288, 4) + 14 * _smooth_noise(rng, 288, 288, 1.2)
        pictures.append(Image.fromarray(np.clip(surface[..., None] * tint, 0, 255).astype(np.uint8)))
    return pictures


LOOKALIKES: dict[str, Callable[[int, Rng], list[Image.Image]]] = {
    "xrays": xrays,
    "products": products,
    "charts": charts,
    "pages": pages,
    "icons": icons,
    "screenshots": screenshots,
    "dials": dials,
    "textures": textures,
}
