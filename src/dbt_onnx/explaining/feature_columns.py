"""Finds out which feature each column depends on that an operator inside the graph reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dbt_onnx.errors import format_items
from dbt_onnx.explaining.splitting import refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from dbt_onnx.artifacts.artifact import Artifact
    from dbt_onnx.kernel.contract import Contract
    from dbt_onnx.kernel.tensors import Array, Feeds, Mask

# the same row may get another last digit at another place of a call
_TOLERANCE = 1e-6


def features_of_columns(
    artifact: Artifact, feeds: Feeds, matrix_of: Callable[[Feeds], Array], *, operator: str
) -> list[int]:
    """Return the place in the contract of the feature that each column depends on; -1 if the column is the
    same in all rows. `matrix_of` computes the columns from input tensors.

    One feature after the other gets its values from the row before. Columns of this feature must then be
    as they are in the row before, and all others must not change. Raises ConfigError, with the names, if a
    column depends on several features.
    """
    matrix = matrix_of(feeds)
    before = np.roll(matrix, 1, axis=0)
    # a column that varies may depend on several features, until one feature alone explains it
    owners = np.where(_is_same(matrix, before), -1, -2)
    changed_by: dict[int, list[str]] = {}
    for number, (name, places) in enumerate(_places(artifact.contract).items()):
        changed = dict(feeds)
        for tensor, columns in places:
            changed[tensor] = _shifted(feeds[tensor], columns)
        found = matrix_of(changed)
        for column in np.flatnonzero(~_is_same(found, matrix)).tolist():
            changed_by.setdefault(column, []).append(name)
            if _is_same(found[:, column], before[:, column]):
                owners[column] = number
    for column in np.flatnonzero(owners != -1).tolist():
        names = changed_by.get(column, [])
        if owners[column] == -2 or len(names) > 1:
            others = " together with others" if len(names) == 1 else ""
            raise refused(
                artifact,
                f"column {column} of what its {operator} reads depends on several features: "
                f"{format_items(names)}{others}",
            )
    return [int(owner) for owner in owners]


def _places(contract: Contract) -> dict[str, list[tuple[str, slice]]]:
    """Return where each feature stands: {feature: input tensors, with its columns there}."""
    places: dict[str, list[tuple[str, slice]]] = {name: [] for name in contract.feature_names}
    for tensor in contract.inputs:
        start = 0
        for name in tensor.features:
            end = start + (contract.feature(name).width or 1)
            places[name].append((tensor.name, slice(start, end)))
            start = end
    return places


def _shifted(values: Array, columns: slice) -> Array:
    if values.ndim == 1:
        return np.roll(values, 1)
    changed = values.copy()
    changed[:, columns] = np.roll(values[:, columns], 1, axis=0)
    return changed


def _is_same(one: Array, other: Array) -> Mask:
    """Whether each column of two matrices is the same, or whether two columns are."""
    with np.errstate(invalid="ignore"):
        close = np.isclose(one, other, rtol=_TOLERANCE, atol=0.0, equal_nan=True)
    return np.asarray(close.all(axis=0))
