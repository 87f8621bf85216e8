"""Whether a graph repeats the estimator that it was made from, on the path that a run takes."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa

from dbt_onnx.child_session import ChildSession
from dbt_onnx.contract import Contract, Output, TensorType
from dbt_onnx.errors import ArtifactError, ConfigError, ContractError
from dbt_onnx.graph import read_graph
from dbt_onnx.scoring import score_batches
from dbt_onnx.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.estimators import Answer
    from dbt_onnx.integers import Array


@dataclass(frozen=True)
class Parity:
    """`expected`: {stored column: what the estimator says, (rows,) or (rows, width)}."""

    expected: dict[str, Array]
    max_abs_difference: float


def outputs_for(
    model_bytes: bytes, answers: list[Answer], renamed: Mapping[str, str | None]
) -> tuple[Output, ...]:
    """The graph's outputs that have a stored column.

    Raises ConfigError when `renamed` has a key that is no default column.
    """
    known = [column for answer in answers for column in answer.columns]
    unknown = sorted(set(renamed) - set(known))
    if unknown:
        close = get_close_matches(unknown[0], known, n=1)
        raise ConfigError(
            f"output_columns names {', '.join(map(repr, unknown))}; "
            f"the estimator gives {', '.join(known)}",
            hint=f"did you mean {close[0]!r}?" if close else "its keys are the default names",
        )
    outputs = []
    tensors = read_graph(model_bytes, where="the converted model").outputs
    # a graph may have outputs more than the estimator has answers; nothing checks those
    for tensor, answer in zip(tensors, answers, strict=False):
        columns = _stored_columns(answer, renamed)
        if any(column is not None for column in columns):
            outputs.append(
                Output(
                    name=tensor.name,
                    kind=answer.kind,
                    dtype=cast("TensorType", tensor.dtype),
                    columns=columns,
                    classes=answer.classes,
                    width=answer.values.shape[1] if answer.kind == "vector" else None,
                )
            )
    return tuple(outputs)


def score_table(model_bytes: bytes, table: pa.Table, contract: Contract) -> pa.Table:
    """Score the sample as a run would, in a child process. Raises ContractError when a row would be rejected."""
    names = [output.name for output in contract.outputs]
    session = ChildSession(model_bytes, output_names=names)
    tally = Tally()
    batches = list(score_batches(table.to_batches(), session, contract=contract, tally=tally))
    if tally.rejected:
        reasons = ", ".join(
            f"{reason} {count:,} times (such as {tally.examples[reason]})"
            for reason, count in tally.rejected_reasons.most_common()
        )
        raise ContractError(
            f"{tally.rejected:,} of {table.num_rows:,} rows of `features` would be rejected: "
            f"{reasons}",
            hint="missing text needs a fill; a number that float32 cannot hold needs "
            "dtype='float64', or a smaller unit",
        )
    return pa.Table.from_batches(batches)


def compare(
    predictions: pa.Table,
    answers: list[Answer],
    renamed: Mapping[str, str | None],
    *,
    tolerance: float,
) -> Parity:
    """Raise ArtifactError when a prediction is further from the estimator's than `tolerance`,
    which is absolute up to 1 and relative above.
    """
    expected: dict[str, Array] = {}
    faults, largest = [], 0.0
    for answer in answers:
        for position, column in enumerate(_stored_columns(answer, renamed)):
            if column is None:
                continue
            truth = answer.values
            if answer.kind in {"probabilities", "values"}:
                truth = truth[:, position]
            got = np.array(predictions.column(column).to_pylist())
            if answer.kind == "label":
                wrong = got != truth
                if answer.margin is not None:
                    tied = answer.margin <= 2 * tolerance
                    wrong, truth = wrong & ~tied, np.where(tied, got, truth)
            else:
                apart = np.abs(got - truth)
                # written so that NaN is wrong
                wrong = ~(apart <= tolerance * np.maximum(1, np.abs(truth)))
                largest = max(largest, float(np.max(apart)))
            expected[column] = truth
            if wrong.any():
                row = int(np.argwhere(wrong)[0][0])
                faults.append(
                    f"{column!r} differs in {int(wrong.sum()):,} of {wrong.size:,} values, first "
                    f"in row {row} of `features`: ONNX {got[row]}, scikit-learn {truth[row]}"
                )
    if faults:
        raise ArtifactError(
            f"the converted model does not repeat the estimator within {tolerance:g}: "
            + "; ".join(faults),
            hint="try dtype='float64', scale the features, or state a larger tolerance",
        )
    return Parity(expected, largest)


def _stored_columns(answer: Answer, renamed: Mapping[str, str | None]) -> tuple[str | None, ...]:
    return tuple(
        renamed.get(column, column if stored else None)
        for column, stored in zip(answer.columns, answer.stored, strict=True)
    )
