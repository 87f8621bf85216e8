"""`publish()`, which a dbt Python model calls, and the entry point of the `published` materialization.

A published model is downstream of the relation that it publishes, and so of that relation's tests. If one of
them fails, `dbt build` skips the published model, and the previous publication is still served.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from dbt_onnx.artifacts.artifact import load_artifact, read_card
from dbt_onnx.artifacts.registry import parse_spec
from dbt_onnx.engines.base import TableName
from dbt_onnx.errors import ConfigError
from dbt_onnx.kernel.json_values import type_text
from dbt_onnx.project.dbt_model import project_folder, run_on_warehouse
from dbt_onnx.runs.request import parse_period, relation_faults, unknown_argument_faults
from dbt_onnx.serving.files import Files
from dbt_onnx.serving.lookup import utc_now
from dbt_onnx.serving.manifest import (
    Column,
    Manifest,
    Publications,
    ServedModel,
    is_publication_name,
)
from dbt_onnx.serving.targets import FILES, is_target_name, open_target

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import timedelta

    from dbt_onnx.engines.base import RowsToPublish, Warehouse
    from dbt_onnx.serving.targets import Target

_TWO_DAYS = {"count": 2, "period": "day"}
_ARGUMENTS = ("predictions", "key", "name", "stale_after", "targets", "registry", "model")


@dataclass(frozen=True, kw_only=True)
class PublicationRequest:
    """The validated arguments of `publish()`. `predictions` is a relation object of the engine."""

    predictions: Any
    key: tuple[str, ...]
    name: str
    stale_after: timedelta | None
    targets: tuple[str, ...]
    registry: Any = None
    model: str | None = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise ConfigError(
            "publish() describes a publication; this materialization expects rows",
            hint="set dbt.config(materialized='published') in the model",
        )


@dataclass(frozen=True, kw_only=True)
class PublicationSettings:
    """The settings that the materialization passes: the name of the model's own table, the run and the clock.

    `scoring_models` names the ledgers upstream of the model.
    """

    database: str
    schema: str
    identifier: str
    run_id: str
    clock_sql: str
    full_refresh: bool
    empty: bool
    scoring_models: Sequence[Mapping[str, str]] = ()

    @property
    def ledgers(self) -> list[TableName]:
        return [TableName(**ledger) for ledger in self.scoring_models]


@dataclass(frozen=True)
class NothingPublished:
    """The result of a run with `--empty`, in which dbt builds relations without rows to check that they build."""

    name: str

    def __str__(self) -> str:
        return f"{self.name}: nothing published (--empty)"

    @property
    def rows_written(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class PublicationSummary:
    """The row counts of a publication, for the line that dbt prints."""

    name: str
    rows: int
    rows_changed: int
    rows_removed: int

    def __str__(self) -> str:
        removed = f", removed {self.rows_removed:,}" if self.rows_removed else ""
        return f"{self.name}: published {self.rows:,} (changed {self.rows_changed:,}{removed})"

    @property
    def rows_written(self) -> int:
        return self.rows_changed + self.rows_removed


def publish(
    dbt: Any,  # noqa: ARG001, dbt's convention for functions that models call
    session: Any,  # noqa: ARG001
    *,
    predictions: Any,
    key: Sequence[str],
    name: str,
    stale_after: Mapping[str, Any] | None = _TWO_DAYS,
    targets: Sequence[str] = (FILES,),
    registry: Any = None,
    model: str | None = None,
    **unknown: Any,
) -> PublicationRequest:
    """Publish a relation, so that its rows can be looked up even while the warehouse is being written.

    A dbt Python model with `dbt.config(materialized="published")` returns the result of this function. It only
    checks its arguments; the materialization publishes the rows.

    predictions    a table or view, `dbt.ref(...)`, with one row per key; best a view of `current_predictions`
    key            the columns by which rows are looked up
    name           the name under which the relation is served: letters, digits, `-` and `_`
    stale_after    the age above which an answer is stale, {"count": 2, "period": "day"} by default; None for never
    targets        where to publish: the environment variable DBT_ONNX_SERVING_<NAME> contains a folder or the
                   URL of a server; for "files", the default is the folder `serving/` of the project
    registry,      the model registry, `dbt.ref(...)`, and the same `model` as in `score()`: publishes the files
    model          of the serving version, too, so that the service can score entities without a prediction

    Raises ConfigError if an argument is wrong.
    """
    relations = {"predictions": predictions} | ({} if registry is None else {"registry": registry})
    faults = [
        *unknown_argument_faults(unknown, allowed=_ARGUMENTS),
        *relation_faults(relations),
    ]
    if not _are_names(key) or len({part.casefold() for part in key}) < len(key):
        faults.append(f"key must be a list of column names; got {key!r}")
    if not is_publication_name(name):
        faults.append(f"name must have letters, digits, '-' and '_' only; got {name!r}")
    if not _are_names(targets) or not all(is_target_name(target) for target in targets):
        faults.append(f"targets must be a list of names such as 'files'; got {targets!r}")
    if (registry is None) != (model is None):
        faults.append("registry and model must be given together")
    if model is not None and FILES not in targets:
        faults.append(f"model needs the target {FILES!r}, which is not among the targets")
    period, period_faults = parse_period("stale_after", stale_after)
    faults += period_faults
    if faults:
        raise ConfigError(
            "publish() cannot run: " + "; ".join(faults),
            hint="correct the arguments of publish() in the model's Python file",
        )
    if model is not None:
        parse_spec(model)
    return PublicationRequest(
        predictions=predictions,
        key=tuple(key),
        name=name,
        stale_after=period,
        targets=tuple(dict.fromkeys(targets)),
        registry=registry,
        model=model,
    )


def _are_names(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) > 0
        and all(isinstance(value, str) and value for value in values)
    )


def publish_model(model: Callable[[Any, Any], Any], dbt: Any, session: Any, settings: str) -> None:
    """Run the `published` materialization. `settings` is `PublicationSettings` as JSON."""
    document = json.loads(settings)

    def work(request: Any, warehouse: Warehouse) -> PublicationSummary | NothingPublished:
        if not isinstance(request, PublicationRequest):
            raise ConfigError(
                f"the model returned {type(request).__name__}, not a publication",
                hint="return dbt_onnx.publish(...) from a model with materialized='published'",
            )
        known = PublicationSettings(
            **{item.name: document[item.name] for item in fields(PublicationSettings)}
        )
        if known.empty:
            return NothingPublished(request.name)
        return publish_relation(warehouse, request, known)

    run_on_warehouse(model, dbt, session, document, work)


def publish_relation(
    warehouse: Warehouse, request: PublicationRequest, settings: PublicationSettings
) -> PublicationSummary:
    """Publish a relation to each of its targets in turn, and record the publication in the warehouse.

    If the process dies midway, each target still serves either the previous publication or this one.
    """
    table = TableName(
        database=settings.database, schema=settings.schema, identifier=settings.identifier
    )
    targets = {
        name: open_target(name, request.name, project=project_folder()) for name in request.targets
    }
    with ExitStack() as held:
        for target in targets.values():
            held.enter_context(target.locked())
        rows = held.enter_context(
            warehouse.rows_to_publish(request.predictions, key=request.key, model=table)
        )
        draft = _draft(rows, request, settings) | {
            "model": _copy_model(warehouse, request, settings)
        }
        before = {name: target.publications() for name, target in targets.items()}
        last = None if settings.full_refresh else rows.last_publication()
        bases = {name: _base(target, before[name], last, draft) for name, target in targets.items()}
        with_last = all(bases.values())
        rows.compare(with_last=with_last)
        draft = {
            **draft,
            "rows": rows.rows,
            "rows_changed": rows.rows_changed,
            "rows_removed": rows.rows_removed,
            "served": tuple(rows.served()),
        }
        switches = []
        for name, target in targets.items():
            # removed rows are known only after a comparison with the last publication
            base = bases[name] if with_last else None
            now = _publish_to(target, before[name], draft, rows, base=base)
            known = rows.recorded(name)
            switches += [
                {
                    **_switch_row(now, switch),
                    "target": name,
                    "scoring_models": [ledger.identifier for ledger in settings.ledgers],
                }
                for switch in now.switches
                if (switch.publication, switch.at) not in known
            ]
        rows.record(switches)
    return PublicationSummary(
        name=request.name,
        rows=rows.rows,
        rows_changed=rows.rows_changed,
        rows_removed=rows.rows_removed,
    )


def _draft(
    rows: RowsToPublish, request: PublicationRequest, settings: PublicationSettings
) -> dict[str, Any]:
    """Return the fields of the manifest that are known before the rows are written."""
    published_at = utc_now()
    return {
        "id": f"{published_at:%Y%m%dT%H%M%S%fZ}-{secrets.token_hex(4)}",
        "name": request.name,
        **{
            part: tuple(Column(name, kind) for name, kind in getattr(rows, part).items())
            for part in ("key", "outputs", "stamps")
        },
        "stale_after": request.stale_after and request.stale_after.total_seconds(),
        "relation": rows.relation,
        "run_id": settings.run_id,
        "clock": rows.clock(settings.clock_sql),
        "published_at": published_at,
    }


def _copy_model(
    warehouse: Warehouse, request: PublicationRequest, settings: PublicationSettings
) -> ServedModel | None:
    """Copy the files of the serving version to the folder of the publication, where the service reads them.

    Return None if publish() names no model. Raises ConfigError if no ledger upstream was scored with the model,
    or if the target "files" is not a folder.
    """
    if request.model is None:
        return None
    entry = warehouse.registry_of(request.registry).resolve(request.model)
    artifacts = project_folder() / "artifacts"
    artifact = load_artifact(artifacts, entry)
    features = artifact.contract.feature_names
    scored_by = [
        ledger
        for ledger in settings.ledgers
        if warehouse.recorded_sources(ledger).get("model_name") == entry.model_name
    ]
    if not scored_by:
        raise ConfigError(
            f"publish() names model {request.model!r}, but no scoring model upstream of "
            f"{settings.identifier} scored with {entry.model_name!r}, so the types of its features are not known",
            hint="publish a relation downstream of a scoring model that uses this model, or omit registry and model",
        )
    types = warehouse.feature_types(scored_by[0], features)
    files = open_target(FILES, request.name, project=project_folder())
    if not isinstance(files, Files):
        raise ConfigError(
            f"a model can be published into a folder only, but target {FILES!r} is {files}",
            hint="give the server another target name, and set a folder for 'files'",
        )
    return ServedModel(
        model_name=entry.model_name,
        model_version=entry.model_version,
        artifact=files.copy_model(artifact.model_bytes, read_card(artifacts, entry)),
        sha256=artifact.sha256,
        card_sha256=artifact.card_sha256,
        features=tuple(Column(name, type_text(types[name])) for name in features),
    )


def _base(
    target: Target, publications: Publications | None, last: str | None, draft: Mapping[str, Any]
) -> Manifest | None:
    """Return the publication that a target can copy and update with the changed rows only; None if there is none.

    The row hashes in the warehouse must be those of this publication. Its columns must be the same as now, and it
    must be undamaged at the target.
    """
    for manifest in publications.publications if publications else ():
        shape = (draft["key"], draft["outputs"], draft["stamps"])
        is_alike = manifest.id == last and shape == (
            manifest.key, manifest.outputs, manifest.stamps,
        )  # fmt: skip
        if is_alike and target.can_build_on(manifest):
            return manifest
    return None


def _publish_to(
    target: Target,
    before: Publications | None,
    draft: Mapping[str, Any],
    rows: RowsToPublish,
    *,
    base: Manifest | None,
) -> Publications:
    size, digest = target.write(draft["id"], rows, base=base)
    manifest = Manifest(**draft, bytes=size, sha256=digest)
    now = (before or Publications(name=manifest.name)).published(manifest, at=utc_now())
    target.switch(now)
    return now


def _switch_row(publications: Publications, switch: Any) -> dict[str, Any]:
    """Return a switch as a row of `dbt_onnx_publications`."""
    manifests = {manifest.id: manifest for manifest in publications.publications}
    row = {
        "name": publications.name,
        "switch_number": switch.number,
        "publication": switch.publication,
        "why": switch.why,
        "served_since": switch.at,
    }
    if manifest := manifests.get(switch.publication):
        row |= {
            "relation": manifest.relation,
            "run_id": manifest.run_id,
            "clock": manifest.clock,
            "rows_published": manifest.rows,
            "rows_changed": manifest.rows_changed,
            "rows_removed": manifest.rows_removed,
            "sha256": manifest.sha256,
        }
    return row
