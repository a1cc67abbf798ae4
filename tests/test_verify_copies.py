"""What counts as a copy: retouched and turned pictures do, look-alikes, shared decorations and flat pictures do not."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFont, ImageOps

from dedup.images import decode
from dedup.small_evidence import SMALL_SIDE
from dedup.thumbnails import turned_likeness
from dedup.tile_looks import UNLIKELY
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings, verify_pairs
from pipelines.lookalikes import LOOKALIKES
from tests.verification import PHOTOGRAPHS, described, photograph, png, verified

SETTINGS = VerifySettings()


@pytest.mark.parametrize("name", TRANSFORMS)
def test_every_transform_is_seen_through(name: str) -> None:
    files, pairs = {}, []
    for number, title in enumerate(("astronaut", "chelsea")):
        files[f"{title}/a"] = png(photograph(title))
        files[f"{title}/b"] = TRANSFORMS[name](photograph(title), np.random.default_rng(number)).data
        pairs.append((f"{title}/a", f"{title}/b"))
    probability = verified(files, pairs).probability
    assert (probability >= SETTINGS.accepts_from).all(), dict(zip(pairs, probability, strict=True))


TURNS = {
    "90 degrees": Image.Transpose.ROTATE_90,
    "180 degrees": Image.Transpose.ROTATE_180,
    "270 degrees": Image.Transpose.ROTATE_270,
    "upside down": Image.Transpose.FLIP_TOP_BOTTOM,
    "transposed": Image.Transpose.TRANSPOSE,
    "transversed": Image.Transpose.TRANSVERSE,
}


@pytest.mark.parametrize("side", [480, 48])
@pytest.mark.parametrize("turn", TURNS)
def test_turned_copies_are_found(turn: str, side: int) -> None:
    files, pairs = {}, []
    for title in ("astronaut", "chelsea", "coffee", "rocket"):
        image = photograph(title).copy()
        image.thumbnail((side, side))
        files[title] = png(image)
        files[f"{title}/turned"] = TRANSFORMS["recompress"](image.transpose(TURNS[turn]), np.random.default_rng(0)).data
        pairs += [(title, f"{title}/turned"), (f"{title}/turned", title)]
    probability = verified(files, pairs).probability
    assert (probability >= SETTINGS.accepts_from).all(), dict(zip(pairs, probability, strict=True))


def test_turned_flags_and_arrows_are_others() -> None:
    flags = {"white over red": ["white", "crimson"], "red over white": ["crimson", "white"]}
    files = {name: png(_striped(colours)) for name, colours in flags.items()}
    files["side by side"] = png(_striped(["crimson", "white"]).rotate(90, expand=True))
    arrow = Image.new("RGB", (200, 200), "white")
    ImageDraw.Draw(arrow).rectangle((85, 80, 115, 180), fill="black")
    ImageDraw.Draw(arrow).polygon((100, 15, 160, 85, 40, 85), fill="black")
    files |= {f"arrow at {angle}": png(arrow.rotate(angle)) for angle in (0, 90, 180)}
    pairs = [(a, b) for a in files for b in files if a < b]
    assert verified(files, pairs).probability.max() < SETTINGS.accepts_from


def _striped(colours: list[str]) -> Image.Image:
    image = Image.new("RGB", (300, 200))
    for row, colour in enumerate(colours):
        image.paste(colour, (0, row * 200 // len(colours), 300, 200))
    return image


@pytest.mark.parametrize("side", [480, 48])
def test_negatives_are_found(side: int) -> None:
    files, pairs = {}, []
    for title in PHOTOGRAPHS:
        image = photograph(title).copy()
        image.thumbnail((side, side))
        for name, negative in (("plain", image), ("mirrored", ImageOps.mirror(image))):
            files[title], copy = png(image), f"{title}/{name}"
            files[copy] = TRANSFORMS["recompress"](ImageOps.invert(negative), np.random.default_rng(0)).data
            pairs += [(title, copy), (copy, title)]
    verdicts = verified(files, pairs)
    assert verdicts.inverted.all()
    assert (verdicts.probability >= SETTINGS.accepts_from).all(), dict(zip(pairs, verdicts.probability, strict=True))


def test_negatives_of_other_photographs_and_of_signs_are_others() -> None:
    files = {title: png(photograph(title)) for title in PHOTOGRAPHS}
    files |= {f"{title}/negative": png(ImageOps.invert(photograph(title))) for title in PHOTOGRAPHS}
    pairs = [(title, f"{other}/negative") for title in PHOTOGRAPHS for other in PHOTOGRAPHS if title != other]
    for stripes in (["black", "white"], ["white", "black", "white"], ["crimson", "white"]):
        sign = _striped(stripes)
        name = " ".join(stripes)
        files |= {name: png(sign), f"{name}/negative": png(ImageOps.invert(sign))}
        pairs.append((name, f"{name}/negative"))
    verdicts = verified(files, pairs)
    assert not verdicts.inverted[-3:].any()
    assert (verdicts.probability < SETTINGS.accepts_from).all()


def test_where_everything_is_alike_no_negative_is_a_copy() -> None:
    image = photograph("chelsea")
    files = {"a": png(image), "b": png(ImageOps.invert(image))}
    for crowding, found in ((0.0, True), ((0.0, 0.95), False), (0.95, False)):
        assert (verified(files, [("a", "b")], crowding).probability >= SETTINGS.accepts_from).all() == found


def test_turned_pictures_are_laid_onto_each_other() -> None:
    image = photograph("coffee").resize((32, 32))
    for turn in TURNS.values():
        thumbnails = np.stack([np.asarray(image), np.asarray(image.transpose(turn))])
        best, maps = turned_likeness(thumbnails, np.array([0, 1]), np.array([1, 0]))
        assert best[0] == best[1] > 0.95
        for column, row in ((3, 8), (20, 5), (11, 30)):
            x, y = maps[0] @ [(column + 0.5) / 32, (row + 0.5) / 32, 1] * 32
            assert np.array_equal(thumbnails[1, int(y), int(x)], thumbnails[0, row, column])


def test_different_photographs_are_no_copies() -> None:
    files = {name: png(photograph(name)) for name in PHOTOGRAPHS}
    pairs = [(a, b) for a in PHOTOGRAPHS for b in PHOTOGRAPHS if a < b]
    assert verified(files, pairs).probability.max() < 0.1


@pytest.mark.parametrize("name", LOOKALIKES)
def test_uniform_sets_keep_their_pictures_and_lose_their_copies(name: str) -> None:
    images = LOOKALIKES[name](6, np.random.default_rng(5))
    files = {f"{number}": png(image) for number, image in enumerate(images)}
    different = [(a, b) for a in files for b in files if a < b]
    copies = {}
    for number, image in enumerate(images):
        for transform in ("recompress", "shrink", "brightness"):
            rng = np.random.default_rng(number)
            copies[f"{number}", f"{number}/{transform}"] = TRANSFORMS[transform](image, rng).data
    files |= {copy: data for (_, copy), data in copies.items()}
    accepted = verified(files, [*different, *copies], crowding=0.95).probability >= SETTINGS.accepts_from
    assert accepted[: len(different)].sum() == 0
    assert accepted[len(different) :].sum() >= len(copies) - 1


@pytest.mark.parametrize("side", [48, 64])
@pytest.mark.parametrize("name", LOOKALIKES)
def test_uniform_sets_keep_their_small_pictures_and_lose_their_copies(name: str, side: int) -> None:
    images = [image.copy() for image in LOOKALIKES[name](8, np.random.default_rng(5))]
    files = {}
    for number, image in enumerate(images):
        image.thumbnail((side, side))
        files[f"{number}"] = png(image)
    different = [(a, b) for a in files for b in files if a < b]
    copies = {}
    for number, image in enumerate(images):
        for transform in ("recompress", "brightness", "gamma"):
            data = TRANSFORMS[transform](image, np.random.default_rng(number)).data
            copies[f"{number}", f"{number}/{transform}"] = data
    files |= {copy: data for (_, copy), data in copies.items()}
    accepted = verified(files, [*different, *copies], crowding=0.95).probability >= SETTINGS.accepts_from
    assert accepted[: len(different)].sum() <= 1
    assert accepted[len(different) :].sum() >= 0.75 * len(copies)


def test_small_pages_that_are_contested_get_no_more_than_large_ones() -> None:
    images = [image.resize((64, 64)) for image in LOOKALIKES["pages"](6, np.random.default_rng(5))]
    files = {str(number): png(image) for number, image in enumerate(images)}
    pairs = [(a, b) for a in files for b in files if a < b]
    assert verified(files, pairs).probability.min() > 0.5  # small evidence alone finds them all alike
    assert verified(files, pairs, crowding=0.95).probability.max() <= np.float32(UNLIKELY)


def test_framed_pictures_are_small_where_what_is_in_the_frame_is() -> None:
    """To an embedding all around is alike, to thumbnails it is not."""
    one = photograph("rocket").copy()
    one.thumbnail((60, 60))
    copy = decode(TRANSFORMS["watermark"](one, np.random.default_rng(1)).data, 0).rgb
    framed = [ImageOps.expand(image, border=12, fill="white") for image in (one, copy)]
    assert max(framed[0].size) > SMALL_SIDE
    files = {str(number): png(image) for number, image in enumerate(framed)}
    crowding = np.array([[0.9, 0.9, 0.0]], np.float32)
    table = pa.table({"a": ["0"], "b": ["1"]})
    verdicts = verify_pairs(table, described(files), files.__getitem__, SETTINGS, crowding)
    assert verdicts.probability[0] == verified(files, [("0", "1")]).probability[0] >= SETTINGS.accepts_from


@pytest.mark.parametrize("decoration", ["overlay", "frame", "watermark", "text_bar", "caption", "letterbox"])
def test_a_shared_decoration_makes_no_copies(decoration: str) -> None:
    titles = ("astronaut", "coffee", "china", "rocket")
    same_size = {title: photograph(title).resize((400, 300)) for title in titles}
    files = {
        title: png(TRANSFORMS[decoration].change(image, np.random.default_rng(3))) for title, image in same_size.items()
    }
    pairs = [(a, b) for a in titles for b in titles if a < b]
    assert verified(files, pairs).probability.max() < 0.5


def placeholder(words: str) -> Image.Image:
    image = Image.new("RGB", (320, 240), (225, 225, 225))
    draw = ImageDraw.Draw(image)
    draw.rectangle((110, 40, 210, 115), outline=(120, 120, 120), width=6)
    draw.ellipse((130, 55, 150, 75), fill=(120, 120, 120))
    draw.text((40, 150), words, fill=(90, 90, 90), font=ImageFont.load_default(26))
    return image


def test_placeholders_of_other_words_differ_and_their_copies_are_found() -> None:
    one, other = placeholder("image not available"), placeholder("Nothing to see here!")
    files = {"a": png(one), "b": png(other)}
    for name in ("recompress", "shrink", "enlarge"):
        files[name] = TRANSFORMS[name](one, np.random.default_rng(0)).data
    pairs = [("a", "b"), ("a", "enlarge"), ("a", "recompress"), ("a", "shrink")]
    probability = verified(files, pairs, crowding=0.9).probability  # a site has more of them
    assert probability[0] < SETTINGS.accepts_from
    assert (probability[1:] >= SETTINGS.accepts_from).all()


def test_flat_pictures_are_no_evidence() -> None:
    rng = np.random.default_rng(0)
    slope = np.linspace(0, 255, 256).astype(np.uint8)
    files = {
        "white": png(Image.new("RGB", (300, 300), "white")),
        "white too": png(Image.new("RGB", (200, 260), "white")),
        "blue": png(Image.new("RGB", (300, 300), "blue")),
        "noise": png(Image.fromarray(rng.normal(250, 2, (300, 300)).clip(0, 255).astype(np.uint8)).convert("RGB")),
        "slope": png(Image.fromarray(np.tile(slope, (256, 1))).convert("RGB")),
        "other slope": png(Image.fromarray(np.tile(slope, (200, 1))).rotate(2, fillcolor=9).convert("RGB")),
    }
    pairs = [(a, b) for a in files for b in files if a < b and {a, b} != {"slope", "other slope"}]
    assert verified(files, pairs).probability.max() < 0.1


def cifar_sized(title: str, box: tuple[float, float, float, float] = (0, 0, 1, 1)) -> Image.Image:
    image = photograph(title)
    left, top, right, bottom = (share * side for share, side in zip(box, image.size * 2, strict=True))
    return image.resize((32, 32), Image.Resampling.BOX, (left, top, right, bottom))


def test_images_of_32_pixels_are_compared_by_their_thumbnails() -> None:
    titles = ("astronaut", "chelsea", "coffee", "china", "rocket", "flower")
    files = {title: png(cifar_sized(title)) for title in titles}
    changed = {title: ImageOps.mirror(cifar_sized(title, (0.06, 0.04, 0.98, 0.97))) for title in titles}
    files |= {f"{title}~": TRANSFORMS["brightness"](changed[title], np.random.default_rng(1)).data for title in titles}
    table = described(files)
    copies = [(title, f"{title}~") for title in titles]
    others = [(a, b) for a in titles for b in titles if a < b]
    pairs = pa.table({"a": [a for a, _ in copies + others], "b": [b for _, b in copies + others]})

    def unread(sample_id: str) -> bytes:
        raise AssertionError(f"{sample_id} was read")

    probability = verify_pairs(pairs, table, unread, SETTINGS).probability
    assert (probability[: len(copies)] >= SETTINGS.accepts_from).mean() >= 0.8
    assert probability[len(copies) :].max() < 0.5
