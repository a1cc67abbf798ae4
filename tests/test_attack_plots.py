"""The figures of an attack: what they show, from the content of attack.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dedup.attack import plots
from dedup.attack.extraction import MatchSettings, extract, match
from dedup.attack.membership import roc_of
from dedup.attack.reference import Reference
from dedup.attack.scoring import ArmScore, compare_arms, score_arm
from dedup.errors import ConfigError
from tests.attack_makers import group_table, near_to, noise


def scored(hit_share: float, seed: int) -> ArmScore:
    """An arm that leaks about this share of its canaries."""
    rng = np.random.default_rng(seed)
    kinds = ["canary"] * 12 + ["single"] * 6 + ["held_out"] * 6
    copies = [1] * 3 + [8] * 3 + [32] * 6 + [1] * 6 + [0] * 6
    reference = Reference(
        noise(24, 0), np.arange(24), group_table(kinds, copies, [False] * 9 + [True] * 3 + [False] * 12)
    )
    leaked = np.flatnonzero(rng.random(12) < hit_share)
    made = np.concatenate([near_to(reference.images[leaked], 0.01, seed), noise(5, seed + 50)])
    matches = match(made, reference, MatchSettings())
    return score_arm(matches, reference, extract(matches, "gap", MatchSettings()), np.arange(24) < 18)


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    shares = {"duplicated": 0.9, "deduplicated": 0.0, "oracle": 0.0, "random-drop": 0.5}
    scores = {arm: {seed: scored(share, seed) for seed in range(3)} for arm, share in shares.items()}
    arms = {}
    for arm, by_seed in scores.items():
        entries = []
        for seed, score in by_seed.items():
            entry = {"seed": seed, **score.to_json()}
            curve = [{"steps": n, "rates": entry["rates"], "held_out_loss": 1.0 / n} for n in (10, 20)]
            grows = [{"generations": n, "extracted": n} for n in (1, 4)]
            entries.append({**entry, "curve": curve, "generations_curve": grows})
        arms[arm] = {"seeds": entries}
    return {"arms": arms, "comparisons": compare_arms(scores)}


def test_there_is_a_figure_for_everything_that_has_data(content: dict[str, Any]) -> None:
    assert set(plots.figures(content)) == {"extraction", "ratios", "steps", "generations"}
    bare = {
        arm: {"seeds": [{**seed, "curve": [], "generations_curve": []} for seed in entry["seeds"]]}
        for arm, entry in content["arms"].items()
    }
    assert set(plots.figures({**content, "arms": bare})) == {"extraction", "ratios"}


def test_extraction_is_drawn_at_its_copies_for_each_arm(content: dict[str, Any]) -> None:
    figure = plots.extraction_by_copies(content)
    exact, near = figure.axes
    lines = {line.get_label(): line for line in exact.get_lines()}
    assert set(content["arms"]) <= lines.keys()
    x, y = lines["duplicated"].get_data()
    np.testing.assert_allclose(x, [1, 8, 32], rtol=0.2)
    seeds = content["arms"]["duplicated"]["seeds"]
    rates = [[rate["hit"] / rate["groups"] for rate in seed["rates"] if not rate["near"]] for seed in seeds]
    np.testing.assert_allclose(y, np.mean(rates, axis=0))
    assert near.get_title() == "near copies"


def test_published_ratios_are_labelled_as_another_protocol(content: dict[str, Any]) -> None:
    (axes,) = plots.forest(content).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert sum("published, another protocol" in label for label in labels) == 2
    assert any("no hit" in label for label in labels if label.startswith("deduplicated"))
    assert {round(ratio, 2) for _, ratio in plots.PUBLISHED} == {0.77, 0.86}


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_contact_sheet_shows_triples_and_says_how_many(share: float) -> None:
    images = noise(12, seed=0)
    reference = Reference(images, np.arange(12), group_table(["single"] * 12, [1] * 12))
    made = near_to(np.concatenate([images, images[:1]]), 0.02, 1) if share else noise(12, seed=9)
    matches = match(made, reference, MatchSettings())
    extracted = extract(matches, "gap", MatchSettings())
    figure = plots.contact_sheet(made, reference, matches, extracted)
    shown = sum(len(axes.get_images()) for axes in figure.axes)
    assert shown == (3 * 4 * 3 if share else 3 * 4)
    title = figure.get_suptitle()
    said = "13 of 13 generations extracted, of 12 images; the best of each"
    assert title == (said if share else "nothing extracted")
    with pytest.raises(ConfigError, match="at least one generation"):
        plots.contact_sheet(made[:0], reference, matches.slice(0, 0), extracted[:0])


def test_curves_are_cut_where_nothing_was_measured() -> None:
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    figure = plots.roc({"LiRA": roc_of(rng.random(400) + member, member)})
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim()[0] == pytest.approx(1 / 200)
    assert "too few below 1 %" in figure.get_suptitle()


def test_files_are_the_same_each_time(content: dict[str, Any]) -> None:
    first, second = (plots.files("ratios", plots.forest(content)) for _ in range(2))
    assert first.keys() == {"ratios.png", "ratios.svg"}
    assert first == second
    assert first["ratios.png"].startswith(b"\x89PNG")
