"""What a calibration makes of pairs and labels: counts, intervals and thresholds, by hand-computed values."""

from __future__ import annotations

import math

import pandas as pd
import pyarrow as pa
import pytest

from dedup.calibrate import Found, PlantSettings, find, recall_by_transform, removed_near, strengths
from dedup.errors import ConfigError, ManifestError
from dedup.operating_curve import (
    THRESHOLDS,
    Projection,
    ProjectSettings,
    curve,
    operating_point,
    pick,
    projected,
    projection_of,
    verdicts,
)
from dedup.planting import TRUTH_SCHEMA
from dedup.records import PAIR_SCHEMA


def pairs(*rows: tuple[str, str, str, float]) -> pa.Table:
    """Rows of (a, b, method, probability); accepted from 0.9 on."""
    columns = [
        {"a": a, "b": b, "method": method, "score": value, "probability": None if method == "exact" else value,
         "accepted": value >= 0.9}
        for a, b, method, value in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(columns, schema=PAIR_SCHEMA)


def truth(*rows: tuple[str, str, str]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(TRUTH_SCHEMA.names, row, strict=True)) for row in rows], schema=TRUTH_SCHEMA)


def found_in(table: pa.Table, copies: pa.Table, sample: list[str], clusters: dict[str, int | None]) -> Found:
    named = {*copies["sample_id"].to_pylist(), *copies["original"].to_pylist()}
    return find(table, dict.fromkeys(named) | clusters, copies, sample, 10, 0, verified=True)


COPIES = truth(("planted/a~grey", "s/a", "grey"), ("planted/a~mirror", "s/a", "mirror"))


def test_a_copy_is_found_by_its_direct_pair_or_by_its_group() -> None:
    table = pairs(
        ("planted/a~grey", "s/a", "verified", 0.97),
        ("planted/a~grey", "planted/a~mirror", "verified", 0.95),
        ("planted/a~mirror", "s/a", "verified", 0.4),
    )
    clusters = {"s/a": 3, "planted/a~grey": 3, "planted/a~mirror": 3}
    found = found_in(table, COPIES, ["s/a"], clusters)
    assert found.copies["strength"].tolist() == pytest.approx([0.97, 0.4])
    assert found.copies["grouped"].tolist() == [True, True]
    assert not len(found.joined)
    rows = recall_by_transform(found, 0.9).set_index("transform")
    assert rows["direct"].to_dict() == {"mirror": 0, "grey": 1, "all": 1}
    assert rows["grouped"].to_dict() == {"mirror": 1, "grey": 1, "all": 2}
    assert rows.loc["all", "direct_low"] == pytest.approx(0.0945, abs=1e-3)  # Wilson, 1 of 2
    assert list(rows.index) == ["mirror", "grey", "all"]  # in the order of TRANSFORMS


def test_what_is_in_no_group_or_was_no_candidate_is_not_found() -> None:
    found = found_in(pairs(), COPIES, ["s/a"], {"s/a": 3})
    assert found.copies["strength"].tolist() == [-1, -1]
    assert found.copies["grouped"].tolist() == [False, False]


def test_identical_files_are_one_picture_whoever_stands_for_them() -> None:
    # s/a0 is the same file as s/a, and stands for it in all further pairs; so does one copy for the other.
    table = pairs(
        ("s/a0", "s/a", "exact", 1.0),
        ("planted/a~grey", "planted/a~mirror", "exact", 1.0),
        ("planted/a~grey", "s/a0", "verified", 0.93),
    )
    found = found_in(table, COPIES, ["s/a"], {})
    assert found.copies["strength"].tolist() == pytest.approx([0.93, 0.93])
    assert not len(found.joined)
    exact = found_in(pairs(("planted/a~grey", "s/a", "exact", 1.0)), COPIES, ["s/a"], {})
    assert exact.copies["strength"].tolist() == [math.inf, -1]


def test_a_pair_of_different_pictures_counts_once_by_its_strongest_versions() -> None:
    table = pairs(
        ("planted/a~grey", "s/b", "verified", 0.95),
        ("s/a", "s/b", "verified", 0.91),
        ("s/b", "s/c", "verified", 0.99),  # neither was drawn
    )
    found = found_in(table, COPIES, ["s/a"], {})
    [row] = found.joined.to_dict("records")
    assert (row["a"], row["b"], row["by_copy"]) == ("s/a", "s/b", True)
    assert row["strength"] == pytest.approx(0.95)
    assert found.pairs == 9  # s/a with each of the other nine


def test_a_manifest_without_the_copies_is_refused() -> None:
    with pytest.raises(ManifestError, match="lacks 3 samples of the calibration, planted/a~grey first"):
        find(pairs(), {}, COPIES, ["s/a"], 10, 0, verified=True)


def test_strengths_are_what_the_threshold_is_applied_to() -> None:
    rows = [
        ("exact", 1.0, None, True), ("verified", 0.3, 0.3, False), ("embedding", 0.92, 0.2, True),
        ("hash", 0.98, None, True), ("hash", 0.9, None, False), ("embedding", 0.8, None, False),
    ]  # fmt: skip
    table = pa.Table.from_pylist(
        [{"a": "a", "b": "b", "method": m, "score": s, "probability": p, "accepted": y} for m, s, p, y in rows],
        schema=PAIR_SCHEMA,
    )
    assert strengths(table, verified=True)[:3].tolist() == pytest.approx([math.inf, 0.3, math.inf])
    assert strengths(table, verified=False)[[0, 3, 4, 5]].tolist() == pytest.approx([math.inf, math.inf, 0, 0.8])


def test_identical_files_are_not_counted_among_what_is_removed() -> None:
    table = pairs(("a", "b", "exact", 1.0), ("a", "c", "verified", 0.95), ("d", "e", "verified", 0.95))
    assert removed_near(table) == 2
    assert removed_near(pairs()) == 0


# ---------------------------------------------------------------- thresholds


def measured(copies: list[float], joined: list[tuple[str, str, float]], sample: int = 100, images: int = 100) -> Found:
    """100 images, all of them drawn, of which 10 are removed as near copies."""
    frame = pd.DataFrame({"strength": copies, "grouped": True, "transform": "grey"})
    return Found(
        frame, pd.DataFrame(joined, columns=["a", "b", "strength"]).assign(by_copy=False), sample, images, removed=10
    )


OPEN = ("u", "v", 0.95)


def test_an_operating_point_counts_by_verdict_and_bounds_the_rate_with_open_pairs_as_false() -> None:
    found = measured([0.95] * 8 + [0.5] * 2, [("a", "b", 0.95), ("c", "d", 0.92), OPEN, ("e", "f", 0.3)])
    verdict = verdicts(found, {("a", "b"): "yes", ("c", "d"): "no", ("u", "v"): "unsure"}, distinct=False)
    assert verdict.tolist() == ["same", "false", "open", "open"]
    point = operating_point(found, verdict, 0.9)
    assert (point["found"], point["same"], point["false"], point["open"]) == (8, 1, 1, 1)
    assert point["recall"] == 0.8
    assert point["rate"] == 1 / 4950
    assert point["rate_high"] == pytest.approx(7.2247 / 4950, rel=1e-4)  # Garwood's upper bound for 2 events
    assert verdicts(found, {}, distinct=True).tolist() == ["false"] * 4


def test_pairs_that_hang_together_are_one_mishap_of_their_number() -> None:
    chain = [("a", "b", 0.95), ("b", "c", 0.95), ("c", "d", 0.95)]
    found = measured([0.95], chain)
    point = operating_point(found, verdicts(found, {}, distinct=True), 0.9)
    assert point["rate_high"] == pytest.approx(3 * 5.5716 / 4950, rel=1e-4)  # one event, three pairs heavy


def test_the_precision_is_projected_to_the_runs_own_size_and_share() -> None:
    found = measured([0.95] * 10, [("c", "d", 0.95)])
    verdict = verdicts(found, {}, distinct=True)
    projection = projection_of(found, verdict, 0.9, ProjectSettings(distinct=True))
    # One of the ten removals is explained by the false pair; the other nine are a share of 9 %.
    assert projection == Projection(100, pytest.approx(0.09))
    values = projected(operating_point(found, verdict, 0.9), projection)
    assert values["precision"] == pytest.approx(0.9)  # 9 copies and 1 other are removed
    # Of twice as many images, twice as many copies go, and four times as many others.
    twice = projected(operating_point(found, verdict, 0.9), Projection(199, 0.09))
    assert twice["precision"] == pytest.approx(0.09 / (0.09 + 198 / 4950 / 2))
    assert 0 < values["precision_low"] < 0.6
    given = projection_of(found, verdict, 0.9, ProjectSettings(duplicate_share=0.2, run_images=1000))
    assert given == Projection(1000, 0.2)


def settings(target: float, **more: float) -> ProjectSettings:
    return ProjectSettings(target_precision=target, duplicate_share=0.5, **more)


def test_the_lowest_threshold_that_reaches_the_target_is_picked() -> None:
    found = measured([0.97] * 100, [("a", "b", 0.6), ("c", "d", 0.61)])
    verdict = verdicts(found, {}, distinct=True)
    points = curve(found, verdict, Projection(100, 0.5))
    assert points["threshold"].tolist() == list(THRESHOLDS)
    bound = float(points.loc[points["threshold"] == 0.62, "precision_low"].item())
    row = pick(points, found, Projection(100, 0.5), settings(bound - 1e-9))
    assert row["threshold"] == 0.62  # the first above both false pairs
    assert (row["false"], row["recall"]) == (0, 1)


@pytest.mark.parametrize(
    ("found", "labels", "asked", "message"),
    [
        (measured([0.95] * 100, [], images=200), {}, settings(0.96), r"sample of 100 images is too small .*at least 1"),
        (measured([0.95] * 100, []), {}, settings(0.999), "100 images are too few to support it.* at least 7,"),
        (measured([0.95] * 100, [OPEN]), {}, settings(0.9), "1 accepted pairs of your own images were not looked at"),
        (
            measured([0.95] * 100, [("u", "v", math.inf)]),
            {("u", "v"): "no"},
            settings(0.9),
            "1 pairs of different pict",
        ),
        (measured([-1.0] * 100, []), {}, settings(0.5), "none of the planted copies was found"),
    ],
)
def test_a_target_that_cannot_be_supported_is_refused_with_the_reason(
    found: Found, labels: dict[tuple[str, str], str], asked: ProjectSettings, message: str
) -> None:
    projection = Projection(found.images, 0.5)
    points = curve(found, verdicts(found, labels, distinct=False), projection)
    with pytest.raises(ConfigError, match=message):
        pick(points, found, projection, asked)


def test_without_copies_in_the_set_the_share_must_be_given() -> None:
    found = measured([0.95] * 10, [])
    with pytest.raises(ConfigError, match="--duplicate-share"):
        pick(curve(found, verdicts(found, {}, False), Projection(100, 0.0)), found, Projection(100, 0.0), settings(0.9))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlantSettings(images=0), "images=0"),
        (lambda: PlantSettings(copies=0), "copies=0"),
        (lambda: PlantSettings(transforms=("melt", "grey")), "unknown transforms melt"),
        (lambda: PlantSettings(transforms=("grey", "grey")), "once only"),
        (lambda: PlantSettings().check_sample(5), "5 images x 2 copies are fewer than the 42 transforms"),
        (lambda: ProjectSettings(target_precision=1.0), "target_precision=1.0"),
        (lambda: ProjectSettings(duplicate_share=0.0), "duplicate_share=0.0"),
        (lambda: ProjectSettings(run_images=1), "run_images=1"),
        (lambda: ProjectSettings(borderline=-1), "borderline=-1"),
    ],
)
def test_impossible_settings_are_refused(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]
