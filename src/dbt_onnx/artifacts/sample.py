"""The sample rows in a card, scored like a table: does the model still say what it said?"""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from dbt_onnx.artifacts.reference import is_size
from dbt_onnx.errors import ArtifactError, listed
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
    """`score_columns` for bytes that are no artifact yet, with one thread, in a child process."""
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
    """Score `{feature: values}`, as a card holds them.

    Returns {output column: values}, none in the rows that were rejected. Values are JSON types; a
    feature with a time_unit is ISO 8601 text. Raises ArtifactError when the columns are uneven or
    hold no Arrow type, ContractError when they are not the contract's features.
    """
    batch = _as_batch(features, contract)
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
    """Compare outputs: numbers within `tolerance`, all else exactly.

    The tolerance is a share of the number, or of its column's scale where that is larger. A column
    that `scales` does not name has the scale 1. Returns the largest absolute difference of two
    numbers, and a text for each column that differs, about its first such row.
    """
    largest, faults = 0.0, []
    if set(expected) != set(actual):
        return largest, [f"the sample has columns {listed(expected)}, not {listed(actual)}"]
    for name, values in expected.items():
        if len(values) != len(actual[name]):
            faults.append(f"{name}: {len(values)} values in the card, {len(actual[name])} scored")
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
    """The scales in the card: {column of numbers: its scale, a list for a vector}.

    Empty for an older card, which has none. Raises ArtifactError when they are no numbers.
    """
    parity = card.get("parity")
    scales = parity.get("scales", {}) if isinstance(parity, dict) else {}
    if not isinstance(scales, dict) or not all(
        all(map(is_size, item if isinstance(item, list) else [item])) for item in scales.values()
    ):
        raise ArtifactError("the scales of the card's sample are no numbers", hint=WRITE_AGAIN)
    return scales


def sizes_of(contract: Contract, outputs: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """{column of numbers: the mean size of these values}; 1 for probabilities."""
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


def _as_batch(features: Mapping[str, Sequence[Any]], contract: Contract) -> pa.RecordBatch:
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
    # an integer is a label or a count: near is not equal
    is_float = isinstance(want, float) or isinstance(got, float)
    if is_float and is_number(want) and is_number(got):
        return isclose(want, got, rel_tol=tolerance, abs_tol=tolerance * scale)
    # for Python True equals 1.0, so the types are compared, too
    return bool(want == got) and isinstance(want, bool) == isinstance(got, bool)
