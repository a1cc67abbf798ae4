"""Each column of a match against hand-computed values and brute force; one contract over every attack."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from dedup.attack import distances, extraction
from dedup.attack.distances import tile_l2
from dedup.attack.extraction import ATTACKS, MATCH_SCHEMA, MatchSettings, copied_group, extract, match
from dedup.attack.reference import Reference
from dedup.errors import ConfigError
from tests.attack_makers import Images, group_table, near_to, noise, singles

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_CUDA])]


def points(*levels: float) -> Images:
    """Flat images: their l2 are the differences of their levels."""
    return np.stack([np.full((1, 4, 4), level, np.float32) for level in levels])


def row(generation: float, levels: tuple[float, ...], groups: tuple[int, ...], **settings: Any) -> dict[str, Any]:
    count = max(groups) + 1
    reference = Reference(points(*levels), np.array(groups), group_table(["single"] * count, [1] * count))
    found: dict[str, Any] = match(points(generation), reference, MatchSettings(**settings)).to_pylist()[0]
    return found


def test_by_hand() -> None:
    # Groups 0: 0.20 and 0.50; 1: 0.40; 2: 0.90; 3: 0.80. The generation lies at 0.48.
    found = row(0.48, (0.2, 0.4, 0.5, 0.9, 0.8), (0, 1, 0, 2, 3), adaptive_neighbors=2, adaptive_scale=0.5)
    assert (found["group"], found["variant"], found["second_group"]) == (0, 2, 1)
    assert found["distance"] == pytest.approx(0.02)
    assert found["second_distance"] == pytest.approx(0.08)
    assert found["gap"] == pytest.approx(0.25)
    assert found["adaptive_image"] == pytest.approx(0.02 / (0.5 * (0.1 + 0.3) / 2))  # 0.5 to 0.4 and to 0.8
    assert found["adaptive_generation"] == pytest.approx(0.02 / (0.5 * (0.08 + 0.32) / 2))  # 0.48 to 0.4 and to 0.8
    assert found["tiled"] == pytest.approx(0.02)
    assert (found["tiled_group"], found["tiled_variant"]) == (0, 2)
    assert found["template"] == np.inf  # all tiles are flat
    assert (found["template_group"], found["template_variant"]) == (0, 2)
    assert found["contrast"] == pytest.approx(0, abs=1e-6)


def test_the_nearest_by_tiles_need_not_be_that_by_l2() -> None:
    """One picture is 0.1 off everywhere, another 0.3 in one of the 16 tiles and nowhere else: 0.075 by l2."""
    pictures = noise(60, 0) * np.float32(0.6)
    made = pictures[:1] + np.float32(0.1)
    rival = made.copy()
    rival[:, :, :2, :2] += 0.3
    reference = singles(np.concatenate([pictures, rival]))
    (found,) = match(made, reference, MatchSettings()).to_pylist()
    assert (found["group"], found["tiled_group"], found["template_group"]) == (60, 0, 60)
    assert [found[name] for name in ("distance", "tiled", "template")] == pytest.approx([0.075, 0.1, 0], abs=1e-6)
    assert found["tiled_variant"] == 0
    matches = match(made, reference, MatchSettings())
    for attack, group in (("l2", 60), ("tiled_l2", 0), ("template", 60)):
        assert extract(matches, attack, MatchSettings()).tolist() == [True], attack
        assert copied_group(matches, attack).tolist() == [group], attack


def test_a_template_copy_nearer_to_another_picture_by_l2_is_found() -> None:
    """Three quarters of it are those of picture 0; the rest lies far from it, and its average near to picture 1."""
    pictures = noise(60, 0)
    made = near_to(pictures[:1], 0.02, 1)
    made[:, :, 6:] = pictures[0, :, 6:] < 0.5
    pictures[1] = np.clip(made[0] * 0.6 + 0.2, 0, 1)
    matches = match(made, singles(pictures), MatchSettings())
    assert matches["group"].to_pylist() == [1]
    assert copied_group(matches, "template").tolist() == [0]
    assert extract(matches, "template", MatchSettings()).tolist() == [True]
    assert extract(matches, "l2", MatchSettings(max_l2=0.1)).tolist() == [False]


def with_versions(pictures: Images, versions: Images, rival: bool) -> Reference:
    """Each picture a group, and `versions` more images of the last one."""
    count, more = len(pictures), len(versions)
    table = group_table(["single"] * (count - 1) + ["held_out"], [1] * (count - 1) + [0])
    group = np.array([*range(count), *[count - 1] * more])
    return Reference(np.concatenate([pictures, versions]), group, table, np.array([True] * count + [rival] * more))


def test_versions_that_are_no_rivals_can_be_hit_and_hide_no_other_group() -> None:
    pictures = noise(60, 0)
    versions = np.concatenate([near_to(pictures[:1], 0.2, 1), np.ascontiguousarray(pictures[-1:, :, :, ::-1])])
    of_first, of_version = near_to(pictures[:1], 0.05, 2), near_to(versions[1:], 0.02, 3)
    made = np.concatenate([of_first, of_version])
    as_rivals = match(made, with_versions(pictures, versions, rival=True), MatchSettings())
    matches = match(made, with_versions(pictures, versions, rival=False), MatchSettings())
    without = match(made, with_versions(pictures, versions[:0], rival=False), MatchSettings())
    assert matches["group"].to_pylist() == [0, 59]
    assert matches["variant"].to_pylist() == [0, 61]
    for attack in ("tiled", "template"):  # versions of twins are hit by tiles, too, though they are no rivals
        assert matches[f"{attack}_group"].to_pylist() == [0, 59]
        assert matches[f"{attack}_variant"].to_pylist() == [0, 61]
    for column in MATCH_SCHEMA.names:
        assert matches[column][0] == without[column][0], column
    assert as_rivals["second_group"][0].as_py() == 59
    assert as_rivals["gap"][0].as_py() > 1.5 * matches["gap"][0].as_py()
    # Its own picture is no second group for a version: the nearest of the other 59 is, and R is over these.
    others = np.sort([float(np.sqrt(np.mean((made[1] - picture) ** 2))) for picture in pictures[:59]])
    assert matches["second_distance"][1].as_py() == pytest.approx(others[0], rel=1e-5)
    mean = others[:50].mean()
    assert matches["adaptive_generation"][1].as_py() == pytest.approx(
        matches["distance"][1].as_py() / (0.5 * mean), rel=1e-4
    )


def test_each_group_needs_a_rival() -> None:
    with pytest.raises(ConfigError, match="needs an image that is a rival"):
        Reference(noise(2, 0), np.arange(2), group_table(["single"] * 2, [1, 1]), np.array([True, False]))


def test_fewer_neighbours_than_asked_for_are_all_taken() -> None:
    found = row(0.48, (0.5, 0.4, 0.8), (0, 1, 2), adaptive_neighbors=50, adaptive_scale=1)
    assert found["adaptive_image"] == pytest.approx(0.02 / 0.2)
    assert found["adaptive_generation"] == pytest.approx(0.02 / 0.2)


def test_one_picture_in_two_groups_gives_no_gap() -> None:
    found = row(0.5, (0.5, 0.5, 0.8), (0, 1, 2))
    assert (found["distance"], found["gap"]) == (0, 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_against_brute_force(rows: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "ROWS", rows)
    monkeypatch.setattr(extraction, "ROWS", rows)
    rng = np.random.default_rng(3)
    group = rng.permutation(np.concatenate([np.arange(12), rng.integers(0, 12, 18)]))
    reference = Reference(noise(30, 4, 8, 3), group, group_table(["single"] * 12, [1] * 12))
    made = np.concatenate([noise(15, 5, 8, 3), near_to(reference.images[:10], 0.05, 6)])
    settings = MatchSettings(adaptive_neighbors=4, device=device)
    table = match(made, reference, settings)
    assert table.schema == MATCH_SCHEMA
    for number, found in enumerate(table.to_pylist()):
        to_image = np.sqrt(((made[number].astype(np.float64) - reference.images) ** 2).mean((1, 2, 3)))
        to_group = np.array([to_image[group == other].min() for other in range(12)])
        order = np.argsort(to_group)
        variant = int(np.argmin(to_image))
        between = np.sqrt(((reference.images[variant].astype(np.float64) - reference.images) ** 2).mean((1, 2, 3)))
        around = np.sort([between[group == other].min() for other in range(12) if other != group[variant]])
        every = torch.from_numpy(reference.images)
        by_tile = tile_l2(torch.from_numpy(made[number]).expand_as(every), every).sort(1).values.numpy()
        tiled, template = by_tile[:, -1], by_tile[:, 11]  # 12 of 16, for none is flat
        assert found == {
            "generation": number,
            "group": order[0],
            "variant": variant,
            "distance": pytest.approx(to_group[order[0]], abs=1e-6),
            "second_group": order[1],
            "second_distance": pytest.approx(to_group[order[1]], abs=1e-6),
            "gap": pytest.approx(to_group[order[0]] / to_group[order[1]], abs=1e-6),
            "adaptive_image": pytest.approx(to_group[order[0]] / (0.5 * around[:4].mean()), abs=1e-6),
            "adaptive_generation": pytest.approx(to_group[order[0]] / (0.5 * to_group[order[1:5]].mean()), abs=1e-6),
            "tiled": pytest.approx(tiled.min(), abs=1e-6),
            "tiled_group": group[np.argmin(tiled)],
            "tiled_variant": np.argmin(tiled),
            "template": pytest.approx(template.min(), abs=1e-6),
            "template_group": group[np.argmin(template)],
            "template_variant": np.argmin(template),
            "contrast": pytest.approx(np.sqrt(made[number].var((1, 2)).mean()), abs=1e-6),
        }


@pytest.mark.parametrize("attack", ATTACKS)
class TestEveryAttack:
    """What holds for each entry of ATTACKS."""

    reference = singles(noise(60, 0))
    settings = MatchSettings()

    def extracted(self, attack: str, made: Images) -> list[bool]:
        found: list[bool] = extract(match(made, self.reference, self.settings), attack, self.settings).tolist()
        return found

    def test_copies_are_extracted(self, attack: str) -> None:
        assert all(self.extracted(attack, self.reference.images))
        assert all(self.extracted(attack, near_to(self.reference.images, 0.02, 1)))

    def test_other_pictures_are_not(self, attack: str) -> None:
        assert not any(self.extracted(attack, noise(200, 2)))

    def test_they_are_copies_of_their_own_picture(self, attack: str) -> None:
        matches = match(near_to(self.reference.images, 0.02, 1), self.reference, self.settings)
        assert copied_group(matches, attack).tolist() == list(range(60))

    def test_flat_images_are_not(self, attack: str) -> None:
        assert not any(self.extracted(attack, np.repeat(points(0, 0.5, 1), 2, 2).repeat(2, 3)))

    def test_a_closer_copy_is_not_less_extracted(self, attack: str) -> None:
        shares = [
            np.mean(self.extracted(attack, near_to(self.reference.images, amount, 3)))
            for amount in (0.01, 0.05, 0.1, 0.2, 0.5)
        ]
        assert shares == sorted(shares, reverse=True)
        assert shares[0] == 1
        assert shares[-1] == 0

    def test_a_generation_is_judged_alone(self, attack: str) -> None:
        made = near_to(self.reference.images[:6], 0.12, 4)
        together = self.extracted(attack, made)
        assert together == [self.extracted(attack, made[n : n + 1])[0] for n in range(6)]

    def test_nothing_of_nothing(self, attack: str) -> None:
        assert self.extracted(attack, noise(0, 0)) == []


def test_unknown_attack_is_refused() -> None:
    table = match(noise(1, 0), singles(noise(3, 1)), MatchSettings())
    for ask in (lambda: extract(table, "gpa", MatchSettings()), lambda: copied_group(table, "gpa")):
        with pytest.raises(ConfigError, match="unknown attack 'gpa': choose from gap, l2, "):
            ask()


@pytest.mark.parametrize(
    ("generations", "said"),
    [
        (noise(2, 0, side=9), "cannot be compared"),
        (noise(2, 0, channels=3), "cannot be compared"),
        (noise(2, 0)[0], "cannot be compared"),
        (noise(2, 0) * 2 - 1, r"lie in \[0, 1\]"),
        (noise(2, 0) * np.float32(np.nan), r"lie in \[0, 1\]"),
    ],
)
def test_other_generations_are_refused(generations: Images, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        match(generations, singles(noise(3, 1)), MatchSettings())


@pytest.mark.parametrize(
    "change",
    [
        {"max_gap": 0},
        {"max_gap": 1},
        {"max_l2": -1},
        {"max_tiled_l2": float("nan")},
        {"adaptive_neighbors": 0},
        {"adaptive_scale": 0},
        {"template_share": 1.5},
    ],
)
def test_settings_without_sense_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        dataclasses.replace(MatchSettings(), **change)
