"""Exact casts of integers, up to 128 bits wide, into tensor types, and the result of a cast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

Array = np.ndarray[Any, np.dtype[Any]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

_TWO_64 = 2.0**64


@dataclass
class Cast:
    """Elements in the tensor's type, and masks of those that must not be used.

    A mask that is none marks nothing. Marked values are arbitrary.
    """

    values: Array
    nan: Mask | None = None
    infinite: Mask | None = None
    lossy: Mask | None = None


def either(first: Mask | None, second: Mask | None) -> Mask | None:
    """The union of two masks; none is an empty mask."""
    if first is None or second is None:
        return second if first is None else first
    return first | second


def from_integers(values: Array, target: np.dtype[Any]) -> Cast:
    """Cast integers of up to 64 bits, at least one; those that the target cannot hold are lossy."""
    with np.errstate(all="ignore"):
        result = values.astype(target, copy=False)
    low, high = _exact_range(target, values.dtype)
    if low <= int(values.min()) and int(values.max()) <= high:
        return Cast(result)
    if target.kind != "f":
        return Cast(result, lossy=(values < low) | (values > high))
    with np.errstate(all="ignore"):
        wide = result.astype(np.float64)
        # the range is tested, too: outside it a cast back gives other values on some machines
        same = in_range(wide, values.dtype) & (wide.astype(values.dtype) == values)
    return Cast(result, lossy=~same)


def _exact_range(target: np.dtype[Any], source: np.dtype[Any]) -> tuple[int, int]:
    """The range of integers of `source` that `target` holds exactly, all of them."""
    if target.kind == "b":
        return 0, 1
    if target.kind == "f":
        low, high = -(2 ** (np.finfo(target).nmant + 1)), 2 ** (np.finfo(target).nmant + 1)
    else:
        low, high = int(np.iinfo(target).min), int(np.iinfo(target).max)
    return max(low, int(np.iinfo(source).min)), min(high, int(np.iinfo(source).max))


def in_range(values: Array, target: np.dtype[Any]) -> Mask:
    """Which floats lie in the range of the integer type."""
    info = np.iinfo(target)
    wide = values.astype(np.float64, copy=False)
    return cast("Mask", (wide >= float(info.min)) & (wide < float(info.max // 2 + 1) * 2))


def from_wide_integers(elements: pa.Array, target: np.dtype[Any]) -> Cast:
    """Cast decimal128(38, 0), read as integers of 128 bits in two's complement."""
    low, high = words_of(elements)
    narrow = low.view(np.int64)
    fits = high == (narrow >> 63)
    if fits.all():
        return from_integers(narrow, target)
    if target == np.uint64:
        return Cast(low, lossy=high != 0)
    small = from_integers(np.where(fits, narrow, 0), target)
    if target.kind != "f":
        return Cast(small.values, lossy=either(small.lossy, ~fits))
    with np.errstate(all="ignore"):
        # if a number of 2^63 or more is a float64, so are its two halves: the way there and back
        # then loses nothing
        wide = high.astype(np.float64) * _TWO_64 + low
        result = wide.astype(target)
        upper = np.floor(wide / _TWO_64)
        lower = wide - upper * _TWO_64
        same = (
            (result.astype(np.float64) == wide)
            & in_range(upper, np.dtype(np.int64))
            & (upper.astype(np.int64) == high)
            & (lower.astype(np.uint64) == low)
        )
    return Cast(np.where(fits, small.values, result), lossy=either(small.lossy, ~(fits | same)))


def words_of(elements: pa.Array) -> tuple[Array, Array]:
    """The lower and the upper 64 bits of decimal128 values, uint64 and int64; NULL is zero."""
    words = np.frombuffer(elements.buffers()[1], dtype="<u8").reshape(-1, 2)
    words = words[elements.offset : elements.offset + len(elements)]
    if elements.null_count:
        words = np.where(elements.is_null().to_numpy(zero_copy_only=False)[:, None], 0, words)
    return words[:, 0].copy(), words[:, 1].view(np.int64)
