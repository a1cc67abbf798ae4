"""`dedup calibrate`: precision and recall on the user's own images, before anything is removed.

    SHARDS ──describe──▶ sample ──plant──▶ OUT/planted ──a run over both──▶ OUT/run ──▶ report ◀── labels.csv
                                                                               └──▶ thresholds.toml

The run is `deduplicate`'s, with the same settings; what it found and what a person says of it make the report, which is
written anew at every call. OUT resumes as a run does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distributed import Client

from dedup import __version__, calibration_report
from dedup.calibrate import PlantSettings
from dedup.errors import ConfigError
from dedup.labels import Pair, read_labels, write_labels
from dedup.operating_curve import ProjectSettings, curve, pick, projection_of, verdicts
from dedup.records import Shard
from dedup.run_folder import RunFolder
from dedup.shards import list_shards
from pipelines import labelling, planted_sample
from pipelines.client import ClusterSettings, connect
from pipelines.deduplicate import finish
from pipelines.describing import describe_shards
from pipelines.labelling import Section
from pipelines.mixture import Mixture, gather
from pipelines.run_state import Run
from pipelines.settings import RunSettings

REPORT, PAGE, MARKDOWN, LABELS = "calibration.json", "calibration.html", "calibration.md", "labels.csv"
THRESHOLDS = "thresholds.toml"
ASSUMED_SHARE = 0.01  # of copies, where the set has none: to show what the rates mean, never to pick a threshold


@dataclass(frozen=True)
class Asked:
    """What a calibration was asked: the shards (`patterns`, `root`), and the settings of each of its parts."""

    patterns: tuple[str, ...]
    settings: RunSettings
    plant: PlantSettings
    project: ProjectSettings
    root: str | None = None
    skip_bad_shards: bool = False


def calibrate(
    asked: Asked, out: str, cluster: ClusterSettings, *, label: bool = False, labels: str | None = None
) -> dict[str, Any]:
    """Calibrate on the shards into the folder `out`, or finish what was begun there; gives calibration.json's content.

    `labels` is a CSV with answers that are added; with `label` the terminal asks for more.

    Where these images cannot support the target, `refused` says why. Raises ConfigError for a folder of another
    calibration, too few images and labels of unknown pairs.
    """
    asked.plant.check_sample(asked.plant.images)
    if labels is not None:
        read_labels(_label_text(labels), labels)  # a file that is none should not cost a run first
    folder = RunFolder(out)
    root, shards = list_shards(asked.patterns, asked.root)
    inside = folder.path(planted_sample.FOLDER) + "/"
    plan = planted_sample.open_plan(folder, asked.plant, [s for s in shards if not _lies_in(s, inside)])
    with connect(cluster) as client:
        run = _run(asked, folder, client)
        threshold = _threshold(run.settings)
        mixture = gather(run, client, folder, threshold, asked.project.borderline)
    shown = labelling.sections(mixture, threshold)
    sheets = labelling.sheets(shown, run)
    for name, sheet in sheets.items():
        with folder.whole_file(name) as path:
            sheet.save(path, "PNG")
    given = _labels(folder, shown, labels)
    if label:
        _ask(folder, shown, given)
    facts = {"root": root, "date": plan["date"], "shards": len(run.shards) - len(planted_sample.planted_shards(folder))}
    report = _report(asked, run, mixture, shown, given, facts)
    _write(folder, report, {s.title: [sheets[n] for n in sheets if n.startswith(s.name)] for s in shown}, threshold)
    return report


def _lies_in(shard: Shard, folder: str) -> bool:
    return shard.url.startswith(folder) or shard.url.startswith(str(Path(folder).absolute()) + "/")


def _run(asked: Asked, folder: RunFolder, client: Client) -> Run:
    """The finished run over the set and the planted copies."""

    def opened() -> Run:
        return Run.open(
            folder.path("run"), asked.patterns, asked.settings, root=asked.root, skip_bad_shards=asked.skip_bad_shards,
            also=planted_sample.planted_shards(folder),
        )  # fmt: skip

    run = opened()
    if not planted_sample.is_planted(folder):
        describe_shards(run, client)
        planted_sample.plant_copies(run, client, asked.plant, folder)
        run = opened()
    finish(run, client)
    return run


def _threshold(settings: RunSettings) -> float:
    if settings.verify.verify:
        return settings.verify.accepts_from
    return math.inf if settings.search.min_cosine is None else settings.search.min_cosine


def _labels(folder: RunFolder, shown: Sequence[Section], file: str | None) -> dict[Pair, str]:
    """The answers in labels.csv, and those of the file that the user names; labels.csv then holds both."""
    before = folder.read_bytes(LABELS)
    given = read_labels(_decoded(before, folder.path(LABELS)), folder.path(LABELS)) if before else {}
    if file is not None:
        known = {*given, *((row["a"], row["b"]) for row in labelling.rows(shown, given))}
        given |= read_labels(_label_text(file), file, known)
    _save_labels(folder, shown, given)
    return given


def _label_text(file: str) -> str:
    if not Path(file).is_file():
        raise ConfigError(f"{file}: no such file; --labels takes a CSV with the columns a, b, same")
    return _decoded(Path(file).read_bytes(), file)


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name} is no CSV in UTF-8 ({error}); save it as that") from error


def _save_labels(folder: RunFolder, shown: Sequence[Section], given: dict[Pair, str]) -> None:
    text = write_labels(labelling.rows(shown, given), labelling.LABEL_COLUMNS)
    folder.write_bytes(LABELS, text.encode())


def _ask(folder: RunFolder, shown: Sequence[Section], given: dict[Pair, str]) -> None:
    def answered(pair: Pair, answer: str) -> None:
        given[pair] = answer
        _save_labels(folder, shown, given)

    labelling.ask(labelling.rows(shown, given), folder.path, answered)


def _report(
    asked: Asked, run: Run, mixture: Mixture, shown: Sequence[Section], given: dict[Pair, str], facts: dict[str, Any]
) -> dict[str, Any]:
    """calibration.json's content."""
    found, project, threshold = mixture.found, asked.project, _threshold(run.settings)
    verified = run.settings.verify.verify
    verdict = verdicts(found, given, project.distinct)
    asked_of = projection_of(found, verdict, threshold, project)
    projection = asked_of if asked_of.share else replace(asked_of, share=ASSUMED_SHARE)
    points = curve(found, verdict, projection)
    picked, refusal = None, None
    if project.target_precision is not None:
        try:
            picked = {"target": project.target_precision, **pick(points, found, asked_of, project)}
        except ConfigError as error:
            refusal = error
    name = Path(facts["root"]).name
    report = {
        "version": __version__,
        "command": _command(name, found.sample, asked),
        "date": facts["date"],
        "data": {"root": facts["root"], "name": name, "shards": facts["shards"], "images": found.images,
                 "embedder": run.document["embedder"]["name"]},
        "settings": run.settings.to_json(),
        "sample": {**asdict(asked.plant), "transforms": list(asked.plant.transforms)},
        "project": asdict(project),
        "threshold": {"name": "min_probability" if verified else "min_cosine",
                      "value": threshold if math.isfinite(threshold) else None,
                      "text": _threshold_text(run.settings)},
        "projection": asdict(projection),
        "labels": labelling.shares(shown, given),
        "search": run.document.get("recall"),
        "picked": picked,
        "refused": None if refusal is None else str(refusal),
        **calibration_report.measured(found, verdict, threshold, projection, points, verified=verified),
    }  # fmt: skip
    report["share"]["source"] = _share_source(asked_of.share, project)
    if picked is not None:
        report["picked"]["measured"] = _measured(report)
    return report


def _command(name: str, sample: int, asked: Asked) -> str:
    share = asked.project.duplicate_share
    options = [f"--images {sample}", f"--copies {asked.plant.copies}"]
    options += ["--distinct"] * asked.project.distinct + ([] if share is None else [f"--duplicate-share {share:g}"])
    return f"dedup calibrate {name} {' '.join(options)}"


def _share_source(share: float, project: ProjectSettings) -> str:
    if project.duplicate_share is not None:
        return "as you say"
    return "as found in the set" if share else "assumed, for none were found in the set"


def _threshold_text(settings: RunSettings) -> str:
    verify = settings.verify
    if verify.accepts_from > 1:
        return f"identical files only ({verify.strictness})"
    if not verify.verify:
        return "no verification, accepting by scores"
    by = verify.strictness if verify.min_probability is None else "set by you"
    return f"pairs accepted from a probability of {verify.accepts_from:g} on ({by})"


def _measured(report: dict[str, Any]) -> str:
    """What a run with the picked threshold says of it."""
    picked, data = report["picked"], report["data"]
    return (
        f"{picked['recall']:.1%} of {report['recall'][-1]['copies']} planted copies found, precision at least "
        f"{picked['precision_low']:.2%} projected to {report['projection']['images']} images; dedup calibrate on "
        f"{data['images']} images of {data['name']}, {report['date']}"
    )


def _write(folder: RunFolder, report: dict[str, Any], sheets: dict[str, list[Any]], threshold: float) -> None:
    folder.write_json(REPORT, report)
    picked = report["picked"]
    image = calibration_report.plot(report["curve"], threshold, None if picked is None else picked["threshold"])
    folder.write_bytes("curve.png", image)
    rows = report["curve"]
    folder.write_bytes("curve.csv", write_labels(rows, tuple(rows[0])).encode())
    folder.write_bytes(PAGE, calibration_report.page(report, image, sheets).encode())
    folder.write_bytes(MARKDOWN, calibration_report.markdown(report).encode())
    folder.remove(THRESHOLDS)
    if picked is not None:
        folder.write_bytes(THRESHOLDS, _toml(report).encode())


def _toml(report: dict[str, Any]) -> str:
    """The options of a run that take the picked threshold up."""
    picked, name = report["picked"], report["threshold"]["name"]
    options = {"embedder": report["data"]["embedder"], name: picked["threshold"]}
    options |= {"calibrated_on": picked["measured"]} if name == "min_probability" else {"verify": False}
    lines = [f"# Picked by dedup calibrate for a precision of {picked['target']:g}: {picked['measured']}"]
    lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in options.items()]
    return "\n".join(lines) + "\n"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def text(report: dict[str, Any], out: str) -> str:
    """The report for a terminal."""
    total, pairs, here = report["recall"][-1], report["pairs"], report["operating_points"][0]
    weakest = sorted(report["recall"][:-1], key=lambda row: row["grouped_recall"])[:3]
    lines = [
        f"sample    {pairs['sample']:,} of {pairs['images']:,} images, {total['copies']:,} copies planted",
        f"accepts   {report['threshold']['text']}",
        f"recall    {total['grouped_recall']:.1%} of the copies in the group of their original "
        f"({total['grouped_low']:.1%} to {total['grouped_high']:.1%}), {total['direct_recall']:.1%} by a direct pair",
        "weakest   " + ", ".join(f"{row['transform']} {row['grouped_recall']:.0%}" for row in weakest),
        f"pairs     of {pairs['possible']:,} of different pictures {pairs['false']} are false, {pairs['same']} same "
        f"after all, {pairs['open']} to be looked at; at most {pairs['rate_high']:.2g} per pair are false",
    ]
    lines.append(
        f"precision {_share(here['precision'])}, at least {_share(here['precision_low'])}, in a run over "
        f"{report['projection']['images']:,} images of which {report['share']['value']:.2%} are copies "
        f"({report['share']['source']})"
    )
    lines += [
        f"labels    {row['what']}: {row['yes']} of {row['yes'] + row['no']} the same picture "
        f"({row['low']:.1%} to {row['high']:.1%})"
        for row in report["labels"]
        if row["share"] is not None
    ]
    if picked := report["picked"]:
        lines.append(f"picked    {picked['threshold']:g}: {picked['measured']}")
        lines.append(f"settings  dedup run SHARDS --config {out}/{THRESHOLDS}")
    return "\n".join([*lines, f"report    {out}/{PAGE}"])
