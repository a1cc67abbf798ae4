"""Generate and filter: a conditional model answers the captions of canaries many times; do answers repeat?

    answers = answer_prompts(generator, reference, settings, seed)     one model
    compare_answers({"duplicated": [entry of a seed, ...], ...})       arms against each other

The filter looks at generations alone. Its threshold is set on the captions of held-out pictures, which the model has
never seen; only afterwards is the training set asked whether what was flagged is the caption's own picture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dedup.attack.cliques import calibrate, flagged, largest_clique
from dedup.attack.edm import Generator, Images
from dedup.attack.extraction import copied_group, extract, match
from dedup.attack.reference import Reference
from dedup.attack.statistics import Hits, difference_interval, rate_interval

if TYPE_CHECKING:
    from dedup.attack.profiles import AttackSettings

_FALSE_POSITIVES = 0.01


def answer_prompts(generator: Generator, reference: Reference, settings: AttackSettings, seed: int) -> dict[str, Any]:
    """Asks for `settings.prompts` canaries, those of most copies first, and as many held-out pictures as there are.

    Labels are group numbers (captions=unique). Returns the calibrated threshold, the share of held-out captions
    flagged, and per caption: group, copies, near, clique (its size), flagged, and confirmed (a member of the clique is
    extracted as the caption's own group).
    """
    copies = reference.copies
    canaries = np.flatnonzero(reference.is_kind("canary"))
    asked = canaries[np.argsort(-copies[canaries], kind="stable")][: settings.prompts]
    unseen = np.flatnonzero(reference.is_kind("held_out"))
    controls = [_answers(generator, group, settings, seed) for group in unseen.tolist()]
    share = max(_FALSE_POSITIVES, 1 / len(controls))
    cliques = replace(settings.cliques, max_tiled_l2=calibrate(controls, settings.cliques, share))
    false = sum(flagged(largest_clique(made, cliques), cliques) for made in controls)
    rows = []
    for group in asked.tolist():
        made = _answers(generator, group, settings, seed)
        clique = largest_clique(made, cliques)
        matches = match(made[clique], reference, settings.match)
        own = (copied_group(matches, settings.attack) == group) & extract(matches, settings.attack, settings.match)
        rows.append(
            {
                "group": group,
                "copies": int(copies[group]),
                "near": bool(reference.near[group]),
                "clique": len(clique),
                "flagged": flagged(clique, cliques),
                "confirmed": bool(own.any()),
            }
        )
    return {"max_tiled_l2": cliques.max_tiled_l2, "held_out": len(controls), "held_out_flagged": false, "prompts": rows}


def _answers(generator: Generator, group: int, settings: AttackSettings, seed: int) -> Images:
    count = settings.prompt_generations
    return generator.sample(count, seed * 1_000_003 + group, np.full(count, group, np.int64))


def compare_answers(
    arms: Mapping[str, Sequence[Mapping[str, Any]]], against: str = "duplicated"
) -> list[dict[str, Any]]:
    """What each arm gives away to generate and filter, and how much less than `against`: attack.json's `prompts`.

    `arms` has the entries of attack.json, by seed, with `prompts` as `answer_prompts` gives it; arms without any are
    left out. Captions are those of the same canaries in every arm. Returns arm, seeds, captions, flagged (sums over the
    seeds), leaked (flagged, and confirmed by the training set), rate (of leaked ones), low, high, held_out,
    held_out_flagged, by_copies (near, k, captions, flagged, leaked) and, but for `against` itself and where that was
    not run, difference (of the rates, paired by seed and caption: negative means less leaked), difference_low,
    difference_high, method.
    """
    told = {arm: [entry for entry in entries if "prompts" in entry] for arm, entries in arms.items()}
    leaked = {arm: np.stack([_leaked(entry) for entry in entries]) for arm, entries in told.items() if entries}
    rows = []
    for arm, hits in leaked.items():
        answers = [entry["prompts"] for entry in told[arm]]
        row = {"arm": arm, "seeds": len(answers), **_counted([one for each in answers for one in each["prompts"]])}
        row |= rate_interval(hits).to_json("rate")
        row |= {name: sum(each[name] for each in answers) for name in ("held_out", "held_out_flagged")}
        row["by_copies"] = _by_copies([one for each in answers for one in each["prompts"]])
        if arm != against and against in leaked:
            difference = difference_interval(hits, leaked[against])
            row |= {**difference.to_json("difference", "difference_"), "method": difference.method}
        rows.append(row)
    return rows


def _leaked(entry: Mapping[str, Any]) -> Hits:
    return np.array([row["flagged"] and row["confirmed"] for row in entry["prompts"]["prompts"]])


def _counted(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    leaked = sum(row["flagged"] and row["confirmed"] for row in rows)
    return {"captions": len(rows), "flagged": sum(row["flagged"] for row in rows), "leaked": leaked}


def _by_copies(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    levels = sorted({(row["near"], row["copies"]) for row in rows})
    return [
        {"near": near, "k": k, **_counted([row for row in rows if (row["near"], row["copies"]) == (near, k)])}
        for near, k in levels
    ]


ATTACKS: dict[str, Callable[[Generator, Reference, AttackSettings, int], dict[str, Any]]] = {
    "generate_and_filter": answer_prompts
}
"""(model, reference, settings, seed) -> what it gives away to an attack that needs captions."""
