"""All settings of a run: each step's own dataclass, side by side."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from cyclopts import Parameter

from dedup.decisions import DecideSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError
from dedup.neighbors import SearchSettings
from dedup.verify import VerifySettings

FLAT = Parameter(name="*")  # on the command line, a dataclass's fields are options of their own


@dataclass(frozen=True)
class RunSettings:
    """What determines the manifest, step by step."""

    describe: Annotated[DescribeSettings, FLAT] = field(default_factory=DescribeSettings)
    search: Annotated[SearchSettings, FLAT] = field(default_factory=SearchSettings)
    verify: Annotated[VerifySettings, FLAT] = field(default_factory=VerifySettings)
    decide: Annotated[DecideSettings, FLAT] = field(default_factory=DecideSettings)

    def __post_init__(self) -> None:
        if self.search.hash not in self.describe.hashes:
            raise ConfigError(f"hash={self.search.hash} is searched but not stored; add it to hashes")

    def to_json(self) -> dict[str, dict[str, Any]]:
        """As plain JSON values, a dictionary per step."""
        return dict(json.loads(json.dumps(dataclasses.asdict(self))))

    @classmethod
    def from_json(cls, content: Mapping[str, Mapping[str, Any]]) -> RunSettings:
        """The inverse of `to_json`. Raises ConfigError where a field is not known to this version."""
        try:
            return cls(
                DescribeSettings(**_tuples(content["describe"])),
                SearchSettings(**_tuples(content["search"])),
                VerifySettings(**_tuples(content["verify"])),
                DecideSettings(**_tuples(content["decide"])),
            )
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"run.json has settings of another version of dedup ({error}): use a new folder"
            ) from error


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
