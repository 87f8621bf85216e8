"""The rows that a card carries, scored as a table is: does the model still say what it said?"""

from __future__ import annotations

from math import isclose
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dbt_onnx.child_session import ChildSession
from dbt_onnx.errors import ArtifactError
from dbt_onnx.native import TRIAL_SECONDS
from dbt_onnx.scoring import score_batches
from dbt_onnx.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.contract import Contract

TOLERANCE = 1e-5


def score_sample(
    model_bytes: bytes,
    contract: Contract,
    features: Mapping[str, Sequence[Any]],
    *,
    batch_rows: int | None = None,
) -> dict[str, list[Any]]:
    """Score `{feature: values}`, as a card holds them, with one thread, in a child process.

    Returns {output column: values}, none in the rows that were rejected. Values are JSON types; a
    feature with a time_unit is ISO 8601 text. Raises ArtifactError when the columns are uneven or
    hold no Arrow type, ContractError when they are not the contract's features.
    """
    batch = _as_batch(features, contract)
    session = ChildSession(
        model_bytes,
        output_names=[output.name for output in contract.outputs],
        batch_rows=batch_rows,
        max_seconds=TRIAL_SECONDS,
    )
    names = [field.name for field in contract.output_fields()]
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for part in score_batches([batch], session, contract=contract, tally=Tally()):
        for name in names:
            columns[name] += part.column(name).to_pylist()
    return columns


def largest_difference(
    expected: Mapping[str, Sequence[Any]],
    actual: Mapping[str, Sequence[Any]],
    *,
    tolerance: float = TOLERANCE,
) -> tuple[float, list[str]]:
    """Compare outputs: numbers within `tolerance`, absolute or relative, all else exactly.

    Returns the largest absolute difference of two numbers, and what differs, the first row of
    each column.
    """
    largest, faults = 0.0, []
    if set(expected) != set(actual):
        return largest, [f"the sample has columns {', '.join(expected)}, not {', '.join(actual)}"]
    for name, values in expected.items():
        if len(values) != len(actual[name]):
            faults.append(f"{name}: {len(values)} values in the card, {len(actual[name])} scored")
            continue
        wrong = None
        for row, (want, got) in enumerate(zip(values, actual[name], strict=True)):
            largest = max(largest, _distance(want, got))
            if wrong is None and not _is_close(want, got, tolerance):
                wrong = f"{name}: row {row + 1} is {got!r}, the card says {want!r}"
        faults += [wrong] if wrong else []
    return largest, faults


def _as_batch(features: Mapping[str, Sequence[Any]], contract: Contract) -> pa.RecordBatch:
    arrays = {}
    try:
        for name, values in features.items():
            array = pa.array(values)
            known = name in contract.feature_names
            if known and contract.feature(name).time_unit and pa.types.is_string(array.type):
                array = array.cast(pa.timestamp("us"))
            arrays[name] = array
        return pa.RecordBatch.from_pydict(arrays)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise ArtifactError(
            f"the card's sample cannot be read: {error}",
            hint="write the card again with dbt_onnx.export or `dbt-onnx register`",
        ) from error


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _distance(want: Any, got: Any) -> float:
    if isinstance(want, list) and isinstance(got, list):
        return max((_distance(*pair) for pair in zip(want, got, strict=False)), default=0.0)
    return abs(want - got) if _is_number(want) and _is_number(got) else 0.0


def _is_close(want: Any, got: Any, tolerance: float) -> bool:
    if isinstance(want, list) and isinstance(got, list):
        pairs = zip(want, got, strict=False)
        return len(want) == len(got) and all(_is_close(*pair, tolerance) for pair in pairs)
    # an integer is a label or a count: it is equal or it is not
    if (isinstance(want, float) and _is_number(got)) or (
        isinstance(got, float) and _is_number(want)
    ):
        return isclose(want, got, rel_tol=tolerance, abs_tol=tolerance)
    # to Python, True == 1.0
    return bool(want == got) and isinstance(want, bool) == isinstance(got, bool)
