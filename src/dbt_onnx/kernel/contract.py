"""The contract between a warehouse table and an ONNX graph: the names of a model's features and outputs.

`export` and `dbt-onnx register` write the contract into the artifact's card (`card.json`). A run
checks it against the feature relation before any row is scored.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast, get_args

from dbt_onnx.errors import ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pyarrow as pa

TensorType = Literal[
    "float16", "float32", "float64",
    "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64",
    "bool", "string",
]  # fmt: skip
NullPolicy = Literal["reject", "nan", "fill"]
TimeUnit = Literal["day", "hour", "minute", "second", "millisecond", "microsecond"]
OutputKind = Literal["label", "probabilities", "value", "values", "vector"]
Class = int | str
Fill = float | int | str | bool

FLOAT_TYPES = frozenset({"float16", "float32", "float64"})

LEDGER_COLUMNS = (
    "as_of", "status", "rejected_reason", "score_reason", "is_late",
    "model_name", "model_version", "run_id", "scored_at", "features_hash",
)  # fmt: skip
"""Columns of every ledger in addition to the key and the outputs."""

RESERVED_COLUMNS = frozenset((
    *LEDGER_COLUMNS, "run_no", "rejected_reason_no", "last_seen_as_of", "confirmed_as_of",
    "fresh_as_of", "age", "is_stale", "served_from",
))  # fmt: skip
"""Names that neither a key nor an output may have, because the ledger, its tables and the current
view use them. Compared without regard to case, as the warehouse does."""

CARRIED_PREFIX = "__dbt_onnx_"
KEY_PREFIX = CARRIED_PREFIX + "key_"
"""Prefixes of the columns, and of the key columns among them, that pass through a scoring stream
unchanged. No feature may have a name with these prefixes."""

WRITE_AGAIN = "write the card again with dbt_onnx.export or `dbt-onnx register`"
"""The hint for a card that is wrong."""

MAX_WIDTH = 1_000_000
"""Maximum length of a LIST or ARRAY column. No real model reads a longer one."""

_NAME_RULE = "it must be non-empty text without NUL characters"
_NAME = re.compile(r"[^\x00\ud800-\udfff]+")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One column that the model reads.

    `null_policy` is what happens to a NULL: "reject" rejects the row, "nan" feeds NaN, "fill" feeds `fill`. NaN in
    the column is accepted only with "nan".
    `width` is the length of a LIST or ARRAY column, None for a scalar. `time_unit` converts a DATE
    or TIMESTAMP to the number of these units since 1970-01-01 00:00 UTC. `tolerance` is the
    largest relative change that the cast to the tensor's type may make to a DECIMAL or floating-point
    value; None means the tensor type's own precision. A row is rejected if an integer cannot be cast exactly.
    """

    name: str
    null_policy: NullPolicy = "reject"
    fill: Fill | None = None
    width: int | None = None
    time_unit: TimeUnit | None = None
    tolerance: float | None = None


@dataclass(frozen=True, kw_only=True)
class Input:
    """One input tensor. Its shape is (rows,) if `rank` is 1, else (rows, total width of `features`)."""

    name: str
    dtype: TensorType
    features: tuple[str, ...]
    rank: Literal[1, 2] = 2


@dataclass(frozen=True, kw_only=True)
class Output:
    """One output of the graph and the ledger columns that it fills.

    kind            the graph's output                       columns
    label           (rows,) or (rows, 1), int64 or string    one
    probabilities   (rows, classes) or a map per row         one per class of `classes`
    value           (rows,) or (rows, 1)                     one
    values          (rows, k)                                k
    vector          (rows, k)                                one ARRAY of length `width`

    A column that is None is computed by the model, but not stored.
    """

    name: str
    kind: OutputKind
    dtype: TensorType
    columns: tuple[str | None, ...]
    classes: tuple[Class, ...] | None = None
    width: int | None = None


@dataclass(frozen=True, kw_only=True)
class Contract:
    """The features, the graph inputs that they fill, and the columns that the graph's outputs fill.

    Raises ContractError, with every fault at once, if the parts do not fit together.
    """

    features: tuple[Feature, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]

    def __post_init__(self) -> None:
        faults = [*_feature_faults(self), *_input_faults(self), *_output_faults(self)]
        if faults:
            raise ContractError(
                f"the contract is not consistent: {'; '.join(faults)}", hint=WRITE_AGAIN
            )

    @property
    def feature_names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def column_kinds(self) -> dict[str, OutputKind]:
        """The kind of each stored output column, in order."""
        return {name: o.kind for o in self.outputs for name in o.columns if name is not None}

    def feature(self, name: str) -> Feature:
        return next(feature for feature in self.features if feature.name == name)

    def output_fields(self) -> list[pa.Field]:
        """Return the stored output columns in order. All are nullable: a rejected row has NULL outputs."""
        import pyarrow as pa

        fields = []
        for output in self.outputs:
            arrow_type = arrow_type_of(output.dtype)
            if output.kind == "vector":
                arrow_type = pa.list_(arrow_type, output.width)
            fields += [pa.field(name, arrow_type) for name in output.columns if name is not None]
        return fields

    def to_dict(self) -> dict[str, Any]:
        """Return the contract as JSON types, which `from_dict` reads back."""
        return asdict(self, dict_factory=_without_none)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Contract:
        """Read a contract from a card. Raises ContractError on unknown or malformed entries."""
        try:
            return cls(
                features=tuple(Feature(**item) for item in _listed(document, "features")),
                inputs=tuple(
                    Input(**{**item, "features": _listed(item, "features")})
                    for item in _listed(document, "inputs")
                ),
                outputs=tuple(
                    Output(
                        **{
                            **item,
                            "columns": _listed(item, "columns"),
                            "classes": _listed(item, "classes") if item.get("classes") else None,
                        }
                    )
                    for item in _listed(document, "outputs")
                ),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ContractError(
                f"the card's contract cannot be read: {error}", hint=WRITE_AGAIN
            ) from error


def arrow_type_of(dtype: TensorType) -> pa.DataType:
    """Return the Arrow type that holds one element of a tensor of this type without loss."""
    import pyarrow as pa

    # DuckDB has no 16-bit float
    names = {"float16": "float32", "bool": "bool_"}
    return cast("pa.DataType", getattr(pa, names.get(dtype, dtype))())


def _listed(document: Mapping[str, Any], key: str) -> tuple[Any, ...]:
    if key not in document:
        raise TypeError(f"it has no {key!r}")
    if not isinstance(document[key], list | tuple):
        raise TypeError(f"{key!r} is {document[key]!r:.60}, not a list")
    return tuple(document[key])


def _without_none(settings: list[tuple[str, Any]]) -> dict[str, Any]:
    """Drop settings that are None. A None inside a tuple stays: it is an output column that is not stored."""
    return {key: list(x) if isinstance(x, tuple) else x for key, x in settings if x is not None}


def _repeated(what: str, names: Iterable[str]) -> list[str]:
    """Return a fault for each name that occurs twice, compared without regard to case."""
    folded = Counter(name.casefold() for name in names if isinstance(name, str))
    return [f"{what} {name!r} is named twice" for name, count in folded.items() if count > 1]


def _feature_faults(contract: Contract) -> list[str]:
    faults = _repeated("feature", contract.feature_names)
    read = Counter(name for tensor in contract.inputs for name in tensor.features)
    for feature in contract.features:
        where = f"feature {feature.name!r}"
        if not _is_name(feature.name):
            faults.append(f"{where} is not a valid name: {_NAME_RULE}")
            continue
        if feature.name.casefold().startswith(CARRIED_PREFIX):
            faults.append(f"{where} begins with the reserved prefix {CARRIED_PREFIX!r}")
        if read[feature.name] == 0:
            faults.append(f"{where} is read by no input")
        if feature.null_policy not in get_args(NullPolicy):
            faults.append(f"{where} has unknown null_policy {feature.null_policy!r}")
        if (feature.fill is not None) != (feature.null_policy == "fill"):
            faults.append(
                f"{where} must have a fill value if, and only if, its null_policy is 'fill'"
            )
        if feature.time_unit is not None and feature.time_unit not in get_args(TimeUnit):
            faults.append(f"{where} has unknown time_unit {feature.time_unit!r}")
        if feature.width is not None and not _is_width(feature.width):
            faults.append(f"{where} has invalid width {feature.width!r}")
        if not _is_scalar(feature.fill):
            faults.append(f"{where} has invalid fill {feature.fill!r}")
        if feature.tolerance is not None and not is_share(feature.tolerance):
            faults.append(f"{where} has invalid tolerance {feature.tolerance!r}")
    return faults


def _input_faults(contract: Contract) -> list[str]:
    faults = _repeated("input", (tensor.name for tensor in contract.inputs))
    known = {feature.name: feature for feature in contract.features}
    if not contract.inputs:
        faults.append("there is no input")
    for tensor in contract.inputs:
        where = f"input {tensor.name!r}"
        if not _is_name(tensor.name):
            faults.append(f"{where} is not a valid name: {_NAME_RULE}")
        if tensor.dtype not in get_args(TensorType):
            faults.append(f"{where} has unknown dtype {tensor.dtype!r}")
        if not tensor.features:
            faults.append(f"{where} reads no feature")
        for name in tensor.features:
            if name not in known:
                faults.append(f"{where} reads feature {name!r}, which is not declared")
            elif known[name].null_policy == "nan" and tensor.dtype not in FLOAT_TYPES:
                faults.append(
                    f"{where} is {tensor.dtype}, so {name!r} cannot have null_policy 'nan'"
                )
            elif known[name].time_unit is not None and tensor.dtype in {"string", "bool"}:
                faults.append(f"{where} is {tensor.dtype}, so {name!r} cannot have a time_unit")
            elif known[name].fill is not None and (
                isinstance(known[name].fill, str) != (tensor.dtype == "string")
            ):
                faults.append(
                    f"{where} is {tensor.dtype}, but the fill of {name!r} has another type"
                )
        if tensor.rank == 1 and (
            len(tensor.features) != 1
            or any(known[name].width is not None for name in tensor.features if name in known)
        ):
            faults.append(f"{where} has rank 1, so it must read exactly one scalar feature")
        if tensor.rank not in (1, 2):
            faults.append(f"{where} has invalid rank {tensor.rank!r}")
    return faults


def _output_faults(contract: Contract) -> list[str]:
    faults = _repeated("output", (output.name for output in contract.outputs))
    stored = [name for output in contract.outputs for name in output.columns if name is not None]
    if not stored:
        faults.append("no output column is stored")
    faults += _repeated("output column", stored)
    for name in stored:
        if not _is_name(name):
            faults.append(f"output column {name!r} is not a valid name: {_NAME_RULE}")
        elif name.casefold() in RESERVED_COLUMNS or name.casefold().startswith(CARRIED_PREFIX):
            faults.append(f"output column {name!r} collides with a column of the ledger")
    for output in contract.outputs:
        where = f"output {output.name!r}"
        if not _is_name(output.name):
            faults.append(f"{where} is not a valid name: {_NAME_RULE}")
        if output.kind not in get_args(OutputKind):
            faults.append(f"{where} has unknown kind {output.kind!r}")
        if output.dtype not in get_args(TensorType):
            faults.append(f"{where} has unknown dtype {output.dtype!r}")
        if output.kind == "probabilities" and not output.classes:
            faults.append(f"{where} gives probabilities, but has no classes")
        if output.classes and not _are_classes(output.classes):
            faults.append(
                f"{where} has invalid classes {list(output.classes)!r:.80}: they must be distinct integers or strings"
            )
        if output.kind == "vector" and not _is_width(output.width):
            faults.append(f"{where} is a vector with invalid width {output.width!r}")
        wanted = 1 if output.kind in {"label", "value", "vector"} else len(output.columns)
        if output.kind == "probabilities":
            wanted = len(output.classes or ())
        if len(output.columns) != wanted:
            faults.append(
                f"{where} should have {wanted} column name(s), but has {len(output.columns)}"
            )
    return faults


def _is_name(value: object) -> bool:
    """Whether a value can be a name. Arrow cuts text at a NUL, and JSON can contain half a surrogate pair."""
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_scalar(value: object) -> bool:
    """Whether a value is None or a scalar: JSON may contain a list or an object instead."""
    return value is None or isinstance(value, float | int | str)


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number. A bool is not, although Python's bool is a subclass of int."""
    return isinstance(value, float | int) and not isinstance(value, bool)


def is_share(value: object) -> bool:
    """Whether a value from a card is a number from 0 to 1."""
    return is_number(value) and 0 <= value <= 1


def _is_width(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_WIDTH


def _are_classes(classes: tuple[object, ...]) -> bool:
    """Whether these can be the class labels of a model: distinct integers or strings."""
    plain = [item for item in classes if isinstance(item, int | str) and not isinstance(item, bool)]
    return len(set(plain)) == len(classes)
