"""Pictures of one template each: placeholders, logos, forms, charts, screenshots and their like, drawn by the tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from pipelines.lookalikes import charts, icons, pages, screenshots

Colour = tuple[int, int, int]
Maker = Callable[[], list[Image.Image]]

COUNT = 4
BLACK, GREY, NAVY = (0, 0, 0), (110, 110, 110), (20, 30, 110)
NAMES = ("Anna Berg", "Carlos Diaz", "Fatima Gupta", "Hiro Ito")
WORDS = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor labore".split()  # noqa: SIM905


def _words(image: Image.Image, at: tuple[int, int], words: str, size: int, ink: Colour = BLACK) -> None:
    ImageDraw.Draw(image).multiline_text(at, words, fill=ink, font=ImageFont.load_default(size), spacing=4)


def _sentence(rng: np.random.Generator, count: int) -> str:
    return " ".join(str(word) for word in rng.choice(WORDS, count))


def placeholders() -> list[Image.Image]:
    """One icon on one grey, with other words below."""
    pictures = []
    for words in ("image not available", "Nothing to see here!", "404", "coming soon", "no photo yet"):
        image = Image.new("RGB", (320, 240), (225, 225, 225))
        draw = ImageDraw.Draw(image)
        draw.rectangle((110, 40, 210, 115), outline=(120, 120, 120), width=6)
        draw.ellipse((130, 55, 150, 75), fill=(120, 120, 120))
        _words(image, (40, 150), words, 26, (90, 90, 90))
        pictures.append(image)
    return pictures


def texts() -> list[Image.Image]:
    """Black words on white: pictures of two tones."""
    pictures = []
    for seed in range(COUNT):
        order = np.random.default_rng(seed).choice(WORDS, (14, 6))
        image = Image.new("RGB", (380, 300), "white")
        _words(image, (15, 12), "\n".join(" ".join(row) for row in order), 14)
        pictures.append(image)
    return pictures


def logos() -> list[Image.Image]:
    """One disc on white, with another sign in it."""
    signs = [((70, 70), (186, 186)), ((100, 60), (156, 196)), ((60, 110), (196, 146))]
    pictures = []
    for number, (start, end) in enumerate(signs):
        image = Image.new("RGB", (256, 256), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse((16, 16, 240, 240), fill=(200, 30, 40))
        (draw.rectangle if number % 2 else draw.ellipse)((start, end), fill="white")
        pictures.append(image)
    return pictures


def silhouettes() -> list[Image.Image]:
    """Bimodal: black shapes on white, other shapes on each."""
    pictures = []
    for seed in range(COUNT):
        coarse = np.random.default_rng(seed).integers(0, 256, (7, 7)).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((280, 280), Image.Resampling.BICUBIC)
        pictures.append(smooth.point([0] * 128 + [255] * 128).convert("RGB"))
    return pictures


def flags() -> list[Image.Image]:
    """Three bands of other colours each: outlines that agree to the pixel."""
    pictures = []
    for seed in range(5):
        colours = np.random.default_rng(seed).integers(0, 256, (3, 3))
        image = Image.new("RGB", (300, 200))
        for band, colour in enumerate(colours.tolist()):
            ImageDraw.Draw(image).rectangle((100 * band, 0, 100 * band + 99, 199), fill=tuple(colour))
        pictures.append(image)
    return pictures


def near_flat() -> list[Image.Image]:
    """Little more than one grey: soft clouds around it."""
    pictures = []
    for seed in range(COUNT):
        coarse = np.random.default_rng(seed).normal(128, 14, (8, 8)).clip(0, 255).astype(np.uint8)
        pictures.append(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC).convert("RGB"))
    return pictures


def _form(entries: list[str]) -> Image.Image:
    image = Image.new("RGB", (600, 620), "white")
    _words(image, (160, 24), "APPLICATION FORM", 28)
    labels = ("Name", "Street", "City", "Date of birth", "Telephone", "E-mail", "Occupation", "Signature")
    for row, (label, entry) in enumerate(zip(labels, entries, strict=True)):
        _words(image, (40, 110 + 62 * row), label, 18)
        ImageDraw.Draw(image).rectangle((210, 98 + 62 * row, 560, 140 + 62 * row), outline="black", width=2)
        _words(image, (222, 108 + 62 * row), entry, 18, NAVY)
    return image


def _entries(rng: np.random.Generator) -> list[str]:
    return [f"{rng.choice(NAMES)} {rng.integers(10, 99999)}" for _ in range(8)]


def forms() -> list[Image.Image]:
    """One form, filled in by different people."""
    return [_form(_entries(np.random.default_rng(seed))) for seed in range(COUNT)]


def first_entries() -> list[Image.Image]:
    """One form of which only the first entry differs."""
    rest = _entries(np.random.default_rng(9))[1:]
    return [_form([f"{name} {1000 * number}", *rest]) for number, name in enumerate(NAMES)]


def certificates() -> list[Image.Image]:
    """One frame and seal, awarded to other people."""
    pictures = []
    for name in NAMES:
        image = Image.new("RGB", (640, 450), (252, 248, 235))
        draw = ImageDraw.Draw(image)
        for inset in (10, 20, 24):
            draw.rectangle((inset, inset, 640 - inset, 450 - inset), outline=(150, 110, 40), width=3)
        _words(image, (190, 60), "CERTIFICATE", 40, (90, 60, 20))
        _words(image, (230, 130), "awarded to", 22)
        _words(image, (200, 180), name, 38, NAVY)
        _words(image, (150, 260), "for completing the course", 22)
        draw.ellipse((480, 320, 570, 410), fill=(190, 30, 30))
        pictures.append(image)
    return pictures


def receipts() -> list[Image.Image]:
    """Of one shop, with other prices."""
    pictures = []
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        image = Image.new("RGB", (300, 560), (250, 250, 250))
        _words(image, (80, 20), "SUPERMART", 26)
        for row in range(12):
            _words(image, (30, 100 + 30 * row), str(rng.choice(WORDS)), 18)
            _words(image, (220, 100 + 30 * row), f"{rng.uniform(0.5, 20):.2f}", 18)
        ImageDraw.Draw(image).line((30, 470, 270, 470), fill="black", width=2)
        _words(image, (30, 480), f"TOTAL          {rng.uniform(20, 99):.2f}", 22)
        pictures.append(image)
    return pictures


def cards() -> list[Image.Image]:
    """Business cards of one company."""
    pictures = []
    for number, name in enumerate(NAMES):
        image = Image.new("RGB", (420, 240), (245, 245, 240))
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 120, 240), fill=(30, 110, 90))
        draw.ellipse((30, 80, 90, 140), fill="white")
        _words(image, (20, 160), "ACME", 30, (255, 255, 255))
        _words(image, (150, 60), name, 26)
        _words(image, (150, 100), ("Sales", "Engineer", "Director", "Support")[number], 18, GREY)
        _words(image, (150, 150), f"+{17 * number + 11} {8713 * number + 10234}", 18)
        pictures.append(image)
    return pictures


def slides() -> list[Image.Image]:
    """Of one presentation."""
    pictures = []
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        image = Image.new("RGB", (640, 360), "white")
        draw = ImageDraw.Draw(image)
        draw.rectangle((0, 0, 640, 60), fill=(20, 60, 120))
        draw.rectangle((0, 330, 640, 360), fill=(20, 60, 120))
        draw.ellipse((560, 8, 604, 52), fill=(240, 180, 0))
        _words(image, (24, 14), _sentence(rng, 3), 26, (255, 255, 255))
        for row in range(4):
            _words(image, (50, 90 + 50 * row), f"- {_sentence(rng, 5)}", 20)
        pictures.append(image)
    return pictures


def posts() -> list[Image.Image]:
    """Screenshots of one author's posts."""
    pictures = []
    for seed in range(COUNT):
        rng = np.random.default_rng(seed)
        image = Image.new("RGB", (560, 300), "white")
        draw = ImageDraw.Draw(image)
        draw.ellipse((24, 24, 84, 84), fill=(90, 140, 200))
        _words(image, (100, 28), "Some Body", 22)
        _words(image, (100, 56), "@somebody", 18, GREY)
        _words(image, (24, 104), "\n".join(_sentence(rng, 6) for _ in range(4)), 22)
        draw.line((24, 250, 536, 250), fill=(220, 220, 220), width=2)
        _words(image, (24, 262), "12 Comments    34 Shares    56 Likes", 18, GREY)
        pictures.append(image)
    return pictures


def _drawn(make: Callable[[int, np.random.Generator], list[Image.Image]]) -> Maker:
    return lambda: make(COUNT, np.random.default_rng(7))


TEMPLATES: dict[str, Maker] = {
    "placeholders": placeholders,
    "texts": texts,
    "logos": logos,
    "silhouettes": silhouettes,
    "flags": flags,
    "near_flat": near_flat,
    "forms": forms,
    "first_entries": first_entries,
    "certificates": certificates,
    "receipts": receipts,
    "cards": cards,
    "slides": slides,
    "posts": posts,
    "charts": _drawn(charts),
    "pages": _drawn(pages),
    "icons": _drawn(icons),
    "screenshots": _drawn(screenshots),
}
