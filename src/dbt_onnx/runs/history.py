"""What runs have left: a row for each run, a row for each prediction, and what was erased of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.registry import ModelVersion
from dbt_onnx.runs.plan import SCORE_REASONS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One row of `dbt_onnx_runs`, by column name; a column is an attribute."""

    values: Mapping[str, Any]

    def __getattr__(self, name: str) -> Any:
        return self.values[name]

    @property
    def model(self) -> ModelVersion:
        """The version that the run scored with."""
        return ModelVersion(self.model_name, self.model_version)

    @property
    def per_reason(self) -> dict[str, int]:
        """The reasons for which rows were scored, with their number."""
        counts = {reason: self.values[f"rows_{reason}"] for reason in SCORE_REASONS}
        return {reason: count for reason, count in counts.items() if count}


@dataclass(frozen=True, kw_only=True)
class LedgerRow:
    """One row of the ledger.

    outputs         output column -> value; NULL in a rejected row
    changed_inputs  feature -> its values in the row before and in this one, for features that both
                    models read. None for the first row, and where the inputs of either row are not
                    kept. The row before is the one about the moment before, among the rows that
                    were there already: so a backfilled row follows its predecessor in time.
    """

    scored_at: datetime
    as_of: datetime
    model: str
    run_id: str
    status: str
    rejected_reason: str | None
    score_reason: str
    is_late: bool
    outputs: Mapping[str, Any]
    changed_inputs: Mapping[str, tuple[Any, Any]] | None


@dataclass(frozen=True, kw_only=True)
class Erasure:
    """What is, or would be, taken out: predictions, kept inputs, and of how many runs they are.

    `logged_by` are publications whose service has kept answers about the ledger's entities in files, which
    stay as they are.
    """

    rows: int
    rows_inputs: int
    runs: int
    logged_by: tuple[str, ...] = ()
