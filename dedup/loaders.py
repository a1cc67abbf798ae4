"""`keep` in other loaders than webdataset's: torch datasets, and Hugging Face `datasets`.

    KeptSamples(stream, "runs/mine")              of a torch IterableDataset, its samples with __key__ and __url__
    kept_subset(dataset, "runs/mine", sample_ids) of a torch Dataset, its rows named by sample_ids
    kept_rows(dataset, "runs/mine")               of datasets.load_dataset("webdataset", ...), map-style or streaming

The options and errors are those of `filters.keep`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch.utils import data

from dedup.errors import ManifestError
from dedup.filters import Keep

_T = TypeVar("_T")
_SampleT = TypeVar("_SampleT", bound=Mapping[str, Any])


class KeptSamples(data.IterableDataset[_SampleT]):
    """The samples of `source` that the run kept, in their order; `source` gives mappings with `__key__` and `__url__`.

    It divides nothing among loader workers: where `source` does, each worker filters its own part.
    """

    def __init__(
        self,
        source: Iterable[_SampleT],
        run: str | Path,
        *,
        drop_failed: bool = False,
        by_weight: bool = False,
        seed: int = 0,
        epoch: int = 0,
    ) -> None:
        self._source = source
        self._keep = Keep(run, drop_failed=drop_failed, by_weight=by_weight, seed=seed, epoch=epoch)

    def __iter__(self) -> Iterator[_SampleT]:
        return filter(self._keep, self._source)


def kept_subset(
    dataset: data.Dataset[_T],
    run: str | Path,
    sample_ids: Sequence[str],
    *,
    drop_failed: bool = False,
    by_weight: bool = False,
    seed: int = 0,
    epoch: int = 0,
) -> data.Subset[_T]:
    """The rows of a map-style `dataset` that the run kept; `sample_ids` (N,) names them, "<shard_id>/<key>" each.

    Raises ManifestError, beside what `filters.keep` raises, where `sample_ids` are not as many as the dataset's rows.
    """
    rows = len(dataset)  # type: ignore[arg-type]
    if rows != len(sample_ids):
        raise ManifestError(f"{len(sample_ids)} sample ids for a dataset of {rows} rows: give one for each")
    keep = Keep(run, drop_failed=drop_failed, by_weight=by_weight, seed=seed, epoch=epoch)
    return data.Subset(dataset, np.flatnonzero(keep.mask(sample_ids)).tolist())


def kept_rows(
    dataset: Any,
    run: str | Path,
    *,
    drop_failed: bool = False,
    by_weight: bool = False,
    seed: int = 0,
    epoch: int = 0,
) -> Any:
    """The rows of a Hugging Face `Dataset` or `IterableDataset` that the run kept, of the same kind.

    `dataset` is what `load_dataset("webdataset", ...)` gives, one split of it: it has `__key__` and `__url__`. Only
    images that pass are decoded. A `Dataset` must be made of files: those that the library downloads itself lose the
    names of their shards. Raises ManifestError for a dictionary of splits, where the columns are missing, and what
    `filters.keep` raises: of a `Dataset` at once, of an `IterableDataset` when it is read.
    """
    # Here, because only those who have such a dataset need the library.
    from datasets import DatasetDict, Image, IterableDataset, IterableDatasetDict

    if isinstance(dataset, DatasetDict | IterableDatasetDict):
        raise ManifestError(
            f"a dataset of the splits {', '.join(map(str, dataset))}: filter one of them, as in "
            "kept_rows(dataset[...], run), or load with split=..."
        )
    keep = Keep(run, drop_failed=drop_failed, by_weight=by_weight, seed=seed, epoch=epoch)
    features = dataset.features
    if features is None or "__key__" not in features or "__url__" not in features:
        raise ManifestError(
            "the filter needs the columns __key__ and __url__ of one split, as "
            'load_dataset("webdataset", split=...) gives them: filter before you remove or rename columns'
        )
    images = {name: feature for name, feature in features.items() if isinstance(feature, Image)}
    for name, feature in images.items():
        dataset = dataset.cast_column(name, Image(mode=feature.mode, decode=False))
    dataset = dataset.filter(_Row(keep, tuple(images)), input_columns=["__key__", "__url__", *images])
    if isinstance(dataset, IterableDataset):  # which, once filtered, decodes only what is mapped
        return dataset.map(features.decode_example, features=features) if images else dataset
    for name, feature in images.items():
        dataset = dataset.cast_column(name, feature)
    return dataset


class _Row:
    """Calls `keep` with a sample made of these columns; an image comes as {"bytes": ..., "path": ...}, or None."""

    def __init__(self, keep: Keep, images: tuple[str, ...]) -> None:
        self._keep, self._images = keep, images

    def __call__(self, key: str, url: str, *images: Mapping[str, Any] | None) -> bool:
        files = {name: image["bytes"] for name, image in zip(self._images, images, strict=True) if image is not None}
        return self._keep({"__key__": key, "__url__": url, **files})
