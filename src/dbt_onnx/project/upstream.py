"""Find the models upstream of a scoring model that depend on the clock, to build them in other schemas.

This module reads and copies manifests, but never changes the original. It does not import dbt.
"""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.base import TableName
from dbt_onnx.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

CLOCK_MACRO = "macro.dbt_onnx.clock"
CLOCK_VARIABLE = "dbt_onnx_clock"
# other materializations write to a place that their configuration names, or need their earlier state
BUILT_ELSEWHERE = ("table", "view", "incremental", "ephemeral")


def clock_dependent(manifest: Any, unique_id: str) -> list[str]:
    """Return the ids of the models upstream of a node that depend on the clock, in the manifest's order.

    A model depends on the clock if it calls `dbt_onnx.clock()`, directly or through macros, if it names
    the variable, or if it is downstream of such a model. Seeds, sources and snapshots never do. Raises
    ConfigError if there is no such model, or if one cannot be built in another schema.
    """
    nodes = _models_above(manifest, unique_id)
    macros = _clock_macros(manifest)
    changed = {
        item
        for item, node in nodes.items()
        if CLOCK_VARIABLE in node.raw_code or not macros.isdisjoint(node.depends_on.macros)
    }
    changed = _with_dependents(
        changed, {item: node.depends_on.nodes for item, node in nodes.items()}
    )
    found = [node_id for node_id in manifest.nodes if node_id in changed]
    name = manifest.nodes[unique_id].name
    if not found:
        raise ConfigError(
            f"no model upstream of {name} depends on the clock: every slice would see the same "
            "features",
            hint="use {{ dbt_onnx.clock() }} as the current time in the features model",
        )
    faults = [
        f"{nodes[item].name} is materialized as {nodes[item].config.materialized!r}"
        for item in found
        if nodes[item].config.materialized not in BUILT_ELSEWHERE
    ]
    if faults:
        raise ConfigError(
            f"models upstream of {name} cannot be built for the past: {'; '.join(faults)}",
            hint=f"only a {', '.join(BUILT_ELSEWHERE[:-1])} or {BUILT_ELSEWHERE[-1]} model can be "
            "built in another schema; change the materialization of these models",
        )
    return found


def table_of(node: Any) -> TableName:
    """Return the relation of a model, seed, snapshot or source."""
    identifier = getattr(node, "identifier", None) or node.alias
    return TableName(database=node.database, schema=node.schema, identifier=identifier)


def nodes_above(manifest: Any, unique_id: str) -> list[Any]:
    """Return the nodes that a model reads directly: the project's models, seeds, snapshots and sources."""
    above = manifest.nodes[unique_id].depends_on.nodes
    found = (manifest.nodes.get(item) or manifest.sources.get(item) for item in above)
    return [node for node in found if node is not None]


def relations_of(
    manifest: Any, unique_ids: Collection[str], *, suffix: str
) -> dict[str, TableName]:
    """Return {id: the model's relation, with `suffix` added to the schema}.

    Ephemeral models are left out, since they have no relation.
    """
    return {
        item: replace(table_of(node), schema=node.schema + suffix)
        for item in unique_ids
        if (node := manifest.nodes[item]).config.materialized != "ephemeral"
    }


def with_relations(manifest: Any, relations: dict[str, TableName]) -> Any:
    """Return a copy of the manifest that builds the models in `relations`, {id: relation}, elsewhere.

    Use a copy for one run of dbt only: it keeps compiled code, which contains the clock of that run.
    """
    # copied part by part: copy.deepcopy mixes up dbt's lookup tables, and the manifest's own
    # deepcopy() fails where a node is disabled (dbt-core 1.10 and 1.11)
    parts = {
        part.name: getattr(manifest, part.name)
        for part in fields(manifest)
        if not part.name.startswith("_")
    }
    manifest = type(manifest)(**{**parts, "nodes": copy.deepcopy(manifest.nodes)})
    for node_id, relation in relations.items():
        node = manifest.nodes[node_id]
        # dbt builds the relation from database, schema and alias; `relation_name` is only for messages
        node.schema, node.relation_name = relation.schema, None
    manifest.build_flat_graph()
    return manifest


def selection(manifest: Any, unique_ids: Collection[str]) -> list[str]:
    """Return dbt's selectors for exactly these nodes."""
    return [f"fqn:{'.'.join(manifest.nodes[node_id].fqn)}" for node_id in unique_ids]


def _models_above(manifest: Any, unique_id: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = [unique_id]
    while waiting:
        for above in manifest.nodes[waiting.pop()].depends_on.nodes:
            node = manifest.nodes.get(above)
            if node is not None and node.resource_type == "model" and above not in found:
                found[above] = node
                waiting.append(above)
    return found


def _clock_macros(manifest: Any) -> set[str]:
    naming = {name for name, macro in manifest.macros.items() if CLOCK_VARIABLE in macro.macro_sql}
    return _with_dependents(
        naming | {CLOCK_MACRO},
        {name: macro.depends_on.macros for name, macro in manifest.macros.items()},
    )


def _with_dependents(found: set[str], depends_on: Mapping[str, Iterable[str]]) -> set[str]:
    """Return `found` and everything that depends on an item of it, directly or indirectly."""
    while more := {
        item
        for item, needed in depends_on.items()
        if item not in found and not found.isdisjoint(needed)
    }:
        found = found | more
    return found
