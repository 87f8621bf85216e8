"""The reference project's drift tests: they pass on the real purchases, and fail on a column of zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from test_reference_project import Reference

if TYPE_CHECKING:
    from pathlib import Path

STORED = """
    select table_schema || '."' || table_name || '"' from information_schema.tables
    where table_name like 'dbt_onnx_features_match%'
"""
# without the project's own test of its features, which would fail first; few projects have such a test
SELECTED = (
    "--select", "+churn_predictions", "churn_predictions+,test_name:features_match_training",
    "churn_predictions+,test_name:predictions_match_baseline",
    "--indirect-selection", "empty", "--store-failures",
)  # fmt: skip


def test_a_column_silently_filled_with_zeros_is_caught(tmp_path: Path) -> None:
    reference = Reference(tmp_path)
    green = reference.build(*SELECTED)
    assert "WARN=0 ERROR=0 SKIP=0" in green
    (stored,) = (row[0] for row in reference.sql(STORED))
    assert reference.sql(f"from {stored}") == []
    assert reference.sql(
        "select role, count(*), min(rows) from dbt_onnx_references group by role order by role"
    ) == [("feature", 10, 47_140), ("output", 2, 47_140)]

    features = reference.root / "models" / "features" / "customer_features.sql"
    sql = features.read_text()
    zeros = sql.replace("cast(monetary as decimal(12, 2))", "cast(0 as decimal(12, 2))")
    assert zeros != sql
    features.write_text(zeros)
    with pytest.raises(AssertionError, match="FAIL 2 dbt_onnx_features_match_training_churn"):
        reference.build(*SELECTED, "--exclude", "purchases")
    assert reference.sql(
        f"select column_name, problem, expected, actual, figure > 5, severity from {stored}"
    ) == [
        ("monetary", "psi", "up to 12.49: 0.1069", "up to 12.49: 1.0", True, "error"),
        ("monetary", "constant", "different values", "0.0", None, "error"),
    ]
