"""The figures of an attack: what they show, from the content of attack.json."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dedup.attack import plot_style, plots, published, published_plots
from dedup.attack.extraction import MatchSettings, copied_group, extract, match
from dedup.attack.membership import roc_of
from dedup.attack.outliers import pooled_terciles
from dedup.attack.reference import Reference
from dedup.attack.scoring import ArmScore, compare_arms, compare_unique, score_arm
from dedup.errors import ConfigError
from tests.attack_makers import group_table, near_to, noise


def scored(hit_share: float, seed: int) -> ArmScore:
    """An arm that leaks about this share of its canaries."""
    rng = np.random.default_rng(seed)
    kinds = ["canary"] * 12 + ["single"] * 6 + ["held_out"] * 6
    copies = [1] * 3 + [8] * 3 + [32] * 6 + [1] * 6 + [0] * 6
    reference = Reference(
        noise(24, 0), np.arange(24), group_table(kinds, copies, [False] * 9 + [True] * 3 + [False] * 9 + [True] * 3)
    )
    leaked = np.flatnonzero(rng.random(12) < hit_share)
    made = np.concatenate([near_to(reference.images[leaked], 0.01, seed), noise(5, seed + 50)])
    matches = match(made, reference, MatchSettings())
    return score_arm(
        copied_group(matches, "gap"), reference, extract(matches, "gap", MatchSettings()), np.arange(24) < 18
    )


@pytest.fixture(scope="module")
def content() -> dict[str, Any]:
    shares = {"duplicated": 0.9, "deduplicated": 0.0, "oracle": 0.0, "random-drop": 0.5}
    scores = {arm: {seed: scored(share, seed) for seed in range(3)} for arm, share in shares.items()}
    arms = {}
    for arm, by_seed in scores.items():
        entries = []
        for seed, score in by_seed.items():
            entry = {"seed": seed, **score.to_json()}
            leaked = {"rates": entry["rates"], "singles": entry["singles"]}
            curve = [{"steps": n, **leaked, "held_out_loss": 1.0 / n} for n in (10, 20)]
            grows = [{"generations": n, "extracted": n} for n in (1, 4)]
            terciles = [
                {"kind": "canary", "near": near, "k": 8, "tercile": tercile, "groups": 2, "hit": tercile}
                for near in (False, True)
                for tercile in range(3)
            ]
            entries.append({**entry, "curve": curve, "generations_curve": grows, "outliers": terciles})
        arms[arm] = {"seeds": entries}
    pooled = {arm: pooled_terciles([seed["outliers"] for seed in arms[arm]["seeds"]]) for arm in arms}
    gan = {seed: scored(0.3, seed) for seed in range(3)}
    settings = {"captions": "none", "view": {"side": 12, "colour": False}, "network": {"model": "mlp"}}
    return {
        "settings": settings,
        "arms": arms,
        "unconditional": {},
        "comparisons": compare_arms(scores),
        "unique": compare_unique(scores),
        "outliers": [{"arm": arm, **row} for arm, rows in pooled.items() for row in rows],
        "gan": {
            "seeds": [],
            "against_diffusion": compare_unique({"duplicated": scores["duplicated"]}, others={"GAN": gan})[0],
        },
    }


def test_there_is_a_figure_for_everything_that_has_data(content: dict[str, Any]) -> None:
    assert set(plots.figures(content)) == {"extraction", "ratios", "steps", "generations", "outliers"}
    bare = {
        arm: {"seeds": [{**seed, "curve": [], "generations_curve": []} for seed in entry["seeds"]]}
        for arm, entry in content["arms"].items()
    }
    assert set(plots.figures({**content, "arms": bare, "outliers": []})) == {"extraction", "ratios"}


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
    (axes,) = published_plots.forest(content).axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert sum("published, another protocol" in label for label in labels) == 3
    figures = dict(zip(labels, (text.get_text() for text in axes.texts), strict=True))
    bound = next(row["ratio_high"] for row in content["unique"] if row["arm"] == "deduplicated")
    assert figures["deduplicated: unique per unique image"] == f"no hit (0.00 to {bound:.2f})"
    assert "GAN: unique per unique image" in labels
    assert figures["published, another protocol: all images: 986 / 1,280"] == "0.77"
    assert {round(ratio, 2) for _, ratio in published.PUBLISHED} == {0.77, 0.86}


def test_no_ratio_is_drawn_beside_the_axes(content: dict[str, Any]) -> None:
    high = {**content["unique"][0], "ratio": 5.0, "ratio_low": 2.0, "ratio_high": None}
    (axes,) = published_plots.forest({**content, "unique": [high]}).axes
    x = np.concatenate([np.asarray(line.get_xdata(), float) for line in axes.get_lines()])
    assert x.max() <= max(published_plots.RATIOS_TO, 2.0)
    assert any(text.get_text() == "5.00 (2.00 to no bound)" for text in axes.texts)


def test_twins_are_drawn_beside_the_canaries_of_their_kind(content: dict[str, Any]) -> None:
    for axes, near in zip(plots.extraction_by_copies(content).axes, (False, True), strict=True):
        at = [line.get_xdata()[0] for line in axes.get_lines() if len(line.get_xdata()) == 1]
        twins = [x for x in at if x < min(axes.get_xticks()) * 1.3]
        assert len(twins) == len(content["arms"]), near


def test_no_intervals_are_announced_where_there_are_none(content: dict[str, Any]) -> None:
    one = {arm: {"seeds": entry["seeds"][:1]} for arm, entry in content["arms"].items()}
    for draw in (plots.extraction_by_copies, plots.outliers):
        assert "(3 seeds, 95 % intervals)" in draw(content).get_suptitle()
        assert "(1 seed, too few for intervals)" in draw({**content, "arms": one}).get_suptitle()


def test_steps_show_singles_apart(content: dict[str, Any]) -> None:
    """At equal steps a smaller set is seen more often, so that what canaries stop leaking singles may start to."""
    many, single, loss = plots.steps(content).axes
    for axes in (many, single, loss):
        assert [line.get_xdata()[0] for line in axes.get_lines()] == [10] * 3 * len(content["arms"])
    seeds = [seed for entry in content["arms"].values() for seed in entry["seeds"]]
    shares = [seed["singles"]["hit"] / seed["singles"]["groups"] for seed in seeds]
    assert [line.get_ydata()[0] for line in single.get_lines()] == shares
    assert "singles" in single.get_ylabel()


def test_the_gan_is_drawn_beside_diffusion(content: dict[str, Any]) -> None:
    curve = [{"generations": n, "extracted": n // 2} for n in (1, 4)]
    gan = {**content["gan"], "seeds": [{"generations_curve": curve}]}
    (axes,) = published_plots.generations({**content, "gan": gan}).axes
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["GAN on duplicated"].get_ydata()) == [0, 2]


def test_terciles_are_drawn_within_each_level_before_and_after(content: dict[str, Any]) -> None:
    figure = plots.outliers(content)
    assert [axes.get_title() for axes in figure.axes] == [
        f"{arm}, {kind} copies" for arm in ("duplicated", "deduplicated") for kind in ("exact", "near")
    ]
    for axes in figure.axes:
        heights = [line.get_ydata()[0] for line in axes.get_lines() if len(line.get_ydata()) == 1]
        assert sorted(heights) == [0, 0.5, 1]


def test_published_curves_stand_only_beside_unconditional_models_of_their_kind(content: dict[str, Any]) -> None:
    def points(settings: dict[str, Any], plain: dict[str, Any]) -> int:
        (axes,) = published_plots.generations({**content, "settings": settings, "unconditional": plain}).axes
        return sum("published, another protocol" in text.get_text() for text in axes.get_legend().get_texts())

    alike = {"captions": "none", "view": {"side": 32, "colour": True}, "network": {"model": "unet"}}
    assert points(alike, {}) == len(published.PUBLISHED_UNIQUE)
    assert points(content["settings"], {}) == 0
    captioned = {**alike, "captions": "unique"}
    assert points(captioned, {}) == 0
    assert points(captioned, {"duplicated": content["arms"]["duplicated"]}) == len(published.PUBLISHED_UNIQUE)


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
    assert title == (said if share else "nothing extracted; the nearest to it")
    with pytest.raises(ConfigError, match="at least one generation"):
        plots.contact_sheet(made[:0], reference, matches.slice(0, 0), extracted[:0])


@pytest.mark.parametrize(("images", "titles"), [(1, ["best"]), (5, ["best", "median", "worst"])])
def test_a_contact_sheet_shows_no_image_twice(images: int, titles: list[str]) -> None:
    pictures = noise(12, seed=0)
    reference = Reference(pictures, np.arange(12), group_table(["single"] * 12, [1] * 12))
    made = near_to(pictures[:images], 0.02, 1)
    matches = match(made, reference, MatchSettings())
    figure = plots.contact_sheet(made, reference, matches, np.ones(images, bool))
    assert sum(len(axes.get_images()) for axes in figure.axes) == 3 * images
    shown = [axes.get_title().split(":")[0] for axes in figure.axes if "generated" in axes.get_title()]
    assert shown == titles


def test_a_contact_sheet_shows_what_the_attack_took_for_the_copy() -> None:
    """By tiles picture 0 is nearest, which is 0.1 off everywhere; by l2 another, 0.3 off in one tile alone."""
    images = noise(12, seed=0) * np.float32(0.6)
    made = images[:1] + np.float32(0.1)
    rival = made.copy()
    rival[:, :, :2, :2] += 0.3
    reference = Reference(np.concatenate([images, rival]), np.arange(13), group_table(["single"] * 13, [1] * 13))
    matches = match(made, reference, MatchSettings())
    shown = {}
    for attack in ("l2", "tiled_l2"):
        figure = plots.contact_sheet(made, reference, matches, extract(matches, attack, MatchSettings()), attack)
        _, nearest, other = (axes.get_images()[0].get_array() for axes in figure.axes[:3])
        shown[attack] = [np.asarray(nearest), np.asarray(other)]
        assert figure.axes[1].texts[0].get_text() == {"l2": "distance 0.08", "tiled_l2": "tiled 0.10"}[attack]
    for picture, expected in zip(shown["l2"] + shown["tiled_l2"], (rival, images, images, rival), strict=True):
        np.testing.assert_array_equal(picture, expected[0, 0])


def test_curves_are_cut_where_nothing_was_measured() -> None:
    rng = np.random.default_rng(0)
    member = np.arange(400) < 200
    figure = plots.roc({"LiRA": roc_of(rng.random(400) + member, member)})
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert axes.get_xlim()[0] == pytest.approx(1 / 200)
    assert "too few below 1 %" in figure.get_suptitle()


def test_files_are_the_same_each_time(content: dict[str, Any]) -> None:
    first, second = (plot_style.files("ratios", published_plots.forest(content)) for _ in range(2))
    assert first.keys() == {"ratios.png", "ratios.svg"}
    assert first == second
    assert first["ratios.png"].startswith(b"\x89PNG")
