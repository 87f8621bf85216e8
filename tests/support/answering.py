"""A service that answers on request for a test's `Warehouse`, and logs its answers for the next run."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from served_folder import publish

from dbt_onnx.artifacts.artifact import load_artifact, read_card
from dbt_onnx.artifacts.registry import Registry
from dbt_onnx.kernel.json_values import type_text
from dbt_onnx.serving.files import Files
from dbt_onnx.serving.manifest import Column, ServedModel
from dbt_onnx.serving.real_time import RealTime
from dbt_onnx.serving.request_log import RequestLog, RequestLogs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from warehouse import Warehouse

    from dbt_onnx.serving.lookup import Answer

MORNING = datetime(2024, 1, 10, 9)


class Answering:
    """A publication `scores` with a model, registered in `dbt_onnx_publications`."""

    def __init__(self, warehouse: Warehouse, version: str = "1", **types: Any) -> None:
        """Publish a version. `types` are Arrow types of features; the default is DOUBLE."""
        self.warehouse = warehouse
        self.folder = warehouse.folder / "serving/scores"
        self.logs = RequestLogs(warehouse.folder)
        self.publish(version, **types)
        self.real_time = RealTime(self.folder, max_seconds=60)
        warehouse.sql(
            "create table if not exists dbt_onnx_publications "
            "(name varchar, target varchar, scoring_models varchar[])"
        )
        warehouse.sql("insert into dbt_onnx_publications values ('scores', 'files', ['scores'])")

    def publish(self, version: str, **types: Any) -> None:
        cursor = self.warehouse.connection.cursor()
        found = cursor.execute("select * from model_registry")
        names = [column[0] for column in found.description]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        entry = Registry.from_rows(rows, where="model_registry").resolve(f"line/{version}")
        artifact = load_artifact(self.warehouse.artifacts, entry)
        card = read_card(self.warehouse.artifacts, entry)
        model = ServedModel(
            model_name="line",
            model_version=version,
            artifact=Files(self.folder).copy_model(artifact.model_bytes, card),
            sha256=artifact.sha256,
            card_sha256=artifact.card_sha256,
            features=tuple(
                Column(name, type_text(types[name]) if name in types else "double")
                for name in artifact.contract.feature_names
            ),
        )
        self.manifest = publish(
            self.folder, {0: {"y": 0.5}}, key={"id": "integer"}, outputs={"y": "float"}, model=model
        )

    def ask(self, key: int, a: Any, b: Any = 1, *, at: datetime = MORNING, **more: Any) -> Answer:
        features = {"a": a, "b": b, **more}
        given = {n: Decimal(repr(v)) if isinstance(v, float) else v for n, v in features.items()}
        answer, kept = self.real_time.score(self.manifest, (key,), given, now=at)
        kept.result(60)
        return answer

    def run(self, **arguments: Any) -> Any:
        return self.warehouse.run(logs=self.logs, **arguments)

    @property
    def segments(self) -> list[Path]:
        return sorted((self.folder / "requests").glob("*.log"))


def document(
    key: int, a: float, b: float = 1.0, /, *, served: ServedModel, **changed: Any
) -> dict[str, Any]:
    """Return an answer as a service would log it, with y = 2a - b + 0.5. Use numbers for which this is exact."""
    at: datetime = changed.pop("at", MORNING + timedelta(hours=1))
    return {
        "request_id": f"request {key} {at}",
        "scored_at": at.isoformat(),
        "key": [key],
        "key_kinds": {"id": "integer"},
        "features": {"a": a, "b": b},
        "feature_types": {column.name: column.kind for column in served.features},
        "outputs": {"y": 2 * a - b + 0.5},
        "rejected_reason": None,
        "model_name": served.model_name,
        "model_version": served.model_version,
        "sha256": served.sha256,
        "card_sha256": served.card_sha256,
        "publication": "any",
        "onnxruntime_version": "1.2.3",
        "provider": "CPUExecutionProvider",
        "threads": 1,
        **changed,
    }


def keep(answering: Answering, *documents: Mapping[str, Any]) -> Path:
    """Append documents to a new segment."""
    before = set(answering.segments)
    with RequestLog(answering.folder / "requests") as log:
        for one in documents:
            log.append(one).result(60)
    [segment] = set(answering.segments) - before
    return segment
