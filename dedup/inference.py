"""Running a network over batches of pictures: OpenVINO on CPUs, torch on every other device.

Both take and give the same, and both give the same row for the same picture, however many threads, batches or
workers there are: batches have one fixed size (short ones are padded), and on CPUs one request runs on one thread.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino
import torch
from torch import nn
from torch.nn import functional

from dedup.errors import ConfigError
from dedup.run_folder import fingerprint

logger = logging.getLogger(__name__)

# A network, or what makes it: then its converted form is kept in the user's cache folder, and made again only where
# spec, libraries or sources differ, for making takes twenty times as long as reading.
Network = nn.Module | Callable[[], nn.Module]


@dataclass(frozen=True)
class Threshold:
    """The cosine from which two pictures count as copies, as measured for one embedder.

    `precision` is the share of true copies among the pairs at `min_cosine` or above, on `data`, measured on `date`
    (ISO 8601).
    """

    min_cosine: float
    precision: float
    data: str
    date: str


@dataclass(frozen=True)
class Spec:
    """What tells one embedder from another.

    `name` is fully resolved: `resolve(name)` gives the same embedder again. `dim` is the length of a row,
    `image_size` the side in pixels of the squashed square pictures it takes, `batch_size` how many pictures one
    request holds, `weights_sha256` the hex digest of the weights' file. `threshold` is None until measured.
    """

    name: str
    dim: int
    image_size: int
    batch_size: int
    weights_sha256: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    threshold: Threshold | None = None


class Pictures(nn.Module):
    """(B, S, S, 3) uint8 RGB -> (B, dim) float32 rows of length 1, through `network` on (B, 3, S, S) normalised."""

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, network: nn.Module, spec: Spec) -> None:
        super().__init__()
        self.network = network
        scale = torch.tensor([1 / (255 * s) for s in spec.std])
        shift = torch.tensor([-m / s for m, s in zip(spec.mean, spec.std, strict=True)])
        self.register_buffer("scale", scale.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", shift.view(1, 3, 1, 1), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        x = pictures.permute(0, 3, 1, 2).float() * self.scale + self.shift
        rows: torch.Tensor = self.network(x).float()
        return functional.normalize(rows)


class _Runner:
    """What both runners share: the attributes of an embedder, and the contract of its batches."""

    def __init__(self, spec: Spec, device: str) -> None:
        self.spec = spec
        self.device = device
        self.name = spec.name
        self.dim = spec.dim
        self.image_size = spec.image_size
        self.batch_size = spec.batch_size
        self.weights_sha256 = spec.weights_sha256
        self.threshold = spec.threshold

    def _check(self, batch: npt.NDArray[np.uint8]) -> None:
        expected = (self.image_size, self.image_size, 3)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected:
            raise ConfigError(f"{self.name} takes batches (n, {expected}) of uint8, not {batch.shape} of {batch.dtype}")
        if not 1 <= len(batch) <= self.batch_size:
            raise ConfigError(f"{self.name} takes 1 to {self.batch_size} pictures in a batch, not {len(batch)}")


class OpenVinoRunner(_Runner):
    """On CPUs. `threads` is the number of cores that this process may use for it; the rows do not depend on it."""

    def __init__(self, network: Network, spec: Spec, threads: int) -> None:
        super().__init__(spec, "cpu")
        if threads < 1:
            raise ConfigError(f"{threads} threads for {spec.name}: give at least 1")
        model = _converted(network, spec) if isinstance(network, nn.Module) else _cached(network, spec)
        self._compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "PERFORMANCE_HINT": "THROUGHPUT",
                "INFERENCE_PRECISION_HINT": "f32",  # bf16, the default on some CPUs, gives other rows there
                "ENABLE_CPU_PINNING": False,  # pinned, the workers of one machine would all share its first cores
                # As many streams as threads: one thread per request, so that nothing is summed in another order.
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": threads,
            },
        )
        self._ahead = threads + 1  # one more than can run, so that no thread waits for the caller's next batch

    def embed(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float32]]:
        """(n, S, S, 3) uint8 RGB each, 1 <= n <= batch_size -> (n, dim) float32 each, rows of length 1, in order.

        Requests run while `batches` makes the next batch; at most `threads` + 1 of them are under way. Raises
        ConfigError for a batch of another shape.
        """
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        free = []
        for _ in range(self._ahead):
            request, pixels = self._compiled.create_infer_request(), np.zeros(shape, np.uint8)
            request.set_input_tensor(openvino.Tensor(pixels, shared_memory=True))
            free.append((request, pixels))
        running: deque[tuple[openvino.InferRequest, npt.NDArray[np.uint8], int]] = deque()

        def oldest() -> npt.NDArray[np.float32]:
            request, pixels, count = running.popleft()
            request.wait()
            rows = np.array(request.get_output_tensor().data[:count], np.float32)
            free.append((request, pixels))
            return rows

        try:
            for batch in batches:
                self._check(batch)
                if not free:
                    yield oldest()
                request, pixels = free.pop()
                pixels[: len(batch)] = batch
                pixels[len(batch) :] = 0
                request.start_async()
                running.append((request, pixels, len(batch)))
            while running:
                yield oldest()
        finally:
            for request, _, _ in running:  # left early: the requests still read our buffers
                request.wait()


def _converted(network: nn.Module, spec: Spec) -> openvino.Model:
    return _convert(Pictures(network, spec).eval(), (spec.batch_size, spec.image_size, spec.image_size, 3))


def _cached(make: Callable[[], nn.Module], spec: Spec) -> openvino.Model:
    folder = cache_folder() / "models" / _cache_key(make, spec)
    if not (folder / "model.xml").exists():
        with tempfile.TemporaryDirectory() as aside:
            model = _converted(make(), spec)
            openvino.save_model(model, Path(aside) / "model.xml", compress_to_fp16=False)
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                half = Path(tempfile.mkdtemp(dir=folder.parent))
                shutil.copytree(aside, half, dirs_exist_ok=True)
                half.rename(folder)
            except OSError as error:  # not writable, or another process was sooner
                logger.debug("converted model not kept in %s: %s", folder, error)
                return model
    return openvino.Core().read_model(folder / "model.xml")


def _cache_key(make: Callable[[], nn.Module], spec: Spec) -> str:
    sources = [Path(inspect.getfile(source)).read_text(encoding="utf-8") for source in (make, Pictures)]
    return fingerprint(asdict(spec), torch.__version__, openvino.__version__, *sources)


def cache_folder() -> Path:
    """Where this user's programs may keep what they can make again (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dedup"


def _convert(module: nn.Module, shape: tuple[int, int, int, int]) -> openvino.Model:
    example = torch.zeros(shape, dtype=torch.uint8)
    with torch.no_grad():
        if any(isinstance(part, torch.jit.ScriptModule) for part in module.modules()):  # which cannot be exported
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated, yet SSCD comes in it
                return openvino.convert_model(module, example_input=example, input=[shape])
        return openvino.convert_model(torch.export.export(module, (example,)))  # a third of the time of tracing


class TorchRunner(_Runner):
    """On any torch device; on CUDA, where `half` is set, in bfloat16 (float16 where the device lacks that)."""

    def __init__(self, network: Network, spec: Spec, device: str, half: bool = False) -> None:
        super().__init__(spec, device)
        made = network if isinstance(network, nn.Module) else network()
        self._module = Pictures(made, spec).eval().to(device)
        self._type: torch.dtype | None = None
        if half and device.startswith("cuda"):
            self._type = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16

    def embed(self, batches: Iterable[npt.NDArray[np.uint8]]) -> Iterator[npt.NDArray[np.float32]]:
        """As `OpenVinoRunner.embed`; one batch is under way on the device while `batches` makes the next one."""
        waiting: deque[tuple[torch.Tensor, int]] = deque()
        for batch in batches:
            self._check(batch)
            waiting.append((self._start(batch), len(batch)))
            if len(waiting) > 1:
                yield self._finish(*waiting.popleft())
        while waiting:
            yield self._finish(*waiting.popleft())

    def _start(self, batch: npt.NDArray[np.uint8]) -> torch.Tensor:
        pixels = np.zeros((self.batch_size, *batch.shape[1:]), np.uint8)
        pixels[: len(batch)] = batch
        on_device = torch.from_numpy(pixels).to(self.device)
        with torch.inference_mode():
            if self._type is None:
                rows: torch.Tensor = self._module(on_device)
                return rows
            with torch.autocast("cuda", dtype=self._type):  # pragma: no cover (CUDA)
                return self._module(on_device)  # type: ignore[no-any-return]

    @staticmethod
    def _finish(rows: torch.Tensor, count: int) -> npt.NDArray[np.float32]:
        return np.array(rows[:count].float().cpu().numpy(), np.float32)
