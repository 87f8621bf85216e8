"""Whether the answer for a row depends on the other rows of the call, or on chance.

No number of trials proves that it does not. Calls of 1 to MOST_ROWS rows are tried, the largest that
a run makes by itself: in three orders, with small and large values and with NaN, each twice.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from dbt_onnx.errors import ContractError, ModelCrashError, ScoringError
from dbt_onnx.kernel.contract import FLOAT_TYPES, Input
from dbt_onnx.kernel.tensors import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Feeds = Mapping[str, np.ndarray]
    Run = Callable[[Feeds], list[Any]]

MOST_ROWS = 32_768
_SIZES = (1, 2, 16, 256, 2_048, 8_192, MOST_ROWS)
_KINDS = ((1.0, False), (1e3, False), (1e6, False), (1.0, True))  # magnitude, and whether with NaN
_MAX_VALUES = 2**24
_SECONDS = 5.0
_WORDS = np.array(["", "a", "b", "A", "12", "1.5", "word", "two words", "\u00e4\u6f22", "x" * 100])
_LARGEST = {"float16": 6e4}
_TOLERANCE, _HALF_TOLERANCE, _NOISE = 1e-4, 5e-3, 1e-7


def check_independence(
    run: Run, compare: Comparison, inputs: Sequence[Input], widths: Mapping[str, int]
) -> int:
    """Returns the rows of the largest call that was tried: fewer for a slow or very wide model.

    `run` makes one call. Raises ContractError when the output for a row changes beside other rows,
    or when the same call is repeated; ModelCrashError when a call kills its process. Values on which
    the model fails in another way are left out.
    """
    a_row = sum(widths[name] for tensor in inputs for name in tensor.features)
    most = min(MOST_ROWS, max(1, _MAX_VALUES // a_row))
    largest = 0
    for number, (magnitude, with_nan) in enumerate(_KINDS):
        source = np.random.default_rng(number)
        feeds = {
            tensor.name: _values(tensor, widths, most, magnitude, source, with_nan=with_nan)
            for tensor in inputs
        }
        try:
            largest = max(largest, _try_sizes(run, compare, feeds, source))
        except ModelCrashError:
            raise
        except ScoringError:
            continue
    return largest


def check_alone(run: Run, compare: Comparison, feeds: Feeds, outputs: list[Any]) -> None:
    """Raise ContractError when a row of `feeds` alone, or the same call again, gives other outputs."""
    compare.check(outputs, run(feeds), exactly=True)
    for row in range(rows_of(feeds)):
        alone = run({name: values[row : row + 1] for name, values in feeds.items()})
        compare.check([values[row : row + 1] for values in outputs], alone)


def _try_sizes(run: Run, compare: Comparison, feeds: Feeds, source: np.random.Generator) -> int:
    deadline = time.monotonic() + _SECONDS / len(_KINDS)
    before: list[Any] | None = None
    tried = 0
    for size in _SIZES:
        if size > rows_of(feeds):
            break
        began = time.monotonic()
        part = {name: values[:size] for name, values in feeds.items()}
        together = run(part)
        compare.check(together, run(part), exactly=True)
        if before is not None:
            compare.check(before, [values[: len(before[0])] for values in together])
        for order in (np.arange(size)[::-1], source.permutation(size)):
            back = np.argsort(order)
            moved = run({name: values[order] for name, values in part.items()})
            compare.check(together, [_taken(values, back) for values in moved])
        before, tried = together, size
        # calls of eight times as many rows take about eight times as long
        now = time.monotonic()
        if 8 * (now - began) > deadline - now:
            break
    return tried


def _taken(values: Any, places: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[places] if values.ndim and len(values) == len(places) else values
    return [values[place] for place in places] if len(values) == len(places) else values


def _values(
    tensor: Input,
    widths: Mapping[str, int],
    rows: int,
    magnitude: float,
    source: np.random.Generator,
    *,
    with_nan: bool,
) -> np.ndarray:
    width = sum(widths[name] for name in tensor.features)
    shape = (rows,) if tensor.rank == 1 else (rows, width)
    if tensor.dtype == "string":
        return _WORDS.astype(object)[source.integers(0, len(_WORDS), shape)]
    if tensor.dtype == "bool":
        return source.integers(0, 2, shape).astype(bool)
    if tensor.dtype not in FLOAT_TYPES:
        # small numbers may be positions in a table
        most = min(8 * magnitude, np.iinfo(tensor.dtype).max)
        return source.integers(0, int(most), shape).astype(tensor.dtype)
    values = source.normal(size=shape) * magnitude
    limit = _LARGEST.get(tensor.dtype, np.inf)
    values = np.clip(values, -limit, limit).astype(tensor.dtype)
    if with_nan:
        values[source.random(shape) < 0.1 / width] = np.nan
    return values


class Comparison(NamedTuple):
    """Compares the outputs `names` of two calls. `has_halves`: the model computes in 16-bit floats."""

    names: Sequence[str]
    has_halves: bool

    def check(self, one: list[Any], other: list[Any], *, exactly: bool = False) -> None:
        """Raise ContractError unless the outputs are those of the same rows; `exactly` for equal calls.

        Else a number may differ by a share of itself, or of its column's size.
        """
        tolerance = _HALF_TOLERANCE if self.has_halves else _TOLERANCE
        tolerance = 0.0 if exactly else tolerance
        for name, left, right in zip(self.names, one, other, strict=True):
            if not _is_near(left, right, tolerance):
                raise ContractError(
                    f"output {name!r} of a row changes with the rows scored beside it, or from run "
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
        # written so that infinity is near infinity
        is_near = (np.abs(one - other) <= allowed) | (one == other)
    return bool((is_near | (np.isnan(one) & np.isnan(other))).all())
