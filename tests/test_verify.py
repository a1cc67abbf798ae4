"""Verification: each kind of evidence on real pictures, what is read and held, and what bad input comes to."""

from __future__ import annotations

import io
import logging
from dataclasses import replace

import cv2
import numpy as np
import pyarrow as pa
import pytest
import skimage.data
from PIL import Image, ImageFilter, ImageOps

from dedup.errors import ConfigError, ManifestError
from dedup.evidence import ENOUGH_INLIERS, Doubts, Evidence, compare
from dedup.held_pictures import HeldPictures
from dedup.images import thumbnail
from dedup.local_features import SIDE, Picture, align, picture
from dedup.looks import MATCHED, MATCHED_FROM, judge
from dedup.thumbnails import likeness, residual
from dedup.tile_looks import (
    BLURRED,
    HOPELESS_IN_A_CROWD,
    SOME_MATCHED_AT_A_GLANCE,
    UNSURE,
    UNSURE_IN_A_CROWD,
    UNSURE_OF_MATCHED,
    Around,
)
from dedup.transforms import TRANSFORMS
from dedup.verify import VerifySettings, settle_pairs, verify_pairs
from dedup.views import Views
from pipelines.lookalikes import LOOKALIKES
from tests.verification import PHOTOGRAPHS, described, photograph, png, verified

SETTINGS = VerifySettings()


def some_pairs() -> tuple[dict[str, bytes], list[tuple[str, str]]]:
    files = {name: png(photograph(name)) for name in ("astronaut", "chelsea", "coffee")}
    for name in list(files):
        files[f"{name}~"] = TRANSFORMS["crop_70+mirror"](photograph(name), np.random.default_rng(0)).data
    return files, [(a, b) for a in files for b in files if a < b]


def test_a_pair_has_one_probability_whatever_else_is_asked() -> None:
    files, pairs = some_pairs()
    together = verified(files, pairs).probability
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(4)
        backwards = verified(dict(reversed(files.items())), pairs[::-1]).probability[::-1]
    finally:
        cv2.setNumThreads(threads)
    alone = np.concatenate([verified(files, [pair]).probability for pair in pairs])
    assert together.tobytes() == backwards.tobytes() == alone.tobytes()


def test_each_image_is_read_once_and_none_for_settled_pairs() -> None:
    files, pairs = some_pairs()
    files["again"] = TRANSFORMS["png"](photograph("astronaut"), np.random.default_rng(0)).data
    read: list[str] = []

    def read_image(sample_id: str) -> bytes:
        read.append(sample_id)
        return files[sample_id]

    pairs = [("again", "astronaut"), *pairs]
    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    verdicts = verify_pairs(table, described(files), read_image, SETTINGS)
    assert verdicts.settled[0]
    assert verdicts.probability[0] >= SETTINGS.accepts_from
    assert len(read) == len(set(read))
    assert "again" not in read
    few = VerifySettings(pictures_held=2)
    assert (
        verify_pairs(table, described(files), read_image, few).probability.tobytes() == verdicts.probability.tobytes()
    )


def test_nothing_follows_from_names() -> None:
    files, pairs = some_pairs()
    for kind in ("crop_50", "rotate", "mirror+border"):
        files[kind] = TRANSFORMS[kind](photograph("coffee"), np.random.default_rng(3)).data
        pairs.append((kind, "coffee"))
    wanted = verified(files, pairs)
    renamed = {name: f"{number:04d}" for number, name in enumerate(sorted(files, reverse=True))}
    found = verified(
        {renamed[name]: data for name, data in files.items()}, [(renamed[b], renamed[a]) for a, b in pairs]
    )
    assert found.probability.tobytes() == wanted.probability.tobytes()
    assert found.settled.tolist() == wanted.settled.tolist()
    np.testing.assert_array_equal(found.guess, wanted.guess)
    assert not wanted.settled.all()


def test_what_thumbnails_said_before_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    files, pairs = some_pairs()
    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    wanted = verify_pairs(table, described(files), files.__getitem__, SETTINGS)
    first = settle_pairs(table, described(files))
    monkeypatch.setattr("dedup.verify.settle", None)
    found = verify_pairs(table, described(files), files.__getitem__, SETTINGS, first=first)
    assert found.probability.tobytes() == wanted.probability.tobytes()
    assert found.settled.tolist() == wanted.settled.tolist()


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee"])
def test_a_plain_copy_needs_no_local_features_outside_of_crowds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a": png(photograph(name)), "b": TRANSFORMS["recompress"](photograph(name), np.random.default_rng(0)).data}
    one, other = (Views(np.asarray(Image.open(io.BytesIO(data)))) for data in files.values())
    crowded = judge(one, other, np.eye(2, 3), Around(0.95, 0.95, 0.0))
    with monkeypatch.context() as patch:
        patch.setattr("dedup.evidence.align", None)
        assert judge(one, other, np.eye(2, 3)) > SETTINGS.accepts_from
        with pytest.raises(TypeError):  # where everything is alike they are asked
            judge(one, other, np.eye(2, 3), Around(0.95, 0.95, 0.0))
        for another in set(PHOTOGRAPHS) - {name}:
            with pytest.raises(TypeError):  # and of others, too
                judge(one, Views(np.asarray(photograph(another))), np.eye(2, 3))
    assert crowded > SETTINGS.accepts_from


def test_doubts_end_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (picture(np.asarray(photograph(name).rotate(angle))) for name, angle in (("coins", 0), ("coins", 2)))
    whole = compare(one, other)
    seen: list[Evidence] = []

    def doubt(found: Evidence) -> bool:
        seen.append(found)
        return True

    monkeypatch.setattr("dedup.evidence.contested", None)
    exactly = compare(one, other, doubts=Doubts(exactly=doubt))
    assert replace(whole, contested=0.0, contested_faint=0.0) == exactly == seen.pop()
    monkeypatch.setattr("dedup.evidence._ecc", None)
    seen.clear()
    assert compare(one, other, doubts=Doubts(roughly=doubt)) in seen


def test_doubts_of_a_wrong_alignment_ask_for_the_mirrored_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thing that is nearly its own mirror image has many features that agree unmirrored, too."""
    pixels = np.asarray(photograph("chelsea"))
    one, other = picture(pixels), picture(np.ascontiguousarray(pixels[:, ::-1]))
    count = compare(one, other).inliers

    def deceived(a: Picture, b: Picture, mirror: bool) -> tuple[int, np.ndarray | None]:
        return align(a, b, mirror) if mirror else (ENOUGH_INLIERS, np.eye(2, 3))

    monkeypatch.setattr("dedup.evidence.align", deceived)
    for doubts in (Doubts(exactly=unlike), Doubts(roughly=unlike), Doubts(unlike, unlike)):
        evidence = compare(one, other, doubts=doubts)
        assert evidence.inliers == count > 50
        assert evidence.correlation > 0.95


def unlike(found: Evidence) -> bool:
    return found.correlation < 0.5


def test_held_pictures_serve_later_calls() -> None:
    files, pairs = some_pairs()
    read: list[str] = []

    def read_image(sample_id: str) -> bytes:
        read.append(sample_id)
        return files[sample_id]

    table = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    held = HeldPictures(len(files))
    first, second = (
        verify_pairs(table, described(files), read_image, SETTINGS, held=held).probability.tobytes() for _ in range(2)
    )
    assert first == second
    assert len(read) == len(set(read)) > 0


def test_fewer_pictures_are_held_than_asked_for() -> None:
    image = np.asarray(photograph("coins"))
    made: list[str] = []

    def make(name: str) -> Views:
        made.append(name)
        return Views(image)

    held = HeldPictures(2)
    for name in ("a", "b", "a", "c", "a", "b"):
        held.get(name, lambda name=name: make(name))
    assert made == ["a", "b", "c", "b"]  # b was the one that was asked for least lately


def test_a_blurred_copy_is_compared_with_the_picture_blurred_alike() -> None:
    sharp = photograph("coins")
    blurred = sharp.filter(ImageFilter.GaussianBlur(4))
    one, other = Views(np.asarray(sharp)), Views(np.asarray(blurred))
    assert one.lost > BLURRED * other.lost
    plain = compare(one.at(SIDE), other.at(SIDE))
    alike = compare(one.softened(other.lost).at(SIDE), other.at(SIDE))
    assert alike.inliers > plain.inliers
    assert alike.correlation > plain.correlation + 0.05
    accepted = judge(one, other, np.eye(2, 3), Around(0.95, 0.95, 0.0))
    assert accepted >= SETTINGS.accepts_from
    different = Views(np.asarray(photograph("coffee").filter(ImageFilter.GaussianBlur(4))))
    assert judge(one, different, np.eye(2, 3)) < 0.1


def from_the_side(name: str) -> Image.Image:
    """As if its right edge were further away, by a tenth of the height above and below."""
    pixels = np.asarray(photograph(name))
    height, width = pixels.shape[:2]
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    seen = np.array([[0, 0.0], [width, 0.1 * height], [width, 0.9 * height], [0, height]], np.float32)
    return Image.fromarray(cv2.warpPerspective(pixels, cv2.getPerspectiveTransform(seen, corners), (width, height)))


@pytest.mark.parametrize("name", sorted(set(PHOTOGRAPHS) - {"rocket"}))  # of which too few local features are left
def test_a_copy_seen_from_the_side_is_one_outside_of_crowds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Views(np.asarray(photograph(name))), Views(np.asarray(from_the_side(name)))
    flat, deep = (compare(one.at(SIDE), other.at(SIDE), alone=alone) for alone in (False, True))
    assert deep.correlation > max(flat.correlation + 0.1, 0.9)
    assert judge(one, other, np.eye(2, 3)) >= SETTINGS.accepts_from
    asked: list[bool] = []

    def note(*arguments: object) -> None:
        asked.append(bool(arguments[-1]))

    monkeypatch.setattr("dedup.evidence._ecc", note)
    judge(one, other, np.eye(2, 3), Around(0.95, 0.95, 0.0))
    assert asked
    assert not any(asked)


def test_a_homography_is_asked_of_many_local_features_alone() -> None:
    """Of few it would lay two moments of a thing that turns onto each other."""
    one, other = picture(np.asarray(photograph("rocket"))), picture(np.asarray(from_the_side("rocket")))
    flat, deep = (compare(one, other, alone=alone) for alone in (False, True))
    assert 20 < flat.inliers < 50
    assert flat == deep


def test_no_first_look_ends_what_an_operating_point_accepts() -> None:
    """But in crowds, where few local features agree: what is so unlikely at half the size is no copy."""
    copies, near = (VerifySettings(strictness=name).accepts_from for name in ("copies", "near"))
    assert max(UNSURE[0], UNSURE_OF_MATCHED, HOPELESS_IN_A_CROWD) <= min(near, MATCHED_FROM)
    assert UNSURE_IN_A_CROWD[0] < copies
    assert 2 * SOME_MATCHED_AT_A_GLANCE < MATCHED


def test_more_is_asked_of_a_pair_where_everything_is_alike() -> None:
    copy = TRANSFORMS["watermark"](photograph("astronaut"), np.random.default_rng(0)).data
    files = {"a": png(photograph("astronaut")), "b": copy}
    alone, crowded = (verified(files, [("a", "b")], crowding).probability[0] for crowding in (0.0, 0.95))
    assert crowded < alone


def test_what_a_first_look_at_half_the_size_cannot_read_is_looked_at_in_full() -> None:
    pages = LOOKALIKES["pages"](3, np.random.default_rng(4))
    parts = [page.crop((51, 66, 272, 352)) for page in pages]
    files = {f"page{number}": png(page) for number, page in enumerate(pages)}
    files |= {f"part{number}": png(part) for number, part in enumerate(parts)}
    copies = [(f"page{number}", f"part{number}") for number in range(3)]
    others = [(f"page{number}", f"part{(number + 1) % 3}") for number in range(3)]
    accepted = verified(files, [*copies, *others], crowding=0.95).probability >= SETTINGS.accepts_from
    assert accepted.tolist() == [True] * 3 + [False] * 3


def test_the_window_says_where_one_picture_lies_in_the_other() -> None:
    whole = photograph("china")
    width, height = whole.size
    cut = whole.crop((round(width * 0.4), round(height * 0.3), width, round(height * 0.9)))
    thumbnails = np.stack([thumbnail(image) for image in (whole, cut, ImageOps.mirror(cut))])
    found = likeness(thumbnails, np.array([0, 1, 0]), np.array([1, 0, 2]))
    assert found.best[0] == found.best[1]
    assert found.best.min() > 0.7
    assert found.whole.max() < found.best.min()
    corners = np.array([[0.4, 0.3, 1], [1.0, 0.9, 1]]).T
    assert np.abs(found.map[0] @ corners - [[0, 1], [0, 1]]).max() < 0.25
    assert np.abs(found.map[2] @ corners - [[1, 0], [0, 1]]).max() < 0.25
    assert np.abs(found.map[1] @ [[0, 1], [0, 1], [1, 1]] - corners[:2]).max() < 0.15


def test_likeness_does_not_depend_on_the_batch() -> None:
    thumbnails = np.stack([thumbnail(photograph(name)) for name in PHOTOGRAPHS])
    i, j = np.triu_indices(len(PHOTOGRAPHS), 1)
    together = likeness(thumbnails, i, j)
    alone = [likeness(thumbnails[[a, b]], np.array([0]), np.array([1])).best[0] for a, b in zip(i, j, strict=True)]
    assert together.best.tolist() == [float(value) for value in alone]


def test_a_mirrored_picture_has_the_features_of_the_mirrored_descriptors() -> None:
    pixels = np.asarray(photograph("chelsea"))
    plain, flipped = picture(pixels), picture(np.ascontiguousarray(pixels[:, ::-1]))
    evidence = compare(plain, flipped)
    assert evidence.inliers > 50
    assert evidence.agreeing > 0.95


def test_settings_say_what_may_be_chosen() -> None:
    with pytest.raises(ConfigError, match="copies, near, exact"):
        VerifySettings(strictness="strict")
    with pytest.raises(ConfigError, match="pictures_held"):
        VerifySettings(pictures_held=1)
    least = {name: VerifySettings(strictness=name).accepts_from for name in ("near", "copies", "exact")}
    assert 0 < least["near"] < least["copies"] < 1 < least["exact"]
    assert VerifySettings(strictness="exact", min_probability=0.75).accepts_from == 0.75
    with pytest.raises(ConfigError, match=r"min_probability=1\.5"):
        VerifySettings(min_probability=1.5)


def test_samples_without_descriptor_or_thumbnail_are_named() -> None:
    files = {"a": png(photograph("coffee")), "b": png(photograph("china"))}
    table = described(files)
    pairs = pa.table({"a": ["a"], "b": ["c"]})
    with pytest.raises(ManifestError, match="c: a candidate without a descriptor"):
        verify_pairs(pairs, table, files.__getitem__, SETTINGS)
    failed = table.set_column(
        table.schema.get_field_index("thumbnail"), "thumbnail", pa.array([table["thumbnail"][0].as_py(), None])
    )
    with pytest.raises(ManifestError, match="b: has no thumbnail"):
        verify_pairs(pa.table({"a": ["a"], "b": ["b"]}), failed, files.__getitem__, SETTINGS)


def test_no_pairs_are_no_work() -> None:
    nothing = pa.table({"a": pa.array([], pa.string()), "b": pa.array([], pa.string())})
    files = {"a": png(photograph("coffee"))}
    assert len(verify_pairs(nothing, described(files), files.__getitem__, SETTINGS).probability) == 0


def test_residual_sees_through_light_and_contrast_but_not_through_colour() -> None:
    photograph = Image.fromarray(skimage.data.astronaut())
    pixels = np.asarray(thumbnail(photograph)).astype(np.float64)
    retouched = [
        pixels,
        np.clip(pixels * 0.7 + 20, 0, 255),  # darker and flatter
        pixels[..., ::-1],  # red and blue exchanged
        pixels[:, ::-1],
        np.full_like(pixels, 90),
    ]
    thumbnails = np.stack([np.rint(view).astype(np.uint8) for view in retouched])
    first = np.zeros(5, np.intp)
    rms, worst = residual(thumbnails, first, np.arange(5))
    assert (rms[0], worst[0]) == (0, 0)
    assert rms[1] < 1
    assert worst[1] < 3
    assert rms[2] > 10
    assert rms[3] > 30
    assert rms[4] == worst[4] == np.inf
    again = residual(thumbnails, np.arange(5), first)
    np.testing.assert_allclose(again, (rms, worst), atol=1e-4)


def test_an_image_that_cannot_be_decoded_is_named_and_its_pairs_are_not_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    files, pairs = some_pairs()
    table = described(files)
    wanted = verify_pairs(pa.table({"a": ["astronaut"], "b": ["astronaut~"]}), table, files.__getitem__, SETTINGS)
    damaged = {**files, "astronaut~": b"GIF89a and no more"}
    columns = pa.table({"a": [a for a, _ in pairs], "b": [b for _, b in pairs]})
    with caplog.at_level(logging.WARNING):
        probability = verify_pairs(columns, table, damaged.__getitem__, SETTINGS).probability
    by_pair = dict(zip(pairs, probability.tolist(), strict=True))
    assert wanted.probability[0] >= SETTINGS.accepts_from
    assert by_pair["astronaut", "astronaut~"] == 0
    assert by_pair["chelsea", "chelsea~"] >= SETTINGS.accepts_from
    assert "astronaut~ cannot be read again: damaged GIF" in caplog.text


def test_a_crop_is_seen_beside_a_bordered_copy() -> None:
    """Without borders both are parts of one picture; with them no window of a thumbnail fits."""
    image = photograph("coffee")
    files = {
        "a": TRANSFORMS["mirror+border"](image, np.random.default_rng(3)).data,
        "b": TRANSFORMS["crop_50"](image, np.random.default_rng(4)).data,
        "c": TRANSFORMS["rotate+shrink"](image, np.random.default_rng(5)).data,
    }
    assert verified(files, [("a", "b"), ("a", "c")]).probability.min() >= SETTINGS.accepts_from
