"""What the scoring models of a project ask for: read from their code, else from their last run."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.errors import ConfigError
from dbt_onnx.identifiers import quote
from dbt_onnx.registry import parse_spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.dbt_project import DbtProject, ScoringModel
    from dbt_onnx.engines.duckdb.cursor import Cursor


@dataclass(frozen=True, kw_only=True)
class ScoringCall:
    """The arguments of one model's `score()`, as far as they are known: none is not known.

    features   (SQL of the relation, the name that users know it by)
    key        the key columns
    """

    scoring_model: ScoringModel
    model: str | None
    features: tuple[str, str] | None
    key: tuple[str, ...] | None

    def asks_for(self, model_name: str, alias: str) -> bool:
        """Whether this scoring model scores with that alias of that model."""
        if self.model is None:
            return False
        try:
            spec = parse_spec(self.model)
        except ConfigError:
            return False
        return (spec.model_name, spec.alias) == (model_name, alias)


def scoring_calls(project: DbtProject, reader: Cursor) -> list[ScoringCall]:
    """The calls of all scoring models of the project, by name.

    Arguments that a model's code gives as literals are what its next run will use. The others are
    as its last run had them; a model that has not run yet leaves them unknown.
    """
    return [_read_call(project, reader, model) for model in project.scoring_models()]


def literal_arguments(code: str) -> dict[str, Any]:
    """The literal keyword arguments of the one call of `score()` in a dbt Python model.

    `features=dbt.ref("a")` and `dbt.source("x", "a")` are given as "a". Empty when there is no
    such call, or more than one.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return {}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_score(node.func)]
    found: dict[str, Any] = {}
    for keyword in calls[0].keywords if len(calls) == 1 else ():
        value: Any = keyword.value
        if keyword.arg == "features":
            value = value.args[-1] if _is_reference(value) and value.args else value
        try:
            found[keyword.arg or ""] = ast.literal_eval(value)
        except ValueError:
            continue
    return found


def _read_call(project: DbtProject, reader: Cursor, model: ScoringModel) -> ScoringCall:
    node = project.manifest.nodes[model.unique_id]
    relations = _upstream(project.manifest, node)
    given = literal_arguments(node.raw_code)
    spec, name, key = given.get("model"), given.get("features"), given.get("key")
    features = relations.get(name) if isinstance(name, str) else None
    if features is None or not isinstance(spec, str) or not _is_key(key):
        last = _last_run(reader, model)
        by_text = {text: (sql, text) for sql, text in relations.values()}
        features = features or by_text.get(last.get("features_relation") or "")
        spec = spec if isinstance(spec, str) else _spec_of(last)
        key = key if _is_key(key) else last.get("key_columns")
    return ScoringCall(
        scoring_model=model, model=spec, features=features, key=tuple(key) if key else None
    )


def _upstream(manifest: Any, node: Any) -> dict[str, tuple[str, str]]:
    """What the node depends on, by name: the relation's SQL and its text, `schema.name`."""
    found = {}
    for unique_id in node.depends_on.nodes:
        above = manifest.nodes.get(unique_id) or manifest.sources.get(unique_id)
        if above is not None and above.relation_name is not None:
            identifier = getattr(above, "identifier", None) or above.alias
            found[above.name] = (above.relation_name, f"{above.schema}.{identifier}")
    return found


def _last_run(reader: Cursor, model: ScoringModel) -> Mapping[str, Any]:
    """The last run's own account of what it read; empty before the first run."""
    runs = model.table.beside("dbt_onnx_runs")
    names = ("features_relation", "key_columns", "model_name", "model_version", "model_alias")
    if not reader.has(runs):
        return {}
    there = reader.columns_of(runs.sql)
    columns = ", ".join(quote(name) if name in there else "null" for name in names)
    rows = reader.rows(
        f"select {columns} from {runs.sql} where scoring_model = $scoring_model "
        "and model_name is not null "
        # a backfill reads other features, and may be by another version
        "order by scope is not distinct from 'full' desc, started_at desc limit 1",
        {"scoring_model": model.table.identifier},
    )
    return dict(zip(names, rows[0], strict=True)) if rows else {}


def _spec_of(run: Mapping[str, Any]) -> str | None:
    if not run.get("model_name"):
        return None
    alias = run.get("model_alias")
    return (
        f"{run['model_name']}@{alias}" if alias else f"{run['model_name']}/{run['model_version']}"
    )


def _is_score(function: ast.expr) -> bool:
    return (isinstance(function, ast.Name) and function.id == "score") or (
        isinstance(function, ast.Attribute) and function.attr == "score"
    )


def _is_reference(value: Any) -> bool:
    return (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr in {"ref", "source"}
    )


def _is_key(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(name, str) and name for name in value)
    )
