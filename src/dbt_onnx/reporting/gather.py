"""Read what a report is about: from dbt's macros, the runs, and the files of the project."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from dbt_onnx.errors import DbtOnnxError
from dbt_onnx.project.health_check import check_health
from dbt_onnx.promotion.promotions_file import PROMOTIONS_NAME, read_history

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from dbt_onnx.engines.base import Warehouse
    from dbt_onnx.project.dbt_project import DbtProject, ScoringModel
    from dbt_onnx.promotion.promotions_file import Promotion
    from dbt_onnx.runs.health import Health, ModelHealth
    from dbt_onnx.runs.history import RunRow

Row = dict[str, Any]

MAX_RUNS = 60
"""The newest runs of a scoring model that a report shows."""

MACROS = (
    "prediction_outcomes", "prediction_calibration", "compare_predictions", "prediction_movers",
)  # fmt: skip
"""A report reads the dbt models that call these macros, and no others."""

_MOST_ROWS = 2_000
_MOST_MOVERS = 20

# separates the rendered queries: no query contains this comment
_END = "-- dbt_onnx: end of query"
# relations and key are passed as variables, so that no name is read as Jinja
_QUERIES = f"""
{{%- for call in var('dbt_onnx_report') if execute %}}
{{%- set predictions = api.Relation.create(**call.predictions) %}}
{{%- set features = api.Relation.create(**call.features) if call.features else none %}}
{{{{ dbt_onnx._reported_outputs(predictions, call.key) }}}}
{_END}
{{{{ dbt_onnx._reported_ages(predictions, api.Relation.create(**call.registry), call.key, features) }}}}
{_END}
{{{{ dbt_onnx._reported_tests(predictions) }}}}
{_END}
{{{{ dbt_onnx._reported_features(predictions, features) if features else 'select 1 as nothing where false' }}}}
{_END}
{{%- endfor %}}
select 1 as nothing
"""


@dataclass(kw_only=True)
class ModelFacts:
    """What a report says about one scoring model. The rows have the columns of the macros in
    `macros/monitoring/_reported.sql`.

    runs           the newest runs, oldest first
    publications   rows of `dbt_onnx_publications`, oldest first
    faults         why something could not be read
    """

    health: ModelHealth
    runs: Sequence[RunRow] = ()
    outputs: Sequence[Row] = ()
    ages: Sequence[Row] = ()
    tests: Sequence[Row] = ()
    features: Sequence[Row] = ()
    publications: Sequence[Row] = ()
    faults: list[str] = field(default_factory=list)


class DbtModel(NamedTuple):
    """The rows of a dbt model that calls one of `MACROS`; or the `fault`, why it cannot be read."""

    name: str
    rows: Sequence[Row]
    fault: str | None = None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """All that a report says.

    made_at      when the facts were read, UTC
    dbt_models   {one of MACROS: the dbt models that call it}
    promotions   {registered model: its promotions, oldest first}
    """

    project: str
    made_at: datetime
    health: Health
    models: Sequence[ModelFacts]
    dbt_models: Mapping[str, Sequence[DbtModel]]
    promotions: Mapping[str, Sequence[Promotion]]
    faults: Sequence[str] = ()


def gather(project: DbtProject, name: str | None, *, stale_after: timedelta) -> Facts:
    """Read the facts about one scoring model, or about all, without writing anything.

    What cannot be read is a fault in the facts. Raises the error of `Health` if the project or the
    warehouse cannot be read at all.
    """
    health = check_health(project, name, stale_after=stale_after)
    if health.error is not None:
        raise health.error
    known = {model.selector: model for model in project.scoring_models()}
    facts = [ModelFacts(health=model) for model in health.models]
    scoring_models = [known[each.health.scoring_model] for each in facts]
    with project.warehouse() as warehouse:
        calls = [_call(warehouse, model) for model in scoring_models]
    asked = [
        (each, call)
        for each, call in zip(facts, calls, strict=True)
        if call and each.health.figures
    ]
    queries = project.render(_QUERIES, variables={"dbt_onnx_report": [call for _, call in asked]})
    texts = iter(queries.split(_END))
    with project.warehouse() as warehouse:
        for each, model in zip(facts, scoring_models, strict=True):
            _read_tables(warehouse, each, model)
        for each, _ in asked:
            for attribute in ("outputs", "ages", "tests", "features"):
                _read(each, attribute, warehouse, next(texts))
        about = {model.unique_id for model in scoring_models} if name else None
        dbt_models = {macro: _dbt_models(project, warehouse, macro, about) for macro in MACROS}
    names = [str(each.health.figures["model_name"]) for each, _ in asked]
    promotions, faults = _promotions(project.root / "seeds" / PROMOTIONS_NAME, names)
    return Facts(
        project=project.config.project_name,
        made_at=datetime.now(UTC).replace(tzinfo=None),
        health=health,
        models=facts,
        dbt_models=dbt_models,
        promotions=promotions,
        faults=faults,
    )


def _call(warehouse: Warehouse, model: ScoringModel) -> Row | None:
    """Return the arguments of the macros as JSON types; None if there is nothing to ask yet."""
    sources = warehouse.sources(model.table)
    if sources is None or sources.is_broken or sources.registry is None:
        return None
    return {
        "predictions": asdict(model.table),
        "registry": asdict(sources.registry),
        "features": asdict(sources.features) if sources.features else None,
        "key": list(sources.key),
    }


def _read_tables(warehouse: Warehouse, facts: ModelFacts, model: ScoringModel) -> None:
    try:
        facts.runs = warehouse.runs(model.table, limit=MAX_RUNS)[::-1]
        facts.publications = warehouse.publications(model.table)
    except DbtOnnxError as error:
        facts.faults.append(error.message)


def _read(facts: ModelFacts, attribute: str, warehouse: Warehouse, query: str) -> None:
    try:
        setattr(facts, attribute, warehouse.answers(query))
    except DbtOnnxError as error:
        facts.faults.append(f"{attribute}: {error.message}")


def _dbt_models(
    project: DbtProject, warehouse: Warehouse, macro: str, about: set[str] | None
) -> list[DbtModel]:
    """Return the enabled dbt models that call a macro of this package. With `about`, ids of scoring models, only
    those that read one of them.
    """
    found = []
    for node in project.manifest.nodes.values():
        is_model = node.resource_type == "model" and node.config.materialized != "ephemeral"
        if not is_model or f"macro.dbt_onnx.{macro}" not in node.depends_on.macros:
            continue
        if about is not None and about.isdisjoint(node.depends_on.nodes):
            continue
        order, most = "", _MOST_ROWS
        if macro == "prediction_movers":
            order, most = "order by abs(difference) desc", _MOST_MOVERS
        try:
            rows = warehouse.answers(f"select * from {node.relation_name} {order} limit {most}")
        except DbtOnnxError as error:
            found.append(DbtModel(node.search_name, (), error.message))
        else:
            found.append(DbtModel(node.search_name, rows))
    return found


def _promotions(path: Path, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    try:
        found = {name: read_history(path, name).promotions for name in dict.fromkeys(names)}
    except DbtOnnxError as error:
        return {}, [error.message]
    return {name: rows for name, rows in found.items() if rows}, []
