"""The arguments of `score()` in a project's scoring models: from their code, else from their last run."""

from __future__ import annotations

import ast
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.registry import CHAMPION, parse_spec
from dbt_onnx.engines.base import Upstream
from dbt_onnx.errors import ConfigError
from dbt_onnx.project.upstream import nodes_above, table_of
from dbt_onnx.runs.request import MAX_REJECTED_FRACTION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dbt_onnx.engines.base import Warehouse
    from dbt_onnx.project.dbt_project import DbtProject, ScoringModel


@dataclass(frozen=True, kw_only=True)
class ScoringCall:
    """The arguments of the call of `score()` in one model, as far as they are known.

    If they are not known, `model` and `features` are None, `key` is empty, `as_of` and `keep_inputs`
    have their defaults, and `max_rejected_fraction` is 1.
    """

    scoring_model: ScoringModel
    model: str | None
    features: Upstream | None
    key: tuple[str, ...]
    as_of: str | None = None
    keep_inputs: bool = True
    max_rejected_fraction: float = 1.0

    def asks_for_champion_of(self, model_name: str) -> bool:
        """Return whether this scoring model scores with the champion of that model."""
        try:
            spec = parse_spec(self.model or "")  # raises ConfigError for ""
        except ConfigError:
            return False
        return (spec.model_name, spec.alias) == (model_name, CHAMPION)


def literal_arguments(code: str) -> dict[str, Any]:
    """Return the literal keyword arguments of the only call of `score()` in a dbt Python model.

    `features=dbt.ref("a")` becomes "a", `dbt.ref("pack", "a", v=2)` becomes "pack.a.v2" and
    `dbt.source("x", "a")` becomes "x.a". Empty if there is no call of `score()`, or more than one.
    """
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return {}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_score(node.func)]
    found: dict[str, Any] = {}
    for keyword in calls[0].keywords if len(calls) == 1 else ():
        read = _reference if keyword.arg == "features" else ast.literal_eval
        with suppress(ValueError):
            found[keyword.arg or ""] = read(keyword.value)
    return found


def scoring_call(project: DbtProject, warehouse: Warehouse, model: ScoringModel) -> ScoringCall:
    """Return the call of `score()` in one scoring model.

    Arguments that are literals in its code are those of its next run. If `model`, `features` or `key`
    is not a literal, it is taken from the recorded sources; without these, it is not known.
    """
    node = project.manifest.nodes[model.unique_id]
    relations = _upstream(nodes_above(project.manifest, model.unique_id))
    given = literal_arguments(node.raw_code)
    spec, key, as_of = given.get("model"), given.get("key"), given.get("as_of")
    features = relations.get(given.get("features", ""))
    if features is None or not isinstance(spec, str) or not _is_key(key):
        recorded = warehouse.recorded_sources(model.table)
        by_name = {
            name: item
            for item in relations.values()
            for name in (str(item), f"{item.table.database}.{item}")
        }
        features = features or by_name.get(recorded.get("features_relation") or "")
        spec = spec if isinstance(spec, str) else _spec_of(recorded)
        key = key if _is_key(key) else recorded.get("key_columns")
    return ScoringCall(
        scoring_model=model,
        model=spec,
        features=features,
        key=tuple(key or ()),
        as_of=as_of if isinstance(as_of, str) else None,
        keep_inputs=given.get("keep_inputs") is not False,
        max_rejected_fraction=_max_rejected(given, node.raw_code),
    )


def _upstream(nodes: list[Any]) -> dict[str, Upstream]:
    """Return the relations that a model reads, by each name that `literal_arguments` may return for them.

    A name that could mean two relations is left out.
    """
    found: dict[str, list[Upstream]] = defaultdict(list)
    for above in nodes:
        if above.relation_name is None:
            continue
        if hasattr(above, "source_name"):
            names = [f"{above.source_name}.{above.name}"]
            selector = f"source:{names[0]}"
        else:
            names = [above.name, f"{above.package_name}.{above.name}"]
            selector = above.search_name
        relation = Upstream(table=table_of(above), sql=above.relation_name, selector=selector)
        version = getattr(above, "version", None)
        for name in names:
            if version is None or version == above.latest_version:
                found[name].append(relation)
            if version is not None:
                found[f"{name}.v{version}"].append(relation)
    return {name: relations[0] for name, relations in found.items() if len(relations) == 1}


def _max_rejected(given: Mapping[str, Any], code: str) -> float:
    name = "max_rejected_fraction"
    # the code has this argument, but not as a literal: it is not known
    unknown = 1.0 if name in code else MAX_REJECTED_FRACTION
    value = given.get(name, unknown)
    return float(value) if isinstance(value, int | float) else 1.0


def _spec_of(run: Mapping[str, Any]) -> str | None:
    name, alias = run.get("model_name"), run.get("model_alias")
    if not name:
        return None
    return f"{name}@{alias}" if alias else f"{name}/{run['model_version']}"


def _is_score(function: ast.expr) -> bool:
    return "score" in {getattr(function, "id", None), getattr(function, "attr", None)}


def _reference(value: Any) -> str:
    """Return `dbt.ref(...)` or `dbt.source(...)` as text. Raises ValueError for anything else."""
    if not (
        isinstance(value, ast.Call)
        and isinstance(value.func, ast.Attribute)
        and value.func.attr in {"ref", "source"}
        and value.args
    ):
        raise ValueError
    parts = [ast.literal_eval(part) for part in value.args]
    parts += [f"v{ast.literal_eval(keyword.value)}" for keyword in value.keywords]
    return ".".join(map(str, parts))


def _is_key(value: object) -> bool:
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(name, str) and name for name in value)
    )
