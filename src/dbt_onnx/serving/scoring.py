"""Scores rows on request, with the same model bytes, contract and rules as a run."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.artifacts.artifact import load_artifact
from dbt_onnx.artifacts.registry import RegistryEntry
from dbt_onnx.errors import FeaturesError
from dbt_onnx.kernel.json_values import type_of
from dbt_onnx.kernel.native import MAX_SECONDS
from dbt_onnx.kernel.relation import check_relation
from dbt_onnx.kernel.scoring import score_batch
from dbt_onnx.serving.manifest import MODELS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.serving.manifest import ServedModel


@dataclass(frozen=True, kw_only=True)
class Score:
    """The result for one row: its outputs, or the reason of its rejection, and the features that the model read."""

    features: Mapping[str, Any]
    outputs: Mapping[str, Any]
    rejected_reason: str | None


class ModelScorer:
    """The serving version of a publication, loaded. Safe to use from several threads; calls run one at a time.

    The model runs in a child process. If a row crashes it, only that answer is lost, not the service.
    """

    def __init__(
        self, folder: Path, model: ServedModel, *, max_seconds: float = MAX_SECONDS
    ) -> None:
        """Load the model. `max_seconds` is the longest time for one row.

        Raises ArtifactError or ContractError if the files are not those that were published.
        """
        entry = RegistryEntry(
            model_name=model.model_name,
            model_version=model.model_version,
            alias=None,
            artifact=model.artifact,
            sha256=model.sha256,
            card_sha256=model.card_sha256,
        )
        artifact = load_artifact(folder / MODELS, entry)
        self.model = model
        self._contract = artifact.contract
        self._session = artifact.open(in_child_process=True, max_seconds=max_seconds)
        self._schema = _schema_of(model)
        columns = dict(zip(self._schema.names, self._schema.types, strict=True))
        check_relation(self._contract, columns, where="the request", model=str(entry.model))
        self._lock = threading.Lock()

    @property
    def session(self) -> dict[str, Any]:
        """The version and the settings of onnxruntime, which a replay needs."""
        names = ("onnxruntime_version", "provider", "threads")
        return {name: getattr(self._session, name) for name in names}

    def score(self, features: Mapping[str, Any]) -> Score:
        """Score one row. Values are JSON values, with numbers as Decimal or int.

        Raises FeaturesError if a feature is missing, unknown or of another type, and ScoringError if the model
        fails.
        """
        batch = batch_of(features, self.model, schema=self._schema)
        row = self._score(batch).to_pylist()[0]
        reason = row.pop("rejected_reason")
        [fed] = batch.to_pylist()
        return Score(features=fed, outputs={} if reason else row, rejected_reason=reason)

    def score_batch(self, features: pa.RecordBatch) -> pa.RecordBatch:
        """Score several rows in one call. Columns may be in any order; their types are those of the
        warehouse, or can be cast to them without loss.

        Return the output columns and `rejected_reason`, one row per input row: outputs are NULL in a rejected row,
        the reason is NULL in all others. Raises FeaturesError if there are no rows, or if a column is missing,
        unknown, duplicated or of another type, and ScoringError if the model fails.
        """
        names = self._schema.names
        if sorted(features.schema.names) != sorted(names) or not features.num_rows:
            given = f"got {features.num_rows:,} row(s) of {features.schema.names}"[:1_000]
            raise _other_features(self.model, self._schema, [given])
        try:
            return self._score(features.select(names).cast(self._schema))
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())[:200]
            raise _other_features(self.model, self._schema, [reason]) from error

    def _score(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        with self._lock:
            return score_batch(batch, self._session, self._contract)


def batch_of(
    features: Mapping[str, Any], model: ServedModel, *, schema: pa.Schema | None = None
) -> pa.RecordBatch:
    """Return one row as a batch, with the types of the model's columns in the warehouse.

    `schema` is computed from the model if it is not given. Raises FeaturesError if a feature is missing, unknown
    or of another type.
    """
    schema = _schema_of(model) if schema is None else schema
    names = set(schema.names)
    faults = [f"{name!r} is missing" for name in sorted(names - set(features))]
    faults += [
        f"{name!r:.80} is not a feature of the model" for name in sorted(set(features) - names)
    ]
    arrays = []
    for field in () if faults else schema:
        try:
            arrays.append(_array_of(features[field.name], field.type))
        except (pa.ArrowException, ArithmeticError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            faults.append(f"{field.name!r} is not of type {field.type}: {reason:.200}")
    if faults:
        raise _other_features(model, schema, faults)
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _schema_of(model: ServedModel) -> pa.Schema:
    return pa.schema([(feature.name, type_of(feature.kind)) for feature in model.features])


def _other_features(model: ServedModel, schema: pa.Schema, faults: Sequence[str]) -> FeaturesError:
    return FeaturesError(
        f"the features do not match the model {model.model_name}/{model.model_version}: "
        f"{'; '.join(faults[:20])}",
        hint="give every feature, null if it is unknown: "
        + ", ".join(f"{field.name} ({field.type})" for field in schema),
    )


def _array_of(value: Any, kind: pa.DataType) -> pa.Array:
    if isinstance(value, list) and pa.types.is_list(kind):
        value = [_number(item, kind.value_type) for item in value]
    else:
        value = _number(value, kind)
    if isinstance(value, str) and (pa.types.is_timestamp(kind) or pa.types.is_date(kind)):
        return pa.array([value]).cast(kind)
    return pa.array([value], kind)


def _number(value: Any, kind: pa.DataType) -> Any:
    """Convert a number to the type of its column. Raises TypeError for a bool, unless the column is boolean."""
    if isinstance(value, bool) and not pa.types.is_boolean(kind):
        raise TypeError("a boolean is not a number")
    if isinstance(value, Decimal | int) and not isinstance(value, bool):
        if pa.types.is_floating(kind):
            number = float(value)
            if math.isinf(number):
                raise OverflowError("it is out of range")
            return number
        if pa.types.is_decimal(kind):
            return Decimal(value)
        if isinstance(value, Decimal) and pa.types.is_integer(kind):
            if value != value.to_integral_value():
                raise ValueError("it has a fraction")
            return int(value)
    return value
