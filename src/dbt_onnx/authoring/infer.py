"""Derive a contract from a bare ONNX file and the options of its owner."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast, get_args

from dbt_onnx.authoring.output_columns import describe_outputs
from dbt_onnx.authoring.trial import Trial, try_model
from dbt_onnx.errors import ConfigError, ContractError
from dbt_onnx.kernel.casts import NANOSECONDS
from dbt_onnx.kernel.contract import FLOAT_TYPES, Contract, Feature, Input, TensorType

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.graph import GraphSignature, Tensor
    from dbt_onnx.kernel.contract import Fill, NullPolicy, TimeUnit

FEATURE_NAMES = "feature_names"
_LIST = re.compile(r"(?P<name>.+)\[(?P<width>[0-9]+)\]")


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The options with which the owner describes a model. An empty field leaves it to the file or a default.

    `features` are in the order of the model's inputs; `name[3]` is a list column of three values.
    `outputs` is {output or output:kind: columns}; an output without columns is not stored. `fills`
    are texts, read as the type of the input. In `null_policies` and `fills` the key `*` means all.
    """

    features: Sequence[str] | None = None
    outputs: Mapping[str, Sequence[str]] = field(default_factory=dict)
    classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    null_policies: Mapping[str, NullPolicy] = field(default_factory=dict)
    fills: Mapping[str, str] = field(default_factory=dict)
    time_units: Mapping[str, TimeUnit] = field(default_factory=dict)


class Description(NamedTuple):
    """A contract, and the trial run from which it was derived."""

    contract: Contract
    trial: Trial


def describe_model(
    model_bytes: bytes, signature: GraphSignature, options: ModelOptions, *, where: str
) -> Description:
    """Derive the contract of a model: names from `options`, else from the file, else defaults.

    The model runs on generated rows (`try_model`). Raises ContractError if a ledger cannot use the model,
    or if an option must give what the file lacks; ConfigError if an option names a feature or output that
    does not exist; and the errors of `try_model`.
    """
    widths, inputs = _inputs(signature, options, where=where)
    for tensor in signature.outputs:
        if tensor.kind == "tensor" and tensor.dtype not in get_args(TensorType):
            raise ContractError(
                f"{where}: output {tensor.name!r} has elements of type {tensor.dtype}, which no "
                "column holds",
                hint="end the graph with a Cast to float32, then register it",
            )
    sizes = {name: width or 1 for name, width in widths.items()}
    trial = try_model(model_bytes, signature, inputs, sizes)
    outputs = describe_outputs(
        signature, trial.outputs, columns=options.outputs, classes=options.classes
    )
    try:
        contract = Contract(
            features=_features(widths, inputs, options), inputs=inputs, outputs=outputs
        )
    except ContractError as error:
        raise ContractError(
            f"{where}: {error.message}",
            hint="columns are named by --features and --output; --null-policy, --fill and --time-unit "
            "must fit the type of the input that reads the feature",
        ) from error
    return Description(contract=contract, trial=trial)


def feature_names_of(signature: GraphSignature) -> list[str] | None:
    """Return the names in the metadata `feature_names`: a JSON list, or text with commas. None if missing."""
    text = signature.metadata.get(FEATURE_NAMES, "").strip()
    if not text:
        return None
    if text.startswith("["):
        try:
            names = json.loads(text)
        except (ValueError, RecursionError):
            return None
        return names if all(isinstance(name, str) and name for name in names) else None
    return [name.strip() for name in text.split(",")]


def names_its_features(signature: GraphSignature) -> bool:
    """Return whether the file says which columns it reads: in its metadata, or by an input for each column."""
    is_by_column = all(_input_width(tensor) == 1 for tensor in signature.inputs)
    return is_by_column or feature_names_of(signature) is not None


def _input_width(tensor: Tensor) -> int:
    """Return how many values of a row this input takes; 0 if the file does not fix the number."""
    if tensor.shape is None:
        return 0
    width = 1 if len(tensor.shape) == 1 else tensor.shape[1]
    return width if isinstance(width, int) else 0


def sample_columns(description: Description) -> dict[str, list[Any]]:
    """Return the trial's rows as the sample for a card: {feature: values}, times as ISO 8601 text."""
    contract = description.contract
    columns: dict[str, list[Any]] = {}
    for tensor in contract.inputs:
        rows = description.trial.feeds[tensor.name]
        position = 0
        for name in tensor.features:
            feature = contract.feature(name)
            width = feature.width or 1
            values = rows if tensor.rank == 1 else rows[:, position : position + width]
            position += width
            if feature.width is None:
                values = values.reshape(-1)
            if feature.time_unit is not None:
                microseconds = values.astype("int64") * (NANOSECONDS[feature.time_unit] // 1_000)
                columns[name] = [str(item) for item in microseconds.astype("datetime64[us]")]
            else:
                columns[name] = values.tolist()
    return columns


def _inputs(
    signature: GraphSignature, options: ModelOptions, *, where: str
) -> tuple[dict[str, int | None], tuple[Input, ...]]:
    """Return {feature: length of its list, None for a scalar}, and the inputs that read the features."""
    for tensor in signature.inputs:
        if tensor.shape is not None and len(tensor.shape) not in {1, 2}:
            raise ContractError(
                f"{where}: input {tensor.name!r} has {len(tensor.shape)} axes "
                f"{list(tensor.shape)}; an input may have one or two axes",
                hint="begin the graph with a Reshape from (rows, values), then register it",
            )
    names = list(options.features) if options.features else feature_names_of(signature)
    if names is None and any(_input_width(tensor) != 1 for tensor in signature.inputs):
        raise ContractError(
            f"{where} does not name its features (no metadata {FEATURE_NAMES!r}); it takes values "
            f"in this order: {_needs(signature)}",
            hint="name the columns in the order of training: --features age,income,... "
            "(NAME[3] for a list column of 3 values)",
        )
    # in a file with one input for each column, the inputs have the names of the columns
    features: list[tuple[str, int | None]] = [
        (match["name"], int(match["width"])) if (match := _LIST.fullmatch(name)) else (name, None)
        for name in names or [tensor.name for tensor in signature.inputs]
    ]
    named = [name.casefold() for name, _ in features]
    if twice := sorted({name for name in named if named.count(name) > 1}):
        raise ContractError(
            f"{where}: feature {', '.join(map(repr, twice))} is named twice",
            hint="a warehouse compares names without regard to case; name each column once",
        )
    given = sum(width or 1 for _, width in features)
    needs = [_input_width(tensor) for tensor in signature.inputs]
    if needs.count(0) == 1:
        needs[needs.index(0)] = given - sum(needs)
    inputs, left = [], list(features)
    for tensor, need in zip(signature.inputs, needs, strict=True):
        taken, got = [], 0
        while left and got < need:
            name, width = left.pop(0)
            taken.append(name)
            got += width or 1
        if got != need or not taken:
            break
        inputs.append(
            Input(
                name=tensor.name,
                dtype=cast("TensorType", tensor.dtype),
                features=tuple(taken),
                rank=1 if len(tensor.shape or ()) == 1 else 2,
            )
        )
    if left or len(inputs) < len(needs):
        raise ContractError(
            f"{where} does not match the {given} value(s) of "
            f"{', '.join(name for name, _ in features)}: it takes {_needs(signature)}",
            hint="give --features with one name per value, in the order of the inputs "
            "(NAME[3] for a list column of 3 values)",
        )
    return dict(features), tuple(inputs)


def _features(
    widths: Mapping[str, int | None], inputs: Sequence[Input], options: ModelOptions
) -> tuple[Feature, ...]:
    dtypes = {name: tensor.dtype for tensor in inputs for name in tensor.features}
    named = ({*options.null_policies, *options.fills} - {"*"}) | {*options.time_units}
    if unknown := sorted(named - {*widths}):
        raise ConfigError(
            f"there is no feature {', '.join(map(repr, unknown))}; the features are "
            f"{', '.join(widths)}",
            hint="--null-policy, --fill and --time-unit take FEATURE=VALUE; only --null-policy and "
            "--fill take '*' for all features",
        )
    features = []
    for name, width in widths.items():
        policy = options.null_policies.get(name, options.null_policies.get("*", "reject"))
        fill = options.fills.get(name, options.fills.get("*"))
        features.append(
            Feature(
                name=name,
                null_policy="fill" if fill is not None else policy,
                fill=None if fill is None else _fill(name, fill, dtypes[name]),
                width=width,
                time_unit=options.time_units.get(name),
            )
        )
    return tuple(features)


def _fill(name: str, text: str, dtype: TensorType) -> Fill:
    try:
        if dtype == "string":
            return text
        if dtype == "bool":
            return {"true": True, "false": False}[text.lower()]
        return float(text) if dtype in FLOAT_TYPES else int(text)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"the fill value {text!r} of feature {name!r} is not of type {dtype}",
            hint=f"give a value that the model's {dtype} input can take",
        ) from error


def _needs(signature: GraphSignature) -> str:
    return ", ".join(
        f"{_input_width(tensor) or 'any number'} for input {tensor.name!r}"
        for tensor in signature.inputs
    )
