"""The training distribution of each column of a model version, as rows of `dbt_onnx_references`.

The drift tests are SQL, and SQL cannot read a card if the warehouse has no access to files. So a
scoring run writes the card's distributions to a table in the ledger's schema: one row for each feature
(role `feature`) and each stored output column (role `output`). `distributions.describe` computes the
distributions. This module does not access the warehouse.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from dbt_onnx.kernel.contract import Contract, Feature, Fill, is_number, is_share

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from dbt_onnx.artifacts.artifact import Artifact

REFERENCES_TABLE = "dbt_onnx_references"

MODEL_TYPES = {
    "scoring_model": "VARCHAR",
    "model_name": "VARCHAR",
    "model_version": "VARCHAR",
    "artifact_sha256": "VARCHAR",
}
REFERENCES_TYPES = {
    **MODEL_TYPES,
    "role": "VARCHAR",
    "column_name": "VARCHAR",
    "kind": "VARCHAR",
    "time_unit": "VARCHAR",
    "dtype": "VARCHAR",
    "fill": "VARCHAR",
    "rows": "BIGINT",
    "null_share": "DOUBLE",
    "edges": "DOUBLE[]",
    "shares": "DOUBLE[]",
    "categories": "VARCHAR[]",
    "other_share": "DOUBLE",
}
"""The columns of the table.

shares[i]      share of the values in (edges[i - 1], edges[i]], or equal to categories[i]
other_share    share of all other categories
null_share     share of NULL and NaN among `rows`; the other shares do not count these values. Zero
               for a feature with a `fill`, since the model reads the fill instead
dtype          the least precise type in which the model reads the feature

`time_unit` and `fill` are the feature's settings in the contract.
"""

_SINGLE = ("float16", "float32")
MAX_BINS = 10_000
_MOST_ROWS = 2**63 - 1
# shares are rounded in the card
_TOLERANCE = 0.01


def references_of(artifact: Artifact) -> list[tuple[Any, ...]]:
    """Return the rows for the card of a loaded artifact, features first.

    A row has the columns of REFERENCES_TYPES without those of MODEL_TYPES. A column that the card does
    not describe has no row.
    """
    contract = artifact.contract
    features = artifact.card.get("reference", {})
    outputs = artifact.card.get("reference_outputs", {})
    rows = [
        _row("feature", name, features[name], contract.feature(name), _dtype(contract, name))
        for name in contract.feature_names
        if name in features
    ]
    stored = [name for name in contract.column_kinds if name in outputs]
    return rows + [_row("output", name, outputs[name]) for name in stored]


def _dtype(contract: Contract, feature: str) -> str:
    read_as = {tensor.dtype for tensor in contract.inputs if feature in tensor.features}
    return min(read_as, key=lambda dtype: (dtype not in _SINGLE, dtype))


def _row(
    role: str,
    name: str,
    described: Mapping[str, Any],
    feature: Feature | None = None,
    dtype: str | None = None,
) -> tuple[Any, ...]:
    fill = None
    if feature is not None and feature.fill is not None:
        fill = _fill_text(feature.fill, described)
        described = _filled(described, fill)
    kind, shares = described["kind"], described["shares"]
    time_unit = feature.time_unit if feature is not None else None
    nulls = float(described["nulls"])
    known = (role, name, kind, time_unit, dtype, fill, described["rows"], nulls)
    if kind == "numeric":
        return (*known, list(map(float, described["edges"])), list(map(float, shares)), None, 0.0)
    categories, other = list(shares), float(described["other"])
    return (*known, None, list(map(float, shares.values())), categories, other)


def _fill_text(fill: Fill, described: Mapping[str, Any]) -> str:
    """Return the fill as text, in the format of the distribution's values."""
    if described["kind"] == "numeric":
        return repr(float(fill))
    is_boolean = bool(described["shares"]) and set(described["shares"]) <= {"True", "False"}
    return str(bool(fill) if is_boolean and not isinstance(fill, str) else fill)


def _filled(described: Mapping[str, Any], fill: str) -> dict[str, Any]:
    """Return the distribution with every NULL replaced by the fill."""
    nulls = described["nulls"]
    shares = described["shares"]
    if described["kind"] == "numeric":
        scaled = [share * (1 - nulls) for share in shares]
        scaled[bisect_left(described["edges"], float(fill))] += nulls
        return {**described, "nulls": 0.0, "shares": scaled}
    known = {value: share * (1 - nulls) for value, share in shares.items()}
    if nulls:
        known[fill] = known.get(fill, 0.0) + nulls
    return {**described, "nulls": 0.0, "shares": known, "other": described["other"] * (1 - nulls)}


def reference_faults(card: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the distributions of an untrusted card, one text for each faulty column."""
    return [
        f"{part} of {name!r:.60} has {fault}"
        for part in ("reference", "reference_outputs")
        for name, described in card.get(part, {}).items()
        if (fault := _fault(described))
    ]


def _fault(described: Any) -> str | None:
    if not isinstance(described, dict):
        return f"a {type(described).__name__} instead of a distribution"
    # a tuple, not a set: the card may have a list here, which has no hash
    if described.get("kind") not in ("numeric", "categorical"):
        return f"kind {described.get('kind')!r:.40}, which is neither numeric nor categorical"
    rows = described.get("rows")
    if isinstance(rows, bool) or not isinstance(rows, int) or not 0 <= rows <= _MOST_ROWS:
        return f"rows {rows!r:.40}, which is not a number of rows"
    if not is_share(described.get("nulls")):
        return f"nulls {described.get('nulls')!r:.40}, which is not a share from 0 to 1"
    shares = described.get("shares")
    if described["kind"] == "numeric":
        return _fault_of_numbers(described.get("edges"), shares)
    return _fault_of_categories(shares, described.get("other"))


def _fault_of_numbers(edges: Any, shares: Any) -> str | None:
    if not isinstance(edges, list) or not all(map(_is_finite, edges)):
        return f"edges {edges!r:.40}, which are not a list of numbers"
    if any(lower >= upper for lower, upper in pairwise(edges)):
        return "edges that are not in ascending order"
    if not isinstance(shares, list) or not _are_shares(shares):
        return f"shares {shares!r:.40}, which are not shares that add up to 1"
    if len(shares) != len(edges) + 1 or len(shares) > MAX_BINS:
        return f"{len(shares):,} shares for {len(edges):,} edges; there must be one more share than edges"
    return None


def _fault_of_categories(shares: Any, other: Any) -> str | None:
    if not isinstance(shares, dict) or len(shares) > MAX_BINS:
        return f"shares {shares!r:.40}, which are not shares by category"
    if not _are_shares([*shares.values(), other]):
        return (
            f"shares {shares!r:.40} and other {other!r:.40}, which are not shares that add up to 1"
        )
    try:
        "".join(shares).encode()
    except UnicodeEncodeError:
        return "a category that is not valid text"
    return None


def _is_finite(value: Any) -> bool:
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # JSON may have an integer of any length
        return False


def is_size(value: Any) -> bool:
    """Whether a value from a card can be a scale or a tolerance: a finite number that is not negative."""
    return _is_finite(value) and value >= 0


def _are_shares(values: Sequence[Any]) -> bool:
    """Whether these are shares that add up to one, or to zero if every value was NULL."""
    if not all(map(is_share, values)):
        return False
    total = math.fsum(values)
    return total == 0 or abs(total - 1) <= _TOLERANCE
