"""This tool beside others on one planted set: copies found by transform, and pictures joined by mistake.

Each tool gives pairs of samples. "Found" is a copy in the group of its original; the groups of this tool are its
manifest's, those of the others the connected components of their pairs, which is what they offer.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from dedup.errors import ConfigError
from dedup.groups import group
from dedup.images import decode
from dedup.manifest import read_manifest
from dedup.neighbors import brute_force_pairs
from dedup.planting import Score, plant, score
from dedup.records import PAIR_SCHEMA, Sample, sample_id
from dedup.run_folder import RunFolder
from dedup.shards import ShardReader, list_shards
from pipelines import peers
from pipelines.sample import write_planted

Pairs = set[tuple[str, str]]


@dataclass(frozen=True)
class Planting:
    """The planted set: as shards, as files (`names`: file name -> sample_id), and the truth. `run` is this tool's run
    folder on it."""

    shards: Path
    files: Path
    names: dict[str, str]
    truth: pa.Table
    run: Path


@dataclass(frozen=True)
class Result:
    """What a tool made of the set. `false_pairs`: pairs of different pictures that it calls copies."""

    seconds: float
    score: Score
    false_pairs: int


def ours(planting: Planting) -> Result:
    """`dedup run` at its defaults."""
    started = time.perf_counter()
    _run(planting)
    seconds = time.perf_counter() - started
    pairs = RunFolder(planting.run)
    accepted: Pairs = set()
    for name in pairs.names("pairs"):
        for row in pairs.read_table(name, ["a", "b", "accepted"]).to_pylist():
            if row["accepted"]:
                accepted.add((row["a"], row["b"]))
    result = score(read_manifest(str(planting.run)), planting.truth)
    return Result(seconds, result, _false_pairs(accepted, planting))


def imagehash_alone(max_bits: int) -> Callable[[Planting], Result]:
    """ImageHash's phash of the full pictures, all pairs within `max_bits` of 64."""

    def tool(planting: Planting) -> Result:
        started = time.perf_counter()
        names = sorted(planting.names)
        pictures = (decode((planting.files / name).read_bytes(), min_side=0).rgb for name in names)
        bits = np.array([imagehash.phash(picture).hash.ravel() for picture in pictures], dtype=np.float32)
        first, second = _near(bits, max_bits)
        pairs = {(planting.names[names[a]], planting.names[names[b]]) for a, b in zip(first, second, strict=True)}
        return _joined(pairs, planting, time.perf_counter() - started)

    return tool


def embedding_alone(min_cosine: float) -> Callable[[Planting], Result]:
    """The embeddings that this tool's default embedder gives, all pairs of at least `min_cosine`."""

    def tool(planting: Planting) -> Result:
        _run(planting)
        started = time.perf_counter()
        folder = RunFolder(planting.run)
        tables = [folder.read_table(name, ["sample_id", "embedding"]) for name in folder.names("descriptors")]
        rows = pa.concat_tables(tables).combine_chunks()
        ids = rows["sample_id"].to_pylist()
        embeddings = rows["embedding"].chunk(0).flatten().to_numpy().reshape(len(ids), -1)
        found = brute_force_pairs(embeddings, min_cosine)
        pairs = {(ids[a], ids[b]) for a, b in zip(found.i.tolist(), found.j.tolist(), strict=True)}
        return _joined(pairs, planting, time.perf_counter() - started)

    return tool


def peer(name: str, **options: float) -> Callable[[Planting], Result]:
    """Another tool in its own environment; without its start-up."""

    def tool(planting: Planting) -> Result:
        outcome = peers.run(name, planting.files, **options)
        pairs = {(planting.names[a], planting.names[b]) for a, b in outcome.pairs}
        return _joined(pairs, planting, outcome.seconds)

    return tool


TOOLS: dict[str, Callable[[Planting], Result]] = {
    "dedup": ours,
    "imagehash phash <= 4": imagehash_alone(4),
    "imagehash phash <= 10": imagehash_alone(10),
    "embedding >= 0.85": embedding_alone(0.85),
    "embedding >= 0.75": embedding_alone(0.75),
    "imagededup phash <= 10": peer("imagededup", max_bits=10),
    "fastdup": peer("fastdup"),
    "fastdup >= 0.9": peer("fastdup", cc_threshold=0.9),
}


def compare(originals: Iterable[Sample], tools: Iterable[str], copies: int, seed: int) -> str:
    """Plant copies of the originals, let each of the tools look for them, and lay the results side by side."""
    chosen = list(tools)
    if unknown := [name for name in chosen if name not in TOOLS]:
        raise ConfigError(f"unknown tools {', '.join(unknown)}; there are {', '.join(TOOLS)}")
    with tempfile.TemporaryDirectory() as folder:
        planting = make_planting(originals, Path(folder), copies, seed)
        return table({name: TOOLS[name](planting) for name in chosen}, len(planting.names))


def make_planting(originals: Iterable[Sample], folder: Path, copies: int, seed: int) -> Planting:
    """Write the planted set into `folder`, as shards and as files."""
    shards, files = folder / "shards", folder / "files"
    truth = write_planted(plant(originals, copies=copies, seed=seed), shards, shards=8, seed=seed)
    files.mkdir()
    names: dict[str, str] = {}
    for shard in list_shards([str(shards)])[1]:
        for sample in ShardReader(shard):
            if sample.image is not None:
                name = f"{len(names):07d}.{sample.image.extension}"
                (files / name).write_bytes(sample.image.data)
                names[name] = sample_id(shard.shard_id, sample.key)
    return Planting(shards, files, names, truth, folder / "run")


def table(results: dict[str, Result], samples: int) -> str:
    """The results as a Markdown table, one row per tool, then one of recall by transform, one column per tool."""
    rows = []
    for name, result in results.items():
        total = result.score.by_transform.set_index("transform").loc["all"]
        found = f"{total.recall:.1%} ({total.low:.1%}-{total.high:.1%})"
        rows.append([name, found, result.false_pairs, len(result.score.wrong), f"{result.seconds:.0f}"])
    summary = pd.DataFrame(
        rows, columns=["tool", "copies found", "false pairs", "joined to another picture", "seconds"]
    )
    recall = pd.DataFrame(
        {name: result.score.by_transform.set_index("transform")["recall"] for name, result in results.items()}
    )
    recall.insert(0, "copies", next(iter(results.values())).score.by_transform.set_index("transform")["copies"])
    recall = recall.drop(index="all").reset_index()
    for name in results:
        recall[name] = recall[name].map("{:.0%}".format)
    return f"{samples} pictures\n\n{_markdown(summary)}\n\n{_markdown(recall)}"


def _markdown(frame: pd.DataFrame) -> str:
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _run(planting: Planting) -> None:
    command = [sys.executable, "-m", "pipelines.cli", "run", str(planting.shards), "--out", str(planting.run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"dedup run failed: {done.stderr.strip()[-500:]}")


def _near(bits: npt.NDArray[np.float32], max_bits: int) -> tuple[list[int], list[int]]:
    signs = 2 * bits - 1
    distance = (bits.shape[1] - signs @ signs.T) / 2
    first, second = np.nonzero(np.triu(distance <= max_bits, 1))
    return first.tolist(), second.tolist()


def _family(planting: Planting) -> dict[str, str]:
    copies = dict(zip(planting.truth["sample_id"].to_pylist(), planting.truth["original"].to_pylist(), strict=True))
    return {name: copies.get(name, name) for name in planting.names.values()}


def _false_pairs(pairs: Pairs, planting: Planting) -> int:
    family = _family(planting)
    return sum(family[a] != family[b] for a, b in pairs)


def _joined(pairs: Pairs, planting: Planting, seconds: float) -> Result:
    """The result of a tool that gives pairs: its groups are their connected components."""
    ids = sorted(planting.names.values())
    ordered = sorted((min(pair), max(pair)) for pair in pairs)
    edges = pa.Table.from_pylist(
        [{"a": a, "b": b, "method": "hash", "score": 1.0, "probability": None, "accepted": True} for a, b in ordered],
        schema=PAIR_SCHEMA,
    )
    grouped = group(edges, pa.array(ids), np.arange(len(ids)), "components").to_pandas().set_index("sample_id")
    rows = grouped.reindex(ids)[["cluster", "keeper", "method", "score"]].reset_index()
    manifest = pa.Table.from_pandas(rows, preserve_index=False)
    return Result(seconds, score(manifest, planting.truth), _false_pairs(pairs, planting))
