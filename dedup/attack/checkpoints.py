"""Checkpoints: all that a training needs to go on, in bytes that are whole or refused."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from typing import Any, Protocol

import torch

from dedup.errors import ConfigError

_DIGEST = 32  # bytes of SHA-256 before the content: damaged content makes torch raise whatever it stumbles over


class Stateful(Protocol):
    """A network or an optimizer, as torch has them."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def pack(fingerprint: str, step: int, parts: Mapping[str, Stateful], draws: torch.Generator, note: Any = None) -> bytes:
    """The states of `parts` and of the random numbers after `step` steps, with `note` (plain values) beside them."""
    state = {
        "fingerprint": fingerprint,
        "step": step,
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "draws": draws.get_state(),
        "note": note,
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    return hashlib.sha256(content).digest() + content


def check(checkpoint: bytes, name: str) -> None:
    """Raises ConfigError, with `name`, where the checkpoint is damaged."""
    if hashlib.sha256(checkpoint[_DIGEST:]).digest() != checkpoint[:_DIGEST]:
        raise ConfigError(f"{name} is no whole checkpoint: delete it, and its training begins anew")


def unpack(
    checkpoint: bytes, name: str, fingerprint: str, parts: Mapping[str, Stateful], draws: torch.Generator
) -> tuple[int, Any]:
    """Puts `parts` and `draws` into the states that `pack` stored; returns its step and note.

    Raises ConfigError, with `name`, where the checkpoint is damaged or has another fingerprint.
    """
    check(checkpoint, name)
    state = torch.load(io.BytesIO(checkpoint[_DIGEST:]), map_location="cpu", weights_only=True)
    if state["fingerprint"] != fingerprint:
        raise ConfigError(
            f"{name} is a checkpoint of other settings, images or another seed: delete it, or choose another OUT"
        )
    for part, stateful in parts.items():
        stateful.load_state_dict(state["parts"][part])
    draws.set_state(state["draws"])
    return int(state["step"]), state["note"]
