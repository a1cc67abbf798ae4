"""Decide of each candidate pair whether it is accepted, and write pairs/*.parquet.

    candidates ──by b's shard──▶ with b's descriptor ──by a's──▶ with a's, too ──by group──▶ verified ──▶ pairs
        ▲                                                                                                │
        └───────────────────── what accepted ones make worth a look, or another ◀────────────────────────┘

The first two shuffles let a task read the descriptors of a shard once (few pairs of few shards are shared out by a);
the third brings likely copies of one picture together, so that a task reads and prepares each image for all its pairs.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup.candidates import CANDIDATE_SCHEMA, CROWDING_SCHEMA
from dedup.judgement import (
    ImageReader,
    accept_exact,
    alone,
    around,
    by_probability,
    by_scores,
    distinct,
    doubtful,
    hopeful,
    not_asked,
    uniform,
    with_crowds,
    worth_a_look,
    worth_another_look,
)
from dedup.neighbors import SearchSettings
from dedup.records import Shard
from dedup.rounds import ROUNDS, TO_JUDGE_SCHEMA, Rounds, first_round, superseded, without_pairs
from dedup.run_folder import RunFolder
from dedup.verify import Verdicts, VerifySettings, settle_pairs, verify_pairs
from pipelines.describing import descriptors_name
from pipelines.preparing import held_pictures, let_go
from pipelines.run_state import Run
from pipelines.searching import crowding_name
from pipelines.shuffle import partitions_for, share_out, shuffle

_WORK = "work"  # what only this step needs, removed at its end
_JUDGED = f"{_WORK}/judged"
_AGAIN = f"{_WORK}/again.parquet"
_LOOKED_AT = ("hash", "turned", "embedding", "local")  # what proposed the candidates that are no identical files
_ROW_BYTES = 8_000  # a pair's, with what is known of both samples
_PAIR_BYTES = 100_000  # a pair's share of a partition: some 700 pairs make one, a few seconds of work
_FEW_PAIRS, _FEWEST_PARTITIONS = 32, 16  # small sets, too, are shared out among some cores
_PIECE_PAIRS = 1000  # for thumbnails: each task makes anew what it needs of each of them

# What verification needs of one sample, beside its image.
_SAMPLE_SCHEMA = pa.schema(
    {
        "sample_id": pa.string(),
        "thumbnail": pa.binary(),
        "inner": pa.binary(),
        "width": pa.int32(),
        "height": pa.int32(),
        "information": pa.float32(),
        "shard": pa.int32(),
        "offset": pa.int64(),
        "size": pa.int64(),
    }
)
_ATTACHED = [name for name in _SAMPLE_SCHEMA.names if name not in ("sample_id", "shard")]
_WIDE = [f"{side}_{name}" for side in "ab" for name in ("thumbnail", "inner")]  # nearly all of a pair's bytes
_CROWDS = ("crowding", "crowding_before", "alike")  # as `judgement.with_crowds` attaches them
_OF_B, _OF_A = (
    [
        *(pa.field(f"{side}_{name}", _SAMPLE_SCHEMA.field(name).type) for name in _ATTACHED),
        *(pa.field(f"{side}_{name}", pa.float32()) for name in _CROWDS),
    ]
    for side in "ba"
)
# `block` is as `_blocks` says, `piece` the same for all pairs of one a.
_HALF_SCHEMA = pa.schema([pa.field("block", pa.int64()), pa.field("piece", pa.int64()), *TO_JUDGE_SCHEMA, *_OF_B])
# A pair that thumbnails do not settle, with what they say of it: `guess` is the map's six float64.
_LOOK_SCHEMA = pa.schema(
    [
        *_HALF_SCHEMA,
        *_OF_A,
        ("cosine", pa.float32()),
        ("likely", pa.float32()),
        ("guess", pa.binary()),
        ("inverted", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class _Parts:
    """What judging reads and by what it judges; travels with the tasks."""

    folder: RunFolder
    shards: tuple[Shard, ...]
    search: SearchSettings
    verify: VerifySettings
    max_pixels: int
    hash_bits: int

    def samples(self, shard: int, wanted: pa.ChunkedArray) -> pa.Table:
        """Rows of _SAMPLE_SCHEMA for these samples of one shard."""
        columns = [name for name in _SAMPLE_SCHEMA.names if name != "shard"]
        rows = self.folder.read_table(descriptors_name(self.shards[shard].shard_id), columns)
        rows = rows.filter(pc.is_in(rows["sample_id"], value_set=pc.unique(wanted)))
        rows = rows.append_column("shard", pa.array(np.full(len(rows), shard, np.int32)))
        return rows.select(_SAMPLE_SCHEMA.names).cast(_SAMPLE_SCHEMA)

    def crowding(self, shard: int) -> pa.Table:
        """Rows of CROWDING_SCHEMA of the shard's samples, as far as the search by embedding saw something."""
        name = crowding_name(self.shards[shard].shard_id)
        return self.folder.read_table(name) if self.folder.exists(name) else CROWDING_SCHEMA.empty_table()

    def candidates(self, name: str) -> pa.Table:
        """Rows of TO_JUDGE_SCHEMA."""
        rows = self.folder.read_table(name)
        return rows if rows.schema.equals(TO_JUDGE_SCHEMA) else first_round(rows)


def judge(run: Run, client: Client) -> None:
    """Write pairs/*.parquet: every candidate once, with the evidence that decided it.

    Identical files are accepted; so are embeddings of at least `min_cosine` where the user set that. All other
    candidates are verified, but rejected with strictness `exact`; without verification, hashes within `max_bits` are
    accepted, and embeddings only propose.
    """
    run.start("verify")
    for name in ("pairs", _WORK):
        run.folder.remove(name)
    settings = run.settings
    parts = _Parts(
        run.folder, tuple(run.shards), settings.search, settings.verify, settings.describe.max_pixels,
        settings.describe.hash_size**2,
    )  # fmt: skip
    candidates = run.folder.names("candidates")
    exact = [name for name in candidates if name.startswith("candidates/exact-")]
    near = [name for name in candidates if name.startswith(tuple(f"candidates/{kind}-" for kind in _LOOKED_AT))]
    client.gather(client.map(functools.partial(_accept_exact, parts), exact, pure=False))
    if settings.verify.accepts_from > 1 and settings.search.min_cosine is None:
        near = []  # only identical files are accepted, so there is nothing to look at
    found = run.document["steps"]["search"]["candidates"]
    count = sum(found.get(kind, 0) for kind in _LOOKED_AT)
    suggested = again = 0
    if near and settings.verify.looks:
        _verify_all(parts, client, near, count)
        rounds = Rounds()
        for number in range(ROUNDS):
            name = f"candidates/again-{number}.parquet"
            more, new = _next_round(parts, rounds, name)
            if not more:
                break
            suggested += new
            _verify_all(parts, client, [name], more, f"again-{number}-")
            again += _supersede(parts, client, f"again-{number}-")
    elif near:
        _judge_all(parts, client, near, count)
    let_go(client)
    run.folder.remove(_WORK)
    run.finish("verify", suggested=suggested, again=again)


def _accept_exact(parts: _Parts, name: str) -> None:
    parts.folder.write_table(name.replace("candidates/", "pairs/"), accept_exact(parts.folder.read_table(name)))


# ---------------------------------------------------------------- by scores alone


def _judge_all(parts: _Parts, client: Client, candidates: list[str], count: int) -> int:
    use, partitions = functools.partial(_judge, parts), partitions_for(count, 100)
    return shuffle(client, "judge pairs", parts.folder.read_table, candidates, CANDIDATE_SCHEMA, "a", partitions, use)


def _judge(parts: _Parts, rows: pa.Table, partition: int) -> int:
    if not len(rows):
        return 0
    pairs = by_scores(rows, parts.search, parts.verify, parts.hash_bits)
    parts.folder.write_table(f"pairs/{partition:05d}.parquet", pairs)
    return int(pc.sum(pairs["accepted"]).as_py())


# ---------------------------------------------------------------- by verification


def _verify_all(parts: _Parts, client: Client, candidates: list[str], count: int, prefix: str = "") -> None:
    read = parts.folder.read_table
    partitions = partitions_for(count, _ROW_BYTES)
    use = functools.partial(_join_b, parts, prefix)
    shuffle(client, "verify: join", parts.candidates, candidates, TO_JUDGE_SCHEMA, "shard_b", partitions, use)
    half, use = parts.folder.names(f"{_WORK}/{prefix}b"), functools.partial(_join_a, parts, prefix)
    bring, by = _bring(count), "shard_a"
    if bring is share_out:
        shards, pieces = len(parts.shards), -(-count // _PIECE_PAIRS)
        partitions = min(_few_partitions(count), max(shards, pieces))
        by = "shard_a" if shards >= pieces else "piece"  # so few shards would keep few cores busy
    settled = bring(client, "verify: thumbnails", read, half, _HALF_SCHEMA, by, partitions, use)
    joined = parts.folder.names(f"{_WORK}/{prefix}a")
    if joined:
        count = max(0, count - settled)
        partitions = max(partitions_for(count, _PAIR_BYTES), _few_partitions(count))
        use = functools.partial(_verify, parts, prefix)
        _bring(count)(client, "verify: pixels", read, joined, _LOOK_SCHEMA, "block", partitions, use)


def _bring(count: int) -> Callable[..., int]:
    """How so many pairs are brought together: what one task could hold is shared out among some."""
    return share_out if partitions_for(count, _ROW_BYTES) == 1 else shuffle


def _few_partitions(count: int) -> int:
    """How many tasks share so few pairs that one could hold them."""
    return min(_FEWEST_PARTITIONS, -(-count // _FEW_PAIRS))


def _join(parts: _Parts, side: str, rows: pa.Table) -> pa.Table | None:
    """Attach the descriptors of a or b to pairs of which all with that sample's shard are in this partition."""
    joined = []
    for shard in pc.unique(rows[f"shard_{side}"]).to_pylist():
        pairs = rows.filter(pc.equal(rows[f"shard_{side}"], shard))
        samples = parts.samples(shard, pairs[side])
        samples = samples.take(pc.index_in(pairs[side], value_set=samples["sample_id"].combine_chunks()))
        for name in _ATTACHED:
            pairs = pairs.append_column(f"{side}_{name}", samples[name])
        pairs = with_crowds(pairs, side, parts.crowding(shard))
        if side == "b":
            pairs = pairs.append_column("block", pa.array(_blocks(pairs)))
            pairs = pairs.append_column("piece", pa.array(_numbered(pairs["a"]))).select(_HALF_SCHEMA.names)
        joined.append(pairs)
    return pa.concat_tables(joined) if joined else None


def _join_b(parts: _Parts, prefix: str, rows: pa.Table, partition: int) -> int:
    joined = _join(parts, "b", rows)
    if joined is not None:
        parts.folder.write_table(f"{_WORK}/{prefix}b/{partition:05d}.parquet", joined)
    return len(rows)


def _join_a(parts: _Parts, prefix: str, rows: pa.Table, partition: int) -> int:
    """Also settles what thumbnails can settle, so that only the others go on."""
    joined = _join(parts, "a", rows)
    if joined is None:
        return 0
    doubted = doubtful(joined)
    pairs, cosine = distinct(joined.filter(pa.array(worth_another_look(joined) & ~doubted)))
    if doubted.any():
        rest = not_asked(joined.filter(pa.array(doubted)), pairs)
        parts.folder.write_table(f"{_JUDGED}/{prefix}doubted-{partition:05d}.parquet", rest)
    if not len(pairs):
        return len(rows)
    samples = _samples_of(pairs)
    verdicts = settle_pairs(pairs, samples, hopeful(pairs, cosine), alone(pairs), uniform(pairs))
    settled = np.flatnonzero(verdicts.settled & (pairs["before"].to_numpy() == 0))
    if len(settled):
        name, slim = f"{prefix}settled-{partition:05d}.parquet", pairs.drop_columns(_WIDE).take(pa.array(settled))
        _conclude(parts, name, slim, cosine[settled], samples, verdicts.probability[settled])
    look = worth_a_look(pairs, cosine, samples, verdicts.settled, verdicts.probability, parts.search)
    left = np.flatnonzero(look)
    if len(left):
        rest = pairs.take(pa.array(left)).append_column("cosine", pa.array(cosine[left]))
        rest = rest.append_column("likely", pa.array(verdicts.probability[left]))
        rest = rest.append_column("guess", pa.array([each.tobytes() for each in verdicts.guess[left]], pa.binary()))
        rest = rest.append_column("inverted", pa.array(verdicts.inverted[left]))
        parts.folder.write_table(f"{_WORK}/{prefix}a/{partition:05d}.parquet", rest)
    return len(rows) - len(left)


def _blocks(pairs: pa.Table) -> npt.NDArray[np.int64]:
    """A number that pairs of likely copies of one picture share: it is made of the first sample that b is paired with,
    and of a clique of pairs that is the same one for all."""
    first = pairs.group_by("b", use_threads=False).aggregate([("a", "min")])
    roots = first["a_min"].take(pc.index_in(pairs["b"], value_set=first["b"].combine_chunks()))
    return _numbered(roots)


def _numbered(names: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    return np.array([zlib.crc32(name.encode()) for name in names.to_pylist()], np.int64)


def _verify(parts: _Parts, prefix: str, rows: pa.Table, partition: int) -> int:
    if not len(rows):
        return 0
    pairs = rows.sort_by([("a", "ascending"), ("b", "ascending")]).combine_chunks()
    samples = _samples_of(pairs)
    read_image, crowding = ImageReader(parts.shards, samples), around(pairs)
    held = held_pictures(parts.folder.url, parts.shards, parts.max_pixels, parts.verify.pictures_held)
    guess = np.frombuffer(b"".join(pairs["guess"].to_pylist()), np.float64).reshape(-1, 2, 3)
    inverted = pairs["inverted"].to_numpy(zero_copy_only=False)
    first = Verdicts(pairs["likely"].to_numpy(), np.zeros(len(pairs), bool), guess, inverted)
    verdicts = verify_pairs(pairs, samples, read_image, parts.verify, crowding, parts.max_pixels, held, first)
    name = f"{prefix}{partition:05d}.parquet"
    _conclude(parts, name, pairs, pairs["cosine"].to_numpy(), samples, verdicts.probability)
    return len(pairs)


def _conclude(
    parts: _Parts,
    name: str,
    pairs: pa.Table,
    cosine: npt.NDArray[np.float32],
    samples: pa.Table,
    probability: npt.NDArray[np.float32],
) -> None:
    verified, judged = by_probability(pairs, cosine, samples, probability, parts.search, parts.verify)
    parts.folder.write_table(f"{_JUDGED}/{name}", judged)
    parts.folder.write_table(f"pairs/{name}", verified)


def _samples_of(pairs: pa.Table) -> pa.Table:
    """Rows of _SAMPLE_SCHEMA of all samples in these pairs, which bring them along."""
    sides = []
    for side in "ab":
        names = {"sample_id": side, "shard": f"shard_{side}", **{name: f"{side}_{name}" for name in _ATTACHED}}
        sides.append(pa.table([pairs[names[name]] for name in _SAMPLE_SCHEMA.names], schema=_SAMPLE_SCHEMA))
    samples = pa.concat_tables(sides).combine_chunks()
    _, once = np.unique(samples["sample_id"].to_numpy(), return_index=True)
    return samples.take(pa.array(once))


def _next_round(parts: _Parts, rounds: Rounds, name: str) -> tuple[int, int]:
    """Write what is to be judged now, as candidates; gives their number, and how many of them are new pairs."""
    judged = parts.folder.names(_JUDGED)
    candidates = rounds.following(lambda: (parts.folder.read_table(part) for part in judged))
    if len(candidates):
        parts.folder.write_table(name, candidates)
    return len(candidates), int(np.count_nonzero(candidates["before"].to_numpy() == 0))


def _supersede(parts: _Parts, client: Client, prefix: str) -> int:
    """Take out what was said before of pairs that the round of that prefix judged again; gives their number."""
    written = [name for folder in (_JUDGED, "pairs") for name in parts.folder.names(folder)]
    new = [name for name in written if name.rpartition("/")[2].startswith(prefix)]
    again = superseded(parts.folder.read_table(name) for name in new if name.startswith(_JUDGED))
    if not len(again):
        return 0
    parts.folder.write_table(_AGAIN, again)
    earlier = [name for name in written if name not in new and not name.startswith("pairs/exact-")]
    client.gather(client.map(functools.partial(_take_out, parts), earlier, pure=False))
    return len(again)


def _take_out(parts: _Parts, name: str) -> None:
    rows = parts.folder.read_table(name)
    left = without_pairs(rows, parts.folder.read_table(_AGAIN))
    if len(left) < len(rows):
        parts.folder.write_table(name, left)
