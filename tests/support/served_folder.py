"""Publications without a warehouse: a test provides the rows, and they are published as dbt would."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.serving.files import Files
from dbt_onnx.serving.manifest import Manifest, Publications

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from dbt_onnx.serving.manifest import ServedModel

CLOCK = datetime(2024, 6, 1, 12)
ORIGIN_STAMPS = {
    "model_name": "text",
    "model_version": "text",
    "run_id": "text",
    "scored_at": "timestamp",
    "fresh_as_of": "timestamp",
    "status": "text",
    "rejected_reason": "text",
    "served_from": "text",
}
_TYPES = {"integer": pa.int64(), "text": pa.string(), "float": pa.float64(), "date": pa.string()}
_EPOCH = datetime(1970, 1, 1)


class GivenRows:
    """An implementation of `RowsToPublish` from {key: outputs}. Outputs of None mean that the entity was rejected."""

    relation = "main.churn_current"
    rows_removed = 0
    stamps = ORIGIN_STAMPS
    of_origin = tuple(ORIGIN_STAMPS)

    def __init__(
        self,
        rows: Mapping[tuple[Any, ...], Mapping[str, Any] | None],
        *,
        key: Mapping[str, str],
        outputs: Mapping[str, str],
        version: str,
        clock: datetime,
    ) -> None:
        self._given = dict(sorted(rows.items()))
        self.key, self.outputs = key, outputs
        self.rows = self.rows_changed = len(rows)
        self._version, self._clock = version, clock

    def origins(self) -> list[tuple[Any, ...]]:
        micros = (self._clock - _EPOCH) // timedelta(microseconds=1)
        stamps = ("churn", self._version, f"run-{self._version}", micros, micros)
        return [
            (1, *stamps, "scored", None, "serving_version"),
            (2, None, None, None, None, None, "rejected", "'orders' is NULL", "missing"),
        ]

    def changed(self) -> pa.RecordBatchReader:
        kinds = {**self.key, **self.outputs}
        rows = [
            (*key, *((outputs or {}).get(name) for name in self.outputs), 1 if outputs else 2)
            for key, outputs in self._given.items()
        ]
        columns = list(zip(*rows, strict=True)) or [()] * (len(kinds) + 1)
        types = [*(_TYPES[kind] for kind in kinds.values()), pa.int64()]
        arrays = [pa.array(values, kind) for values, kind in zip(columns, types, strict=True)]
        batch = pa.record_batch(arrays, names=[*kinds, "origin"])
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])


def publish(
    folder: Path,
    rows: Mapping[Any, Mapping[str, Any] | None],
    *,
    key: Mapping[str, str] | None = None,
    outputs: Mapping[str, str] | None = None,
    version: str = "1",
    clock: datetime = CLOCK,
    stale_after: timedelta | None = timedelta(days=2),
    model: ServedModel | None = None,
) -> Manifest:
    """Publish rows into a folder such as `serving/churn`. A key of one column may be a plain value."""
    key, outputs = key or {"customer_id": "text"}, outputs or {"churn_probability": "float"}
    whole = {k if isinstance(k, tuple) else (k,): values for k, values in rows.items()}
    given = GivenRows(whole, key=key, outputs=outputs, version=version, clock=clock)
    target = Files(folder)
    with target.locked():
        before = target.publications() or Publications(name=folder.name)
        number = len(before.switches)
        at = clock + timedelta(seconds=number)
        made = f"{at:%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}"
        size, digest = target.write(made, given, base=None)
        manifest = Manifest.from_dict(
            {
                "id": made,
                "name": folder.name,
                "key": _columns(key),
                "outputs": _columns(outputs),
                "stamps": _columns(ORIGIN_STAMPS),
                "model": model and asdict(model),
                "stale_after": None if stale_after is None else stale_after.total_seconds(),
                "relation": given.relation,
                "run_id": f"run-{version}",
                "rows": given.rows,
                "rows_changed": given.rows_changed,
                "rows_removed": 0,
                "served": [],
                "clock": clock.isoformat(),
                "published_at": at.isoformat(),
                "sha256": digest,
                "bytes": size,
            }
        )
        target.switch(before.published(manifest, at=at))
    return manifest


def _columns(kinds: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "kind": kind} for name, kind in kinds.items()]
