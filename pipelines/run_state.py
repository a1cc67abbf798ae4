"""run.json: what a run was asked, what it read and how far it came. Opening a folder again resumes it, or refuses."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from typing import Any

from dedup import candidates, describe, verify
from dedup.decisions import DecideSettings
from dedup.errors import ConfigError, DedupError, ManifestError
from dedup.manifest import manifest_name
from dedup.overrides import Overrides, absolute, read_overrides
from dedup.records import Shard
from dedup.run_folder import RUN_FILE, RunFolder, fingerprint
from dedup.shards import list_shards
from dedup.verification_model import MODELS
from pipelines.settings import RunSettings

STEPS = ("describe", "search", "verify", "decide")
FORMAT = 1  # of the run folder; a change makes older folders refuse to resume
_REPORTED_PACKAGES = (
    "dedup", "torch", "torchvision", "open_clip_torch", "timm", "faiss-gpu", "faiss-cpu", "openvino", "pillow",
    "opencv-python-headless", "numpy", "pyarrow", "dask", "webdataset", "ImageHash",
)  # fmt: skip


@dataclass
class Run:
    """A run folder with its settings and input. `document` is run.json as it stands."""

    folder: RunFolder
    settings: RunSettings
    shards: list[Shard]
    skip_bad_shards: bool = False
    document: dict[str, Any] = field(default_factory=dict)
    overrides: Overrides | None = None  # those of the next decision; None: none is to be made

    @classmethod
    def open(
        cls,
        out: str,
        patterns: Sequence[str],
        settings: RunSettings,
        *,
        root: str | None = None,
        skip_bad_shards: bool = False,
        also: Sequence[Shard] = (),
    ) -> Run:
        """Start a run in `out`, or resume the one that is there. `also` are shards that lie elsewhere.

        Raises ConfigError where the folder holds a run with other settings, naming each difference.
        """
        folder = RunFolder(out)
        settings = _with_absolute_overrides(settings)
        if out.startswith("memory:"):
            raise ConfigError(f"{out}: each worker would have a memory of its own; choose a folder that all can reach")
        with _as_output(out):
            document = _begun(folder)
        if document is None:
            root, shards = list_shards(patterns, root)
            document = {"format": FORMAT, "root": root, "asked": settings.to_json(), "steps": {}}
        else:
            _check_format(out, document)
            if root is not None and root.rstrip("/") != document["root"]:
                raise ConfigError(
                    f"{out} was made with root={document['root']}, now {root}: sample ids would change; leave --root "
                    "out, or choose another output folder"
                )
            _refuse_other_settings(out, document["asked"], settings.to_json())
            root, shards = list_shards(patterns, document["root"])
            if settings.describe.embedder == "auto" and "embedder" in document:
                settings = _with_embedder(settings, document["embedder"]["name"])
        elsewhere = {shard.url for shard in also}
        shards = [*(shard for shard in shards if shard.url not in elsewhere), *also]
        overrides = read_overrides(folder, settings.decide.overrides)
        run = cls(folder, settings, shards, skip_bad_shards, document, overrides)
        document["versions"] = _versions()
        document["patterns"] = list(patterns)
        document["settings"] = settings.to_json()
        if not document["steps"]:
            # A folder that holds results stays as it is until the embedder, too, is known to be theirs.
            with _as_output(out):
                run.save()
        return run

    @classmethod
    def reopen(cls, out: str) -> Run:
        """A run as it stands, for what needs no new input. Raises ManifestError where there is none."""
        folder = RunFolder(out)
        document = folder.read_json(RUN_FILE)
        if document is None:
            raise ManifestError(f"{out} is no run folder: it has no {RUN_FILE}")
        _check_format(out, document)
        if "verify" not in document["steps"]:
            raise ManifestError(f"the run in {out} is unfinished; start it again with the same settings to finish it")
        shards = [Shard(**{name: entry[name] for name in Shard.__dataclass_fields__}) for entry in document["shards"]]
        return cls(folder, RunSettings.from_json(document["settings"]), shards, document=document)

    def unfinished(self) -> ManifestError:
        """Why what needs a finished run cannot go on."""
        how = "is unfinished; start it again with the same settings to finish it"
        if self.of_other_version():
            how = (
                "was made by another version of dedup, whose descriptors are others; start it again with the same "
                "settings, and its shards are described anew"
            )
        return ManifestError(f"the run in {self.folder.url} {how}")

    def of_other_version(self) -> bool:
        """Whether all shards were described, but not as this version of dedup does it."""
        before = self.document["steps"].get("describe")
        return before is not None and before["fingerprint"] != self.step_fingerprint("describe")

    def save(self) -> None:
        self.folder.write_json(RUN_FILE, self.document)

    def resolve_embedder(self, facts: Mapping[str, Any]) -> None:
        """Fix what `auto` came to; `facts` has the embedder's name, dim, weights_sha256 and threshold.

        Raises ConfigError where the folder's descriptors were made by another embedder or other weights.
        """
        before = self.document.get("embedder")
        if before is not None:
            for key in ("name", "weights_sha256", "dim"):
                if before[key] != facts[key]:
                    raise ConfigError(
                        f"{self.folder.url} was made with embedder {key}={before[key]}, now {facts[key]}: "
                        "choose another output folder, or the same embedder"
                    )
        self.settings = _with_embedder(self.settings, facts["name"])
        self.document["embedder"] = dict(facts)
        self.document["settings"] = self.settings.to_json()
        self.save()

    def step_fingerprint(self, step: str) -> str:
        """Equal exactly when the step would give the same result: its own settings and all that it builds on."""
        settings = self.settings.to_json()
        chain: list[object] = [FORMAT, describe.VERSION, settings["describe"]]
        chain.append(self.document.get("embedder", {}).get("weights_sha256"))
        if step == "describe":
            return fingerprint(*chain)
        chain += [candidates.VERSION, settings["search"], self.settings.verify.looks]
        chain.append([(entry["shard_id"], entry["sha256"]) for entry in self.document["shards"]])
        if step in ("verify", "decide"):
            # A refit or another operating point judges every pair anew, and so does other evidence.
            chain += [settings["verify"], self.settings.verify.accepts_from, repr(MODELS), verify.VERSION]
        if step == "decide":
            chain += [settings["decide"], self._overrides_sha256()]
        return fingerprint(step, *chain)

    def _overrides_sha256(self) -> str | None:
        if self.overrides is None:
            return (self.document.get("overrides") or {}).get("sha256")
        return self.overrides.sha256

    def is_finished(self, step: str) -> bool:
        """Whether the step's result is there, whole, and made under the same settings from the same input."""
        if self.document["steps"].get(step, {}).get("fingerprint") != self.step_fingerprint(step):
            return False
        if step == "decide":
            return {manifest_name(shard.shard_id) for shard in self.shards} <= set(self.folder.names("manifest"))
        return True

    def set_decision(self, decision: DecideSettings) -> None:
        """Other settings for the last step alone. Raises ConfigError where their overrides cannot be read."""
        self.settings = _with_absolute_overrides(replace(self.settings, decide=decision))
        self.overrides = read_overrides(self.folder, self.settings.decide.overrides)
        for which in ("asked", "settings"):
            self.document[which]["decide"] = self.settings.to_json()["decide"]

    def start(self, step: str) -> None:
        """From here on the step and all after it count as unfinished."""
        for name in STEPS[STEPS.index(step) :]:
            self.document["steps"].pop(name, None)
        self.save()

    def finish(self, step: str, **facts: Any) -> None:
        """The step is whole; `facts` are kept beside its fingerprint."""
        self.document["steps"][step] = {"fingerprint": self.step_fingerprint(step), **facts}
        self.save()


def _begun(folder: RunFolder) -> dict[str, Any] | None:
    """run.json of a run that has come as far as a descriptor, else None."""
    document = folder.read_json(RUN_FILE)
    return document if document is None or document["steps"] or folder.names("descriptors") else None


@contextlib.contextmanager
def _as_output(out: str) -> Iterator[None]:
    """Turns whatever its filesystem raises into a ConfigError that names `out`; each has errors of its own."""
    try:
        yield
    except DedupError:
        raise
    except Exception as error:
        raise ConfigError(f"{out} cannot hold a run ({type(error).__name__}: {error}); choose another OUT") from error


def _with_embedder(settings: RunSettings, name: str) -> RunSettings:
    return replace(settings, describe=replace(settings.describe, embedder=name))


def _with_absolute_overrides(settings: RunSettings) -> RunSettings:
    """Later commands may be given in another folder."""
    return replace(settings, decide=replace(settings.decide, overrides=absolute(settings.decide.overrides)))


def _check_format(out: str, document: Mapping[str, Any]) -> None:
    if document.get("format") != FORMAT:
        raise ConfigError(
            f"{out} was written by another version of dedup (format {document.get('format')}, this is {FORMAT}): "
            "choose another output folder"
        )


def _refuse_other_settings(out: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    differences = [
        f"{step}.{name}: {before.get(step, {}).get(name)!r} in the run, {value!r} asked"
        for step, values in now.items()
        for name, value in values.items()
        if (step, name) != ("describe", "embedder")  # compared once `auto` is resolved
        if before.get(step, {}).get(name) != value
    ]
    if not differences:
        return
    hint = "choose another output folder (OUT=...)"
    if all(difference.startswith("decide.") for difference in differences):
        hint = f"`dedup decide {out}` redoes only the decision; or {hint}"
    raise ConfigError(f"{out} holds a run with other settings:\n  " + "\n  ".join(differences) + f"\n{hint}")


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def shard_entry(shard: Shard, facts: Mapping[str, Any]) -> dict[str, Any]:
    """How run.json records an input shard: where it is, its size, checksum and counts."""
    return {**asdict(shard), **facts}
