"""`publish()`, for a dbt Python model, and the entry of the `published` materialization.

A published model stands below what it publishes, and so below its tests: `dbt build` does not come to it
when one of them fails, and what was published before is served on.
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
    """The arguments of `publish()`, checked. `predictions` is a relation of the engine."""

    predictions: Any
    key: tuple[str, ...]
    name: str
    stale_after: timedelta | None
    targets: tuple[str, ...]
    registry: Any = None
    model: str | None = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        raise ConfigError(
            "publish() describes a publication; this materialization wants rows",
            hint="set dbt.config(materialized='published') in the model",
        )


@dataclass(frozen=True, kw_only=True)
class PublicationSettings:
    """What the materialization passes on: where the model's table is, which run this is, and the clock.

    `scoring_models` are the ledgers upstream.
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
    """What comes of `--empty`, which builds relations without rows to see that they can be built."""

    name: str

    def __str__(self) -> str:
        return f"{self.name}: nothing published (--empty)"

    @property
    def rows_written(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True)
class PublicationSummary:
    """What a publication was made of, for dbt's line."""

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
    dbt: Any,  # noqa: ARG001, dbt's convention for whatever a model calls
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
    """Publish a relation, so that it can be looked up while the warehouse is written.

    Return it from a dbt Python model with `dbt.config(materialized="published")`; the materialization does
    the work.

    predictions    a table or view, `dbt.ref(...)`, at its best one of `current_predictions`: one row for each
                   key
    key            the columns by which it is looked up
    name           what it is called where it is served: letters, digits, `-` and `_`
    stale_after    {"count": 2, "period": "day"}: an answer older than that is stale; None for never
    targets        where it goes: "files", the folder `serving/` of the project, and others, of which the
                   environment variable DBT_ONNX_SERVING_<NAME> says where they are
    registry,      the model registry, `dbt.ref(...)`, and what `score()` is given as model: then the files
    model          of the serving version go along, and the service can score who is new

    Raises ConfigError when an argument is wrong.
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
        faults.append("registry and model go together")
    if model is not None and FILES not in targets:
        faults.append(f"a model goes to target {FILES!r} only, which is not among the targets")
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
    """Publish for the `published` materialization; `settings` is the JSON of `PublicationSettings`."""
    document = json.loads(settings)
    known = PublicationSettings(**{f.name: document[f.name] for f in fields(PublicationSettings)})

    def work(request: Any, warehouse: Warehouse) -> PublicationSummary | NothingPublished:
        if not isinstance(request, PublicationRequest):
            raise ConfigError(
                f"the model returned {type(request).__name__}, not a publication",
                hint="return dbt_onnx.publish(...) from a model with materialized='published'",
            )
        if known.empty:
            return NothingPublished(request.name)
        return publish_relation(warehouse, request, known)

    run_on_warehouse(model, dbt, session, work)


def publish_relation(
    warehouse: Warehouse, request: PublicationRequest, settings: PublicationSettings
) -> PublicationSummary:
    """Publish a relation to its targets, one after the other, and record it in the warehouse.

    Whoever dies on the way leaves, at each target, the publication before or this one.
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
            "model": _kept_model(warehouse, request, settings)
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
            # without the last rows nothing is known to be gone, at any target
            base = bases[name] if with_last else None
            now = _publish_to(target, before[name], draft, rows, base=base)
            known = rows.recorded(name)
            switches += [
                {
                    **_told(now, switch),
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
    """What of a manifest is known before the rows are written."""
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


def _kept_model(
    warehouse: Warehouse, request: PublicationRequest, settings: PublicationSettings
) -> ServedModel | None:
    """Put the files of the serving version where the service finds them."""
    if request.model is None:
        return None
    entry = warehouse.registry_of(request.registry).resolve(request.model)
    artifacts = project_folder() / "artifacts"
    artifact = load_artifact(artifacts, entry)
    features = artifact.contract.feature_names
    scored_by = [
        ledger
        for ledger in settings.ledgers
        if warehouse.last_account(ledger).get("model_name") == entry.model_name
    ]
    if not scored_by:
        raise ConfigError(
            f"publish() names model {request.model!r}, and no scoring model upstream of "
            f"{settings.identifier} scores with {entry.model_name!r}: the types of its features are not known",
            hint="publish what stands on a scoring model of that name, or leave registry and model away",
        )
    types = warehouse.feature_types(scored_by[0], features)
    files = open_target(FILES, request.name, project=project_folder())
    if not isinstance(files, Files):
        raise ConfigError(
            f"a model goes to a folder, and target {FILES!r} is {files}",
            hint="give that server another name among the targets, and leave 'files' a folder",
        )
    return ServedModel(
        model_name=entry.model_name,
        model_version=entry.model_version,
        artifact=files.keep_model(artifact.model_bytes, read_card(artifacts, entry)),
        sha256=artifact.sha256,
        card_sha256=artifact.card_sha256,
        features=tuple(Column(name, type_text(types[name])) for name in features),
    )


def _base(
    target: Target, publications: Publications | None, last: str | None, draft: Mapping[str, Any]
) -> Manifest | None:
    """The publication on which a target can build: one whose rows the warehouse knows, with the same
    columns, whole.
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


def _told(publications: Publications, switch: Any) -> dict[str, Any]:
    """A switch as a row of `dbt_onnx_publications`."""
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
