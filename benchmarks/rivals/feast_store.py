"""Make a feature store with an SQLite online store from a Parquet file. Runs in the environment that has Feast."""

import sys
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float32

BATCH_ROWS = 50_000
STORE = """
project: benchmark
provider: local
registry: {path: registry.db, cache_ttl_seconds: 0}
online_store: {type: sqlite, path: online.db}
offline_store: {type: file}
entity_key_serialization_version: 3
"""


def main(folder: str, rows: str) -> None:
    (Path(folder) / "feature_store.yaml").write_text(STORE)
    store = FeatureStore(repo_path=folder)
    entity = Entity(name="id", join_keys=["id"], value_type=ValueType.INT64)
    view = FeatureView(
        name="scores",
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name="score", dtype=Float32)],
        source=FileSource(path=rows, timestamp_field="event_timestamp"),
    )
    store.apply([entity, view])
    for batch in pq.ParquetFile(rows).iter_batches(BATCH_ROWS):
        store.write_to_online_store("scores", df=batch.to_pandas())


if __name__ == "__main__":
    main(*sys.argv[1:])
