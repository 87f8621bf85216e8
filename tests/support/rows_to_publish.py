"""An implementation of `RowsToPublish` without DuckDB: the rows are in a list."""

from __future__ import annotations

import json
import math
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.serving.kinds import kind_of
from dbt_onnx.serving.publish import PublicationRequest, PublicationSettings, publish_relation

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import timedelta

    from dbt_onnx.serving.publish import PublicationSummary

NOON = datetime(2024, 1, 10, 12)
OF_ORIGIN = {
    "scored_at": "timestamp", "fresh_as_of": "timestamp", "model_name": "text",
    "model_version": "text", "run_id": "text", "status": "text", "rejected_reason": "text",
    "served_from": "text",
}  # fmt: skip
STAMPS = {"as_of": "timestamp", **OF_ORIGIN}
_TYPES = {
    "boolean": pa.int8(), "integer": pa.int64(), "float": pa.float64(), "bytes": pa.binary(),
    "time": pa.int64(), "timestamp": pa.int64(), "timestamp_tz": pa.int64(),
    "vector_float32": pa.list_(pa.float32()), "vector_float64": pa.list_(pa.float64()),
}  # fmt: skip
_BATCH_ROWS = 100


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of `current_predictions` with Python values."""

    key: tuple[Any, ...]
    outputs: tuple[Any, ...]
    as_of: datetime | None = NOON
    scored_at: datetime | None = NOON
    fresh_as_of: datetime | None = NOON
    model_name: str | None = "churn"
    model_version: str | None = "1"
    run_id: str | None = "run-1"
    status: str | None = "scored"
    rejected_reason: str | None = None
    served_from: str = "serving_version"

    @property
    def origin(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in OF_ORIGIN)

    @property
    def content(self) -> str:
        return repr((self.outputs, self.as_of))


@dataclass(frozen=True, kw_only=True)
class Relation:
    """The published relation. `is_served` means that it has the columns of `current_predictions`."""

    key: Mapping[str, str]
    outputs: Mapping[str, str]
    rows: Sequence[Row]
    is_served: bool = True


class ListedRows:
    """An implementation of `RowsToPublish`. It finds changes by comparing with the relation of the last publication."""

    def __init__(self, warehouse: ListWarehouse, relation: Relation) -> None:
        self._warehouse = warehouse
        self._relation = relation
        self.relation = "main.churn_current"
        self.rows = len(relation.rows)
        self.key = dict(relation.key)
        self.outputs = dict(relation.outputs)
        self.stamps = dict(STAMPS) if relation.is_served else {}
        self.of_origin = list(OF_ORIGIN) if relation.is_served else []
        self._numbers: dict[Any, int] = {}

    def last_publication(self) -> str | None:
        return self._warehouse.last_id

    def compare(self, *, with_last: bool) -> None:
        last = self._warehouse.last if with_last else None
        before = {row.key: row.content for row in last.rows} if last else {}
        numbers = (
            {row.key: self._warehouse.numbers[self._stamps(row)] for row in last.rows}
            if last
            else {}
        )
        # an origin keeps its number when its values change
        became = {
            self._stamps(row): numbers[row.key] for row in self._relation.rows if row.key in numbers
        }
        self._numbers = {}
        for row in self._relation.rows:
            stamps = self._stamps(row)
            free = max([0, *self._numbers.values(), *numbers.values()]) + 1
            number = became.get(stamps, free)
            self._numbers.setdefault(stamps, free if number in self._numbers.values() else number)
        self._changed = [
            row
            for row in self._relation.rows
            if before.get(row.key) != row.content
            or numbers.get(row.key) != self._numbers[self._stamps(row)]
        ]
        keys = {row.key for row in self._relation.rows}
        self._removed = [key for key in before if key not in keys]
        self.rows_changed = len(self._changed)
        self.rows_removed = len(self._removed)

    def _stamps(self, row: Row) -> tuple[Any, ...]:
        return row.origin if self._relation.is_served else ()

    def origins(self) -> list[tuple[Any, ...]]:
        kinds = list(OF_ORIGIN.values())
        return [
            (number, *(stored(kind, value) for kind, value in zip(kinds, stamps, strict=False)))
            for stamps, number in self._numbers.items()
        ]

    def served(self) -> list[dict[str, Any]]:
        return []

    def changed(self) -> Iterator[pa.RecordBatch]:
        as_of = {"as_of": "timestamp"} if self._relation.is_served else {}
        kinds = [*self.key.values(), *self.outputs.values(), *as_of.values(), "integer"]
        rows = [
            (
                *row.key,
                *row.outputs,
                *([row.as_of] if as_of else []),
                self._numbers[self._stamps(row)],
            )
            for row in self._changed
        ]
        return self._warehouse.stream(batches(kinds, rows))

    def removed(self) -> Iterator[pa.RecordBatch]:
        return batches(list(self.key.values()), self._removed)

    def clock(self, clock_sql: str) -> datetime:
        return NOON

    def recorded(self, target: str) -> set[tuple[str, Any]]:
        return {
            (switch["publication"], switch["served_since"])
            for switch in self._warehouse.switches
            if switch["target"] == target
        }

    def record(self, switches: Sequence[Mapping[str, Any]]) -> None:
        self._warehouse.switches += switches
        self._warehouse.last = self._relation
        self._warehouse.last_id = switches[-1]["publication"]
        self._warehouse.numbers = self._numbers


@dataclass
class ListWarehouse:
    """Stores the last publication. A test may replace `stream` by a stream that fails."""

    last: Relation | None = None
    last_id: str | None = None
    numbers: dict[Any, int] = field(default_factory=dict)
    switches: list[Any] = field(default_factory=list)
    stream: Any = iter

    @contextmanager
    def rows_to_publish(self, relation: Any, *, key: Any, model: Any) -> Iterator[ListedRows]:
        yield ListedRows(self, relation)

    def publish(
        self,
        relation: Relation,
        *,
        targets: Sequence[str],
        name: str = "churn",
        stale_after: timedelta | None = None,
        run_id: str = "run-1",
    ) -> PublicationSummary:
        request = PublicationRequest(
            predictions=relation,
            key=tuple(relation.key),
            name=name,
            stale_after=stale_after,
            targets=tuple(targets),
        )
        settings = PublicationSettings(
            database="db", schema="main", identifier="churn_published", run_id=run_id,
            clock_sql="", full_refresh=False, empty=False,
        )  # fmt: skip
        return publish_relation(self, request, settings)  # type: ignore[arg-type]


def batches(kinds: Sequence[str], rows: Sequence[Sequence[Any]]) -> Iterator[pa.RecordBatch]:
    """Yield rows with Python values as batches, as an engine streams them."""
    for start in range(0, len(rows), _BATCH_ROWS):
        some = rows[start : start + _BATCH_ROWS]
        arrays = [
            pa.array([stored(kind, row[i]) for row in some], type=_TYPES.get(kind, pa.string()))
            for i, kind in enumerate(kinds)
        ]
        yield pa.RecordBatch.from_arrays(arrays, names=[str(i) for i in range(len(kinds))])


def stored(kind: str, value: Any) -> Any:
    """Return a value as DuckDB returns it: NaN stays a float, lists of floats stay lists."""
    if value is None or kind.startswith("vector_"):
        return value
    if kind == "json":
        return json.dumps(value)
    if kind == "float" and math.isnan(value):
        return value
    return kind_of(kind).store(value)
