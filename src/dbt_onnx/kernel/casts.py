"""Casts Arrow columns to tensor types, and marks the elements that cannot be cast without loss.

Everything here is vectorised: no Python code runs per row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dbt_onnx.kernel.tensors import DEFAULT_TOLERANCE, Array, Mask, numpy_dtype

if TYPE_CHECKING:
    from dbt_onnx.kernel.contract import Feature, TensorType, TimeUnit

NANOSECONDS: dict[TimeUnit, int] = {
    "day": 86_400_000_000_000,
    "hour": 3_600_000_000_000,
    "minute": 60_000_000_000,
    "second": 1_000_000_000,
    "millisecond": 1_000_000,
    "microsecond": 1_000,
}
# a float64 holds every integer up to 2^53, and every power of ten up to 10^22, exactly
_EXACT_INTEGER = 2**53
_EXACT_POWER_OF_TEN = 22
# the maximum number of digits of a decimal128
_MAX_DIGITS = 38
_ARROW_NANOSECONDS = {"s": 1_000_000_000, "ms": 1_000_000, "us": 1_000, "ns": 1}
_TWO_64 = 2.0**64


@dataclass
class Cast:
    """Elements in the tensor's type, and masks of the elements that must not be used.

    A mask that is None marks nothing. Marked values are arbitrary.
    """

    values: Array
    nan: Mask | None = None
    infinite: Mask | None = None
    lossy: Mask | None = None


def cast_elements(elements: pa.Array, *, dtype: TensorType, feature: Feature) -> Cast:
    """Cast a flat column to `dtype`. The caller has checked that the column's type can be cast to it.

    Integers (also HUGEINT, and DECIMAL of scale 0) and whole times that the cast changes are `lossy`.
    Floats and other DECIMAL values are `lossy` if the cast changes them by more than the feature's
    tolerance, compared at float64 precision; in an integer tensor, if it changes them at all. NULL
    elements get arbitrary values, which the caller masks.
    """
    kind = elements.type
    target = numpy_dtype(dtype)
    if pa.types.is_null(kind) or not len(elements):
        return Cast(np.full(len(elements), "" if dtype == "string" else 0, dtype=target))
    if dtype == "string":
        return Cast(_text(elements))
    tolerance = DEFAULT_TOLERANCE.get(dtype, 0.0)
    if feature.tolerance is not None:
        tolerance = feature.tolerance
    if pa.types.is_boolean(kind):
        return Cast(pc.cast(_filled(elements), pa.uint8()).to_numpy().astype(target))
    if pa.types.is_integer(kind):
        return _from_integers(_filled(elements).to_numpy(), target)
    if pa.types.is_decimal(kind):
        return _from_decimals(elements, target, tolerance)
    if pa.types.is_floating(kind):
        return _from_floats(_filled(elements).to_numpy(), target, tolerance)
    assert feature.time_unit is not None
    return _from_times(elements, target, tolerance, NANOSECONDS[feature.time_unit])


def _filled(elements: pa.Array) -> pa.Array:
    """Replace NULL by zero, so that numpy can view the elements."""
    if not elements.null_count:
        return elements
    # fill_null has no kernel for half floats
    if pa.types.is_float16(elements.type):
        elements = elements.cast(pa.float32())
    return pc.fill_null(elements, pa.scalar(0, pa.int8()).cast(elements.type))


def _text(elements: pa.Array) -> Array:
    """Return Python strings, "" for NULL. The rows with the same ENUM value share one string object."""
    if pa.types.is_dictionary(elements.type):
        words = np.append(elements.dictionary.to_numpy(zero_copy_only=False), "").astype(object)
        indices = pc.cast(elements.indices, pa.int64())
        return cast("Array", words[pc.fill_null(indices, len(words) - 1).to_numpy()])
    elements = pc.cast(elements, pa.large_string())
    if elements.null_count:
        elements = pc.fill_null(elements, "")
    return cast("Array", elements.to_numpy(zero_copy_only=False))


def _from_floats(values: Array, target: np.dtype[Any], tolerance: float) -> Cast:
    nan = infinite = lossy = None
    if not np.isfinite(values).all():
        nan, infinite = np.isnan(values), np.isinf(values)
    with np.errstate(all="ignore"):
        result = values.astype(target)
        if target.kind != "f":
            lossy = (np.trunc(values) != values) | ~_in_range(values, target)
        elif target.itemsize < values.dtype.itemsize:
            lossy = _changed(values, result, tolerance)
    return Cast(result, nan, infinite, lossy)


def _changed(before: Array, after: Array, tolerance: float) -> Mask:
    """Return a mask of the elements that differ by more than the tolerance, or that over- or underflow."""
    info = np.finfo(after.dtype)
    if tolerance >= info.eps:
        # rounding stays within the tolerance, so only values outside the normal range can differ.
        # This takes three cheap passes; the full comparison below takes eight
        size = np.abs(after)
        small = np.count_nonzero(size < info.tiny)
        if size.max() <= info.max and small == len(before) - np.count_nonzero(before):
            return np.zeros(len(before), dtype=bool)
    wide = before.astype(np.float64, copy=False)
    difference = np.abs(after.astype(np.float64) - wide)
    # NaN and infinity compare false here: they have separate masks
    return cast("Mask", difference > tolerance * np.abs(wide))


def _from_decimals(elements: pa.Array, target: np.dtype[Any], tolerance: float) -> Cast:
    scale = elements.type.scale
    if scale > 0 and target.kind == "f":
        return _from_floats(decimals_to_floats(elements), target, tolerance)
    fraction = None
    if scale > 0:
        # with 38 digits after the point, a decimal128 has no digit left before the point
        wide = pa.decimal128 if scale < _MAX_DIGITS else pa.decimal256
        decimals = pc.cast(elements, wide(max(_MAX_DIGITS, scale + 1), scale))
        elements = pc.trunc(decimals)
        changed = pc.fill_null(pc.not_equal(elements, decimals), pa.scalar(value=False))
        fraction = changed.to_numpy(zero_copy_only=False)
    if elements.type != pa.decimal128(38, 0):
        elements = pc.cast(elements, pa.decimal128(38, 0))
    result = _from_wide_integers(elements, target)
    result.lossy = either(result.lossy, fraction)
    return result


def decimals_to_floats(elements: pa.Array) -> Array:
    """Return float64 (rows,): the float nearest to each decimal, as Python's `float(Decimal)`; NULL is 0.0.

    Arrow's own cast multiplies by a power of ten that no float holds exactly: 115.57 becomes
    115.57000000000001. The division of two exact floats here is rounded only once. Longer decimals are
    parsed from their text, which also gives the nearest float.
    """
    scale = elements.type.scale
    values, exact = np.zeros(len(elements)), np.zeros(len(elements), dtype=bool)
    if 0 <= scale <= _EXACT_POWER_OF_TEN and elements.type.precision <= _MAX_DIGITS:
        low, high = _words_of(pc.cast(elements, pa.decimal128(_MAX_DIGITS, scale)))
        narrow = low.view(np.int64)
        exact = (high == narrow >> 63) & (narrow >= -_EXACT_INTEGER) & (narrow <= _EXACT_INTEGER)
        values = narrow / 10.0**scale
    if not exact.all():
        text = pc.cast(elements.filter(pa.array(~exact)), pa.string())
        values[~exact] = _filled(pc.cast(text, pa.float64())).to_numpy()
    return cast("Array", values)


def _from_times(elements: pa.Array, target: np.dtype[Any], tolerance: float, unit: int) -> Cast:
    """Return units since 1970-01-01 00:00 UTC. Whole units must be exact, as integers must."""
    counts, infinite = _ticks(elements)
    tick = _tick_nanoseconds(elements.type)
    if unit <= tick:
        factor = tick // unit
        bound = np.iinfo(np.int64).max // factor
        beyond = (counts > bound) | (counts < -bound)
        result = _from_integers(np.where(beyond, 0, counts) * factor, target)
        return Cast(result.values, None, infinite, either(result.lossy, beyond))
    per_unit = unit // tick
    # rounded towards zero, so that a moment just before 1970 is a small negative fraction, and not -1
    # plus a fraction of nearly 1
    rest = np.fmod(counts, per_unit)
    whole = (counts - rest) // per_unit
    broken = rest != 0
    result = _from_integers(whole, target)
    if target.kind != "f":
        return Cast(result.values, None, infinite, either(result.lossy, broken))
    parts = _from_floats(whole + rest / per_unit, target, tolerance)
    lossy = np.where(broken, _dense(parts.lossy, broken), _dense(result.lossy, broken))
    return Cast(np.where(broken, parts.values, result.values), None, infinite, lossy)


def _dense(mask: Mask | None, like: Mask) -> Mask:
    return np.zeros_like(like) if mask is None else mask


def _tick_nanoseconds(kind: pa.DataType) -> int:
    if pa.types.is_date(kind):
        return NANOSECONDS["day" if pa.types.is_date32(kind) else "millisecond"]
    return _ARROW_NANOSECONDS[kind.unit]


def _ticks(elements: pa.Array) -> tuple[Array, Mask]:
    """Return the times as int64 counts, and a mask of DuckDB's 'infinity' and '-infinity'."""
    ticks = pa.int32() if pa.types.is_date32(elements.type) else pa.int64()
    counts = _filled(pc.cast(elements, ticks)).to_numpy()
    limit = np.iinfo(counts.dtype).max
    return counts.astype(np.int64), (counts == limit) | (counts == -limit)


def either(first: Mask | None, second: Mask | None) -> Mask | None:
    """Return the union of two masks. None is an empty mask."""
    if first is None or second is None:
        return second if first is None else first
    return first | second


def _from_integers(values: Array, target: np.dtype[Any]) -> Cast:
    """Cast integers of up to 64 bits. Values that the target cannot hold are lossy. `values` is not empty."""
    with np.errstate(all="ignore"):
        result = values.astype(target, copy=False)
    low, high = _exact_range(target, values.dtype)
    if low <= int(values.min()) and int(values.max()) <= high:
        return Cast(result)
    if target.kind != "f":
        return Cast(result, lossy=(values < low) | (values > high))
    with np.errstate(all="ignore"):
        wide = result.astype(np.float64)
        # the range is tested, too: outside it, the result of the cast back depends on the machine
        same = _in_range(wide, values.dtype) & (wide.astype(values.dtype) == values)
    return Cast(result, lossy=~same)


def _exact_range(target: np.dtype[Any], source: np.dtype[Any]) -> tuple[int, int]:
    """Return a range of integers of type `source`, every one of which `target` holds exactly."""
    if target.kind == "b":
        return 0, 1
    if target.kind == "f":
        low, high = -(2 ** (np.finfo(target).nmant + 1)), 2 ** (np.finfo(target).nmant + 1)
    else:
        low, high = int(np.iinfo(target).min), int(np.iinfo(target).max)
    return max(low, int(np.iinfo(source).min)), min(high, int(np.iinfo(source).max))


def _in_range(values: Array, target: np.dtype[Any]) -> Mask:
    """Return a mask of the floats that lie in the range of the integer type."""
    info = np.iinfo(target)
    wide = values.astype(np.float64, copy=False)
    return cast("Mask", (wide >= float(info.min)) & (wide < float(info.max // 2 + 1) * 2))


def _from_wide_integers(elements: pa.Array, target: np.dtype[Any]) -> Cast:
    """Cast decimal128(38, 0), read as integers of 128 bits in two's complement."""
    low, high = _words_of(elements)
    narrow = low.view(np.int64)
    fits = high == (narrow >> 63)
    if fits.all():
        return _from_integers(narrow, target)
    if target == np.uint64:
        return Cast(low, lossy=high != 0)
    small = _from_integers(np.where(fits, narrow, 0), target)
    if target.kind != "f":
        return Cast(small.values, lossy=either(small.lossy, ~fits))
    with np.errstate(all="ignore"):
        # if a float64 holds a number of 2^63 or more exactly, it also holds the two halves of the
        # number exactly, and the cast back to integers loses nothing
        wide = high.astype(np.float64) * _TWO_64 + low
        result = wide.astype(target)
        upper = np.floor(wide / _TWO_64)
        lower = wide - upper * _TWO_64
        same = (
            (result.astype(np.float64) == wide)
            & _in_range(upper, np.dtype(np.int64))
            & (upper.astype(np.int64) == high)
            & (lower.astype(np.uint64) == low)
        )
    return Cast(np.where(fits, small.values, result), lossy=either(small.lossy, ~(fits | same)))


def _words_of(elements: pa.Array) -> tuple[Array, Array]:
    """Return the lower (uint64) and the upper (int64) 64 bits of decimal128 values. NULL is zero."""
    words = np.frombuffer(elements.buffers()[1], dtype="<u8").reshape(-1, 2)
    words = words[elements.offset : elements.offset + len(elements)]
    if elements.null_count:
        words = np.where(elements.is_null().to_numpy(zero_copy_only=False)[:, None], 0, words)
    return words[:, 0].copy(), words[:, 1].view(np.int64)
