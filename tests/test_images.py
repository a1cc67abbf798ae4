"""images.py: the picture as a person sees it, or an ImageError that says why not."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageOps, PngImagePlugin
from shard_makers import (
    IMAGE_MAKERS,
    encode,
    fuzzed,
    half_transparent,
    jpeg,
    picture,
    png_of_size,
    quadrants,
    ramp,
    ycck_jpeg,
)
from skimage import data as skimage_data

from dedup.errors import ImageError
from dedup.images import decode, grey, greys, square, thumbnail

PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "camera", "motorcycle")


def photograph(name: str) -> Image.Image:
    if name == "motorcycle":
        return Image.fromarray(skimage_data.stereo_motorcycle()[0])
    return Image.fromarray(getattr(skimage_data, name)())


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """The colours in the middle of the four quadrants: top left, top right, bottom left, bottom right."""
    w, h = image.size
    return [
        image.getpixel(at)
        for at in ((w // 4, h // 4), (3 * w // 4, h // 4), (w // 4, 3 * h // 4), (3 * w // 4, 3 * h // 4))
    ]


RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def assert_colours(image: Image.Image, expected: list[tuple[int, ...]], tolerance: int = 3) -> None:
    assert image.mode == "RGB"
    assert np.abs(np.subtract(corners(image), expected)).max() <= tolerance, corners(image)


@pytest.mark.parametrize("maker", IMAGE_MAKERS)
def test_every_format_gives_its_colours(maker: str) -> None:
    decoded = decode(IMAGE_MAKERS[maker](quadrants()), min_side=0)
    assert (decoded.width, decoded.height, decoded.rgb.size) == (64, 32, (64, 32))
    assert decoded.format == maker.split()[-1].upper()
    if maker == "grey jpeg":
        assert_colours(decoded.rgb, [(76,) * 3, (150,) * 3, (29,) * 3, WHITE])
    else:
        assert_colours(decoded.rgb, [RED, GREEN, BLUE, WHITE], tolerance=6)


def test_format_is_told_by_content_not_by_name() -> None:
    assert decode(encode(quadrants(), "WEBP"), 0).format == "WEBP"


def test_cmyk_tiff_is_not_inverted() -> None:
    assert_colours(decode(encode(quadrants("CMYK"), "TIFF"), 0).rgb, [RED, GREEN, BLUE, WHITE])


def test_one_bit() -> None:
    stripes = Image.new("1", (64, 32), 0)
    stripes.paste(1, (32, 0, 64, 32))
    for format_name in ("PNG", "TIFF", "BMP", "GIF"):
        assert_colours(decode(encode(stripes, format_name), 0).rgb, [BLACK, WHITE] * 2)


@pytest.mark.parametrize(
    ("mode", "format_name"),
    [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP"), ("RGBA", "TIFF"), ("LA", "TIFF"), ("RGBA", "GIF")],
)
def test_transparency_is_composed_on_white(mode: str, format_name: str) -> None:
    options = {"lossless": True} if format_name == "WEBP" else {}
    assert_colours(decode(encode(half_transparent(mode), format_name, **options), 0).rgb, [BLACK, WHITE] * 2)


def test_partial_transparency_is_blended() -> None:
    faint = Image.new("RGBA", (64, 32), (0, 0, 0, 51))
    assert_colours(decode(encode(faint, "PNG"), 0).rgb, [(204,) * 3] * 4)


@pytest.mark.parametrize(
    ("image", "transparency"),
    [
        (quadrants("RGB"), (255, 0, 0)),
        (quadrants("L"), 76),
        (quadrants("P"), quadrants("P").getpixel((0, 0))),
        (quadrants("P"), bytes(0 if index == quadrants("P").getpixel((0, 0)) else 255 for index in range(256))),
        (Image.fromarray(np.repeat([[76, 900]], 32, axis=0).repeat(32, axis=1).astype(np.uint16)), 76),
    ],
    ids=["RGB", "L", "P index", "P alphas", "16 bits"],
)
def test_a_colour_declared_transparent_is_white(image: Image.Image, transparency: object) -> None:
    data = encode(image, "PNG", transparency=transparency)
    assert corners(decode(data, 0).rgb)[0] == WHITE
    if image.mode != "I;16":
        assert corners(decode(data, 0).rgb)[1] != WHITE  # the green one stays


def test_sixteen_bit_rgb_with_a_transparent_colour_decodes() -> None:
    chunk = PngImagePlugin.putchunk
    buffer = io.BytesIO()
    buffer.write(b"\x89PNG\r\n\x1a\n")
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 0, 0, 65535, 0) for _ in range(2))
    chunk(buffer, b"IHDR", struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0))
    chunk(buffer, b"tRNS", struct.pack(">3H", 65535, 0, 0))
    chunk(buffer, b"IDAT", zlib.compress(rows))
    chunk(buffer, b"IEND", b"")
    assert decode(buffer.getvalue(), 0).rgb.getpixel((1, 0)) == GREEN


@pytest.mark.parametrize(
    ("values", "format_name", "left", "right"),
    [
        (ramp("uint16", 0, 65535), "PNG", 0, 255),
        (ramp("uint16", 0, 65535), "TIFF", 0, 255),
        (ramp("uint16", 0, 4095), "PNG", 0, 255),  # 12 bits of a scanner
        (ramp("uint16", 0, 255), "PNG", 0, 255),
        (ramp("uint16", 0, 30000), "TIFF", 0, 117),  # a dark picture of 16 bits stays dark
        (ramp("int32", 0, 65535), "TIFF", 0, 255),
        (ramp("int32", -1000, 3000), "TIFF", 0, 255),  # Hounsfield units
        (ramp("float32", 0, 1), "TIFF", 0, 255),
        (ramp("float32", 0.25, 0.75), "TIFF", 64, 191),
        (ramp("float32", 0, 255), "TIFF", 0, 255),
        (ramp("float32", -3, 3), "TIFF", 0, 255),
        (ramp("float32", 0, 1e9), "TIFF", 0, 255),
    ],
)
def test_deep_greys_keep_their_gradation(values: np.ndarray, format_name: str, left: int, right: int) -> None:
    decoded = np.asarray(decode(encode(Image.fromarray(values), format_name), 0).rgb)
    row = decoded[10, :, 0].astype(int)
    assert abs(row[0] - left) <= 1
    assert abs(row[-1] - right) <= 1
    assert (np.diff(row) >= 0).all()
    assert len(set(row)) >= 60  # of 64 columns: nothing is blown out
    assert (decoded[..., 0] == decoded[..., 1]).all()


def test_big_endian_sixteen_bits() -> None:
    values = ramp("uint16", 0, 65535)
    little = encode(Image.fromarray(values), "TIFF")
    big = encode(Image.fromarray(values.astype(">u2")), "TIFF")
    assert big[:2] == b"MM"
    assert np.array_equal(np.asarray(decode(little, 0).rgb), np.asarray(decode(big, 0).rgb))


def test_floats_that_are_not_numbers() -> None:
    values = ramp("float32", 0, 1)
    values[:, :8], values[:, -8:] = np.nan, np.inf
    row = np.asarray(decode(encode(Image.fromarray(values), "TIFF"), 0).rgb)[0, :, 0]
    assert row[0] == 0
    assert row[-1] == 255
    assert len(set(row)) > 40
    nothing = Image.fromarray(np.full((4, 4), np.nan, np.float32))
    assert not np.asarray(decode(encode(nothing, "TIFF"), 0).rgb).any()


@pytest.mark.parametrize("format_name", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_counts(format_name: str) -> None:
    frames = [Image.new("RGB", (64, 32), RED), Image.new("RGB", (64, 32), BLUE)]
    data = encode(
        frames[0],
        format_name,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if format_name == "WEBP" else {}),
    )
    assert_colours(decode(data, 0).rgb, [RED] * 4)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(orientation: int, format_name: str) -> None:
    image = quadrants()
    if format_name == "TIFF":
        data = encode(image, "TIFF", tiffinfo={274: orientation})
    else:
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"JPEG": {"quality": 98, "subsampling": 0}, "WEBP": {"lossless": True}, "PNG": {}}[format_name]
        data = encode(image, format_name, exif=exif.tobytes(), **options)
    decoded = decode(data, 0)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.info["exif"] = exif.tobytes()
    expected = ImageOps.exif_transpose(image)
    assert decoded.rgb.size == expected.size
    assert_colours(decoded.rgb, corners(expected), tolerance=6)
    assert (decoded.width, decoded.height) == (64, 32)  # as stored


def test_orientation_six_means_turn_right() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(quadrants(), "PNG", exif=exif.tobytes())
    assert_colours(decode(data, 0).rgb, [BLUE, RED, WHITE, GREEN])


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", b"junk"]
)
def test_a_damaged_exif_block_costs_only_the_orientation(exif: bytes) -> None:
    for format_name in ("JPEG", "PNG", "WEBP"):
        assert decode(encode(picture(), format_name, exif=exif), 0).rgb.size == (160, 120)


def test_odd_tiff_metadata_makes_no_warning() -> None:
    data = bytearray(encode(picture(), "TIFF", copyright="x" * 64))
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from("<H", data, entry) == (33432,):
            struct.pack_into("<I", data, entry + 8, 1 << 30)  # the copyright now lies behind the file's end
    assert_silent_where_pillow_warns(bytes(data))


def test_an_invalid_animation_makes_no_warning() -> None:
    data = encode(picture(), "PNG")
    chunk = io.BytesIO()
    PngImagePlugin.putchunk(chunk, b"acTL", struct.pack(">II", 0, 0))  # an animation of no frames
    assert_silent_where_pillow_warns(data[:33] + chunk.getvalue() + data[33:])


def assert_silent_where_pillow_warns(data: bytes) -> None:
    with warnings.catch_warnings(record=True) as by_pillow:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).close()
    assert by_pillow
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert decode(data, 0).rgb.size == (160, 120)
    assert not caught


@pytest.mark.parametrize("maker", [name for name in IMAGE_MAKERS if "jpeg" in name])
def test_jpeg_is_reduced_while_both_sides_stay_large_enough(maker: str) -> None:
    original = picture(3, 1200, 800)
    data = IMAGE_MAKERS[maker](original)
    full = decode(data, 0)
    for min_side, expected in (
        (100, (150, 100)),
        (101, (300, 200)),
        (400, (600, 400)),
        (401, (1200, 800)),
        (5000, (1200, 800)),
    ):
        decoded = decode(data, min_side)
        assert decoded.rgb.size == expected
        assert (decoded.width, decoded.height) == (1200, 800)
        assert np.abs(thumbnail(decoded.rgb).astype(int) - thumbnail(full.rgb)).mean() < 3


def test_other_formats_are_reduced_to_twice_that_side() -> None:
    data = encode(picture(3, 1200, 800), "PNG")
    assert decode(data, 100).rgb.size == (300, 200)
    assert decode(data, 250).rgb.size == (1200, 800)
    assert np.abs(thumbnail(decode(data, 100).rgb).astype(int) - thumbnail(decode(data, 0).rgb)).mean() < 2


def test_nothing_is_enlarged() -> None:
    for format_name in ("JPEG", "PNG"):
        assert decode(encode(picture(0, 20, 10), format_name), 128).rgb.size == (20, 10)


@pytest.mark.parametrize("maker", IMAGE_MAKERS)
def test_truncated_is_an_error(maker: str) -> None:
    data = IMAGE_MAKERS[maker](picture())
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(ImageError, match="damaged") as caught:
            decode(data[: int(len(data) * part)], 64)
        assert "\n" not in str(caught.value)
        assert " at 0x" not in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"<html>gone</html>", b"\0" * 100, b"%PDF-1.7 ...", b"\xff\xd8\xff", b"BM", b"GIF89a"]
)
def test_what_is_no_image_is_an_error(data: bytes) -> None:
    with pytest.raises(ImageError):
        decode(data, 64)


def test_reasons_are_told_apart() -> None:
    with pytest.raises(ImageError, match=r"^empty"):
        decode(b"", 64)
    with pytest.raises(ImageError, match=r"not an image.*<html>"):
        decode(b"<html>gone</html>", 64)


def test_the_pixel_limit_is_checked_before_decoding() -> None:
    # Decoding would complain of missing pixels; it is not reached.
    with pytest.raises(ImageError, match="50000x50000 pixels, over the limit of 200000000"):
        decode(png_of_size(50000, 50000), 64)
    with pytest.raises(ImageError, match="160x120 pixels, over the limit of 19199"):
        decode(jpeg(), 64, max_pixels=160 * 120 - 1)
    assert decode(jpeg(), 64, max_pixels=160 * 120).width == 160


def test_our_limit_is_the_only_one() -> None:
    # Pillow itself would warn from 89 megapixels, and refuse from 179.
    for side in (9_600, 14_100):
        with pytest.raises(ImageError, match="damaged PNG: OSError"):
            decode(png_of_size(side, side), 64)


def test_a_text_bomb_is_an_error() -> None:
    chunk = PngImagePlugin.PngInfo()
    for number in range(80):
        chunk.add_text(f"k{number}", "x" * 1_000_000, zip=True)
    with pytest.raises(ImageError, match="damaged PNG"):
        decode(encode(picture(), "PNG", pnginfo=chunk), 64)


@pytest.mark.parametrize("maker", IMAGE_MAKERS)
def test_damaged_bytes_give_a_picture_or_an_image_error(maker: str) -> None:
    data = IMAGE_MAKERS[maker](picture(1, 40, 30))
    rng = np.random.default_rng(7)
    failures = 0
    for _ in range(300):
        try:
            assert decode(fuzzed(data, rng), 16, max_pixels=1_000_000).rgb.mode == "RGB"
        except ImageError:
            failures += 1
    assert failures > 30


def test_threads_give_what_one_gives() -> None:
    datas = [maker(picture(number, 300, 200)) for number, maker in enumerate(IMAGE_MAKERS.values())] * 4
    alone = [decode(data, 64).rgb.tobytes() for data in datas]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda data: decode(data, 64).rgb.tobytes(), datas)) == alone


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_grey_is_the_input_of_imagehash(name: str) -> None:
    image = photograph(name)
    pixels = grey(image, 9, 8).astype(int)
    assert np.array_equal(pixels[:, 1:] > pixels[:, :-1], imagehash.dhash(image).hash)
    assert grey(image, 9, 8).shape == (8, 9)
    assert grey(image, 9, 8).dtype == np.uint8


@pytest.mark.parametrize("name", PHOTOGRAPHS)
@pytest.mark.parametrize("format_name", ["JPEG", "PNG"])
def test_greys_of_the_reduced_picture_keep_the_bits_of_the_full_one(name: str, format_name: str) -> None:
    image = photograph(name).convert("RGB")
    data = encode(image, format_name, **({"quality": 95} if format_name == "JPEG" else {}))
    full = Image.open(io.BytesIO(data))
    for_phash, for_dhash = greys(decode(data, 128).rgb, [(32, 32), (9, 8)])
    assert imagehash.phash(Image.fromarray(for_phash)) - imagehash.phash(full) <= 2
    assert imagehash.dhash(Image.fromarray(for_dhash)) - imagehash.dhash(full) <= 2


def test_views_have_the_shape_they_say() -> None:
    image = picture(2, 500, 300)
    assert thumbnail(image).shape == (32, 32, 3)
    assert square(image, 128).shape == (128, 128, 3)
    assert [view.shape for view in greys(image, [(32, 32), (9, 8)])] == [(32, 32), (8, 9)]
    assert square(image, 128).dtype == np.uint8
    # Antialiased: a fine checkerboard comes out grey.
    board = Image.fromarray(((np.indices((256, 256)).sum(0) % 2) * 255).astype(np.uint8)).convert("RGB")
    assert np.abs(square(board, 32).astype(int) - 127).max() < 12


def test_ycck_is_read_as_adobe_means_it() -> None:
    assert_colours(decode(ycck_jpeg(quadrants()), 0).rgb, [RED, GREEN, BLUE, WHITE], tolerance=6)
