"""Turns the outputs of a model into typed columns. Checks the actual outputs, not the graph's declarations."""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from dbt_onnx.errors import ScoringError
from dbt_onnx.kernel.contract import FLOAT_TYPES, arrow_type_of
from dbt_onnx.kernel.tensors import numpy_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dbt_onnx.kernel.contract import Contract, Output
    from dbt_onnx.kernel.tensors import Array, Mask

_HINT = (
    "the card no longer describes the model: export it again, or register it again with "
    "`dbt-onnx register` (`dbt-onnx inspect FILE` shows its outputs)"
)


class Decoded(NamedTuple):
    """Decoded outputs.

    columns   one Arrow array for each field of `contract.output_fields()`, with one value per fed row
    faults    {reason: bool mask of the rows with outputs that must not be stored}
    """

    columns: list[pa.Array]
    faults: dict[str, Mask]


def decode(outputs: Sequence[Any], contract: Contract, n_rows: int) -> Decoded:
    """Turn the outputs for `n_rows` rows, in the contract's order, into columns.

    A NaN or infinity in a stored float column, or in any probability, is a fault of its row. The
    reason is `nan_output:` or `infinite_output:` and the name of the column (or of the output, if the
    column is not stored).

    Raises ScoringError if the number of outputs or rows, a width, a type or the classes of a
    map do not match the contract.
    """
    if len(outputs) != len(contract.outputs):
        raise ScoringError(
            f"the model gave {len(outputs)} outputs, but the contract has {len(contract.outputs)}",
            hint=_HINT,
        )
    decoded = Decoded([], {})
    for output, values in zip(contract.outputs, outputs, strict=True):
        for name, column in _columns(output, values, n_rows):
            if name is not None or output.kind == "probabilities":
                _find_faults(name or output.name, column, decoded.faults)
            if name is not None:
                decoded.columns.append(_to_arrow(column, output))
    return decoded


def _columns(output: Output, values: Any, n_rows: int) -> Iterator[tuple[str | None, Array]]:
    if isinstance(values, list) and output.kind == "probabilities":
        matrix = _from_maps(output, values, n_rows)
    else:
        matrix = _checked(output, values, n_rows)
    if output.kind == "vector":
        yield output.columns[0], matrix
    elif output.kind in {"label", "value"}:
        yield output.columns[0], matrix.reshape(n_rows)
    else:
        for position, name in enumerate(output.columns):
            yield name, matrix[:, position]


def _checked(output: Output, values: Any, n_rows: int) -> Array:
    """Return the output, an array of the contract's shape and type. Raises ScoringError for anything else."""
    width = (output.width or 0) if output.kind == "vector" else len(output.columns)
    expected = f"{output.dtype}[{n_rows}, {width}]"
    shapes: list[tuple[int, ...]] = []
    if output.kind in {"label", "value"}:
        expected, shapes = f"{output.dtype}[{n_rows}] or [{n_rows}, 1]", [(n_rows,)]
    if not isinstance(values, np.ndarray):
        raise _unexpected_output(output, expected, f"a {type(values).__name__}")
    shapes.append((n_rows, width))
    is_text = output.dtype == "string"
    is_of_type = values.dtype.kind in "OU" if is_text else values.dtype == numpy_dtype(output.dtype)
    if values.shape not in shapes or not is_of_type:
        dtype = "string" if values.dtype.kind in "OUS" else str(values.dtype)
        raise _unexpected_output(output, expected, f"{dtype}{list(values.shape)}")
    if values.dtype.kind == "O" and (others := set(map(type, values.flat)) - {str}):
        raise _unexpected_output(
            output, expected, f"an array with a value of type {others.pop().__name__}"
        )
    return values


def _from_maps(output: Output, maps: list[dict[Any, float]], n_rows: int) -> Array:
    """Turn a ZipMap's {class: probability} per row into an array (rows, classes), in the contract's order."""
    classes = output.classes or ()
    expected = f"{n_rows} maps of the classes {list(classes)}"
    if len(maps) != n_rows:
        raise _unexpected_output(output, expected, f"{len(maps)} maps")
    if set(map(type, maps)) - {dict} or set(map(len, maps)) - {len(classes)}:
        raise _unexpected_output(output, expected, _describe_bad_map(maps, set(classes)))
    try:
        matrix = np.array(list(map(itemgetter(*classes), maps)))
    except KeyError as error:
        raise _unexpected_output(output, expected, _describe_bad_map(maps, set(classes))) from error
    except ValueError as error:
        raise _unexpected_output(output, expected, "values that are not numbers") from error
    shape = (n_rows, len(classes)) if n_rows and len(classes) > 1 else (n_rows,)
    if matrix.dtype.kind not in "fiu" or matrix.shape != shape:
        raise _unexpected_output(output, expected, "values that are not numbers")
    return matrix.astype(numpy_dtype(output.dtype)).reshape(n_rows, len(classes))


def _describe_bad_map(maps: list[Any], classes: set[Any]) -> str:
    odd = next((m for m in maps if not isinstance(m, dict) or set(m) != classes), None)
    return f"a map of {list(odd)}" if isinstance(odd, dict) else f"a {type(odd).__name__}"


def _unexpected_output(output: Output, expected: str, got: str) -> ScoringError:
    return ScoringError(
        f"output {output.name!r} ({output.kind}) should be {expected}; the model gave {got}",
        hint=_HINT,
    )


def _find_faults(name: str, column: Array, faults: dict[str, Mask]) -> None:
    if column.dtype.kind != "f" or np.isfinite(column).all():
        return
    for word, wrong in (("nan", np.isnan(column)), ("infinite", np.isinf(column))):
        rows: Mask = np.asarray(wrong.reshape(len(wrong), -1).any(axis=1))
        reason = f"{word}_output:{name}"
        if rows.any():
            faults[reason] = faults[reason] | rows if reason in faults else rows


def _to_arrow(column: Array, output: Output) -> pa.Array:
    element = arrow_type_of(output.dtype)
    if output.dtype in FLOAT_TYPES:
        # float16 becomes float32, as in Arrow; Arrow's own to_pandas_dtype() needed pandas up to pyarrow 24
        column = column.astype("float64" if output.dtype == "float64" else "float32", copy=False)
    elif column.dtype.kind != "O" and output.dtype == "string":
        column = column.astype(object)  # Arrow cuts numpy's text at a NUL
    try:
        flat = pa.array(np.ascontiguousarray(column).ravel(), element)
    except UnicodeEncodeError as error:
        raise _unexpected_output(
            output, "text", f"a value that is not valid text: {error}"
        ) from error
    return (
        flat if output.kind != "vector" else pa.FixedSizeListArray.from_arrays(flat, output.width)
    )
