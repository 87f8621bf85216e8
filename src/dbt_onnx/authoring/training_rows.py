"""Real rows for a bare ONNX file, in Parquet: the features, and the answers of the model that it was made from.

They give the card what `export` finds out from an estimator: a sample, the proof that the file says the
same as the original, and the distributions with which later data is compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dbt_onnx.artifacts.sample import TOLERANCE
from dbt_onnx.authoring.card_parts import card_parts
from dbt_onnx.authoring.estimators import EstimatorOutput, is_rounded_label
from dbt_onnx.authoring.parity import Trial, compare, score_arrow_table
from dbt_onnx.errors import ConfigError, ContractError, format_items

if TYPE_CHECKING:
    from pathlib import Path

    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.kernel.tensors import Array

_SCORE_HINT = (
    "name what the model reads for NULL with --null-policy COLUMN=nan or --fill COLUMN=VALUE, or write "
    "the sample without these rows"
)
_COMPARE_HINT = (
    "check that both files have the same rows in the same order, and that --features names the columns "
    "in the order of training; if the converter is less precise, give a larger --tolerance"
)


@dataclass(frozen=True)
class TrainingRows:
    """The files of the owner: `features` has a column for each feature, `expected` the original's outputs.

    `tolerance` is the largest difference allowed between file and original, as a share of the number, or
    of the mean size of its column where that is larger. Labels have no tolerance.
    """

    features: Path
    expected: Path | None = None
    tolerance: float = TOLERANCE

    def column_names(self) -> list[str]:
        """Return the columns of `features`, in their order. Raises ConfigError if it cannot be read."""
        return list(_read(self.features, option="--sample").column_names)


def parts_from(
    rows: TrainingRows, model_bytes: bytes, contract: Contract, *, batch_rows: int | None
) -> dict[str, Any]:
    """Score the rows, compare with the answers if there are any, and return the card's parts.

    Raises ConfigError if a file cannot be read or a column is missing or unknown, ContractError if a row
    would be rejected, ArtifactError if the outputs differ from the answers by more than the tolerance.
    """
    features = _features(_read(rows.features, option="--sample"), contract, rows.features.name)
    scored = score_arrow_table(
        model_bytes,
        features,
        contract,
        batch_rows=batch_rows,
        where=rows.features.name,
        hint=_SCORE_HINT,
    )
    answers, origin = scored, "itself"
    if rows.expected is not None:
        answers, origin = _answers(rows.expected, scored, contract), rows.expected.name
    trial = Trial(
        where=rows.features.name,
        table=features,
        outputs=_outputs(answers, contract),
        is_at_boundary=lambda places, _one, _other: np.zeros(len(places), dtype=bool),
        origin=origin,
    )
    parity = compare(scored, trial, {}, tolerance=rows.tolerance, hint=_COMPARE_HINT)
    columns = {name: features.column(name).combine_chunks() for name in features.column_names}
    parts = card_parts(columns, scored, parity, contract, tolerance=rows.tolerance)
    if rows.expected is None:
        # the outputs are the file's own, so nothing was compared
        del parts["parity"]["max_abs_difference"], parts["parity"]["rows_compared"]
    return parts


def _read(path: Path, *, option: str) -> pa.Table:
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = (str(error).strip().splitlines() or ["?"])[0]
        raise ConfigError(
            f"{option} {path} cannot be read as a Parquet file: {reason:.200}",
            hint="write it with `frame.to_parquet(path)`",
        ) from error


def _features(table: pa.Table, contract: Contract, where: str) -> pa.Table:
    """Return the columns of the features. NaN becomes NULL, as data frames write it."""
    if missing := [name for name in contract.feature_names if name not in table.column_names]:
        raise ConfigError(
            f"{where} has no column {', '.join(map(repr, missing))}; "
            f"it has {format_items(table.column_names)}",
            hint="write the sample with the names that --features gives",
        )
    if not table.num_rows:
        raise ConfigError(f"{where} has no rows", hint="write the training rows, or many of them")
    columns = {}
    for name in contract.feature_names:
        column = table.column(name).combine_chunks()
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        columns[name] = column
    return pa.table(columns)


def _answers(path: Path, scored: pa.Table, contract: Contract) -> pa.Table:
    """Return the scored table with the columns that the file has, in the types of the ledger."""
    table = _read(path, option="--expected")
    stored = list(contract.column_kinds)
    if unknown := [name for name in table.column_names if name not in stored]:
        raise ConfigError(
            f"{path.name} has the columns {', '.join(map(repr, unknown))}; "
            f"the predictions have {format_items(stored)}",
            hint="name its columns like the columns of the predictions (--output NAME=COLUMN)",
        )
    if table.num_rows != scored.num_rows or not table.num_columns:
        raise ConfigError(
            f"{path.name} has {table.num_columns} columns and {table.num_rows:,} rows; "
            f"the sample has {scored.num_rows:,} rows",
            hint="write one row for each row of the sample, in the same order",
        )
    for name in table.column_names:
        column = table.column(name).combine_chunks()
        if column.null_count:
            raise ContractError(
                f"{path.name} has no answer in {column.null_count:,} rows of {name!r}",
                hint="write the sample and the answers without these rows",
            )
        scored = scored.set_column(scored.column_names.index(name), name, column)
    return scored


def _outputs(answers: pa.Table, contract: Contract) -> list[EstimatorOutput]:
    outputs = []
    for output in contract.outputs:
        for name in output.columns:
            if name is None:
                continue
            values = np.array(answers.column(name).to_pylist())
            is_one_of_many = output.kind in {"probabilities", "values"}
            outputs.append(
                EstimatorOutput(
                    kind=output.kind,
                    values=values.reshape(-1, 1) if is_one_of_many else values,
                    columns=(name,),
                    is_rounded=_is_rounded(values, answers, contract)
                    if output.kind == "label"
                    else None,
                )
            )
    return outputs


def _is_rounded(labels: Array, answers: pa.Table, contract: Contract) -> Array | None:
    """Return in which rows the two largest probabilities are too close for float32; None if not known."""
    for output in contract.outputs:
        if output.kind != "probabilities" or output.classes is None:
            continue
        shares = [None if name is None else answers.column(name) for name in output.columns]
        known = [np.array(item) for item in shares if item is not None]
        if len(known) < len(shares) - 1 or not np.isin(labels, output.classes).all():
            continue
        rest = 1 - np.sum(known, axis=0)
        full = [rest if item is None else np.array(item) for item in shares]
        return is_rounded_label(labels, np.stack(full, axis=1), np.array(output.classes))
    return None
