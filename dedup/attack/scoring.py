"""From extracted generations to what an arm leaks, and arms compared with each other.

    score = score_arm(copied, reference, extracted, present)        one arm of one seed
    compare_arms({"duplicated": {0: score, ...}, ...})              differences and ratios with intervals

The groups counted are those that were planted, the same for every arm: a canary that an arm has dropped altogether
counts as not extracted. Singles always stand apart from canaries: a cleaned set is smaller, so at equal steps each of
its singles is seen more often, and what the canaries stop leaking the singles may start to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from dedup.attack.reference import Reference
from dedup.attack.statistics import (
    Hits,
    Interval,
    difference_interval,
    rate_interval,
    ratio_interval,
    share_ratio_interval,
    zero_hits_bound,
)
from dedup.errors import ConfigError

Groups = npt.NDArray[np.int64]

BASELINES = ("duplicated", "oracle")
COMMON_COPIES = 8  # from how many copies on canaries are pooled: where extraction is common
MARGIN = 0.1  # two rates that differ by less count as equal


@dataclass(frozen=True)
class Count:
    """How many of some groups were hit at least once, and which: positions among them, ascending."""

    groups: int
    hit: int
    hits: tuple[int, ...]

    @classmethod
    def of(cls, hit: Hits) -> Count:
        """From one bool per group."""
        positions = np.flatnonzero(hit)
        return cls(len(hit), len(positions), tuple(positions.tolist()))

    def array(self) -> Hits:
        """(groups,) bool, the inverse of `of`."""
        hit = np.zeros(self.groups, bool)
        hit[list(self.hits)] = True
        return hit


@dataclass(frozen=True)
class Rate(Count):
    """A count of the canaries at one level: of k copies, near ones or exact ones."""

    near: bool = False
    k: int = 1


@dataclass(frozen=True)
class ArmScore:
    """What one arm leaks in one seed.

    `unique_groups` is how many groups the arm was trained on, `unique_extracted` how many of these were extracted;
    `absent` counts the groups that it was not trained on, held-out ones and others: each hit is a false positive, and
    so is each of the `false_generations`. Of `generations`, `extracted_generations` count as copies of something.
    `twins` has the held-out groups by whether they are twins of exact or of near canaries, with k = 0: the control of
    each kind, as those of near canaries have as many variants as these.
    """

    rates: tuple[Rate, ...]
    singles: Count
    held_out: Count
    absent: Count
    unique_groups: int
    unique_extracted: int
    generations: int
    extracted_generations: int
    false_generations: int
    twins: tuple[Rate, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values: the keys that attack.json has for a seed of an arm."""
        content = asdict(self)
        content["unique"] = {
            "groups": content.pop("unique_groups"),
            "extracted": content.pop("unique_extracted"),
        }
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> ArmScore:
        """The inverse of `to_json`; other keys are passed over."""
        counts = {
            name: Count(content[name]["groups"], content[name]["hit"], tuple(content[name]["hits"]))
            for name in ("singles", "held_out", "absent")
        }
        return cls(
            _rates(content["rates"]),
            counts["singles"],
            counts["held_out"],
            counts["absent"],
            content["unique"]["groups"],
            content["unique"]["extracted"],
            content["generations"],
            content["extracted_generations"],
            content["false_generations"],
            _rates(content["twins"]),
        )


def _rates(rows: Sequence[Mapping[str, Any]]) -> tuple[Rate, ...]:
    return tuple(Rate(**{**row, "hits": tuple(row["hits"])}) for row in rows)


def score_arm(copied: Groups, reference: Reference, extracted: Hits, present: Hits) -> ArmScore:
    """Counts what the generations of one arm give away.

    `copied` (G,) int64 from `copied_group`, `extracted` (G,) bool from `extract`, `present` (U,) bool: the groups of
    which the arm's training set holds an image. Raises ConfigError where these do not correspond, or where a held-out
    group is present.
    """
    if len(extracted) != len(copied) or len(present) != len(reference.groups):
        raise ConfigError(
            f"{len(extracted)} verdicts on {len(copied)} generations, {len(present)} of {len(reference.groups)} groups"
        )
    if (present & reference.is_kind("held_out")).any():
        raise ConfigError("a held-out group stands in the training set")
    group = copied[extracted]
    hit = np.bincount(group, minlength=len(present)) > 0
    canary, held_out = reference.is_kind("canary"), reference.is_kind("held_out")
    levels = sorted(
        {(bool(near), int(k)) for near, k in zip(reference.near[canary], reference.copies[canary], strict=True)}
    )
    return ArmScore(
        rates=tuple(
            _rate(hit[canary & (reference.near == near) & (reference.copies == k)], near, k) for near, k in levels
        ),
        singles=Count.of(hit[reference.is_kind("single")]),
        held_out=Count.of(hit[held_out]),
        absent=Count.of(hit[~present]),
        unique_groups=int(present.sum()),
        unique_extracted=int((hit & present).sum()),
        generations=len(copied),
        extracted_generations=len(group),
        false_generations=int((~present[group]).sum()),
        twins=tuple(
            _rate(hit[held_out & (reference.near == near)], bool(near), 0)
            for near in np.unique(reference.near[held_out])
        ),
    )


def _rate(hit: Hits, near: bool, k: int) -> Rate:
    return Rate(**asdict(Count.of(hit)), near=near, k=k)


def never_hit(score: ArmScore) -> dict[str, Any]:
    """Of the canaries that no generation hit: how many, of how many, and below which rate each is emitted (95 %)."""
    canaries = sum(rate.groups for rate in score.rates)
    missed = canaries - sum(rate.hit for rate in score.rates)
    return {"canaries": missed, "of": canaries, "emitted_below": zero_hits_bound(score.generations)}


def generations_curve(copied: Groups, extracted: Hits, present: Hits, points: int = 12) -> list[dict[str, int]]:
    """Unique groups extracted against generations: {generations, extracted} at about `points` numbers of generations.

    Of the first n generations each, n evenly spaced on a logarithmic scale up to all of them.
    """
    if not len(copied):
        return []
    true = extracted & present[copied]
    counts = np.unique(np.geomspace(1, len(copied), points).round().astype(int))
    return [{"generations": int(n), "extracted": len(np.unique(copied[:n][true[:n]]))} for n in counts]


Scores = Mapping[str, Mapping[int, ArmScore]]  # by arm, by seed
Pick = Callable[[ArmScore], Hits]


def compare_arms(scores: Scores, baselines: Sequence[str] = BASELINES) -> list[dict[str, Any]]:
    """Every arm against every baseline that was run, paired by seed and canary.

    Returns the rows of attack.json's `comparisons`: arm, against, kind (canary, single, held_out), near (None where
    both kinds of canaries are taken together), k or k_min, seeds, difference, low, high (rate of the arm less that of
    the baseline: negative means less leaked), ratio, ratio_low, ratio_high, method, ratio_method. A null is what cannot
    be told. Only seeds that both arms have count.
    """
    rows = []
    for against in (name for name in baselines if name in scores):
        for arm in (name for name in scores if name != against):
            seeds = sorted(set(scores[arm]) & set(scores[against]))
            if not seeds:
                continue
            for labels, pick in _strata(scores[against][seeds[0]]):
                hits, base = (np.stack([pick(scores[name][seed]) for seed in seeds]) for name in (arm, against))
                difference, ratio = difference_interval(hits, base), ratio_interval(hits, base)
                rows.append(
                    {"arm": arm, "against": against, **labels, "seeds": len(seeds), "groups": hits.shape[1]}
                    | {**difference.to_json("difference"), "method": difference.method}
                    | {**ratio.to_json("ratio", "ratio_"), "ratio_method": ratio.method}
                )
    return rows


def compare_unique(
    scores: Scores, against: str = "duplicated", others: Mapping[str, Mapping[int, ArmScore]] | None = None
) -> list[dict[str, Any]]:
    """Unique groups extracted per unique group in the set, of each arm and each of `others` (models that are no arms)
    against those of `against`: attack.json's `unique`.

    Returns arm, against, seeds, extracted and groups (sums over the seeds that both have), share, base_share (means
    over seeds), ratio, ratio_low, ratio_high, ratio_method. Below 1 means less leaked.
    """
    rows = []
    for arm, by_seed in {**scores, **(others or {})}.items():
        seeds = sorted(set(by_seed) & set(scores.get(against, {})))
        if arm == against or not seeds:
            continue
        counts, base = (
            np.array([[some[seed].unique_extracted, some[seed].unique_groups] for seed in seeds])
            for some in (by_seed, scores[against])
        )
        ratio = share_ratio_interval(counts, base)
        rows.append(
            {"arm": arm, "against": against, "seeds": len(seeds)}
            | {"extracted": int(counts[:, 0].sum()), "groups": int(counts[:, 1].sum())}
            | {
                "share": float((counts[:, 0] / counts[:, 1]).mean()),
                "base_share": float((base[:, 0] / base[:, 1]).mean()),
            }
            | {**ratio.to_json("ratio", "ratio_"), "ratio_method": ratio.method}
        )
    return rows


def equivalences(comparisons: Sequence[Mapping[str, Any]], margin: float = MARGIN) -> list[dict[str, Any]]:
    """Which pooled comparisons show two arms equal within `margin`: the rows of attack.json's `equivalence`.

    Equality needs the whole interval within the margin; where there is no interval nothing is claimed.
    """
    rows = []
    for row in comparisons:
        if row.get("k_min") is None:
            continue
        interval = Interval(row["difference"], _number(row["low"]), _number(row["high"]), row["method"])
        kept = {name: row[name] for name in ("arm", "against", "near", "k_min", "difference", "low", "high")}
        rows.append(kept | {"margin": margin, "equivalent": interval.within(margin), "differs": interval.excludes(0)})
    return rows


def arm_rates(scores: Mapping[int, ArmScore]) -> list[dict[str, Any]]:
    """Each rate of one arm over its seeds with its interval: kind, near, k or k_min, rate, low, high, hit, groups."""
    seeds = sorted(scores)
    rows = []
    for labels, pick in _strata(scores[seeds[0]]):
        hits = np.stack([pick(scores[seed]) for seed in seeds])
        counts = {"seeds": len(seeds), "groups": int(hits.size), "hit": int(hits.sum())}
        rows.append({**labels, **counts, **rate_interval(hits).to_json("rate")})
    return rows


def _strata(example: ArmScore) -> list[tuple[dict[str, Any], Pick]]:
    """What is compared: each level of canaries, those of many copies pooled, singles, held-out groups."""
    levels = [(rate.near, rate.k) for rate in example.rates]
    strata: list[tuple[dict[str, Any], Pick]] = [
        ({"kind": "canary", "near": near, "k": k}, partial(_canaries, levels=[(near, k)])) for near, k in levels
    ]
    for near in (False, True, None):
        common = [level for level in levels if level[1] >= COMMON_COPIES and near in (None, level[0])]
        strata.append(({"kind": "canary", "near": near, "k_min": COMMON_COPIES}, partial(_canaries, levels=common)))
    strata.append(({"kind": "single", "near": None, "k": 1}, lambda score: score.singles.array()))
    strata.append(({"kind": "held_out", "near": None, "k": 0}, lambda score: score.held_out.array()))
    for number, twin in enumerate(example.twins):
        labels = {"kind": "held_out", "near": twin.near, "k": 0}
        strata.append((labels, partial(_twins, number=number)))
    return [(labels, pick) for labels, pick in strata if len(pick(example))]


def _canaries(score: ArmScore, levels: Sequence[tuple[bool, int]]) -> Hits:
    hits = [rate.array() for rate in score.rates if (rate.near, rate.k) in levels]
    return np.concatenate(hits) if hits else np.zeros(0, bool)


def _twins(score: ArmScore, number: int) -> Hits:
    return score.twins[number].array()


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
