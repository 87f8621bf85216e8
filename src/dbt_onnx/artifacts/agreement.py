"""Checks that a card's contract and a graph describe the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dbt_onnx.errors import ContractError, format_items
from dbt_onnx.kernel.contract import FLOAT_TYPES, WRITE_AGAIN, Contract, Input, Output

if TYPE_CHECKING:
    from dbt_onnx.artifacts.graph import GraphSignature, Tensor


def check_contract(contract: Contract, signature: GraphSignature, *, where: str) -> None:
    """Raise ContractError, with every fault, if the graph does not match the contract.

    For outputs, names, types and class labels are compared, but not shapes. Files often declare wrong
    shapes for outputs, so a run checks the shapes of the actual outputs.
    """
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    faults = []
    for wanted in contract.inputs:
        faults += _input_faults(wanted, inputs.get(wanted.name), contract)
    fed = {tensor.name for tensor in contract.inputs}
    faults += [f"the card does not feed input {name!r}" for name in inputs if name not in fed]
    for output in contract.outputs:
        faults += _output_faults(output, outputs.get(output.name))
    if faults:
        raise ContractError(
            f"{where}: card and graph disagree: {'; '.join(faults)}; the graph has inputs "
            f"{', '.join(inputs) or 'none'} and outputs {', '.join(outputs)}",
            hint=WRITE_AGAIN,
        )


def _input_faults(wanted: Input, tensor: Tensor | None, contract: Contract) -> list[str]:
    if tensor is None:
        return [f"the graph has no input {wanted.name!r}"]
    where = f"input {wanted.name!r}"
    faults = []
    if tensor.dtype != wanted.dtype:
        faults.append(f"{where} is {wanted.dtype} in the card and {tensor.dtype} in the graph")
    if tensor.shape is None:
        return faults
    if len(tensor.shape) != wanted.rank:
        faults.append(
            f"{where} has rank {wanted.rank} in the card and {len(tensor.shape)} in the graph"
        )
    elif wanted.rank == 2:
        width = sum(contract.feature(name).width or 1 for name in wanted.features)
        if isinstance(tensor.shape[1], int) and tensor.shape[1] != width:
            faults.append(
                f"{where} takes {tensor.shape[1]} value(s) per row, but the card's features "
                f"give {width}"
            )
    return faults


def _output_faults(output: Output, tensor: Tensor | None) -> list[str]:
    where = f"output {output.name!r}"
    if tensor is None:
        return [f"the graph has no {where}"]
    faults = []
    kinds = {"tensor", "map_sequence"} if output.kind == "probabilities" else {"tensor"}
    if tensor.kind not in kinds:
        faults.append(f"{where} is {output.kind} in the card and a {tensor.kind} in the graph")
    elif tensor.dtype != output.dtype:
        faults.append(f"{where} is {output.dtype} in the card and {tensor.dtype} in the graph")
    if output.kind == "probabilities" and output.dtype not in FLOAT_TYPES:
        faults.append(
            f"{where} gives probabilities of type {output.dtype}, not of a floating-point type"
        )
    if output.kind == "label" and tensor.dtype in FLOAT_TYPES:
        faults.append(f"{where} gives labels of type {tensor.dtype}, not integers or text")
    # the graph has the same labels in two orders, and the card has the order that the label output overruled
    is_overruled_order = output.classes == tensor.overruled and set(tensor.overruled or ()) == set(
        tensor.classes or ()
    )
    if (
        output.classes
        and tensor.classes
        and output.classes != tensor.classes
        and not is_overruled_order
    ):
        faults.append(
            f"{where} has classes {format_items(output.classes)} in the card and "
            f"{format_items(tensor.classes)} in the graph"
        )
    if output.classes and tensor.key_dtype is not None:
        kind = {"string": str, "int64": int}.get(tensor.key_dtype)
        if kind is None:
            faults.append(f"{where} has keys of type {tensor.key_dtype}, not int64 or string")
        elif not all(isinstance(item, kind) for item in output.classes):
            faults.append(
                f"{where} has {tensor.key_dtype} keys, but the card's classes have another type"
            )
    return faults
