"""Keep policies: one contract for all of them, then each one's own meaning."""

from __future__ import annotations

import logging

import numpy as np
import pyarrow as pa
import pytest

from dedup.errors import ConfigError, ManifestError
from dedup.policies import POLICIES, Keep, columns_of, keep_order, parse_policy

SCHEMA = pa.schema(
    {
        "sample_id": pa.string(),
        "width": pa.int32(),
        "height": pa.int32(),
        "size": pa.int64(),
        "caption": pa.string(),
        "json": pa.string(),
        "copies": pa.int64(),
    }
)


def table(**columns: list[object]) -> pa.Table:
    """Rows a, b, c, ... with the given columns; all others are null."""
    n = len(next(iter(columns.values())))
    given = {"sample_id": [chr(ord("a") + row) for row in range(n)], **columns}
    return pa.table([pa.array(given.get(name, [None] * n), SCHEMA.field(name).type) for name in SCHEMA.names], SCHEMA)


def kept_first(rows: pa.Table, text: str) -> str:
    """The sample_ids in keep order, joined."""
    ranks = keep_order(rows, parse_policy(text))
    return "".join(np.array(rows["sample_id"].to_pylist())[np.argsort(ranks)])


@pytest.fixture
def varied() -> pa.Table:
    """Forty rows with many ties and nulls, of which every policy makes several classes."""
    rng = np.random.default_rng(0)

    def some(values: list[object]) -> list[object]:
        return [values[k] for k in rng.integers(0, len(values), 40)]

    return pa.table(
        {
            "sample_id": [f"{k:02d}" for k in range(40)],
            "width": pa.array(some([10, 20, None]), pa.int32()),
            "height": pa.array(some([10, 30, None]), pa.int32()),
            "size": pa.array(some([5, 6, None]), pa.int64()),
            "caption": pa.array(some(["a cat", "a tabby cat", "", None]), pa.string()),
            "json": pa.array(some(['{"q": 1}', '{"q": 2.5}', '{"q": "x"}', "{", None]), pa.string()),
            "copies": pa.array(some([1, 2, 7]), pa.int64()),
        },
        schema=SCHEMA,
    )


EVERY = [f"{name}:q" if policy.takes_field else name for name, policy in POLICIES.items()]


@pytest.mark.parametrize("text", EVERY)
class TestContract:
    def test_order_is_total(self, text: str, varied: pa.Table) -> None:
        ranks = keep_order(varied, parse_policy(text))
        assert ranks.dtype == np.int64
        assert sorted(ranks) == list(range(len(varied)))

    def test_order_depends_on_content_alone(self, text: str, varied: pa.Table) -> None:
        shuffle = np.random.default_rng(1).permutation(len(varied))
        assert kept_first(varied, text) == kept_first(varied.take(pa.array(shuffle)), text)

    def test_ties_end_at_sample_id(self, text: str, varied: pa.Table) -> None:
        same = varied.take(pa.array([0] * 5)).set_column(0, "sample_id", pa.array(["d", "b", "e", "a", "c"]))
        assert kept_first(same, text) == "abcde"

    def test_rows_of_nulls_come_last_but_for_first(self, text: str) -> None:
        rows = table(
            width=[None, 1],
            height=[None, 1],
            size=[None, 1],
            caption=[None, "x"],
            json=[None, '{"q": 0}'],
            copies=[None, 1],
        )
        assert kept_first(rows, text) == ("ab" if text == "first" else "ba")

    def test_reads_only_its_columns(self, text: str, varied: pa.Table) -> None:
        policies = parse_policy(text)
        assert kept_first(varied.select(columns_of(policies)), text) == kept_first(varied, text)

    def test_no_rows(self, text: str) -> None:
        assert len(keep_order(SCHEMA.empty_table(), parse_policy(text))) == 0

    def test_spelling_round_trips(self, text: str) -> None:
        assert ",".join(str(keep) for keep in parse_policy(text)) == text


def test_of_equally_large_ones_the_one_with_most_copies_comes_first() -> None:
    rows = table(width=[10, 10, 10, 20], height=[10, 10, 10, 20], copies=[1, 3, 3, 2])
    assert kept_first(rows, "most_copies") == "bcda"
    assert kept_first(rows, "largest,most_copies") == "dbca"


def test_who_stands_for_twice_as_many_counts_as_twice_as_large() -> None:
    """Itself counts, too: of two images that are copies of each other the larger one stays."""
    rows = table(width=[10, 14, 20, 40], height=[10, 10, 10, 10], copies=[3, 1, 1, 0])
    assert kept_first(rows, "representative") == "acdb"
    assert kept_first(rows, "representative,largest") == "dcab"
    assert kept_first(table(width=[10, 11], height=[10, 10], copies=[1, 1]), "representative") == "ba"


def test_largest_is_by_pixels_not_by_side() -> None:
    assert kept_first(table(width=[100, 30, 60], height=[10, 40, 60]), "largest") == "cba"


def test_large_images_do_not_overflow() -> None:
    assert kept_first(table(width=[60_000, 70_000], height=[60_000, 70_000]), "largest") == "ba"


def test_smallest_file() -> None:
    assert kept_first(table(size=[3, 1, 2]), "smallest_file") == "bca"


def test_longest_caption_counts_characters_without_blanks_around() -> None:
    assert kept_first(table(caption=["four        ", "seven c", "ééééé"]), "longest_caption") == "bca"


def test_first() -> None:
    assert kept_first(table(size=[1, 1, 1], sample_id=["b", "c", "a"]), "first") == "abc"


def test_highest_and_lowest_of_a_field() -> None:
    rows = table(json=['{"score": 2}', '{"score": 10}', '{"score": -1.5}'])
    assert kept_first(rows, "highest:score") == "bac"
    assert kept_first(rows, "lowest:score") == "cab"


@pytest.mark.parametrize("policy", ["highest:q", "lowest:q"])
@pytest.mark.parametrize(
    "content",
    [
        '{"q": NaN}',
        '{"q": "nan"}',
        '{"q": Infinity}',
        '{"q": -Infinity}',
        '{"q": 1' + "0" * 400 + "}",
        '{"q": "good"}',
        '{"q": null}',
        '{"q": [1]}',
        '{"other": 1}',
        "[1]",
        "3",
        "not json",
        "[" * 100_000,
        None,
    ],
)
def test_what_is_no_finite_number_sorts_last(policy: str, content: str | None) -> None:
    assert kept_first(table(json=[content, '{"q": 0}']), policy) == "ba"


def test_numbers_in_strings_and_truth_values_count() -> None:
    assert kept_first(table(json=['{"q": "9"}', '{"q": " 10.5 "}', '{"q": 1}']), "highest:q") == "bac"
    assert kept_first(table(json=['{"q": true}', '{"q": false}', "{}"]), "lowest:q") == "bac"


def test_field_that_nobody_has_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert kept_first(table(json=['{"aesthetic": 1}', None]), "highest:aestetic") == "ab"
    assert "'aestetic'" in caplog.text


def test_later_policies_break_ties_of_earlier_ones() -> None:
    rows = table(width=[2, 2, 1], height=[1, 1, 1], caption=["x", "xyz", "xyzzz"])
    assert kept_first(rows, "largest") == "abc"
    assert kept_first(rows, "largest,longest_caption") == "bac"
    assert kept_first(rows, "longest_caption,largest") == "cba"


def test_parse() -> None:
    assert parse_policy(" largest , highest: clip:score ") == (Keep("largest"), Keep("highest", "clip:score"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("biggest", "unknown keep policy 'biggest'; choose from representative, largest, .*highest:<field>"),
        ("", "unknown keep policy ''"),
        ("largest,", "unknown keep policy ''"),
        ("highest", "'highest' needs a field"),
        ("lowest: ", "needs a field"),
        ("largest:width", "'largest' takes no field"),
    ],
)
def test_bad_policies_are_refused(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_policy(text)


def test_repeated_sample_id_is_refused() -> None:
    with pytest.raises(ManifestError, match="same sample_id"):
        keep_order(table(size=[1, 2], sample_id=["a", "a"]), parse_policy("first"))
