"""Labels of pairs as a CSV that people edit."""

from __future__ import annotations

import pytest

from dedup.errors import ConfigError
from dedup.labels import read_labels, share_same, write_labels


def test_answers_are_read_whatever_the_order_the_case_and_the_other_columns() -> None:
    text = "\ufeffnote,b,a,same\nx,s/1,s/2,YES\n,s/3,s/4,\n,s/5,s/6, no \n,s/7,s/8,unsure\n"
    assert read_labels(text, "mine.csv") == {("s/1", "s/2"): "yes", ("s/5", "s/6"): "no", ("s/7", "s/8"): "unsure"}


def test_what_is_written_is_read_back() -> None:
    rows = [{"a": 'a, "b"', "b": "c\u00e9", "same": "yes"}, {"a": "d", "b": "e", "same": ""}]
    assert read_labels(write_labels(rows, ("a", "b", "same")), "x") == {('a, "b"', "c\u00e9"): "yes"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.csv has no column a, b, same"),
        ("a,b\n1,2\n", "mine.csv has no column same"),
        ("a,b,same\n1,2,maybe\n", "line 2: same='maybe', which is none of yes, no, unsure"),
        ("a,b,same\n1,2,yes\n2,1,no\n", "line 3: 1 and 2 were yes before, now no"),
        ("a,b,same\n1,9,yes\n", "line 2: 1 and 9 are no pair that was shown"),
        ('a,b,same\n1,2,"yes\n', "after line 1: no CSV"),
    ],
)
def test_bad_files_are_refused_with_the_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_labels(text, "mine.csv", known={("1", "2")})


def test_the_share_leaves_the_unsure_out() -> None:
    result = share_same(["yes", "yes", "yes", "no", "unsure"])
    assert (result["yes"], result["no"], result["unsure"], result["share"]) == (3, 1, 1, 0.75)
    assert (result["low"], result["high"]) == pytest.approx((0.3006, 0.9544), abs=1e-3)  # Wilson, 3 of 4
    assert share_same([])["share"] is None
