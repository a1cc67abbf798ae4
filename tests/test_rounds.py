"""What is judged next: suggestions, and what was rejected in a crowd that turns out to be made of copies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from dedup.candidates import CANDIDATE_SCHEMA
from dedup.rounds import JUDGED_SCHEMA, TO_JUDGE_SCHEMA, Rounds, first_round, superseded, without_pairs

NOTHING = JUDGED_SCHEMA.empty_table()


def judged(pairs: Sequence[str], **columns: object) -> pa.Table:
    """Pairs like "ab", all with these columns; by default rejected, in a crowd, as an embedding proposed them."""
    known: dict[str, object] = {
        "method": "embedding",
        "shard_a": 0,
        "shard_b": 1,
        "family": 2,
        "before": 0,
        "accepted": False,
        "verified": False,
        "score": 0.01,
        "cosine": 0.75,
        "likeness": 0.0,
        "crowded": True,
    }
    rows = [{"a": pair[0], "b": pair[1], **known, **columns} for pair in pairs]
    return pa.Table.from_pylist(rows, schema=JUDGED_SCHEMA)


def accepted(*pairs: str, **columns: object) -> pa.Table:
    return judged(pairs, **{"accepted": True, "verified": True, "score": 0.99, **columns})


def following(*tables: pa.Table) -> list[tuple[str, str, float, int, int]]:
    """Of what comes next: the pair, by what method, its score, its family, and that before."""
    return listed(Rounds(), tables)


def listed(rounds: Rounds, tables: Sequence[pa.Table]) -> list[tuple[str, str, float, int, int]]:
    found = rounds.following(lambda: iter(tables))
    assert found.schema.equals(TO_JUDGE_SCHEMA)
    rows = (
        (f"{row['a']}{row['b']}", row["method"], round(row["score"], 3), row["family"], row["before"])
        for row in found.to_pylist()
    )
    return sorted(rows)


def test_at_first_a_pair_is_a_family_of_two() -> None:
    candidates = pa.table(
        [["a"], ["b"], ["hash"], np.float32([0.9]), np.int32([3]), np.int32([4])], schema=CANDIDATE_SCHEMA
    )
    [row] = first_round(candidates).to_pylist()
    assert row["shard_b"] == 4
    assert (row["family"], row["before"]) == (2, 0)
    assert first_round(CANDIDATE_SCHEMA.empty_table()).schema.equals(TO_JUDGE_SCHEMA)


def test_two_accepted_pairs_suggest_a_third_of_their_family() -> None:
    assert following(accepted("ab", "bc")) == [("ac", "suggested", 0, 3, 0)]
    assert following(accepted("ab", "bc", "ac")) == []
    assert following(NOTHING) == following() == []


def test_what_was_rejected_in_a_crowd_is_looked_at_again_once_more_of_it_are_copies() -> None:
    triple = accepted("ab", "bc", "ac")
    assert following(triple, judged(["cd"])) == [("cd", "embedding", 0.75, 4, 2)]
    assert following(triple, judged(["cd"], family=3)) == [("cd", "embedding", 0.75, 4, 3)]
    assert following(triple, judged(["cd"], family=4)) == []
    assert following(triple, judged(["cd"], crowded=False)) == []
    assert following(triple, judged(["de"])) == []
    # Those of both count, but twice.
    assert following(triple, accepted("xy"), judged(["cx"])) == [("cx", "embedding", 0.75, 5, 2)]
    assert ("ac", "embedding", 0.75, 3, 2) in following(accepted("ab", "bc"), judged(["ac"]))


def test_without_more_copies_nothing_is_looked_at_again() -> None:
    rounds, known = Rounds(), [accepted("ab", "bc"), judged(["cd"])]
    assert [pair for pair, *_ in listed(rounds, known)] == ["ac", "cd"]
    rejected = judged(["ac"], method="suggested", crowded=False)
    assert listed(rounds, [*known, rejected]) == []
    assert [pair for pair, *_ in listed(rounds, [*known, accepted("ac")])] == ["cd"]


def test_a_pair_is_looked_at_again_as_it_was_proposed() -> None:
    triple = accepted("ab", "bc", "ac")
    by_both = judged(["cd"], likeness=0.95)
    assert following(triple, by_both) == [("cd", "embedding", 0.75, 4, 2), ("cd", "hash", 0.95, 4, 2)]
    by_hash = judged(["cd"], method="hash", likeness=0.95, cosine=float("nan"))
    assert following(triple, by_hash) == [("cd", "hash", 0.95, 4, 2)]
    suggested = judged(["cd"], method="suggested", cosine=float("nan"))
    assert following(triple, suggested) == [("cd", "suggested", 0, 4, 2)]


def test_what_was_doubted_is_asked_once_more_of_the_crowd_are_copies_and_may_be_suggested() -> None:
    nothing = {"score": None, "cosine": float("nan")}
    triple, doubted = accepted("ab", "bc", "ac"), judged(["cd"], method="page", **nothing)
    assert following(triple, doubted) == [("cd", "page", 0, 4, 2)]
    assert following(accepted("xy"), doubted) == []
    both = following(accepted("ab", "bc"), judged(["ac"], method="page", **nothing))
    assert both == [("ac", "page", 0, 3, 2), ("ac", "suggested", 0, 3, 0)]


def test_a_cosine_alone_makes_no_family() -> None:
    by_cosine = accepted("ab", "bc", "ac", verified=False, score=0.2)
    assert following(by_cosine, judged(["cd"])) == []
    assert following(accepted("ab"), accepted("bc", verified=False)) == [("ac", "suggested", 0, 3, 0)]


def test_the_last_verdict_of_a_pair_counts() -> None:
    first, second = judged(["ab", "bc", "bd"]), judged(["bd"], before=2, accepted=True)
    again = superseded([second, judged(["xy"])])
    assert again.to_pylist() == [{"a": "b", "b": "d"}]
    assert without_pairs(first, again)["b"].to_pylist() == ["b", "c"]
    assert without_pairs(first, superseded([first])).equals(first)
    assert len(without_pairs(NOTHING, again)) == 0
    names = pa.table({"a": ["b", "d", "q", "b"], "b": ["d", "b", "d", "q"]})
    assert without_pairs(names, again).to_pylist() == names.slice(1).to_pylist()
