"""One run of a model on generated rows: what a file declares about itself may be wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dbt_onnx.authoring.independence import MOST_ROWS, Comparison, check_alone, check_independence
from dbt_onnx.errors import ContractError, ModelCrashError, ScoringError
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import FLOAT_TYPES, Input
from dbt_onnx.kernel.native import TRIAL_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.graph import GraphSignature

TRIAL_ROWS = 16


class Trial(NamedTuple):
    """What a trial fed and got.

    `feeds` is {input: tensor of TRIAL_ROWS rows}, `outputs` is {output: what the model gave}.
    `rows_tried` is the number of rows of the largest call, in which no row changed another.
    """

    feeds: dict[str, Any]
    outputs: dict[str, Any]
    rows_tried: int


def try_model(
    model_bytes: bytes,
    signature: GraphSignature,
    inputs: Sequence[Input],
    widths: Mapping[str, int],
) -> Trial:
    """Run the model on generated rows, and see whether its answers depend on more than the row.

    There are TRIAL_ROWS rows, the same each time. `widths` is the number of values of each feature.
    The first row is all zeros, or empty text. When the model fails on the others, all rows become
    zeros, since a value may be an index.

    The model runs in a child process. Raises ScoringError when it fails on zeros, too, or kills that
    process; ContractError when it gives another number of rows, or when the outputs of a row depend
    on other rows or on chance.
    """
    names = [tensor.name for tensor in signature.outputs]
    session = ChildSession(
        model_bytes,
        output_names=names,
        batch_rows=signature.batch_rows or MOST_ROWS,
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
    compare = Comparison(names, signature.has_halves)
    check_alone(session.run, compare, feeds, outputs)
    tried = check_independence(session.run, compare, inputs, widths)
    return Trial(feeds, dict(zip(names, outputs, strict=True)), max(tried, TRIAL_ROWS))


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
