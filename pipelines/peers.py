"""Other deduplicators, each in an environment of its own, made when it is first asked for.

They are measured against and are no dependencies: their requirements contradict ours (fastdup wants Python up to 3.12
and pins old libraries).
"""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup import inference
from dedup.errors import ConfigError

logger = logging.getLogger(__name__)

SCRIPTS = Path(__file__).parent / "peer_scripts"
_INSTALLED = "installed.json"


@dataclass(frozen=True)
class Peer:
    """`requirement` as pip takes it, `script` in SCRIPTS, `pythons` the versions that it supports."""

    requirement: str
    script: str
    pythons: tuple[str, ...]


PEERS: dict[str, Peer] = {
    "fastdup": Peer("fastdup==2.54", "run_fastdup.py", ("3.12", "3.11", "3.10")),
    "imagededup": Peer("imagededup==0.3.3.post2", "run_imagededup.py", ("3.12", "3.11", "3.10")),
}


@dataclass(frozen=True)
class Outcome:
    """What a peer made of a folder of pictures.

    `seconds` that it took, without starting Python and importing it; `total_seconds` with them; `read`, how many
    pictures it read; `pairs` of file names that it calls duplicates, each once.
    """

    seconds: float
    total_seconds: float
    read: int
    pairs: frozenset[tuple[str, str]]


def cache_folder() -> Path:
    """Where environments are kept."""
    return inference.cache_folder() / "peers"


def python_for(versions: tuple[str, ...]) -> str:
    """An interpreter of one of these versions that works: this one, or the first on PATH.

    Raises ConfigError where there is none.
    """
    for candidate in (sys.executable, *(shutil.which(f"python{version}") for version in versions)):
        if candidate is not None and _version(candidate) in versions:
            return candidate
    raise ConfigError(f"no Python {' or '.join(versions)} is on PATH; install one to measure this peer")


def _version(python: str) -> str | None:
    program = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    return answer.stdout.strip() if answer.returncode == 0 else None


def environment(name: str) -> Path:
    """The Python of the peer's environment, which is made if it is missing or was made for another version.

    Raises ConfigError where it cannot be made.
    """
    peer = PEERS[name]
    folder = cache_folder() / name
    python, marker = folder / "bin" / "python", folder / _INSTALLED
    if marker.exists() and json.loads(marker.read_text()) == [peer.requirement] and _version(str(python)):
        return python
    logger.info("installing %s into %s", peer.requirement, folder)
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        [python_for(peer.pythons), "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", peer.requirement],
    ):
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            raise ConfigError(f"{peer.requirement} cannot be installed into {folder}: {_last_line(made.stderr)}")
    marker.write_text(json.dumps([peer.requirement]))
    return python


def run(name: str, images: Path, **options: Any) -> Outcome:
    """Let the peer look for duplicates in the folder `images`; its options are in its script.

    Raises ConfigError where it cannot be installed or fails.
    """
    python = environment(name)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.mkdir()
        Path(folder, "options.json").write_text(
            json.dumps({"images": str(images.resolve()), "work": str(work), **options})
        )
        command = [str(python), str(SCRIPTS / PEERS[name].script), "options.json", "result.json"]
        started = time.perf_counter()
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        total = time.perf_counter() - started
        result_file = Path(folder, "result.json")
        if not result_file.exists():
            raise ConfigError(f"{name} failed with exit status {done.returncode}: {_last_line(done.stderr)}")
        result = json.loads(result_file.read_text())
    return Outcome(result["seconds"], total, result["read"], frozenset(_sorted(result["pairs"])))


def _sorted(pairs: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    return ((min(pair), max(pair)) for pair in pairs if pair[0] != pair[1])


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no message"
