"""Pictures that lie on pages: where they are found, how their hashes propose pairs, and what a run makes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image, ImageDraw, ImageFilter, ImageFont

import dedup
from dedup.candidates import CANDIDATE_SCHEMA, EQUAL_HASHES_SEARCHED, HASH_ROW, hash_pairs, hash_rows, in_order
from dedup.describe import DescribeSettings, describe_shard
from dedup.evidence import Evidence, compare
from dedup.judgement import distinct
from dedup.listing import list_shards
from dedup.local_features import picture as picture_of
from dedup.neighbors import SearchSettings
from dedup.pages import MIN_SIDE, boxes_on_one_page, find_box, picture_on_page
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings, settle_pairs
from pipelines.client import ClusterSettings
from tests.run_files import accepted, run_on
from tests.shard_makers import encode, sample_members, write_tar
from tests.verification import photograph, png, verified

SETTINGS = SearchSettings(candidates_per_image=100)
FULL_OF_PICTURE = ("astronaut", "chelsea", "coffee", "china", "flower")


def gradient(width: int, height: int) -> Image.Image:
    down = np.linspace(0, 1, height)[:, None, None]
    colours = (1 - down) * [120, 60, 180] + down * [250, 130, 80]
    return Image.fromarray(np.broadcast_to(colours, (height, width, 3)).astype(np.uint8))


def written_on(page: Image.Image, colour: str) -> Image.Image:
    draw = ImageDraw.Draw(page)
    for line in range(3):
        draw.text((20, 12 + 30 * line), "what a day that was", fill=colour, font=ImageFont.load_default(22))
    return page


def blurred(name: str) -> Image.Image:
    return photograph(name).resize((640, 360)).filter(ImageFilter.GaussianBlur(18))


# What lies around a picture of 300 by 200 pixels, and where the picture lies.
PAGES = {
    "a story": (lambda _: written_on(gradient(360, 640), "white"), (30, 220)),
    "a page of words": (lambda _: written_on(Image.new("RGB", (420, 400), (245, 245, 240)), "black"), (60, 130)),
    "another picture": (lambda _: photograph("rocket").resize((480, 360)), (100, 70)),
    "itself, blurred": (blurred, (170, 80)),
}


def page(kind: str, name: str) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """The page, and (left, top, right, bottom) of the picture on it."""
    around, (left, top) = PAGES[kind]
    made = around(name)
    made.paste(photograph(name).resize((300, 200)), (left, top))
    return made, (left, top, left + 300, top + 200)


@pytest.mark.parametrize("kind", PAGES)
def test_the_picture_on_a_page_is_found(kind: str) -> None:
    found = 0
    for name in FULL_OF_PICTURE:
        image, place = page(kind, name)
        inside = picture_on_page(image)
        if inside is None:
            continue
        there = np.asarray(image.crop(place).resize((64, 64)), np.float64)
        found += abs(np.asarray(inside.resize((64, 64)), np.float64) - there).mean() < 12
    assert found >= len(FULL_OF_PICTURE) - 1  # a side of a picture may have the colour of what is around it


def test_the_box_is_that_of_the_picture_to_the_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    smooth = np.asarray(gradient(256, 200)).copy()
    smooth[45:165, 33:193] = np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)))
    assert np.abs(np.subtract(find_box(smooth) or (0, 0, 0, 0), (33, 45, 193, 165))).max() <= 1


def test_seams_on_two_sides_that_face_each_other_are_enough_and_on_two_others_are_not() -> None:
    photo = np.asarray(photograph("china").resize((256, 192)))
    between, corner = np.asarray(gradient(256, 192)).copy(), np.asarray(gradient(256, 192)).copy()
    between[:, 60:190] = photo[:, 60:190]
    corner[:150, :190] = photo[:150, :190]
    left, top, right, bottom = find_box(between) or (0, 0, 0, 0)
    assert (abs(left - 60) <= 1, top, abs(right - 190) <= 1, bottom) == (True, 0, True, 192)
    assert find_box(corner) is None


def test_what_has_no_seams_has_no_picture_inside() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (200, 256, 3), np.uint8)
    soft = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(6)))
    for pixels in (noise, soft, np.asarray(gradient(256, 200)), np.full((200, 256, 3), 9, np.uint8)):
        assert find_box(pixels) is None
    small, _ = page("a story", "chelsea")
    assert picture_on_page(small.resize((MIN_SIDE - 1, 112))) is None


@pytest.mark.parametrize("size", [(12000, 64), (64, 12000), (3000, 64), (64, 1600), (100, 64)])
def test_long_strips_are_no_pages_or_have_pictures_that_can_be_hashed(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    for across in (0, 1):
        bands = np.repeat(rng.integers(0, 256, (size[across] // 16 + 1, 3), np.uint8), 16, axis=0)[: size[across]]
        pixels = np.broadcast_to(bands[:, None] if across else bands[None], (size[1], size[0], 3))
        inside = picture_on_page(Image.fromarray(np.ascontiguousarray(pixels)))
        assert inside is None or min(inside.size) >= 32


def test_the_picture_on_a_large_page_has_no_rim() -> None:
    """What is found on a small view of it is found again in its own pixels, and the frame goes."""
    screen = gradient(1800, 1400)
    screen.paste((250, 250, 245), (395, 295, 1405, 1005))
    screen.paste(photograph("coffee").resize((1000, 700)), (400, 300))
    inside = picture_on_page(screen)
    assert inside is not None
    assert np.abs(np.subtract(inside.size, (1000, 700))).max() <= 3


# ---------------------------------------------------------------- descriptors and pairs


def described(tmp_path: Path, images: dict[str, Image.Image]) -> pa.Table:
    members = [member for name, image in images.items() for member in sample_members(name, encode(image))]
    write_tar(tmp_path / "0.tar", members)
    return describe_shard(list_shards([str(tmp_path / "0.tar")])[1][0], DescribeSettings(embedder="none"), None)


def bits(code: bytes) -> np.ndarray:
    return np.unpackbits(np.frombuffer(code, np.uint8))


def test_descriptors_tell_of_the_picture_inside(tmp_path: Path) -> None:
    story, _ = page("a story", "coffee")
    flat = gradient(360, 640)
    flat.paste((200, 220, 240), (30, 220, 330, 420))
    framed = Image.new("RGB", (400, 300), "white")
    framed.paste(photograph("coffee").resize((300, 200)), (50, 50))
    plain = photograph("coffee")
    images = {"plain": plain, "story": story, "flat": flat, "framed": framed, "soft": gradient(300, 300)}
    rows = {row["key"]: row for row in described(tmp_path, images).to_pylist()}
    assert (bits(rows["story"]["page_phash"]) != bits(rows["plain"]["phash"])).sum() <= 6
    assert rows["story"]["page_share"] == pytest.approx(300 * 200 / (360 * 640), rel=0.03)
    assert (bits(rows["framed"]["page_phash"]) != bits(rows["plain"]["phash"])).sum() <= 6
    assert rows["framed"]["page_share"] == pytest.approx(0.5, rel=0.05)
    assert rows["flat"]["page_phash"] is None  # it says nothing, as hashes of flat pictures do
    assert (rows["soft"]["page_phash"], rows["soft"]["page_share"]) == (None, None)


def listed(pairs: pa.Table) -> set[tuple[str, str, str, float]]:
    return set(zip(*(pairs[name].to_pylist() for name in ("a", "b", "method", "score")), strict=True))


def coded(whole: list[int], inside: list[int | None]) -> pa.Table:
    """Informative pictures with these hashes."""
    codes = [[None if each is None else each.to_bytes(8, "big") for each in column] for column in (whole, inside)]
    return pa.table(
        {
            "sample_id": [f"{number:04d}" for number in range(len(whole))],
            "information": np.full(len(whole), 100, np.float32),
            "phash": pa.array(codes[0], pa.binary(8)),
            "page_phash": pa.array(codes[1], pa.binary(8)),
        }
    )


@pytest.mark.parametrize("agreeing", [1, 2])
def test_the_pairs_are_those_of_all_hashes_compared(agreeing: int) -> None:
    rng = np.random.default_rng(3)
    whole = [int(code) for code in rng.integers(0, 1 << 62, 40)]
    inside: list[int | None] = [None] * 40
    for number in range(0, 40, 4):
        of = (number + 3) % 40
        inside[number] = whole[of] ^ sum(1 << int(bit) for bit in rng.choice(62, number % 9, replace=False))
        inside[number + 1] = inside[number] if number % 8 else None  # two pages with one picture
        whole[number + 2] = whole[of] ^ 3  # and another copy of it
    inside[39] = whole[39] ^ 1  # a page with itself is no pair
    most = SETTINGS.search_bits
    wanted = set()
    for i in range(40):
        for j in range(i + 1, 40):
            near = [
                (a ^ b).bit_count()
                for a, b in ((inside[i], whole[j]), (whole[i], inside[j]), (inside[i], inside[j]))
                if a is not None and b is not None
            ]
            wanted |= {(f"{i:04d}", f"{j:04d}", "page", 1 - d / 64) for d in near if d <= most}
            if (whole[i] ^ whole[j]).bit_count() <= most:
                wanted.add((f"{i:04d}", f"{j:04d}", "hash", 1 - (whole[i] ^ whole[j]).bit_count() / 64))
    assert len(wanted) > 25
    rows = in_order(hash_rows(coded(whole, inside), 2, SETTINGS, agreeing, pages=True))
    assert rows.schema == HASH_ROW
    found = hash_pairs(rows, SETTINGS, agreeing)
    assert found.schema == CANDIDATE_SCHEMA
    assert listed(found) == {(*pair[:3], float(np.float32(pair[3]))) for pair in wanted}
    values = rows["value"].to_numpy()
    apart = [rows.filter(pa.array(values % 3 == part)) for part in range(3)]
    assert set().union(*(listed(hash_pairs(part, SETTINGS, agreeing)) for part in apart)) == listed(found)
    without = in_order(hash_rows(coded(whole, inside).drop_columns("page_phash"), 2, SETTINGS, agreeing))
    assert listed(hash_pairs(without, SETTINGS, agreeing)) == {pair for pair in listed(found) if pair[2] == "hash"}


def test_of_many_pages_with_one_picture_each_has_a_pair() -> None:
    count = EQUAL_HASHES_SEARCHED + 40
    whole = [int(code) for code in np.random.default_rng(5).integers(0, 1 << 62, count)]
    picture = 0x0F0F33335555AAAA
    table = coded([*whole, picture], [*([picture] * count), None])
    few = SearchSettings(candidates_per_image=2)
    pairs = hash_pairs(in_order(hash_rows(table, 0, few, 1, pages=True)), few, 1)
    assert len(pairs) < 20 * count
    assert set(pairs["method"].to_pylist()) == {"page"}
    assert {*pairs["a"].to_pylist(), *pairs["b"].to_pylist()} == {*table["sample_id"].to_pylist()}


def test_thumbnails_do_not_dismiss_what_lies_on_a_small_part_of_a_page(tmp_path: Path) -> None:
    around, _ = page("another picture", "chelsea")
    rows = described(tmp_path, {"picture": photograph("chelsea"), "page": around})
    pair = {"a": ["0/page"], "b": ["0/picture"]}
    assert settle_pairs(pa.table(pair | {"method": ["hash"]}), rows).settled.tolist() == [True]
    assert settle_pairs(pa.table(pair | {"method": ["page"]}), rows).settled.tolist() == [False]
    candidates = pa.table(
        {
            **pair,
            "shard_a": pa.array([0], pa.int32()),
            "shard_b": pa.array([0], pa.int32()),
            "score": pa.array([0.9], pa.float32()),
        }
    )
    both = [candidates.append_column("method", pa.array([name])) for name in ("embedding", "page")]
    assert distinct(pa.concat_tables(both))[0]["method"].to_pylist() == ["page"]


def test_pages_propose_where_pairs_are_looked_at_alone(tmp_path: Path, cluster: ClusterSettings) -> None:
    """Three photographs, and each on a page; without an embedder, which might propose the pairs, too."""
    names, kinds = ("chelsea", "coffee", "china"), ("a story", "another picture", "a page of words")
    pages = [page(kind, name)[0] for kind, name in zip(kinds, names, strict=True)]
    copies = [("0/0", "1/0"), ("0/1", "1/1"), ("0/2", "1/2")]
    _, of_run = run_on(tmp_path, [[photograph(name) for name in names], pages], cluster)
    assert accepted(of_run) == copies
    _, shards = list_shards([str(tmp_path / "shards")])
    tables = [describe_shard(shard, DescribeSettings(embedder="none"), None) for shard in shards]
    assert dedup.find_pairs(shards, tables).equals(of_run)

    unverified = dedup.find_pairs(shards, tables, verify=VerifySettings(verify=False))
    assert not {*copies} & {(a, b) for a, b, *_ in listed(unverified)}


# ---------------------------------------------------------------- one page, other pictures


def desktop(name: str) -> Image.Image:
    """A photograph in a viewer, in front of another one."""
    screen = photograph("coins").resize((640, 400))
    ImageDraw.Draw(screen).rectangle((194, 114, 445, 285), fill=(246, 247, 250))
    screen.paste(photograph(name).resize((240, 160)), (200, 120))
    return screen


@pytest.mark.parametrize("crowding", [0.0, 0.85])
def test_other_pictures_on_one_desktop_are_others_and_copies_of_one_are_copies(crowding: float) -> None:
    files = {name: png(desktop(name)) for name in FULL_OF_PICTURE}
    others = [(a, b) for a in files for b in files if a < b]
    assert verified(files, others, crowding).probability.max() <= np.float32(0.01)
    copies = {}
    for name in FULL_OF_PICTURE:
        for kind in ("recompress", "mirror", "crop_90", "contrast"):
            copies[f"{name} {kind}"] = TRANSFORMS[kind](desktop(name), np.random.default_rng(1)).data
    pairs = [(name.split()[0], name) for name in copies]
    assert verified(files | copies, pairs, crowding).probability.min() >= VerifySettings().accepts_from


@pytest.mark.parametrize("crowding", [0.0, 0.85])
@pytest.mark.parametrize("name", ["chelsea", "coffee", "flower"])
def test_a_page_that_is_its_own_mirror_image_is_laid_as_the_picture_on_it_says(name: str, crowding: float) -> None:
    wall = np.asarray(photograph("china").resize((640, 400)), np.uint16)
    screen = Image.fromarray(((wall + wall[:, ::-1]) // 2).astype(np.uint8))
    screen.paste(photograph(name).resize((240, 160)), (200, 120))
    files = {"as it is": png(screen), "mirrored": TRANSFORMS["mirror"](screen, np.random.default_rng(0)).data}
    assert verified(files, [("as it is", "mirrored")], crowding).probability[0] > 0.5


def test_pictures_in_two_places_are_not_those_of_one_page() -> None:
    """Two copies of one picture, with something over each."""
    copies = []
    for left in (10, 130):
        copy = np.asarray(gradient(256, 160)).copy()
        copy[40:120, left : left + 110] = np.asarray(photograph("coffee").resize((110, 80)))
        copies.append(copy)
    assert [find_box(copy) is None for copy in copies] == [False, False]
    assert boxes_on_one_page(*(np.asarray(Image.fromarray(copy).convert("L")) for copy in copies)) == []


def test_the_pictures_on_a_page_are_compared_where_they_lie() -> None:
    """Without it the rest of the page would say that the two are one."""
    first, second = (picture_of(np.asarray(desktop(name))) for name in ("chelsea", "coffee"))
    assert compare(first, second).agreeing > 0.7
    assert compare(first, second).agreeing_on_page() < 0.2
    assert compare(first, first).agreeing_on_page() > 0.99
    plain = picture_of(np.asarray(photograph("coffee")))
    assert compare(plain, plain).agreeing_on_page() == 1.0
    assert Evidence(0, 0.0, 0.0, 0.0, 0, 0.0, 0.0).agreeing_on_page() == 1.0
