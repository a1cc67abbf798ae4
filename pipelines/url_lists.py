"""Write the URLs that a run keeps and removes as img2dataset reads them, so that others download only the clean set."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
from distributed import Client

from dedup.manifest import manifest_name
from dedup.run_folder import RunFolder
from dedup.url_lists import URL_LISTS, common_schema, parts, schema_of, url_columns, url_table
from pipelines.describing import descriptors_name
from pipelines.run_state import Run

_ROWS_PER_FILE = 1_000_000  # img2dataset reads each file of a list into memory


def write_url_lists(run: Run, client: Client) -> None:
    """Write kept_urls.parquet and removed_urls.parquet where samples have a url; samples that failed are in neither.

    Where one file would have more than a million rows, it is a folder of several.
    """
    columns = ("status", "url", "caption", *(["weight"] if run.settings.decide.weighs else []))
    looks = client.gather(
        [client.submit(_look, run.folder, shard.shard_id, columns, pure=False) for shard in run.shards]
    )
    for name in URL_LISTS.values():
        run.folder.remove(name)
    if not any(sum(rows.values()) for _, rows in looks):
        return
    schema = common_schema(schema for schema, _ in looks)
    futures = []
    for status, name in URL_LISTS.items():
        files = parts([rows[status] for _, rows in looks], _ROWS_PER_FILE)
        for number, numbers in enumerate(files):
            target = name if len(files) == 1 else f"{name}/{number:05d}.parquet"
            shard_ids = [run.shards[index].shard_id for index in numbers]
            futures.append(client.submit(_write, run.folder, target, shard_ids, columns, status, schema, pure=False))
    client.gather(futures)


def _look(folder: RunFolder, shard_id: str, columns: Sequence[str]) -> tuple[pa.Schema, dict[str, int]]:
    """The schema of the shard's fields, and how many rows go into each list."""
    samples = _samples(folder, shard_id, columns)
    with_url = samples.filter(pc.is_valid(samples["url"]))
    rows = {status: with_url.filter(pc.equal(with_url["status"], status)).num_rows for status in URL_LISTS}
    return schema_of(url_columns(samples)), rows


def _write(
    folder: RunFolder, name: str, shard_ids: list[str], columns: Sequence[str], status: str, schema: pa.Schema
) -> None:
    with folder.table_writer(name, schema) as writer:
        for shard_id in shard_ids:
            samples = _samples(folder, shard_id, columns)
            chosen = samples.filter(pc.equal(samples["status"], status))
            writer.write(url_table(url_columns(chosen), schema))


def _samples(folder: RunFolder, shard_id: str, columns: Sequence[str]) -> pa.Table:
    """These columns of the manifest, and json, of each sample of a shard; those that failed are left out."""
    manifest = folder.read_table(manifest_name(shard_id), columns)
    raw = folder.read_table(descriptors_name(shard_id), ["json"])["json"]
    return manifest.append_column("json", raw).filter(pc.not_equal(manifest["status"], "failed"))
