"""Generate and filter: a conditional model answers the captions of canaries many times; do answers repeat?

The filter looks at generations alone. Its threshold is set on the captions of held-out pictures, which the model has
never seen; only afterwards is the training set asked whether what was flagged is the caption's own picture.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from dedup.attack.cliques import calibrate, flagged, largest_clique
from dedup.attack.edm import Generator, Images
from dedup.attack.extraction import copied_group, extract, match
from dedup.attack.reference import Reference

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
