"""Check the health of a project's scoring models: warehouse, registry, files."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.artifact import fingerprint_of, fingerprint_on_disk
from dbt_onnx.errors import ArtifactError, DbtOnnxError
from dbt_onnx.runs.health import Health, ModelHealth, Problem, judge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta

    from dbt_onnx.artifacts.registry import Registry
    from dbt_onnx.engines.base import Sources, TableName, Warehouse
    from dbt_onnx.project.dbt_project import DbtProject, ScoringModel

# separates the rendered queries: no query contains this comment
_END = "-- dbt_onnx: end of query"

# relations and key are passed as variables, so that no name is read as Jinja
_QUERIES = f"""
select {{{{ dbt_onnx.clock() }}}} as clock
{{%- for call in var('dbt_onnx_health') %}}
{_END}
{{{{ dbt_onnx.prediction_health(
    api.Relation.create(**call.predictions),
    registry=api.Relation.create(**call.registry),
    key=call.key,
    entities=api.Relation.create(**call.entities) if call.entities else none,
    stale_after=call.stale_after,
) }}}}
{{%- endfor %}}
"""


def check_health(project: DbtProject, name: str | None, *, stale_after: timedelta) -> Health:
    """Return the health of one scoring model, or of all. Problems and errors are part of it, never raised."""
    try:
        models = [project.scoring_model(name)] if name else project.scoring_models()
        if not models:
            project.scoring_model("")  # raises the error for a project without scoring models
        with project.warehouse() as warehouse:
            checks = [_Check(warehouse, model) for model in models]
        period = {"count": max(1, int(stale_after.total_seconds())), "period": "second"}
        asked = [check for check in checks if check.registry is not None and check.is_readable]
        calls = [{**check.call(), "stale_after": period} for check in asked]
        queries = project.render(_QUERIES, variables={"dbt_onnx_health": calls}).split(_END)
        with project.warehouse() as warehouse:
            clock = warehouse.answer(queries[0])["clock"]
            for check, query in zip(asked, queries[1:], strict=True):
                check.read_figures(warehouse, query)
        for check in asked:
            check.verify_artifact(project)
    except DbtOnnxError as error:
        return Health(clock=None, stale_after=stale_after, error=error)
    results = tuple(check.result() for check in checks)
    return Health(clock=clock, stale_after=stale_after, models=results)


class _Check:
    """The check of one scoring model: its sources, its figures, and the problems found so far."""

    def __init__(self, warehouse: Warehouse, model: ScoringModel) -> None:
        self.model = model
        self.figures: Mapping[str, Any] = {}
        self.problems: list[Problem] = []
        self.registry: Registry | None = None
        self.sources: Sources | None = warehouse.sources(model.table)
        self.features: TableName | None = None
        # a view whose table is missing cannot be queried
        self.is_readable = True
        if self.sources is None:
            self._add("never_ran", "no run has succeeded")
            return
        if self.sources.gone:
            self.is_readable = not self.sources.is_broken
            listed = ", ".join(map(str, self.sources.gone))
            self._add("ledger", f"its ledger is incomplete: the warehouse has no {listed}")
        with self._noting("features"):
            warehouse.check_features(self.sources)
            self.features = self.sources.features
        with self._noting("registry"):
            self.registry = warehouse.registry(self.sources)

    def call(self) -> dict[str, Any]:
        """Return the arguments of the macro `prediction_health`, as JSON types."""
        sources = self.sources
        if sources is None or sources.registry is None:
            raise ValueError(f"{self.model.selector} has no registry")
        return {
            "predictions": asdict(self.model.table),
            "registry": asdict(sources.registry),
            "entities": asdict(self.features) if self.features else None,
            "key": list(sources.key),
        }

    def read_figures(self, warehouse: Warehouse, query: str) -> None:
        with self._noting("warehouse"):
            self.figures = warehouse.answer(query)
            has_one_writer = warehouse.has_one_writer(self.model.table)
            self.problems += judge(self.figures, has_one_writer=has_one_writer)

    def verify_artifact(self, project: DbtProject) -> None:
        """Check the serving version's file and card, as a run and `dbt-onnx verify` do."""
        version = self.figures.get("serving_version")
        if self.registry is None or version is None:
            return
        entry = self.registry.resolve(f"{self.figures['model_name']}/{version}")
        artifacts, cached = project.root / "artifacts", project.cached_project
        with suppress(ArtifactError):
            if cached is not None and fingerprint_on_disk(artifacts, entry) in cached.verified:
                return
        # imported only if needed, because it imports everything that runs a model
        from dbt_onnx.artifacts.verification import verify_entry

        verdict = verify_entry(artifacts, entry)
        if verdict.fault is not None:
            self._add("artifact", verdict.fault)
        elif cached is not None:
            cached.keep_verified(fingerprint_of(entry, entry.sha256, str(verdict.card_sha256)))

    def result(self) -> ModelHealth:
        return ModelHealth(
            scoring_model=self.model.selector,
            figures=self.figures,
            problems=tuple(dict.fromkeys(self.problems)),
        )

    @contextmanager
    def _noting(self, kind: str) -> Iterator[None]:
        try:
            yield
        except DbtOnnxError as error:
            self._add(kind, error.message)

    def _add(self, kind: str, message: str) -> None:
        self.problems.append(Problem(kind=kind, message=message))
