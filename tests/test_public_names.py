"""The Python API as users import it: names and signatures change only on purpose."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import dedup

SIGNATURES = {
    "decide": "(shards: 'Sequence[Shard]', descriptors: 'Sequence[pa.Table]', pairs: 'pa.Table', "
    "settings: 'DecideSettings' = ..., overrides: 'Overrides' = ...) -> 'pa.Table'",
    "describe_shard": "(shard: 'Shard', settings: 'DescribeSettings', embedder: 'Embedder | None', *, "
    "threads: 'int' = ...) -> 'pa.Table'",
    "find_pairs": "(shards: 'Sequence[Shard]', descriptors: 'Sequence[pa.Table]', search: 'SearchSettings' = ..., "
    "verify: 'VerifySettings' = ..., *, max_pixels: 'int' = ...) -> 'pa.Table'",
    "group_pairs": "(pairs: 'pa.Table', descriptors: 'Sequence[pa.Table]', settings: 'DecideSettings' = ..., "
    "overrides: 'Overrides' = ...) -> 'pa.Table'",
    "keep": "(run: 'str | Path', *, drop_failed: 'bool' = ..., by_weight: 'bool' = ..., seed: 'int' = ..., "
    "epoch: 'int' = ...) -> 'Keep'",
    "keep_ids": "(run: 'str | Path', sample_ids: 'Sequence[str]', *, drop_failed: 'bool' = ..., "
    "by_weight: 'bool' = ..., seed: 'int' = ..., epoch: 'int' = ...) -> 'npt.NDArray[np.bool_]'",
    "read_manifest": "(run: 'str', columns: 'Sequence[str] | None' = ...) -> 'pa.Table'",
}


def test_the_public_names_are_these() -> None:
    assert sorted(dedup.__all__) == sorted(SIGNATURES)
    assert set(SIGNATURES) < set(dir(dedup))  # where tab completion looks


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_these_and_are_documented(name: str) -> None:
    function = getattr(dedup, name)
    signature = inspect.signature(function)
    shown = signature.replace(
        parameters=[
            parameter if parameter.default is parameter.empty else parameter.replace(default=...)
            for parameter in signature.parameters.values()
        ]
    )
    assert str(shown).replace("Ellipsis", "...") == SIGNATURES[name]
    assert "Raises" in inspect.getdoc(function)  # type: ignore[operator]


def test_other_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="no attribute 'remove_all'"):
        dedup.remove_all  # noqa: B018


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, dedup; print(sorted({'torch', 'faiss', 'pyarrow', 'numpy', 'dask'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
