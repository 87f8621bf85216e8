"""One run of a model on generated rows: what a file declares about itself may be wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dbt_onnx.child_session import ChildSession
from dbt_onnx.contract import FLOAT_TYPES
from dbt_onnx.errors import ContractError, ModelCrashError, ScoringError
from dbt_onnx.native import TRIAL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.contract import Input
    from dbt_onnx.graph import GraphSignature

TRIAL_ROWS = 16
_ROW_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Trial:
    """`feeds`: {input: tensor of TRIAL_ROWS rows}; `outputs`: {output: what the model gave}."""

    feeds: dict[str, Any]
    outputs: dict[str, Any]


def try_model(
    model_bytes: bytes,
    signature: GraphSignature,
    inputs: Sequence[Input],
    widths: Mapping[str, int],
) -> Trial:
    """Run the model on TRIAL_ROWS generated rows, the same ones each time, and row by row.

    `widths` is the number of values of each feature. The first row is all zeros, or empty text;
    when the model fails on the others, all rows are zeros (a value may be an index).

    It runs in a child process. Raises ScoringError when the model fails on both, or kills that
    process, ContractError when it gives another number
    of rows, or when a row's outputs depend on the rows beside it.
    """
    names = [tensor.name for tensor in signature.outputs]
    session = ChildSession(
        model_bytes,
        output_names=names,
        batch_rows=signature.batch_rows,
        max_seconds=TRIAL_SECONDS,
    )
    feeds = {tensor.name: _generate(tensor, widths, zeros=False) for tensor in inputs}
    try:
        outputs = session.run(feeds)
    except ModelCrashError:
        raise
    except ScoringError:
        feeds = {tensor.name: _generate(tensor, widths, zeros=True) for tensor in inputs}
        outputs = session.run(feeds)
    for name, values in zip(names, outputs, strict=True):
        _check_rows(name, values)
    for row in range(0, TRIAL_ROWS, 5):
        alone = session.run({name: values[row : row + 1] for name, values in feeds.items()})
        for name, values, single in zip(names, outputs, alone, strict=True):
            _check_alone(name, values[row], single)
    return Trial(feeds, dict(zip(names, outputs, strict=True)))


def _generate(tensor: Input, widths: Mapping[str, int], *, zeros: bool) -> Any:
    width = sum(widths[name] for name in tensor.features)
    shape = (TRIAL_ROWS,) if tensor.rank == 1 else (TRIAL_ROWS, width)
    source = np.random.default_rng(0)
    # quarters are exact in every float type
    whole = source.integers(0, 8, shape)
    quarters = source.integers(-12, 13, shape) / 4
    whole[0], quarters[0] = 0, 0
    if zeros:
        whole, quarters = whole * 0, quarters * 0
    if tensor.dtype == "string":
        return np.array(["", "a", "b", "c", "d", "e", "f", "g"], dtype=object)[whole]
    if tensor.dtype in FLOAT_TYPES:
        return quarters.astype(tensor.dtype)
    return (whole % 2 if tensor.dtype == "bool" else whole).astype(tensor.dtype)


def _check_rows(name: str, values: Any) -> None:
    shape = values.shape if isinstance(values, np.ndarray) else (len(values),)
    if len(shape) == 0 or shape[0] != TRIAL_ROWS:
        raise ContractError(
            f"output {name!r} has shape {list(shape)} for {TRIAL_ROWS} rows: not one per row",
            hint="export the model so that every output has the batch on its first axis",
        )


def _check_alone(name: str, together: Any, alone: Any) -> None:
    same = len(alone) == 1 and _is_same(together, alone[0])
    if not same:
        raise ContractError(
            f"output {name!r} of a row changes with the rows scored beside it, or from run to "
            "run: the first axis is not the batch, or the model is random",
            hint="export the model in evaluation mode, with the batch on the first axis",
        )


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, dict):
        return set(left) == set(right) and all(_is_same(left[key], right[key]) for key in left)
    left, right = np.asarray(left), np.asarray(right)
    if left.dtype.kind == "f":
        return left.shape == right.shape and np.allclose(
            left, right, rtol=_ROW_TOLERANCE, atol=_ROW_TOLERANCE, equal_nan=True
        )
    return bool(np.array_equal(left, right))
