"""Scores the sample rows of a card like a table, to check that the model still gives the recorded outputs."""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dbt_onnx.artifacts.reference import is_size
from dbt_onnx.errors import ArtifactError, format_items
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import FLOAT_TYPES, WRITE_AGAIN, Contract, is_number
from dbt_onnx.kernel.native import TRIAL_SECONDS
from dbt_onnx.kernel.scoring import score_batches

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.kernel.session import Scorer

TOLERANCE = 1e-5


def score_sample(
    model_bytes: bytes,
    contract: Contract,
    features: Mapping[str, Sequence[Any]],
    *,
    batch_rows: int | None = None,
) -> dict[str, list[Any]]:
    """Score with bytes that are not an artifact yet, in a child process with one thread. See `score_columns`."""
    session = ChildSession(
        model_bytes,
        output_names=[output.name for output in contract.outputs],
        batch_rows=batch_rows,
        max_seconds=TRIAL_SECONDS,
    )
    return score_columns(session, contract, features)


def score_columns(
    session: Scorer, contract: Contract, features: Mapping[str, Sequence[Any]]
) -> dict[str, list[Any]]:
    """Score `{feature: values}`, in the format of a card.

    Returns {output column: values}, with None in rejected rows. Values are JSON types; a feature with a
    time_unit is ISO 8601 text. Raises ArtifactError if the columns have different lengths or have no
    Arrow type, ContractError if they are not the contract's features.
    """
    batch = as_batch(features, contract)
    columns: dict[str, list[Any]] = {name: [] for name in contract.column_kinds}
    for part in score_batches([batch], session, contract=contract):
        for name, values in columns.items():
            values.extend(part.column(name).to_pylist())
    return columns


def largest_difference(
    expected: Mapping[str, Sequence[Any]],
    actual: Mapping[str, Sequence[Any]],
    *,
    tolerance: float = TOLERANCE,
    scales: Mapping[str, Any] | None = None,
) -> tuple[float, list[str]]:
    """Compare outputs: floating-point numbers within `tolerance`, everything else exactly.

    The tolerance is a share of the number, or of its column's scale if the scale is larger. A column
    that is missing from `scales` has the scale 1. Returns the largest absolute difference between two
    numbers, and for each column that differs a text about the first differing row.
    """
    largest, faults = 0.0, []
    if set(expected) != set(actual):
        return largest, [
            f"the sample has columns {format_items(expected)}, not {format_items(actual)}"
        ]
    for name, values in expected.items():
        if len(values) != len(actual[name]):
            faults.append(
                f"{name}: {len(values)} values in the card, but {len(actual[name])} were scored"
            )
            continue
        scale = (scales or {}).get(name, 1.0)
        wrong = None
        for row, (want, got) in enumerate(zip(values, actual[name], strict=True)):
            largest = max(largest, _distance(want, got))
            if wrong is None and not _is_close(want, got, tolerance, scale):
                wrong = f"{name}: row {row + 1} is {got!r:.200}, the card says {want!r:.200}"
        faults += [wrong] if wrong else []
    return largest, faults


def scales_of(card: Mapping[str, Any]) -> dict[str, Any]:
    """Return the scales in the card: {numeric column: its scale, or a list of scales for a vector}.

    Empty for an older card, which has no scales. Raises ArtifactError if a scale is not a finite number
    of zero or more.
    """
    parity = card.get("parity")
    scales = parity.get("scales", {}) if isinstance(parity, dict) else {}
    if not isinstance(scales, dict) or not all(
        all(map(is_size, item if isinstance(item, list) else [item])) for item in scales.values()
    ):
        raise ArtifactError(
            "the scales of the card's sample are not non-negative numbers", hint=WRITE_AGAIN
        )
    return scales


def mean_magnitudes_of(contract: Contract, outputs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Return {floating-point column: the mean absolute value}; 1 for probabilities and empty columns."""
    scales: dict[str, Any] = {}
    for output in contract.outputs:
        for name in output.columns:
            if name is None or output.dtype not in FLOAT_TYPES:
                continue
            values = [item for item in outputs[name] if item is not None]
            scales[name] = 1.0
            if values and output.kind != "probabilities":
                scales[name] = np.abs(np.array(values, dtype=np.float64)).mean(axis=0).tolist()
    return scales


def as_batch(features: Mapping[str, Sequence[Any]], contract: Contract) -> pa.RecordBatch:
    """Return `{feature: values}`, in the format of a card, as a batch. Raises ArtifactError as `score_columns` does."""
    times = {feature.name for feature in contract.features if feature.time_unit}
    arrays = {}
    try:
        for name, values in features.items():
            arrays[name] = pa.array(values)
            if name in times and pa.types.is_string(arrays[name].type):
                arrays[name] = arrays[name].cast(pa.timestamp("us"))
        return pa.RecordBatch.from_pydict(arrays)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(
            f"the card's sample cannot be read: {error}", hint=WRITE_AGAIN
        ) from error


def _distance(want: Any, got: Any) -> float:
    if isinstance(want, list) and isinstance(got, list):
        return max((_distance(*pair) for pair in zip(want, got, strict=False)), default=0.0)
    return abs(want - got) if is_number(want) and is_number(got) else 0.0


def _is_close(want: Any, got: Any, tolerance: float, scale: Any) -> bool:
    if isinstance(want, list) and isinstance(got, list):
        each = scale if isinstance(scale, list) else [scale] * len(want)
        items = zip(want, got, each, strict=False)
        return len(want) == len(got) == len(each) and all(
            _is_close(one, other, tolerance, size) for one, other, size in items
        )
    # an integer is a label or a count, so it must be equal
    is_float = isinstance(want, float) or isinstance(got, float)
    if is_float and is_number(want) and is_number(got):
        return isclose(want, got, rel_tol=tolerance, abs_tol=tolerance * scale)
    # in Python True equals 1.0, so the types are compared, too
    return bool(want == got) and isinstance(want, bool) == isinstance(got, bool)
