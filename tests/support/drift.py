"""The population stability index in numpy, written from its formula, and rows of reference distributions."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from hand_written import sha256_of

from dbt_onnx.artifacts.reference import MODEL_TYPES, REFERENCES_TYPES, references_of
from dbt_onnx.kernel.contract import Contract, Feature, Input, Output

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hand_written import HandWritten

EPSILON = 1e-4


def stability_index(expected: Any, actual: Any) -> float:
    """Return the population stability index of two lists of shares, one share per bin."""
    e = np.maximum(np.asarray(expected, dtype=float), EPSILON)
    a = np.maximum(np.asarray(actual, dtype=float), EPSILON)
    return float(np.sum((a - e) * np.log(a / e)))


def shares_of_numbers(values: Any, edges: list[float]) -> Any:
    """Return the shares of the values in (-inf, edges[0]], ..., (edges[-1], inf). NaN is left out."""
    known = np.asarray(values, dtype=float)
    known = known[~np.isnan(known)]
    ends = [-np.inf, *edges, np.inf]
    inside = [np.sum((known > lower) & (known <= upper)) for lower, upper in pairwise(ends)]
    # minus infinity is not above the lower bound of the first bin
    inside[0] += np.sum(np.isneginf(known))
    return np.array(inside) / len(known)


def shares_of_texts(values: list[Any], categories: list[str]) -> Any:
    """Return the share of each category and, last, of all other values. None is left out."""
    known = [str(value) for value in values if value is not None]
    listed = [sum(value == category for value in known) / len(known) for category in categories]
    others = sum(value not in set(categories) for value in known) / len(known)
    return np.array([*listed, others])


def index_of_column(values: Any, described: Mapping[str, Any]) -> float:
    """Return the population stability index of values compared with a distribution of a card."""
    if described["kind"] == "numeric":
        return stability_index(described["shares"], shares_of_numbers(values, described["edges"]))
    expected = [*described["shares"].values(), described["other"]]
    return stability_index(expected, shares_of_texts(values, list(described["shares"])))


def reference_rows(
    scoring_model: str,
    *,
    features: Mapping[str, Any] | None = None,
    outputs: Mapping[str, Any] | None = None,
    time_units: Mapping[str, Any] | None = None,
    fills: Mapping[str, Any] | None = None,
    dtype: Any = "float64",
    version: str = "2",
) -> list[tuple[Any, ...]]:
    """Return rows of `dbt_onnx_references`, as a run of `version` writes them from its card."""
    names = tuple(features or {"none": {}})
    contract = Contract(
        features=tuple(
            Feature(
                name=n,
                time_unit=(time_units or {}).get(n),
                null_policy="fill" if n in (fills or {}) else "reject",
                fill=(fills or {}).get(n),
            )
            for n in names
        ),
        inputs=tuple(Input(name=n, dtype=dtype, features=(n,)) for n in names),
        outputs=tuple(
            Output(name=n, kind="value", dtype="float32", columns=(n,))
            for n in outputs or {"y": {}}
        ),
    )
    card = {"reference": features or {}, "reference_outputs": outputs or {}}
    artifact: Any = SimpleNamespace(contract=contract, card=card)
    model = (scoring_model, "churn", version, sha256_of(version))
    return [(*model, *row) for row in references_of(artifact)]


def write_references(hand: HandWritten, rows: list[tuple[Any, ...]]) -> None:
    assert len(MODEL_TYPES) == 4
    hand.table("dbt_onnx_references", REFERENCES_TYPES, rows)
