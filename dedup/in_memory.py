"""The steps of a run as functions of tables, for sets that fit in the memory of one machine.

    shards ──describe_shard──▶ descriptors ──find_pairs──▶ pairs ──group_pairs──▶ groups
                                                             └─────decide──────▶ manifest

They are made of the functions that a run spreads over workers, and give the same manifest. Their memory follows the
set, where that of a run follows its partitions. A run that is large enough to cut its hashes into several partitions
may name a few more of the nearest hashes as candidates.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dedup import candidates, hamming, judgement, local_candidates, neighbors, rounds, turned
from dedup.decisions import DEFAULT_DECISION, DecideSettings, columns_to_decide, decide_rows, samples_to_decide
from dedup.errors import ConfigError, ManifestError
from dedup.held_pictures import HeldPictures
from dedup.images import MAX_PIXELS
from dedup.manifest import manifest_table
from dedup.neighbors import SearchSettings
from dedup.overrides import NO_OVERRIDES, Overrides
from dedup.page_shares import page_hashes
from dedup.records import MANIFEST_SCHEMA, PAGE, PAIR_SCHEMA, Shard
from dedup.verify import VerifySettings, settle_pairs, verify_pairs

_VERIFIED_COLUMNS = ("sample_id", "thumbnail", "inner", "width", "height", "information", "offset", "size")

DEFAULT_SEARCH = SearchSettings()
DEFAULT_VERIFY = VerifySettings()


def find_pairs(
    shards: Sequence[Shard],
    descriptors: Sequence[pa.Table],
    search: SearchSettings = DEFAULT_SEARCH,
    verify: VerifySettings = DEFAULT_VERIFY,
    *,
    max_pixels: int = MAX_PIXELS,
) -> pa.Table:
    """Every pair that is worth a look, each once, with the evidence that decided it (schema `records.PAIR_SCHEMA`).

    `descriptors` holds the table of `describe_shard` for each of `shards`, in their order; without a column `embedding`
    only hashes propose, those of turned thumbnails among them. A pair has a < b; `score` is higher for closer pairs: 1
    for identical bytes, the cosine for `embedding`, 1 - distance/bits for `hash`, and the probability (0..1) that both
    are one picture for `verified`. Byte-identical copies have one pair, with the first of them by sample_id, whose
    other pairs hold for each copy.

    Images are read again from the shards where thumbnails do not settle a pair; those of more than `max_pixels` are not
    decoded. Raises ConfigError where the hash that `search` names is not in the descriptors, ShardError where a shard
    cannot be read, ManifestError where there is not one table of descriptors per shard, or one of another version.
    """
    _check(shards, descriptors)
    if not shards:
        return PAIR_SCHEMA.empty_table()
    if search.hash not in descriptors[0].column_names:
        raise ConfigError(f"hash={search.hash} is searched, but not in the descriptors; add it to hashes")
    for shard, table in zip(shards, descriptors, strict=True):
        wanted = {*_VERIFIED_COLUMNS, *([f"{PAGE}{search.hash}"] if verify.looks else [])}
        missing = wanted - set(table.column_names)
        if missing:
            raise ManifestError(
                f"{shard.shard_id}: its descriptors lack {', '.join(sorted(missing))}; describe it with this version"
            )
    identical, copies = candidates.exact_pairs(
        pa.concat_tables([candidates.exact_rows(table, number) for number, table in enumerate(descriptors)])
    )
    pairs = [judgement.accept_exact(identical)]
    if verify.accepts_from <= 1 or search.min_cosine is not None:  # else only identical files are accepted
        total = sum(len(table) for table in descriptors)
        rest = [candidates.without(candidates.decoded(table), copies) for table in descriptors]
        hashes = _by_hash(rest, total, search, verify.looks)
        embedded, crowding, centroids = _by_embedding(rest, total, search)
        found = pa.concat_tables([hashes, embedded])
        held = HeldPictures(verify.pictures_held)
        if verify.looks:
            local = _by_local_features(shards, rest, crowding, centroids, search, max_pixels, held)
            found = pa.concat_tables([found, local, _turned(rest, total, search)])
        if len(found) and verify.looks:
            pairs += _Verification(shards, _samples(rest), crowding, search, verify, max_pixels, held).all(found)
        elif len(found):
            bits = 8 * descriptors[0].schema.field(search.hash).type.byte_width
            pairs.append(judgement.by_scores(candidates.in_order(found), search, verify, bits))
    return pa.concat_tables(pairs).sort_by([("a", "ascending"), ("b", "ascending")]).combine_chunks()


def group_pairs(
    pairs: pa.Table,
    descriptors: Sequence[pa.Table],
    settings: DecideSettings = DEFAULT_DECISION,
    overrides: Overrides = NO_OVERRIDES,
) -> pa.Table:
    """The groups of the accepted pairs (schema `groups.GROUP_SCHEMA`): one row per sample in a pair, by sample_id.

    `pairs` as `find_pairs` gives them, `descriptors` the tables of all shards; `settings.keep` says who is the keeper
    of a group, `settings.grouping` how far it reaches. A sample without `keeper` is one itself, or has no group.

    Raises ManifestError where pairs name samples that are not in the descriptors, ConfigError for an override that
    names none.
    """
    groups, _ = decide_rows(pairs, _rows(pairs, descriptors, settings, overrides), settings, overrides)
    return groups


def decide(
    shards: Sequence[Shard],
    descriptors: Sequence[pa.Table],
    pairs: pa.Table,
    settings: DecideSettings = DEFAULT_DECISION,
    overrides: Overrides = NO_OVERRIDES,
) -> pa.Table:
    """The manifest (schema `records.MANIFEST_SCHEMA`): one row per sample, shard by shard, in the order of each.

    `descriptors` holds the table of `describe_shard` for each of `shards`, in their order; `pairs` are those of
    `find_pairs`. `overrides`, not `settings.overrides`, brings decisions by hand (`overrides.parse_overrides`).

    Raises what `group_pairs` raises, and ManifestError where there is not one table of descriptors per shard.
    """
    _check(shards, descriptors)
    rows = _rows(pairs, descriptors, settings, overrides)
    _, decisions = decide_rows(pairs, rows, settings, overrides)
    tables = [
        manifest_table(shard, table, decisions, settings) for shard, table in zip(shards, descriptors, strict=True)
    ]
    return pa.concat_tables([MANIFEST_SCHEMA.empty_table(), *tables]).combine_chunks()


def _check(shards: Sequence[Shard], descriptors: Sequence[pa.Table]) -> None:
    if len(shards) != len(descriptors):
        raise ManifestError(
            f"{len(shards)} shards, but {len(descriptors)} tables of descriptors: give one of each, in one order"
        )


def _rows(pairs: pa.Table, descriptors: Sequence[pa.Table], settings: DecideSettings, overrides: Overrides) -> pa.Table:
    wanted = samples_to_decide(pairs, overrides)
    hashes = page_hashes(descriptors[0].column_names) if descriptors else []
    columns = columns_to_decide(settings, hashes[0] if hashes else "")
    parts = [table.select(columns).filter(pc.is_in(table["sample_id"], value_set=wanted)) for table in descriptors]
    if not parts:
        raise ManifestError("no descriptors: describe at least one shard")
    return pa.concat_tables(parts)


def _by_hash(rest: Sequence[pa.Table], total: int, search: SearchSettings, pages: bool) -> pa.Table:
    bits = 8 * rest[0].schema.field(search.hash).type.byte_width
    agreeing = hamming.bands_agreeing(total, search.search_bits, bits)
    rows = [candidates.hash_rows(table, number, search, agreeing, pages) for number, table in enumerate(rest)]
    return candidates.hash_pairs(candidates.in_order(pa.concat_tables(rows)), search, agreeing)


def _turned(rest: Sequence[pa.Table], total: int, search: SearchSettings) -> pa.Table:
    agreeing = turned.bands_agreeing(total)
    rows = [turned.turned_rows(table, number, agreeing) for number, table in enumerate(rest)]
    return turned.turned_pairs(candidates.in_order(pa.concat_tables(rows)), search, agreeing)


def _by_embedding(
    rest: Sequence[pa.Table], total: int, search: SearchSettings
) -> tuple[pa.Table, pa.Table, npt.NDArray[np.float16]]:
    """Candidates, how crowded it is around samples (rows of candidates.CROWDING_SCHEMA), and the cells' centroids."""
    centroids = np.zeros((0, 0), np.float16)
    nothing = candidates.CANDIDATE_SCHEMA.empty_table(), candidates.CROWDING_SCHEMA.empty_table(), centroids
    if "embedding" not in rest[0].column_names:
        return nothing
    embedded = [candidates.embeddings(table) for table in rest]
    cells = search.cells or neighbors.n_cells(total)
    step = candidates.step_of(total, cells * candidates.SAMPLED_PER_CELL)
    sampled = [candidates.every(part, number, step) for number, part in enumerate(embedded)]
    centroids = candidates.train(sampled, cells, search.seed)
    if not len(centroids):
        return nothing
    rows = [candidates.cell_rows(centroids, table, number, search) for number, table in enumerate(rest)]
    return *candidates.cell_pairs(candidates.in_order(pa.concat_tables(rows)), search), centroids


def _by_local_features(
    shards: Sequence[Shard],
    rest: Sequence[pa.Table],
    crowding: pa.Table,
    centroids: npt.NDArray[np.float16],
    search: SearchSettings,
    max_pixels: int,
    held: HeldPictures,
) -> pa.Table:
    rows = [local_candidates.LOCAL_ROW.empty_table()]
    for number, table in enumerate(rest):
        crowded = local_candidates.crowded_samples(table, crowding)
        if len(crowded):
            crowded = crowded.append_column("shard", pa.array(np.full(len(crowded), number, np.int32)))
            read_image = judgement.ImageReader(shards, crowded)
            rows.append(local_candidates.local_rows(centroids, crowded, number, search, read_image, max_pixels, held))
    return local_candidates.local_pairs(candidates.in_order(pa.concat_tables(rows)), search)


def _samples(rest: Sequence[pa.Table]) -> pa.Table:
    """What verification needs of each sample, with the number of its shard."""
    return pa.concat_tables(
        [
            table.select(_VERIFIED_COLUMNS).append_column("shard", pa.array(np.full(len(table), number, np.int32)))
            for number, table in enumerate(rest)
        ]
    )


@dataclass(frozen=True)
class _Verification:
    shards: Sequence[Shard]
    samples: pa.Table
    crowding: pa.Table
    search: SearchSettings
    verify: VerifySettings
    max_pixels: int
    held: HeldPictures

    def all(self, found: pa.Table) -> list[pa.Table]:
        """The candidates judged, and then, round by round, what accepted ones make worth a look."""
        pairs: list[pa.Table] = []
        judged: list[pa.Table] = []
        found, following = rounds.first_round(found), rounds.Rounds().following
        for _ in range(1 + rounds.ROUNDS):
            verified, basis = self._once(found)
            again = rounds.superseded([basis])
            pairs, judged = ([rounds.without_pairs(each, again) for each in tables] for tables in (pairs, judged))
            pairs.append(verified)
            judged.append(basis)
            found = following(functools.partial(iter, judged))
            if not len(found):
                break
        return pairs

    def _once(self, found: pa.Table) -> tuple[pa.Table, pa.Table]:
        for side in "ab":
            found = judgement.with_crowds(found, side, self.crowding)
        doubted = judgement.doubtful(found)
        pairs, cosine = judgement.distinct(found.filter(pa.array(judgement.worth_another_look(found) & ~doubted)))
        not_asked = judgement.not_asked(found.filter(pa.array(doubted)), pairs)
        named = pa.chunked_array([*pairs["a"].chunks, *pairs["b"].chunks], type=pa.string())
        samples = self.samples.filter(pc.is_in(self.samples["sample_id"], value_set=pc.unique(named)))
        asked = judgement.hopeful(pairs, cosine), judgement.alone(pairs), judgement.uniform(pairs)
        first = settle_pairs(pairs, samples, *asked)
        look = judgement.worth_a_look(pairs, cosine, samples, first.settled, first.probability, self.search)
        kept = look | (first.settled & (pairs["before"].to_numpy() == 0))
        pairs, cosine, first = pairs.filter(pa.array(kept)), cosine[kept], first.take(kept)
        read_image = judgement.ImageReader(self.shards, samples)
        crowding = judgement.around(pairs)
        verdicts = verify_pairs(pairs, samples, read_image, self.verify, crowding, self.max_pixels, self.held, first)
        decided = pairs, cosine, samples, verdicts.probability, self.search, self.verify
        verified, judged = judgement.by_probability(*decided)
        return verified, pa.concat_tables([judged, not_asked])
