"""What commands print with `--json`: one JSON document, whose keys are stable.

Times are UTC in ISO 8601, periods are in seconds. NULL is null. NaN, infinity, DECIMAL and binary values
are text, and so are integers beyond 2^53, which many readers of JSON would round.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from dbt_onnx.artifacts.registry import RegistryEntry
    from dbt_onnx.artifacts.verification import Verdict
    from dbt_onnx.promotion.gate import Check
    from dbt_onnx.promotion.promote import Change
    from dbt_onnx.runs.history import Explained, LedgerRow, RunRow
    from dbt_onnx.runs.replay import Finding, Replay


_MOST = 2**53
_LARGEST = 3


def print_document(document: Mapping[str, Any]) -> None:
    """Print the document on standard output, and nothing else."""
    sys.stdout.write(f"{as_json(document)}\n")


def as_json(document: Mapping[str, Any]) -> str:
    """Return the document as text. Values of the warehouse may have any of its types."""
    return json.dumps(_plain(document), indent=2)


def runs_document(runs: Sequence[RunRow]) -> dict[str, Any]:
    """Return the runs, newest first, with all columns of `dbt_onnx_runs`."""
    return {"runs": [dict(run.values) for run in runs]}


def history_document(
    scoring_model: str,
    key: Sequence[str],
    history: Sequence[LedgerRow],
    publications: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Return all predictions about an entity, oldest first, and the publications that served them."""
    return {
        "scoring_model": scoring_model,
        "key": list(key),
        "predictions": [
            {
                **vars(row),
                "outputs": dict(row.outputs),
                "changed_inputs": _changes(row.changed_inputs),
                "contributions": [asdict(item) for item in row.contributions[:_LARGEST]],
            }
            for row in history
        ],
        "publications": [dict(row) for row in publications],
    }


def explanation_document(
    scoring_model: str, key: Sequence[str], explained: Explained
) -> dict[str, Any]:
    """Return what was explained; for an entity also the prediction and all contributions, largest first."""
    row = explained.row
    return {
        "scoring_model": scoring_model,
        "key": list(key) or None,
        "run_id": explained.run.run_id,
        "model": str(explained.run.model),
        "rows_added": explained.rows_added,
        "rows_explained": explained.rows_explained,
        "prediction": row
        and {
            "as_of": row.as_of,
            "outputs": dict(row.outputs),
            "contributions": [asdict(item) for item in row.contributions],
        },
    }


def replay_document(
    scoring_model: str, findings: Sequence[Finding], replays: Sequence[Replay]
) -> dict[str, Any]:
    """Return what differs in the tables, and the result of each replayed run."""
    return {
        "scoring_model": scoring_model,
        "passed": not findings and all(replay.passed for replay in replays),
        "findings": [asdict(finding) for finding in findings],
        "runs": [
            {**asdict(replay), "rows": replay.rows, "passed": replay.passed} for replay in replays
        ],
    }


def promotion_document(
    version: str, champion: RegistryEntry | None, checks: Sequence[Check], change: Change | None
) -> dict[str, Any]:
    """Return the gate's checks, and the promotion as it is recorded; null if the version was refused."""
    return {
        "version": version,
        "compared_with": str(champion.model) if champion else None,
        "checks": [asdict(check) for check in checks],
        "promotion": change and asdict(change.promotion),
    }


def verdicts_document(verdicts: Sequence[Verdict], unregistered: Sequence[Path]) -> dict[str, Any]:
    """Return the verdict about each registered version, and the folders that no row names."""
    return {
        "passed": all(verdict.passed for verdict in verdicts),
        "versions": [
            {
                **{k: v for k, v in asdict(verdict).items() if k != "entry"},
                **asdict(verdict.entry),
                "passed": verdict.passed,
            }
            for verdict in verdicts
        ],
        "unregistered": [str(folder) for folder in unregistered],
    }


def _changes(changes: Mapping[str, tuple[Any, Any]] | None) -> dict[str, Any] | None:
    if changes is None:
        return None
    return {name: {"before": before, "after": after} for name, (before, after) in changes.items()}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return value if abs(value) <= _MOST else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z" if value.tzinfo is None else value.isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
