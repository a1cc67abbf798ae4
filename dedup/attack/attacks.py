"""Every attack by its name: those that ask which images a model gives away, those that ask which it was trained on, and
those that ask a conditional model for its captions.

To add one, add an entry to `extraction.ATTACKS`, `membership.ATTACKS` or `prompts.ATTACKS`; ATTACKS has them all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dedup.attack import extraction, membership, prompts
from dedup.errors import ConfigError

ATTACKS: dict[str, str] = {
    **dict.fromkeys(extraction.ATTACKS, "extraction"),
    **dict.fromkeys(membership.ATTACKS, "membership"),
    **dict.fromkeys(prompts.ATTACKS, "prompts"),
}
"""The kind of each attack."""

PROMPTS = 16  # captions that are answered where an attack on them is named, and not how many


def check_attacks(names: Sequence[str], kind: str | None = None) -> None:
    """Raises ConfigError for a name that is not there, or is of another kind."""
    known = [name for name, of in ATTACKS.items() if kind in (None, of)]
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown {kind + ' ' if kind else ''}attack {name!r}: choose from {', '.join(known)}")


def by_kind(names: Sequence[str]) -> dict[str, Any]:
    """The settings that these names change: `attack`, the one criterion of extraction, `inference`, the attacks on
    membership, and `prompts`, the captions to be answered; a kind that is not named is left out.

    Raises ConfigError for unknown names, and for two criteria of extraction.
    """
    check_attacks(names)
    criteria = [name for name in names if ATTACKS[name] == "extraction"]
    if len(criteria) > 1:
        raise ConfigError(
            f"attack={', '.join(criteria)}: one of these decides what counts as extracted, so name only one; "
            "OUT/matches has what the others need"
        )
    chosen: dict[str, Any] = {"attack": criteria[0]} if criteria else {}
    if inference := tuple(dict.fromkeys(name for name in names if ATTACKS[name] == "membership")):
        chosen["inference"] = inference
    if any(ATTACKS[name] == "prompts" for name in names):
        chosen["prompts"] = PROMPTS
    return chosen
