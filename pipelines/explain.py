"""The story of one image of a finished run: what was decided and by what evidence, its group, and where its bytes are.

It reads of the run only what tells of this image: rows of the shards that it and its group lie in, and of the pairs
those at which they stand.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from dedup.contact_sheet import Panel, pair_sheet
from dedup.errors import ConfigError, ManifestError, ShardError
from dedup.images import decode
from dedup.manifest import manifest_name, split_by_shard
from dedup.overrides import NO_OVERRIDES, Override, read_overrides
from dedup.records import Shard
from dedup.shards import read_range
from pipelines.describing import descriptors_name
from pipelines.run_state import Run

_LISTED = 10  # members and accepted pairs that the text names
_REJECTED = 5
_SHOWN = 8  # accepted pairs on a sheet
_SIDE = 256  # pixels a picture gets there
_ROW_COLUMNS = [
    "sample_id", "status", "cluster", "cluster_size", "component_size", "keeper", "method", "score", "error", "width",
    "height", "sha256", "caption", "note", "weight", "captions",
]  # fmt: skip
_STORED_COLUMNS = ["sample_id", "member", "offset", "size", "sha256"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Evidence:
    """One pair at which the image stands, or (`by_copy`) a byte-identical file whose pairs hold for it, too."""

    other: str
    method: str
    score: float
    probability: float | None
    accepted: bool
    by_copy: str | None

    @property
    def likelihood(self) -> float:
        """For the order alone; a pair that nothing verified comes last, but identical files first."""
        return 1.0 if self.method == "exact" else self.probability or 0.0

    def __str__(self) -> str:
        by_copy = f", of the identical file {self.by_copy}" if self.by_copy else ""
        return f"{_scored(self.method, self.score, self.probability)}{by_copy}"


@dataclass(frozen=True)
class Story:
    """`row` is the image's row of the manifest, `shard` the shard as listed, `stored` the member that holds the image
    with its offset and size in bytes. `evidence` has the accepted pairs first, the likeliest first of each. `members`
    are the rows of its group, itself among them, first those that stay. `overrides` are the rows that name it;
    `pending` says that the file was changed since it was applied, `unreadable` why it cannot be read now."""

    row: Row
    shard: Shard
    stored: Row
    evidence: list[Evidence]
    members: list[Row]
    overrides: list[Override]
    pending: bool
    unreadable: str | None = None


def explain(run_url: str, sample_id: str) -> Story:
    """Gather the story of one image. Raises ManifestError where the run is not finished, ConfigError where it has no
    such sample, with those of its shard whose names are the nearest."""
    run = Run.reopen(run_url)
    if "decide" not in run.document["steps"]:
        raise ManifestError(f"the decision in {run_url} is unfinished; `dedup decide {run_url}` makes it")
    found = _manifest_rows(run, [sample_id]).get(sample_id)
    if found is None:
        raise ConfigError(_unknown(run, sample_id))
    shard, row = found
    overrides, unreadable = NO_OVERRIDES, None
    try:
        overrides = read_overrides(run.folder, run.settings.decide.overrides)
    except ConfigError as error:  # what was decided can be told without them
        unreadable = str(error)
    pairs = _pairs(run, {sample_id})
    copies = {pair["a"] for pair in pairs if pair["method"] == "exact" and pair["b"] == sample_id}
    evidence = _evidence(pairs, {sample_id}) + _evidence(_pairs(run, copies), copies, leave_out=sample_id)
    evidence.sort(key=lambda one: (not one.accepted, -one.likelihood, -one.score, one.other))
    return Story(
        row,
        shard,
        _stored(run, shard, [sample_id])[sample_id],
        evidence,
        _members(run, row),
        overrides.touching(sample_id),
        unreadable is None and overrides.sha256 != (run.document.get("overrides") or {}).get("sha256"),
        unreadable,
    )


def show(run_url: str, story: Story) -> Image.Image:
    """The image beside each of those it was compared with, as one sheet: the likeliest pairs, accepted ones first.

    Raises ManifestError where the image could not be decoded, ShardError where a shard has changed or vanished.
    """
    if story.row["error"]:
        raise ManifestError(f"{story.row['sample_id']} cannot be shown: {story.row['error']}")
    run = Run.reopen(run_url)
    accepted = [one for one in story.evidence if one.accepted][:_SHOWN]
    pairs = accepted + [one for one in story.evidence if not one.accepted][:_REJECTED]
    name = story.row["sample_id"]
    pictures = read_pictures(run, [name, *(one.other for one in pairs)])
    panels = [
        Panel(
            (pictures[name], pictures[one.other]),
            f"{'accepted' if one.accepted else 'rejected'}: {one}\n{name}\n{one.other}",
        )
        for one in pairs
    ]
    alone = Panel((pictures[name],), f"compared with none\n{name}")
    return pair_sheet(panels or [alone], columns=2, side=_SIDE, title=f"{name}: {story.row['status']}")


def sheet_file(sample_id: str, asked: Sequence[str]) -> Path:
    """Where the sheet of `show` goes: the PNG file `asked` for, or else one named after the sample in the working
    folder. Raises ConfigError where that cannot be."""
    if len(asked) > 1:
        raise ConfigError(f"show={' '.join(asked)}: give one file")
    path = Path(asked[0] if asked else re.sub(r"[^\w.#-]+", "_", sample_id) + ".png")
    if path.suffix.lower() != ".png":
        raise ConfigError(f"show={path}: give a file that ends in .png")
    if path.exists():
        raise ConfigError(f"show={path}: that file is there already; choose another one")
    if not path.parent.is_dir():
        raise ConfigError(f"show={path}: there is no folder {path.parent}")
    return path


def text(story: Story) -> str:
    """The story for a terminal."""
    row, stored = story.row, story.stored
    lines = [f"{row['sample_id']}: {row['status']}{_why(row)}"]
    if row["error"]:
        lines.append(f"  error     {row['error']}")
    if row["note"]:
        lines.append(f"  note      {row['note']}")
    lines.append(f"  group     {_sizes(row)}")
    if row["cluster"] is not None:
        lines += _listed(map(_member, story.members), len(story.members), _LISTED)
    for title, accepted, most in (("accepted", True, _LISTED), ("rejected", False, _REJECTED)):
        pairs = [one for one in story.evidence if one.accepted is accepted]
        lines.append(f"  {title}  {len(pairs):,} pairs" + (", the likeliest:" if len(pairs) > most else ""))
        lines += _listed((f"{one.other}  {one}" for one in pairs), len(pairs), most)
    lines.append(f"  caption   {row['caption'] if row['caption'] is not None else 'none'}")
    if row["captions"] is not None:
        lines.append(f"  pooled    {len(row['captions'])} captions")
        lines += [f"            {' '.join(caption.split())}" for caption in row["captions"]]
    lines.append(f"  stored    in {story.shard.url}")
    if stored["member"] is not None:
        lines.append(f"            as {stored['member']}, {stored['size']:,} bytes from byte {stored['offset']:,}")
    if row["width"] is not None:
        lines.append(f"            {row['width']} x {row['height']} pixels, sha256 {row['sha256']}")
    lines += [f"  by hand   {override}" for override in story.overrides]
    if story.pending:
        lines.append("  by hand   the overrides changed since the decision; `dedup decide` applies them")
    if story.unreadable:
        lines.append(f"  by hand   unknown: {story.unreadable}")
    return "\n".join(lines)


def _why(row: Row) -> str:
    if row["keeper"] is not None:
        return f", {row['keeper']} stands for it ({_scored(row['method'], row['score'], None)})"
    by_hand = ", by hand" if row["method"] == "override" else ""
    return by_hand if row["weight"] is None else f"{by_hand}, of weight {row['weight']:.3g}"


def _scored(method: str | None, score: float | None, probability: float | None) -> str:
    if method is None or score is None:
        return "over others, by no edge of their own"
    known = "" if probability is None or method == "verified" else f", probability {probability:.3f}"
    return f"{method} {score:.3f}{known}"


def _sizes(row: Row) -> str:
    connected = f"{row['component_size']:,} with all that is connected"
    if row["cluster"] is None:
        return "none" if row["component_size"] == 1 else f"none, since the images like it are in others; {connected}"
    return f"cluster {row['cluster']}, {row['cluster_size']:,} images; {connected}"


def _member(member: Row) -> str:
    return f"{member['sample_id']}  {member['status']}" + (" by hand" if member["method"] == "override" else "")


def _listed(items: Iterable[str], count: int, most: int) -> list[str]:
    lines = [f"            {item}" for item, _ in zip(items, range(most), strict=False)]
    return lines if count <= most else [*lines, f"            and {count - most:,} more"]


def _manifest_rows(run: Run, sample_ids: Collection[str]) -> dict[str, tuple[Shard, Row]]:
    """The shard and the row of each sample that the manifest has."""
    found = {}
    for shard in run.shards:
        named = [name for name in sample_ids if name.startswith(f"{shard.shard_id}/")]
        if named:
            part = _select(run, manifest_name(shard.shard_id), _ROW_COLUMNS, "sample_id", named)
            found.update({row["sample_id"]: (shard, row) for row in part.to_pylist()})
    return found


def _stored(run: Run, shard: Shard, sample_ids: Collection[str]) -> dict[str, Row]:
    part = _select(run, descriptors_name(shard.shard_id), _STORED_COLUMNS, "sample_id", sample_ids)
    return {row["sample_id"]: row for row in part.to_pylist()}


def _select(run: Run, name: str, columns: list[str], column: str, values: Collection[str]) -> pa.Table:
    return run.folder.read_table(name, columns, pc.field(column).isin(list(values)))


def _pairs(run: Run, sample_ids: Collection[str]) -> list[Row]:
    """All pairs at which one of these samples stands."""
    if not sample_ids:
        return []
    ends = list(sample_ids)
    either = pc.field("a").isin(ends) | pc.field("b").isin(ends)
    return [row for name in run.folder.names("pairs") for row in run.folder.read_table(name, None, either).to_pylist()]


def _evidence(pairs: list[Row], ends: Collection[str], leave_out: str | None = None) -> list[Evidence]:
    found = []
    for pair in pairs:
        this, other = (pair["a"], pair["b"]) if pair["a"] in ends else (pair["b"], pair["a"])
        if leave_out not in (this, other):
            by_copy = this if leave_out is not None else None
            method, score, probability = pair["method"], pair["score"], pair["probability"]
            found.append(Evidence(other, method, score, probability, pair["accepted"], by_copy))
    return found


def _members(run: Run, row: Row) -> list[Row]:
    """The rows of an image's group, reached from it over accepted pairs; those that stay come first."""
    members, new = {row["sample_id"]: row}, {row["sample_id"]}
    while new and row["cluster"] is not None and len(members) < row["cluster_size"]:
        ends = {pair[end] for pair in _pairs(run, new) if pair["accepted"] for end in "ab"} - set(members)
        rows = {name: found for name, (_, found) in _manifest_rows(run, ends).items()}
        new = {name for name, found in rows.items() if found["cluster"] == row["cluster"]}
        members |= {name: rows[name] for name in new}
    return sorted(members.values(), key=lambda member: (member["status"] != "kept", member["sample_id"]))


def read_pictures(run: Run, sample_ids: Collection[str]) -> dict[str, Image.Image]:
    """The pictures of decoded samples, read back from their shards, large enough for a contact sheet.

    Raises ShardError where a shard has changed or vanished.
    """
    shards = {shard.shard_id: shard for shard in run.shards}
    pictures = {}
    for shard_id, part in split_by_shard(pa.table({"sample_id": sorted(sample_ids)}), run.shards).items():
        for name, stored in _stored(run, shards[shard_id], part["sample_id"].to_pylist()).items():
            url = shards[shard_id].url
            data = read_range(url, stored["offset"], stored["size"])
            if sha256(data).digest() != stored["sha256"]:
                raise ShardError(url, f"has changed since the run: {name} is no longer where it was; run dedup again")
            pictures[name] = decode(data, _SIDE, run.settings.describe.max_pixels).rgb
    return pictures


def _unknown(run: Run, sample_id: str) -> str:
    """Why there is no such sample, and which ones may be meant."""
    shards = {shard.shard_id for shard in run.shards}
    own = [shard_id for shard_id in shards if sample_id.startswith(f"{shard_id}/")]
    if own:
        parts = [run.folder.read_table(manifest_name(shard_id), ["sample_id"]) for shard_id in sorted(own)]
        known, what = pa.concat_tables(parts)["sample_id"].to_pylist(), "the nearest in its shard"
    else:
        known, what = sorted(shards), "a sample_id begins with its shard, as these are"
    near = difflib.get_close_matches(sample_id if own else sample_id.rpartition("/")[0], known, cutoff=0.3)
    hint = f"; {what}: {', '.join(near or known[:3])}"
    return f"{run.folder.url} has no sample {sample_id!r}{hint}"
