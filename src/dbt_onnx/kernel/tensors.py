"""The types of tensors, and the fill values that replace NULL in them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.kernel.contract import Feature, TensorType

    Feeds: TypeAlias = Mapping[str, np.ndarray]

Array = np.ndarray[Any, np.dtype[Any]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]

DEFAULT_TOLERANCE = {"float16": 1e-3, "float32": 1e-6, "float64": 1e-12}


def numpy_dtype(dtype: TensorType) -> np.dtype[Any]:
    """Return the numpy type of a tensor. Strings are Python objects."""
    return np.dtype(object if dtype == "string" else dtype)


def fill_value(feature: Feature, dtype: TensorType) -> Any:
    """Return the feature's fill as a scalar of the tensor's type. Raises ValueError if it does not fit."""
    if dtype == "string":
        return feature.fill
    fill: Any = float(feature.fill) if isinstance(feature.fill, float) else int(feature.fill or 0)
    with np.errstate(all="ignore"):
        try:
            value = np.array(fill).astype(dtype)
        except (OverflowError, TypeError) as error:
            raise ValueError(f"does not fit {dtype}") from error
    tolerance = DEFAULT_TOLERANCE.get(dtype, 0.0)
    # NaN and infinity compare false, so they do not fit
    if not abs(value.item() - fill) <= tolerance * abs(fill):
        raise ValueError(f"does not fit {dtype}")
    return value


def rows_of(feeds: Feeds) -> int:
    """Return the number of rows in the input tensors of a model."""
    return len(next(iter(feeds.values())))


def joined(pieces: Sequence[Any]) -> Any:
    """Concatenate the pieces of one output from several calls: arrays (rows, ...), or lists of maps."""
    if len(pieces) == 1:
        return pieces[0]
    if isinstance(pieces[0], np.ndarray):
        return np.concatenate([np.atleast_1d(piece) for piece in pieces])
    return [item for piece in pieces for item in piece]
