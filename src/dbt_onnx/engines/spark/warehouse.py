"""Spark as models and commands ask it: `dbt_onnx.engines.base.Warehouse`, in its order."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.spark.session import spark_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from pyspark.sql import SparkSession

    from dbt_onnx.runs.answered import AnswerLogs
    from dbt_onnx.runs.request import RunSettings, ScoringRequest
    from dbt_onnx.runs.run import RunSummary

# dbt runs a model, and asks for its outcome, in one thread
_OUTCOME = threading.local()


def take_outcome() -> dict[str, Any] | None:
    """What the model that this thread has run has left; none for a model of another materialization."""
    left, _OUTCOME.text = getattr(_OUTCOME, "text", None), None
    return None if left is None else dict(json.loads(left))


class SparkWarehouse:
    """A catalog of Iceberg tables on a Spark session."""

    def __init__(self, session: SparkSession) -> None:
        self._session = session

    @staticmethod
    def opening_errors(path: str | None = None) -> AbstractContextManager[None]:  # noqa: ARG004
        return spark_errors()

    def score(
        self,
        request: ScoringRequest,
        settings: RunSettings,
        *,
        artifacts: Path,
        log: Callable[[str], None],
        logs: AnswerLogs | None = None,  # noqa: ARG002
    ) -> RunSummary:
        from dbt_onnx.engines.spark.engine import score_on_spark

        return score_on_spark(
            request, settings, session=self._session, artifacts=artifacts, log=log
        )

    def leave_outcome(self, outcome: str) -> None:
        _OUTCOME.text = outcome
