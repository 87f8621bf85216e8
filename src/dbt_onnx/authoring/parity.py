"""Compare a graph with the model that it was converted from, by scoring rows with the graph as a run does.

A number may differ by the tolerance, as a share of itself or of the size of its column (`size_of`),
whichever is larger. So the verdict is the same in every unit. A label must equal the estimator's,
unless single precision cannot decide. That is so if `predict` itself gives both labels when the row
changes as little as by a cast, or if it takes the largest probability and the two largest differ by
no more than float32 rounding.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import pyarrow as pa

from dbt_onnx.artifacts.graph import read_graph
from dbt_onnx.authoring.estimators import FLOAT32, EstimatorOutput
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError, shortened
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import Contract, Output, TensorType
from dbt_onnx.kernel.scoring import count_reasons, score_batches

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dbt_onnx.kernel.tensors import Array

NOISE = 1e-13
SCORE_HINT = "missing text needs a fill; a number that float32 cannot hold needs dtype='float64', or a smaller unit"
COMPARE_HINT = (
    "try dtype='float64', scaled features or a larger tolerance; labels have no tolerance: export an "
    "estimator whose `predict` the converter reproduces"
)


class Parity(NamedTuple):
    """The result of a comparison.

    `expected` is {stored column: the estimator's outputs, (rows,) or (rows, width)}, with the graph's
    label where the labels may differ. `scales` is {column of numbers: its size, () or (width,)}.
    """

    expected: dict[str, Array]
    max_abs_difference: float
    scales: dict[str, Array]


def outputs_for(
    model_bytes: bytes, estimator_outputs: list[EstimatorOutput], renamed: Mapping[str, str | None]
) -> tuple[Output, ...]:
    """Return the graph's outputs that have a stored column.

    Raises ConfigError if a key of `renamed` is not the name of a default column.
    """
    known = [column for output in estimator_outputs for column in output.columns]
    if unknown := sorted(set(renamed) - set(known)):
        close = get_close_matches(unknown[0], known, n=1)
        raise ConfigError(
            f"output_columns names {', '.join(map(repr, unknown))}; "
            f"the estimator gives {', '.join(known)}",
            hint=f"did you mean {close[0]!r}?"
            if close
            else "the keys of output_columns are the default column names",
        )
    stored = []
    tensors = read_graph(model_bytes, where="the converted model").outputs
    # a graph may have more outputs than the estimator: nothing can check those, so they are not stored
    for tensor, output in zip(tensors, estimator_outputs, strict=False):
        columns = _stored_columns(output, renamed)
        if any(column is not None for column in columns):
            stored.append(
                Output(
                    name=tensor.name,
                    kind=output.kind,
                    dtype=cast("TensorType", tensor.dtype),
                    columns=columns,
                    classes=output.classes,
                    width=output.values.shape[1] if output.kind == "vector" else None,
                )
            )
    return tuple(stored)


def score_arrow_table(
    model_bytes: bytes,
    table: pa.Table,
    contract: Contract,
    *,
    may_reject: bool = False,
    batch_rows: int | None = None,
    where: str = "`features`",
    hint: str = SCORE_HINT,
) -> pa.Table:
    """Score a sample as a run would, in a child process.

    Raises ContractError with the `hint` if a row would be rejected, unless `may_reject` is set.
    """
    session = ChildSession(
        model_bytes,
        output_names=[output.name for output in contract.outputs],
        batch_rows=batch_rows,
    )
    examples: dict[str, str] = {}
    batches = list(score_batches(table.to_batches(), session, contract=contract, examples=examples))
    counts = count_reasons(batches)
    if may_reject or not counts:
        return pa.Table.from_batches(batches)
    reasons = ", ".join(
        f"{reason} {count:,} times (such as {examples[reason]})"
        for reason, count in counts.most_common()
    )
    raise ContractError(
        f"{counts.total():,} of {table.num_rows:,} rows of {where} would be rejected: {reasons}",
        hint=hint,
    )


class Trial(NamedTuple):
    """Rows as a table, and the outputs of the original model for them.

    `where` names the rows in messages, `origin` the original model. `is_at_boundary(places, one, other)`
    returns for which of the rows at `places` `predict` gives both the labels `one` and `other` after a
    tiny change of the row (`is_at_label_boundary`).
    """

    where: str
    table: pa.Table
    outputs: list[EstimatorOutput]
    is_at_boundary: Callable[[Array, Array, Array], Array]
    origin: str = "scikit-learn"


def compare(
    predictions: pa.Table,
    trial: Trial,
    renamed: Mapping[str, str | None],
    *,
    tolerance: float,
    scales: Mapping[str, Array] | None = None,
    hint: str = COMPARE_HINT,
) -> Parity:
    """Compare the graph's predictions with the original's outputs. Raises ArtifactError with the `hint` if
    they differ.

    `scales` is {column: size}; the size of a column that it lacks is measured on these rows. Rows
    that a run would reject are not compared.
    """
    scored = np.flatnonzero(predictions.column("rejected_reason").is_null().to_numpy())
    expected: dict[str, Array] = {}
    sizes = dict(scales or {})
    faults, largest = [], 0.0
    for output in trial.outputs:
        for position, column in enumerate(_stored_columns(output, renamed)):
            if column is None:
                continue
            truth = output.values[scored]
            if output.kind in {"probabilities", "values"}:
                truth = truth[:, position]
            got = np.array(predictions.column(column).take(pa.array(scored)).to_pylist())
            if output.kind == "label":
                wrong = got != truth
                if output.is_rounded is not None:
                    wrong &= ~output.is_rounded[scored]
                left = np.flatnonzero(wrong)
                wrong[left] = ~trial.is_at_boundary(scored[left], got[left], truth[left])
                truth[~wrong] = got[~wrong]
            else:
                if column not in sizes:
                    sizes[column] = size_of(output.kind, truth, tolerance)
                apart = np.abs(got - truth)
                # a comparison with NaN is false, so NaN counts as wrong
                wrong = ~(apart <= tolerance * np.maximum(sizes[column], np.abs(truth)))
                largest = max(largest, float(np.max(apart, initial=0)))
            expected[column] = truth
            if wrong.any():
                place = int(np.argwhere(wrong)[0][0])
                faults.append(
                    f"{column!r} differs in {int(wrong.sum()):,} of {wrong.size:,} values, first "
                    f"in row {scored[place]} of {trial.where}: ONNX {_text(got[place])}, "
                    f"{trial.origin} {_text(truth[place])}"
                )
    if faults:
        raise ArtifactError(
            f"the ONNX model does not reproduce {trial.origin} within {tolerance:g}: "
            + "; ".join(faults),
            hint=hint,
        )
    return Parity(expected, largest, sizes)


def size_of(kind: str, truth: Array, tolerance: float) -> Array:
    """Return the size of a column, or of each value of a vector: 1 for probabilities, else the mean size.

    A value of a vector may be only rounding noise of double precision, such as a principal component
    beyond the rank. The size that it gets allows it to differ by the rounding of single precision.
    """
    if kind == "probabilities":
        return np.ones(())
    sizes = np.asarray(np.abs(truth).mean(axis=0, dtype=np.float64))
    if sizes.ndim and tolerance > 0:
        largest = sizes.max(initial=0)
        sizes = np.where(sizes <= NOISE * largest, FLOAT32 * largest / tolerance, sizes)
    return sizes


def _text(value: Any) -> str:
    return shortened(str(value), 200)


def _stored_columns(
    output: EstimatorOutput, renamed: Mapping[str, str | None]
) -> tuple[str | None, ...]:
    return tuple(
        renamed.get(column, None if column in output.unstored else column)
        for column in output.columns
    )
