"""The command line: `dedup run SHARDS... --out OUT` and its companions."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pyarrow.parquet as pq
from cyclopts import App, Parameter
from cyclopts.config import Toml

from dedup import __version__
from dedup.calibrate import PlantSettings
from dedup.describe import DescribeSettings
from dedup.errors import ConfigError, DedupError
from dedup.export import export
from dedup.manifest import read_manifest
from dedup.operating_curve import ProjectSettings
from dedup.planting import score
from dedup.rewrite import CleanSettings
from pipelines import calibrate, clean, download, explain, sample, summary
from pipelines.attack_options import AttackOptions
from pipelines.client import ClusterSettings
from pipelines.deduplicate import deduplicate, redecide
from pipelines.download import DownloadSettings
from pipelines.run_state import Run
from pipelines.settings import FLAT, RunSettings
from pipelines.shuffle import quiet

logger = logging.getLogger("dedup")

RUN_DEFAULTS = RunSettings()
PLANT_DEFAULTS = PlantSettings()
PROJECT_DEFAULTS = ProjectSettings()
CLUSTER_DEFAULTS = ClusterSettings()
CLEAN_DEFAULTS = CleanSettings()
DOWNLOAD_DEFAULTS = DownloadSettings()
AS_PROFILED = AttackOptions()

app = App(
    name="dedup",
    version=__version__,
    help="Finds near-duplicate images in webdataset shards.",
    suppress_keyboard_interrupt=False,
)
app.meta.suppress_keyboard_interrupt = False  # `main` says what an interrupted run has kept


@app.command
def run(
    shards: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    *,
    out: str | None = None,
    root: str | None = None,
    skip_bad_shards: Annotated[bool, Parameter(negative=())] = False,
    settings: Annotated[RunSettings, FLAT] = RUN_DEFAULTS,
    cluster: Annotated[ClusterSettings, FLAT] = CLUSTER_DEFAULTS,
) -> None:
    """Clean webdataset shards: write a manifest that says of every sample whether to keep it, and why.

    Parameters
    ----------
    shards
        Tar files: paths, globs, braces ({00000..00099}), folders, @list.txt, or any fsspec URL.
    out
        Run folder, local or an fsspec URL; by default runs/ and a name made from SHARDS.
    root
        Sample ids are relative to this folder; by default the one that holds all shards.
    skip_bad_shards
        List unreadable shards in run.json and go on without them.
    """
    if not shards:
        raise ConfigError("no shards given: dedup run 'shards/{00000..00009}.tar' --out runs/mine")
    finished = deduplicate(
        shards, out or default_out(shards), settings, cluster, root=root, skip_bad_shards=skip_bad_shards
    )
    print(summary.text(finished))


@app.command
def decide(
    run: str,
    *,
    grouping: str | None = None,
    keep: str | None = None,
    keep_up_to: int | None = None,
    weights: str | None = None,
    captions: str | None = None,
    overrides: str | None = None,
    cluster: Annotated[ClusterSettings, FLAT] = CLUSTER_DEFAULTS,
) -> None:
    """Redo only the decision of a finished run, with other settings or overrides. What is not given stays as it was.

    Parameters
    ----------
    run
        The run folder.
    grouping
        star or components.
    keep
        Keep policy, as in `dedup run`.
    keep_up_to
        How many images of a group stay.
    weights
        none, inverse or inverse-sqrt: weigh instead of removing.
    captions
        keep, merge or longest: pool the captions of images that go at their keeper.
    overrides
        A CSV file of decisions by hand, none, or auto: overrides.csv of the run folder, if it is there.
    """
    asked: dict[str, Any] = {
        "grouping": grouping, "keep": keep, "keep_up_to": keep_up_to, "weights": weights, "captions": captions,
        "overrides": overrides,
    }  # fmt: skip
    before = Run.reopen(run).settings.decide
    decision = replace(before, **{name: value for name, value in asked.items() if value is not None})
    print(summary.text(redecide(run, decision, cluster)))


@app.command(name="explain")
def explain_sample(
    run: str,
    sample_id: str,
    *,
    show: Annotated[list[str] | None, Parameter(negative=(), consume_multiple=(0, 1))] = None,
) -> None:
    """Tell the story of one image: its status, keeper and group, the evidence, and where its bytes are.

    Parameters
    ----------
    run
        The run folder.
    sample_id
        As in the manifest: <shard id>/<key>.
    show
        Write the image beside those it was compared with to this PNG file, by default one named after the sample.
    """
    sheet = None if show is None else explain.sheet_file(sample_id, show)
    story = explain.explain(run, sample_id)
    print(explain.text(story))
    if sheet is not None:
        picture = explain.show(run, story)
        try:
            picture.save(sheet)
        except OSError as error:
            raise ConfigError(f"show={sheet} cannot be written: {error}") from error
        print(f"  shown in  {sheet}")


@app.command(name="export")
def export_manifest(run: str, *, to: str, out: str | None = None) -> None:
    """Write a finished run's manifest in a form that other tools read.

    Parameters
    ----------
    run
        The run folder.
    to
        csv, jsonl, duckdb-view (an SQL file of views) or hf-dataset-card (README.md of a Hugging Face dataset).
    out
        The file to write; by default manifest.csv, .jsonl or .sql, or README.md, in the current folder.
    """
    print(export(run, to, out))


@app.command(name="download")
def download_urls(
    urls: str,
    options: Annotated[tuple[str, ...], Parameter(negative=(), allow_leading_hyphen=True)] = (),
    *,
    out: str,
    settings: Annotated[DownloadSettings, FLAT] = DOWNLOAD_DEFAULTS,
) -> None:
    """Download a list of URLs into webdataset shards, by img2dataset; images are stored as they were served.

    Parameters
    ----------
    urls
        The list: parquet, csv, tsv, json, jsonl or txt, a file or a folder of files, local or an fsspec URL.
    options
        Options of img2dataset, after --: -- --timeout=5 --image_size=512. One that asks for decoded images ends the
        storing as served.
    out
        Where the shards go: a new folder, or one that an interrupted call began.
    """
    print(download.text(download.download(urls, out, options, settings), out))


@app.command(name="clean")
def clean_shards(
    run: str,
    *,
    out: str,
    settings: Annotated[CleanSettings, FLAT] = CLEAN_DEFAULTS,
    cluster: Annotated[ClusterSettings, FLAT] = CLUSTER_DEFAULTS,
) -> None:
    """Write cleaned shards of a finished run: all but its removed samples, every member byte for byte.

    Parameters
    ----------
    run
        The run folder.
    out
        Where the shards go, local or an fsspec URL: a new folder, or one that an interrupted call began.
    """
    print(clean.text(clean.clean(run, out, settings, cluster), out))


@app.command(name="calibrate")
def calibrate_on(
    shards: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    *,
    out: str | None = None,
    root: str | None = None,
    skip_bad_shards: Annotated[bool, Parameter(negative=())] = False,
    label: Annotated[bool, Parameter(negative=())] = False,
    labels: str | None = None,
    plant: Annotated[PlantSettings, FLAT] = PLANT_DEFAULTS,
    project: Annotated[ProjectSettings, FLAT] = PROJECT_DEFAULTS,
    settings: Annotated[RunSettings, FLAT] = RUN_DEFAULTS,
    cluster: Annotated[ClusterSettings, FLAT] = CLUSTER_DEFAULTS,
) -> None:
    """Measure precision and recall on your own images: plant copies of a sample, run, and report; removes nothing.

    Parameters
    ----------
    shards
        As in `dedup run`.
    out
        Folder of the report; by default runs/calibrate- and a name made from SHARDS.
    root
        As in `dedup run`.
    skip_bad_shards
        As in `dedup run`.
    label
        Ask on the terminal whether the pairs on the contact sheets are the same picture.
    labels
        A CSV with the columns a, b and same (yes, no or unsure) that answers for such pairs.
    """
    if not shards:
        raise ConfigError("no shards given: dedup calibrate 'shards/{00000..00009}.tar' --out runs/calibration")
    folder = out or default_out(shards).replace("runs/", "runs/calibrate-", 1)
    asked = calibrate.Asked(shards, settings, plant, project, root, skip_bad_shards)
    report = calibrate.calibrate(asked, folder, cluster, label=label, labels=labels)
    print(calibrate.text(report, folder))
    if report["refused"] is not None:
        raise ConfigError(report["refused"])


@app.command(name="attack")
def attack_models(
    run: str | None = None,
    *,
    out: str | None = None,
    profile: str = "standard",
    device: str = "auto",
    options: Annotated[AttackOptions, FLAT] = AS_PROFILED,
    cluster: Annotated[ClusterSettings, FLAT] = CLUSTER_DEFAULTS,
) -> None:
    """Measure how much less models leak of their training set once it is cleaned.

    Trains small models on a set with planted copies, before and after cleaning and on controls, and attacks them.

    Parameters
    ----------
    run
        A finished run folder, whose images are used; by default patches of photographs that dependencies ship.
    out
        Where attack.json, the matches and the plots go: a new or empty folder, or that of the same attack, which goes
        on; by default runs/attack-PROFILE.
    profile
        smoke (less than a minute), standard (half an hour on two cores) or full (for GPUs). The options below change
        what a profile sets.
    device
        auto, cpu or cuda.
    """
    from pipelines import attack, attack_summary  # here, because it takes seconds that other commands need not spend

    document = attack.run_profile(run, out or f"runs/attack-{profile}", profile, options, cluster, device)
    print(attack_summary.text(document))


@app.command(name="sample")
def clean_sample(
    *,
    out: str = "runs/sample",
    cluster: Annotated[ClusterSettings, FLAT] = CLUSTER_DEFAULTS,
) -> None:
    """Clean a small set of real photographs with planted copies, and tell how many of them were found.

    Parameters
    ----------
    out
        Where the shards and the run go.
    """
    folder = Path(out)
    truth = sample.write_sample(folder / "shards")
    finished = deduplicate(
        [str(folder / "shards")],
        str(folder / "run"),
        RunSettings(describe=DescribeSettings(embedder="efficientnet_lite0")),
        cluster,
    )
    print(summary.text(finished))
    print(score(read_manifest(finished.folder.url), pq.read_table(truth)))


@app.meta.default
def with_config(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], config: str | None = None
) -> None:
    """Reads --config before the rest.

    Parameters
    ----------
    config
        A TOML file with any of the options (min_cosine = 0.9); options on the command line win.
    """
    if config is not None and not Path(config).is_file():
        raise ConfigError(f"{config}: no such file; --config takes a TOML file")
    app.config = () if config is None else (Toml(config, search_parents=False, use_commands_as_keys=False),)
    app(tokens)


def default_out(shards: tuple[str, ...]) -> str:
    """runs/<name>, the same for the same SHARDS: their readable part and a checksum."""
    text = " ".join(shards)
    readable = re.sub(r"[^A-Za-z0-9]+", "-", re.sub(r"^.*://|\.tar", "", text)).strip("-")[-40:].strip("-")
    return f"runs/{readable}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point. Errors of this project end with their message and exit code 1, Ctrl-C with 130. Where whoever reads
    the output has seen enough (`| head`), the rest is left unsaid, and the exit code is 141, as a shell has it."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("distributed", "httpx", "huggingface_hub", "timm"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    quiet()
    try:
        try:
            app.meta(sys.argv[1:] if arguments is None else arguments)
        finally:
            sys.stdout.flush()  # here, where a closed pipe can still be handled
    except BrokenPipeError:
        os._exit(128 + signal.SIGPIPE)  # at once, as the signal would: nothing is left to say or to write
    except DedupError as error:
        print(f"dedup: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ndedup: interrupted; what is finished is kept, the same command goes on from there", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
