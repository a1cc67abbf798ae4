"""Planted copies are where the truth says, and a manifest is scored by counting."""

from __future__ import annotations

import io
import json
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dedup.errors import ConfigError
from dedup.planting import EXACT, Planted, plant, score, truth_table
from dedup.records import MANIFEST_SCHEMA, Member, Sample
from dedup.transforms import TRANSFORMS

FAST = (EXACT, "recompress", "grey", "mirror", "crop_70")


def sample(number: int, data: bytes | None = None) -> Sample:
    if data is None:
        pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((64, 48)).save(buffer, "PNG")
        data = buffer.getvalue()
    return Sample(f"p{number}", Member(f"p{number}.png", "png", 0, data), b"words %d" % number, b'{"n": %d}' % number)


def test_originals_go_through_as_they_are_and_are_followed_by_their_copies() -> None:
    originals = [sample(n) for n in range(5)]
    mixture = list(plant(originals, FAST, copies=2))
    assert [p.original for p in mixture] == [key for n in range(5) for key in (None, f"p{n}", f"p{n}")]
    assert [(p.key, p.image.data, p.text, p.json) for p in mixture if p.original is None] == [
        (s.key, s.image.data if s.image else b"", s.text, s.json) for s in originals
    ]
    assert len({p.key for p in mixture}) == 15
    assert all(json.loads(p.json or b"")["n"] == int((p.original or p.key)[1:]) for p in mixture)


def test_exact_copies_have_equal_bytes_and_no_others_have() -> None:
    originals = {s.key: s.image.data for s in map(sample, range(10)) if s.image}
    copies = [p for p in plant(map(sample, range(10)), FAST, copies=5) if p.original]
    assert len(copies) == 50
    for copy in copies:
        assert (copy.image.data == originals[copy.original or ""]) == (copy.transform == EXACT)


def test_each_transform_occurs_equally_often_and_once_per_picture() -> None:
    copies = [p for p in plant(map(sample, range(10)), FAST, copies=3) if p.original]
    assert set(Counter(p.transform for p in copies).values()) == {6}
    assert len({(p.original, p.transform) for p in copies}) == 30


def test_by_default_every_transform_takes_part() -> None:
    copies = [p.transform for p in plant(map(sample, range(3)), copies=len(TRANSFORMS) + 1) if p.original]
    assert Counter(copies) == dict.fromkeys([EXACT, *TRANSFORMS], 3)


def test_equal_seeds_give_equal_copies_and_other_seeds_others() -> None:
    def planted(seed: int, count: int = 4) -> list[Planted]:
        return list(plant(map(sample, range(count)), FAST, copies=3, seed=seed))

    assert planted(1) == planted(1)
    assert planted(1) != planted(2)
    assert planted(1, 6)[:16] == planted(1, 4)


def test_a_damaged_picture_stays_and_has_no_copies() -> None:
    mixture = list(plant([sample(0), sample(1, b"no image"), Sample("p2", None, b"text", None)], FAST, copies=1))
    assert [(p.key, p.original) for p in mixture][::2] == [("p0", None), ("p1", None)]
    assert len(mixture) == 3


@pytest.mark.parametrize(
    ("transforms", "copies", "message"),
    [(("mirror", "melt"), 1, "melt"), (("mirror",), 2, "at most one by each"), (FAST, -1, "-1 copies")],
)
def test_impossible_wishes_are_refused(transforms: tuple[str, ...], copies: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        list(plant([sample(0)], transforms, copies=copies))


def test_two_samples_of_one_key_are_refused() -> None:
    with pytest.raises(ConfigError, match="key p0"):
        list(plant([sample(0), sample(0)], FAST))


def test_the_members_are_named_by_the_key() -> None:
    mixture = list(plant([sample(3)], ("mirror",), copies=1))
    assert [name for p in mixture for name, _ in p.members()] == [
        *("p3.png", "p3.txt", "p3.json"),
        *("p3~mirror.jpg", "p3~mirror.txt", "p3~mirror.json"),
    ]


def manifest(rows: dict[str, tuple[int | None, str | None]]) -> pa.Table:
    """`rows`: sample_id -> cluster, keeper."""
    columns = [
        {
            **dict.fromkeys(MANIFEST_SCHEMA.names),
            "sample_id": name,
            "shard": "s.tar",
            "key": name,
            "status": "removed" if keeper else "kept",
            "cluster": cluster,
            "cluster_size": 1,
            "component_size": 1,
            "keeper": keeper,
            "method": "hash" if keeper else None,
            "score": 0.97 if keeper else None,
        }
        for name, (cluster, keeper) in rows.items()
    ]
    return pa.Table.from_pylist(columns, schema=MANIFEST_SCHEMA)


def truth(*rows: tuple[str, str, str]) -> pa.Table:
    image = next(plant([sample(0)], FAST, copies=0)).image
    copies = [Planted(key, image, original=original, transform=name) for key, original, name in rows]
    return truth_table(copies, {key: "s" for row in rows for key in row[:2]})


def test_the_truth_names_samples_by_id() -> None:
    assert truth(("a~mirror", "a", "mirror")).to_pylist() == [
        {"sample_id": "s/a~mirror", "original": "s/a", "transform": "mirror"}
    ]


def test_a_copy_is_found_where_it_shares_the_group_of_its_original() -> None:
    result = score(
        manifest(
            {
                "s/a": (1, None),
                "s/a~grey": (1, "s/a"),
                "s/a~mirror": (None, None),  # missed
                "s/b": (2, "s/b~grey"),  # the original went and its copy stayed: found all the same
                "s/b~grey": (2, None),
                "s/b~mirror": (3, None),  # in a group, but another
                "s/c": (3, "s/b~mirror"),
            }
        ),
        truth(
            ("a~grey", "a", "grey"), ("a~mirror", "a", "mirror"), ("b~grey", "b", "grey"), ("b~mirror", "b", "mirror")
        ),
    )
    table = result.by_transform.set_index("transform")
    assert table["found"].to_dict() == {"grey": 2, "mirror": 0, "all": 2}
    assert table["copies"].to_dict() == {"grey": 2, "mirror": 2, "all": 4}
    assert table.loc["all", "recall"] == 0.5
    assert table.loc["all", "low"] == pytest.approx(0.15, abs=0.005)  # Wilson, 2 of 4
    assert table.loc["all", "high"] == pytest.approx(0.85, abs=0.005)
    assert result.originals == 3
    assert result.wrong_originals == 1
    assert result.wrong[["sample_id", "keeper", "method"]].to_numpy().tolist() == [["s/c", "s/b~mirror", "hash"]]
    assert str(result) == "2 of 4 planted copies found (50.0%), 1 of 3 originals removed for another picture"


def test_a_copy_removed_for_another_picture_is_wrong_but_no_original() -> None:
    rows = manifest({"s/a": (None, None), "s/a~grey": (5, "s/b"), "s/b": (5, None)})
    result = score(rows, truth(("a~grey", "a", "grey")))
    assert (len(result.wrong), result.wrong_originals) == (1, 0)


def test_a_copy_of_a_copy_removed_for_its_sibling_is_right() -> None:
    rows = manifest({"s/a": (None, None), "s/a~grey": (5, "s/a~mirror"), "s/a~mirror": (5, None)})
    result = score(rows, truth(("a~grey", "a", "grey"), ("a~mirror", "a", "mirror")))
    assert len(result.wrong) == 0
    assert result.by_transform["found"].tolist() == [0, 0, 0]


def test_the_manifest_of_another_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="lacks 1 planted samples, s/a~grey"):
        score(manifest({"s/a": (None, None)}), truth(("a~grey", "a", "grey")))
