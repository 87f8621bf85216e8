"""Checks that a relation has the columns of a contract, and reports every fault at once."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import pyarrow as pa

from dbt_onnx.errors import ContractError
from dbt_onnx.kernel.contract import CARRIED_PREFIX, Contract, Feature, Input, TensorType
from dbt_onnx.kernel.tensors import fill_value

if TYPE_CHECKING:
    from collections.abc import Mapping


def check_relation(
    contract: Contract,
    columns: Mapping[str, pa.DataType],
    *,
    where: str,
    model: str,
    known_as: Mapping[str, str] | None = None,
) -> None:
    """Compare the columns of a relation, as Arrow types, with the features that the model reads.

    In messages, `where` names the relation and `model` the model; `known_as` maps each column to the
    warehouse's name of its type. Column names must match exactly, because a warehouse that ignores case
    would hide that a column was renamed.

    Raises ContractError with every missing column, every type that cannot be cast to its
    tensor's type, and every fill value that does not fit that type.
    """
    faults = []
    for feature in contract.features:
        if feature.name not in columns:
            faults.append(_missing(feature.name, columns, where=where))
            continue
        readers = [tensor for tensor in contract.inputs if feature.name in tensor.features]
        for tensor in readers:
            kind = columns[feature.name]
            shown = (known_as or {}).get(feature.name, str(kind))
            fault = _type_fault(kind, shown, feature, tensor) or _fill_fault(feature, tensor)
            if fault and fault not in faults:
                faults.append(fault)
    if faults:
        have = [name for name in columns if not name.startswith(CARRIED_PREFIX)]
        raise ContractError(
            f"model {model!r} cannot read {where}: {'; '.join(faults)}. "
            f"{where} has the columns {', '.join(map(repr, have)) or 'none'}",
            hint="rename or cast these columns in the features model, or export the model again",
        )


def _missing(name: str, columns: Mapping[str, pa.DataType], *, where: str) -> str:
    by_case = {column.casefold(): column for column in columns}
    if name.casefold() in by_case:
        return (
            f"column {name!r} is called {by_case[name.casefold()]!r} in {where}: "
            "names must match exactly, including letter case"
        )
    close = get_close_matches(name, [c for c in columns if not c.startswith(CARRIED_PREFIX)], n=1)
    return f"column {name!r} is missing" + (f" (is it {close[0]!r}?)" if close else "")


def _type_fault(kind: pa.DataType, shown: str, feature: Feature, tensor: Input) -> str | None:
    column = f"column {feature.name!r}"
    element = kind
    if _is_list(kind):
        if feature.width is None:
            return f"{column} is {shown}, but the model reads one {tensor.dtype} value from it"
        if pa.types.is_fixed_size_list(kind) and kind.list_size != feature.width:
            return f"{column} has {kind.list_size} elements, but the model reads {feature.width}"
        element = kind.value_type
    elif feature.width is not None and not pa.types.is_null(kind):
        return f"{column} is {shown}, but the model reads a list of {feature.width} values from it"
    if _is_time(element) and feature.time_unit is None and tensor.dtype not in {"string", "bool"}:
        return f"{column} is {shown}, but its feature has no time_unit to convert it to a number"
    if feature.time_unit is not None and not (_is_time(element) or pa.types.is_null(element)):
        return f"{column} is {shown}, but its feature has a time_unit, which is only for a DATE or TIMESTAMP"
    if not _castable(element, tensor.dtype):
        return (
            f"{column} is {shown}, which cannot be cast to {tensor.dtype} for input {tensor.name!r}"
        )
    return None


def _fill_fault(feature: Feature, tensor: Input) -> str | None:
    if feature.fill is None:
        return None
    try:
        fill_value(feature, tensor.dtype)
    except ValueError as error:
        return f"the fill {feature.fill!r} of feature {feature.name!r} {error}"
    return None


def _castable(kind: pa.DataType, dtype: TensorType) -> bool:
    """Whether an Arrow type can be cast to a tensor type. Single values may still be rejected."""
    if pa.types.is_null(kind):
        return True
    if dtype == "string":
        return _is_text(kind)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return True
    if pa.types.is_decimal256(kind):
        return False
    if pa.types.is_decimal(kind):
        return dtype != "bool" or kind.scale == 0
    return dtype != "bool" and (pa.types.is_floating(kind) or _is_time(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _is_time(kind: pa.DataType) -> bool:
    return bool(pa.types.is_date(kind) or pa.types.is_timestamp(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
