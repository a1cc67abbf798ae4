"""Embedders: equal rows whatever the threads and batches, real loading code on tiny weights, clear errors.

No test needs a network: tiny models are made here, saved, and loaded as a user's own checkpoints are.
"""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import huggingface_hub
import numpy as np
import open_clip
import pytest
import skimage.data
import timm
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from timm.data import ImageNetInfo
from torch import nn

from dedup import efficientnet, embedders
from dedup.embedders import EMBEDDERS, Embedder, resolve
from dedup.errors import ConfigError, EmbedderError
from dedup.inference import TorchRunner

TINY_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 1},
}


@cache
def on_cpu(name: str, threads: int) -> Embedder:
    embedder = resolve(name, "cpu", threads)
    assert embedder is not None
    return embedder


def lite0(threads: int = 2) -> Embedder:
    return on_cpu("efficientnet_lite0", threads)


@cache
def photographs(side: int = 128) -> np.ndarray:
    """(24, side, side, 3) uint8: crops of photographs that scikit-image and scikit-learn ship."""
    data = skimage.data
    whole = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket(), *load_sample_images().images]
    crops = [a[i : i + 200, i * 2 : i * 2 + 250] for a in whole for i in (0, 30, 60, 90)]
    return np.stack([np.asarray(Image.fromarray(a).resize((side, side))) for a in crops])


def rows_of(embedder: Embedder, *batches: np.ndarray) -> np.ndarray:
    return np.concatenate(list(embedder.embed(batches)))


def offline(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, tuple[str, Path]]]:
    """Name and weights' file of one tiny embedder per family that loads files."""
    folder = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    (folder / "tiny-clip.json").write_text(json.dumps(TINY_CLIP))
    open_clip.add_model_config(folder / "tiny-clip.json")
    torch.save(open_clip.create_model("tiny-clip", pretrained_text=False).state_dict(), folder / "clip.pt")
    torch.save(timm.create_model("test_resnet", pretrained=False).state_dict(), folder / "timm.pt")
    copies = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.jit.script(copies).save(folder / "sscd.torchscript.pt")
    yield {
        "clip": (f"clip:tiny-clip/{folder}/clip.pt", folder / "clip.pt"),
        "sscd": (f"sscd:{folder}/sscd.torchscript.pt", folder / "sscd.torchscript.pt"),
        "timm": (f"timm:test_resnet/{folder}/timm.pt", folder / "timm.pt"),
        "efficientnet_lite0": ("efficientnet_lite0", efficientnet.weights_path()),
    }
    open_clip.factory._MODEL_CONFIG_PATHS.remove(folder / "tiny-clip.json")
    open_clip.factory._rescan_model_configs()


@pytest.mark.parametrize("family", EMBEDDERS)
def test_every_embedder_keeps_the_contract(family: str, tiny: dict[str, tuple[str, Path]]) -> None:
    name, weights = tiny[family]
    embedder = on_cpu(name, 2)
    assert (embedder.name, embedder.device, embedder.threshold) == (name, "cpu", None)
    assert embedder.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()
    pictures = photographs(embedder.image_size)[: embedder.batch_size]
    full, short, single = embedder.embed([pictures, pictures[:3], pictures[5:6]])
    assert full.shape == (len(pictures), embedder.dim)
    assert full.dtype == np.float32
    assert np.allclose(np.linalg.norm(full, axis=1), 1, atol=1e-6)
    assert np.array_equal(short, full[:3])
    assert np.array_equal(single, full[5:6])
    network, spec = EMBEDDERS[family](name.partition(":")[2], "cpu")
    assert (rows_of(TorchRunner(network, spec, "cpu"), pictures) * full).sum(1).min() > 1 - 1e-5
    assert list(embedder.embed([])) == []


def test_clip_rows_are_open_clips_own(tiny: dict[str, tuple[str, Path]]) -> None:
    name, weights = tiny["clip"]
    embedder = on_cpu(name, 2)
    model, _, preprocess = open_clip.create_model_and_transforms("tiny-clip", pretrained=str(weights))
    pictures = photographs(32)[:4]
    with torch.inference_mode():
        expected = model.eval().encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in pictures]), True)
    assert np.allclose(rows_of(embedder, pictures), expected.numpy(), atol=1e-5)


def test_the_embedded_network_knows_what_it_sees() -> None:
    names = ImageNetInfo()
    pictures = [skimage.data.chelsea(), skimage.data.coffee()]
    pixels = np.stack([np.asarray(Image.fromarray(p).resize((224, 224))) for p in pictures]) / 255
    normalised = (pixels - efficientnet.MEAN) / efficientnet.STD
    with torch.inference_mode():
        chances = efficientnet.classifier()(torch.from_numpy(normalised).permute(0, 3, 1, 2).float()).softmax(1)
    assert [names.index_to_description(int(i)) for i in chances.argmax(1)] == ["Egyptian cat", "espresso"]
    assert chances.amax(1).min() > 0.7  # with the padding of the other variant it is 0.67 for the cat


def test_features_are_the_pooled_last_block() -> None:
    x = torch.from_numpy(photographs()[:2]).permute(0, 3, 1, 2).float() / 255 * 2 - 1
    network = efficientnet.classifier()
    with torch.inference_mode():
        blocks = network.blocks(network.bn1(network.conv_stem(x)))  # type: ignore[operator]
        expected = blocks.clamp_min(1e-6).pow(3).mean((2, 3)).pow(1 / 3)
        assert torch.allclose(efficientnet.Features()(x), expected, atol=1e-5)


def test_rows_do_not_depend_on_threads_or_neighbours() -> None:
    pictures = photographs()
    one, two = lite0(1), lite0(2)
    rows = rows_of(one, pictures[:16], pictures[16:])
    assert np.array_equal(rows_of(two, pictures[:16], pictures[16:]), rows)
    assert np.array_equal(rows_of(two, *np.array_split(pictures[::-1], 5))[::-1], rows)


def test_copies_are_closer_than_other_photographs() -> None:
    others = photographs()[::4]
    smaller = [np.asarray(Image.fromarray(p).resize((64, 64)).resize((128, 128))) for p in others]
    cosines = rows_of(lite0(), others) @ rows_of(lite0(), np.stack(smaller)).T
    assert cosines.diagonal().min() > 0.85
    assert cosines[~np.eye(len(others), dtype=bool)].max() < 0.75


@pytest.mark.parametrize("threads", [1, 2])
def test_running_ahead_is_bounded(threads: int) -> None:
    taken = 0

    def batches() -> Iterator[np.ndarray]:
        nonlocal taken
        for start in range(12):
            taken += 1
            yield photographs()[start : start + 1]

    for given, _ in enumerate(lite0(threads).embed(batches()), 1):
        assert taken - given <= threads + 1


def test_two_threads_may_share_an_embedder() -> None:
    pictures = photographs()
    expected = rows_of(lite0(2), pictures[:12], pictures[12:])
    found: dict[int, np.ndarray] = {}
    jobs = [
        threading.Thread(target=lambda i=i: found.update({i: rows_of(lite0(2), pictures[:12], pictures[12:])}))
        for i in range(2)
    ]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join()
    assert all(np.array_equal(found[i], expected) for i in range(2))


def test_leaving_early_and_a_failing_source_are_harmless() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield photographs()[:4]
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        rows_of(lite0(), *broken())
    rows = lite0().embed(photographs()[i : i + 1] for i in range(9))
    first = next(rows)
    rows.close()  # type: ignore[attr-defined]
    assert np.array_equal(first, rows_of(lite0(), photographs()[:1]))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (np.zeros((1, 64, 64, 3), np.uint8), r"\(1, 64, 64, 3\)"),
        (np.zeros((1, 128, 128, 3), np.float32), "float32"),
        (np.zeros((0, 128, 128, 3), np.uint8), "1 to 16 pictures in a batch, not 0"),
        (np.zeros((17, 128, 128, 3), np.uint8), "1 to 16 pictures in a batch, not 17"),
    ],
)
def test_a_batch_of_another_shape_is_refused(batch: np.ndarray, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rows_of(lite0(), batch)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("resnet", ConfigError, "auto, none, clip, efficientnet_lite0, sscd, timm"),
        ("efficientnet_lite0:large", ConfigError, "no variants"),
        ("clip:ViT-Z-99/openai", ConfigError, "ViT-Z-99"),
        ("clip:ViT-B-32", ConfigError, "laion2b_s34b_b79k"),
        ("clip:ViT-B-32//nowhere/weights.pt", EmbedderError, "/nowhere/weights.pt is neither.*efficientnet_lite0"),
        ("sscd", ConfigError, "sscd:<file>"),
        ("sscd:/nowhere/sscd.pt", EmbedderError, "/nowhere/sscd.pt.*local file.*efficientnet_lite0"),
        ("timm:no_such_model", ConfigError, "no_such_model"),
        ("timm:test_resnet//nowhere.pt", EmbedderError, "/nowhere.pt"),
    ],
)
def test_a_name_that_cannot_be_resolved_says_what_to_do(name: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        resolve(name, "cpu")


@pytest.mark.parametrize("family", ["clip", "sscd", "timm"])
def test_a_file_without_the_weights_is_refused(family: str, tiny: dict[str, tuple[str, Path]], tmp_path: Path) -> None:
    name, weights = tiny[family]
    other = tmp_path / "other.pt"
    torch.save({"weight": torch.zeros(3)}, other)
    with pytest.raises(EmbedderError, match=r"other\.pt does not hold the weights.*efficientnet_lite0"):
        resolve(name.replace(str(weights), str(other)), "cpu")


@pytest.mark.parametrize("name", ["clip", "clip:ViT-B-32-quickgelu/openai", "timm:test_resnet.r160_in1k"])
def test_weights_that_cannot_be_had_name_the_ways_out(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offline(monkeypatch, tmp_path)
    with pytest.raises(EmbedderError, match=r"cannot get the weights from .*local file.*efficientnet_lite0"):
        resolve(name, "cpu")


def test_weights_in_the_hubs_cache_need_no_network(
    tiny: dict[str, tuple[str, Path]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    offline(monkeypatch, tmp_path)
    weights = tiny["timm"][1]

    def cached(repository: str, file: str) -> str | None:
        return str(weights) if (repository, file) == ("timm/test_resnet.r160_in1k", "pytorch_model.bin") else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    _, spec = EMBEDDERS["timm"]("test_resnet.r160_in1k", "cpu")
    assert spec.weights_sha256 == hashlib.sha256(weights.read_bytes()).hexdigest()


def test_auto_falls_back_to_the_embedded_model(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def clip(_argument: str, _device: str) -> tuple[nn.Module, embedders.Spec]:
        asked.append("clip")
        raise EmbedderError("no weights")

    class Fake:
        def __init__(self, _network: nn.Module, spec: embedders.Spec, *_where: object, half: bool = False) -> None:
            self.name, self.half = spec.name, half

    monkeypatch.setitem(EMBEDDERS, "clip", clip)
    monkeypatch.setattr(embedders, "TorchRunner", Fake)
    monkeypatch.setattr(embedders, "OpenVinoRunner", Fake)
    with caplog.at_level(logging.WARNING):
        without = resolve("auto", "cpu", threads=1)
        assert without is not None
        assert (without.name, asked, caplog.records) == ("efficientnet_lite0", [], [])
        on_cuda = resolve("auto", "cuda")
        assert on_cuda is not None
        assert (on_cuda.name, asked) == ("efficientnet_lite0", ["clip"])
    assert ["no weights" in record.message for record in caplog.records] == [True]


def test_none_is_no_embedder() -> None:
    assert resolve("none") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("family", EMBEDDERS)
def test_cuda_agrees_with_the_cpu(family: str, tiny: dict[str, tuple[str, Path]]) -> None:
    reference, on_cuda = on_cpu(tiny[family][0], 2), resolve(tiny[family][0], "cuda")
    assert on_cuda is not None
    pictures = photographs(reference.image_size)[:16]
    first, again = on_cuda.embed([pictures, pictures])
    assert np.array_equal(first, again)
    tolerance = 1e-3 if family == "efficientnet_lite0" else 1e-2  # the others run in half precision
    assert (rows_of(reference, pictures) * first).sum(1).min() > 1 - tolerance


def freshly_resolved() -> Embedder:
    """Not `on_cpu`, which would give the object of an earlier test."""
    embedder = resolve("efficientnet_lite0", "cpu", 1)
    assert embedder is not None
    return embedder


def test_the_kept_model_gives_the_rows_of_the_one_just_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pictures = photographs(128)[:5]
    made = rows_of(freshly_resolved(), pictures)
    kept = list(tmp_path.rglob("model.xml"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    assert np.array_equal(rows_of(freshly_resolved(), pictures), made)
    assert kept[0].stat().st_mtime_ns == before


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    pictures = photographs(128)[:2]
    assert rows_of(freshly_resolved(), pictures).shape == (2, 320)
