"""Trial runs of a model on generated rows, since a file may declare wrong shapes and types.

The trials also look for outputs of a row that depend on the other rows of the call, or on chance. No
number of trials proves that they do not. The calls have 1 to MOST_ROWS rows, the most that a run passes
in one call unless `batch_rows` is set: in three orders, with small and large values and NaN, each twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dbt_onnx.errors import ContractError, ModelCrashError, ScoringError
from dbt_onnx.kernel.child_session import ChildSession
from dbt_onnx.kernel.contract import FLOAT_TYPES, Input
from dbt_onnx.kernel.native import TRIAL_SECONDS
from dbt_onnx.kernel.tensors import rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.graph import GraphSignature

TRIAL_ROWS = 16
MOST_ROWS = 32_768
_SIZES = (1, 2, 16, 256, 2_048, 8_192, MOST_ROWS)
_KINDS = ((1.0, False), (1e3, False), (1e6, False), (1.0, True))  # (magnitude, with NaN)
_MAX_VALUES = 2**24
_SECONDS = 5.0
_WORDS = np.array(["", "a", "b", "A", "12", "1.5", "word", "two words", "\u00e4\u6f22", "x" * 100])
_LARGEST = {"float16": 6e4}
_TOLERANCE, _HALF_TOLERANCE, _NOISE = 1e-4, 5e-3, 1e-7


class Trial(NamedTuple):
    """The inputs and outputs of a trial.

    `feeds` is {input: tensor of TRIAL_ROWS rows}, `outputs` is {output: its values for these rows}.
    `rows_tried` is the number of rows of the largest call. In no call did a row change another row's outputs.
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
    """Run the model on generated rows, and check that the outputs of a row depend on that row only.

    The trial has the same TRIAL_ROWS rows each time. `widths` is {feature: its number of values}. The
    first row is all zeros, or empty text. If the model fails on these rows, all rows become zeros: a
    value may be an index, and out of range. Larger calls with other values follow.

    The model runs in a child process. Raises ScoringError if it fails on zeros, too, or crashes that
    process; ContractError if it returns a different number of rows, or if the outputs of a row depend
    on other rows or on chance.
    """
    names = [tensor.name for tensor in signature.outputs]
    session = ChildSession(
        model_bytes,
        output_names=names,
        batch_rows=signature.batch_rows or MOST_ROWS,
        max_seconds=TRIAL_SECONDS,
    )
    feeds = {tensor.name: _sample_values(tensor, widths, zeros=False) for tensor in inputs}
    try:
        outputs = session.run(feeds)
    except ModelCrashError:
        raise
    except ScoringError:
        feeds = {tensor.name: _sample_values(tensor, widths, zeros=True) for tensor in inputs}
        outputs = session.run(feeds)
    for name, values in zip(names, outputs, strict=True):
        shape = values.shape if isinstance(values, np.ndarray) else (len(values),)
        if shape[:1] != (TRIAL_ROWS,):
            raise ContractError(
                f"output {name!r} has shape {list(shape)} for {TRIAL_ROWS} rows; the first axis must have one entry per row",
                hint="export the model so that every output has the batch on its first axis",
            )
    _check_same(signature, outputs, session.run(feeds), exactly=True)
    for row in range(TRIAL_ROWS):
        alone = session.run({name: values[row : row + 1] for name, values in feeds.items()})
        _check_same(signature, [values[row : row + 1] for values in outputs], alone)
    tried = _try_kinds(session, signature, inputs, widths)
    return Trial(feeds, dict(zip(names, outputs, strict=True)), max(tried, TRIAL_ROWS))


def _try_kinds(
    session: ChildSession,
    signature: GraphSignature,
    inputs: Sequence[Input],
    widths: Mapping[str, int],
) -> int:
    """Try calls of growing size with each kind of values. Return the number of rows of the largest call.

    It is smaller for a slow or very wide model. If the model fails on a kind of values, without
    crashing its process, that kind is skipped.
    """
    most = min(MOST_ROWS, max(1, _MAX_VALUES // sum(widths.values())))
    largest = 0
    for number, (magnitude, with_nan) in enumerate(_KINDS):
        source = np.random.default_rng(number)
        feeds = {
            tensor.name: _random_values(tensor, widths, most, magnitude, source, with_nan=with_nan)
            for tensor in inputs
        }
        try:
            largest = max(largest, _try_sizes(session, signature, feeds, source))
        except ModelCrashError:
            raise
        except ScoringError:
            continue
    return largest


def _try_sizes(
    session: ChildSession,
    signature: GraphSignature,
    feeds: Mapping[str, np.ndarray],
    source: np.random.Generator,
) -> int:
    deadline = time.monotonic() + _SECONDS / len(_KINDS)
    before: list[Any] | None = None
    tried = 0
    for size in _SIZES:
        if size > rows_of(feeds):
            break
        began = time.monotonic()
        part = {name: values[:size] for name, values in feeds.items()}
        together = session.run(part)
        _check_same(signature, together, session.run(part), exactly=True)
        if before is not None:
            _check_same(signature, before, [values[: len(before[0])] for values in together])
        for order in (np.arange(size)[::-1], source.permutation(size)):
            moved = session.run({name: values[order] for name, values in part.items()})
            _check_same(signature, [_taken(values, order) for values in together], moved)
        before, tried = together, size
        # the next call has about eight times as many rows, and takes about eight times as long
        now = time.monotonic()
        if 8 * (now - began) > deadline - now:
            break
    return tried


def _taken(values: Any, places: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[places] if values.ndim and len(values) == len(places) else values
    return [values[place] for place in places] if len(values) == len(places) else values


def _sample_values(tensor: Input, widths: Mapping[str, int], *, zeros: bool) -> Any:
    shape = _shape(tensor, widths, TRIAL_ROWS)
    source = np.random.default_rng(0)
    # multiples of a quarter are exact in every float type
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


def _random_values(
    tensor: Input,
    widths: Mapping[str, int],
    rows: int,
    magnitude: float,
    source: np.random.Generator,
    *,
    with_nan: bool,
) -> np.ndarray:
    shape = _shape(tensor, widths, rows)
    if tensor.dtype == "string":
        return _WORDS.astype(object)[source.integers(0, len(_WORDS), shape)]
    if tensor.dtype == "bool":
        return source.integers(0, 2, shape).astype(bool)
    if tensor.dtype not in FLOAT_TYPES:
        # integers may be indices into a table: with magnitude 1 they are below 8
        most = min(8 * magnitude, np.iinfo(tensor.dtype).max)
        return source.integers(0, int(most), shape).astype(tensor.dtype)
    values = source.normal(size=shape) * magnitude
    limit = _LARGEST.get(tensor.dtype, np.inf)
    values = np.clip(values, -limit, limit).astype(tensor.dtype)
    if with_nan:
        values[source.random(shape) < 0.1 / (values.size / rows)] = np.nan
    return values


def _shape(tensor: Input, widths: Mapping[str, int], rows: int) -> tuple[int, ...]:
    width = sum(widths[name] for name in tensor.features)
    return (rows,) if tensor.rank == 1 else (rows, width)


def _check_same(
    signature: GraphSignature, one: list[Any], other: list[Any], *, exactly: bool = False
) -> None:
    """Raise ContractError unless both calls have given the same outputs for the same rows.

    With `exactly`, no value may differ; else a number may differ by a small share of itself or of its
    column's mean size.
    """
    tolerance = _HALF_TOLERANCE if signature.has_halves else _TOLERANCE
    for tensor, left, right in zip(signature.outputs, one, other, strict=True):
        if not _is_near(left, right, 0.0 if exactly else tolerance):
            raise ContractError(
                f"output {tensor.name!r} of a row changes with the rows scored beside it, or from run "
                "to run: the first axis is not the batch, or the model is random",
                hint="export the model in evaluation mode, with the batch on the first axis",
            )


def _is_near(left: Any, right: Any, tolerance: float) -> bool:
    if isinstance(left, list) and isinstance(right, list):
        if len(left) != len(right):
            return False
        if not left or not isinstance(left[0], dict):
            return all(_is_near(*pair, tolerance) for pair in zip(left, right, strict=True))
        if any(set(item) != set(left[0]) for item in (*left, *right)):
            return [set(item) for item in left] == [set(item) for item in right]
        left, right = (
            np.array([[item[key] for key in left[0]] for item in side]) for side in (left, right)
        )
    left, right = np.asarray(left), np.asarray(right)
    if left.shape != right.shape or left.dtype.kind != "f":
        return bool(np.array_equal(left, right))
    one, other = (side.reshape(len(side), -1).astype(np.float64) for side in (left, right))
    with np.errstate(all="ignore"):
        sizes = np.where(np.isfinite(one), np.abs(one), 0).mean(axis=0)
        allowed = tolerance * np.maximum(np.abs(one), sizes)
        if tolerance:
            allowed = np.maximum(allowed, _NOISE * sizes.max(initial=0))
        # the second comparison is for equal infinities, whose difference is NaN
        is_near = (np.abs(one - other) <= allowed) | (one == other)
    return bool((is_near | (np.isnan(one) & np.isnan(other))).all())
