"""What a finished run tells its user: counts, speed, where the time went, and what to look at twice."""

from __future__ import annotations

from typing import Any

from dedup.verification_model import OPERATING_POINTS
from pipelines.run_state import STEPS, Run
from pipelines.settings import RunSettings

_GROUP_SHARE_WARNED = 0.01
_GROUP_SIZE_WARNED = 10  # below this a group is no news, however small the set
_REMOVED_SHARE_WARNED = 0.30
_METHODS = ("exact", "hash", "embedding", "verified", "override", "request")


def text(run: Run) -> str:
    """The summary of a finished run, for a terminal."""
    document = run.document
    counts: dict[str, int] = document["counts"]
    lines = [
        f"input    {counts['input']:>12,}  in {len(document['shards']):,} shards",
        f"kept     {counts['kept']:>12,}  {_choice(document)}".rstrip(),
        f"removed  {counts['removed']:>12,}  {_by_method(counts)}".rstrip(),
        f"failed   {counts['failed']:>12,}",
        *_downloaded(document),
        *_by_hand(document),
        f"embedder {_embedder(document)}",
        f"accepts  {_accepts(run.settings)}",
    ]
    if document["skipped_shards"]:
        lines.append(f"skipped  {len(document['skipped_shards']):>12,}  unreadable shards, listed in run.json")
    if recall := document.get("recall"):
        lines.append(_recall(recall))
    lines += _speed(document)
    if document["largest_groups"]:
        groups = (f"{group['cluster_size']} x {group['sample_id']}" for group in document["largest_groups"])
        lines.append("largest groups: " + ", ".join(groups))
    lines += warnings(document)
    lines.append(f"manifest {run.folder.path('manifest')}")
    return "\n".join(lines)


def warnings(document: dict[str, Any]) -> list[str]:
    """What in the result hints at a wrong setting."""
    counts = document["counts"]
    found = []
    for group in document["largest_groups"][:1]:
        size = group["cluster_size"]
        if size > max(_GROUP_SIZE_WARNED, _GROUP_SHARE_WARNED * counts["input"]):
            found.append(
                f"WARNING: one group holds {size:,} samples ({size / counts['input']:.1%} of the set), kept: "
                f"{group['sample_id']}; look whether they are one picture before you drop them"
            )
    if counts["removed"] > _REMOVED_SHARE_WARNED * counts["input"]:
        found.append(
            f"WARNING: {counts['removed'] / counts['input']:.0%} of the set is removed; look at some groups, and at "
            "--strictness and --min-cosine, before you use this manifest"
        )
    return found


def _by_method(counts: dict[str, int]) -> str:
    return ", ".join(f"{counts[f'removed:{m}']:,} {m}" for m in _METHODS if counts.get(f"removed:{m}"))


def _choice(document: dict[str, Any]) -> str:
    """Where another choice than one of each group was made."""
    settings, effects = document["settings"]["decide"], document["steps"]["decide"]
    parts = []
    if settings["keep_up_to"] > 1:
        parts.append(f"up to {settings['keep_up_to']} of each group")
    if "weight_sum" in effects:
        parts.append(f"of weight {effects['weight_sum']:,.1f} in all ({settings['weights']})")
    if "pooled" in effects:
        parts.append(f"captions pooled at {effects['pooled']:,} keepers ({settings['captions']})")
    return ", ".join(parts)


def _downloaded(document: dict[str, Any]) -> list[str]:
    """How much of the list of URLs is in the shards, where img2dataset left its statistics beside them."""
    told = document.get("downloaded")
    if not told:
        return []
    part = "" if told["shards"] == len(document["shards"]) else f" of {told['shards']:,} shards"
    lost = [(told.get("failed_to_download", 0), "not downloaded"), (told.get("failed_to_resize", 0), "not resized")]
    failed = "".join(f", {count:,} {how}" for count, how in lost if count)
    return [f"urls     {told.get('count', 0):>12,}  listed{part}, {told.get('successes', 0):,} came{failed}"]


def _by_hand(document: dict[str, Any]) -> list[str]:
    overrides = document["overrides"]
    if not overrides:
        return []
    counts = f"{overrides['keep']:,} kept, {overrides['remove']:,} removed, {overrides['separate']:,} pairs separated"
    return [f"by hand  {counts} ({overrides['file']})"]


def _embedder(document: dict[str, Any]) -> str:
    embedder = document["embedder"]
    if not embedder["dim"]:
        return "none"
    min_cosine = document["settings"]["search"]["min_cosine"]
    if min_cosine is not None:
        return f"{embedder['name']}, accepts at cosine >= {min_cosine:g} (set by you)"
    if embedder["threshold"] is None:
        return f"{embedder['name']}, uncalibrated: proposes pairs, accepts none"
    return str(embedder["name"])


def _accepts(settings: RunSettings) -> str:
    verify = settings.verify
    if verify.accepts_from > 1:
        return f"identical files only ({verify.strictness})"
    if not verify.verify:
        return f"hashes within {settings.search.max_bits} bits; nothing is verified"
    if verify.min_probability is None:
        source = f"{verify.strictness}: {OPERATING_POINTS[verify.strictness].measured}"
    else:
        source = verify.calibrated_on or "set by you"
    return f"pairs of a probability of at least {verify.accepts_from:g} ({source})"


def _recall(recall: dict[str, Any]) -> str:
    if not recall["neighbors"]:
        return f"recall   no neighbours of cosine >= {recall['min_cosine']:g} exist for {recall['queries']:,} images"
    low, high = recall["interval_95"]
    return (
        f"recall   {recall['recall']:.2%} of the neighbours of cosine >= {recall['min_cosine']:g} that an exact search "
        f"for {recall['queries']:,} images finds (95 % interval {low:.2%} to {high:.2%})"
    )


def _speed(document: dict[str, Any]) -> list[str]:
    steps = document["steps"]
    walls = {step: steps[step].get("wall_seconds", 0.0) for step in STEPS}
    lines = []
    described = steps["describe"]["described"]
    if described and walls["describe"]:
        cpu = steps["describe"]["cpu_seconds"]
        shares = ", ".join(f"{name} {seconds / (sum(cpu.values()) or 1):.0%}" for name, seconds in cpu.items())
        lines.append(f"speed    {described / walls['describe']:,.0f} images/s described; CPU time: {shares}")
    lines.append("time     " + ", ".join(f"{step} {seconds:.1f} s" for step, seconds in walls.items()))
    return lines
