"""A dbt project for the commands: its nodes, its warehouse, and invocations of dbt.

dbt runs inside this process, with the project, profile and target that the command `dbt` would use.
It prints nothing, and its own files go to a temporary folder instead of the project. If nothing has
changed since dbt read the project, cached facts replace another invocation (`cache.py`).
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
import warnings
import weakref
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbt_onnx.engines.adapters import close_idle_connections, engine_for
from dbt_onnx.engines.base import TableName
from dbt_onnx.errors import ConfigError
from dbt_onnx.project import cache
from dbt_onnx.project.upstream import table_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from dbt_onnx.engines.base import Warehouse

MATERIALIZATION = "predictions"


@dataclass(frozen=True, kw_only=True)
class ScoringModel:
    """A dbt model that scores. `table` is its ledger; `table.identifier` is the dbt model's alias.

    `selector` selects it in `dbt build -s`: its name, or `churn.v2` for a version of a dbt model.
    """

    name: str
    selector: str
    unique_id: str
    table: TableName


class DbtProject:
    """One project, profile and target. Everything is read only when it is needed.

    `profiles_dir` and `target` default to those that dbt would use. `variables` are those of `--vars`.
    """

    def __init__(
        self,
        project_dir: Path,
        *,
        profiles_dir: Path | None = None,
        target: str | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.root = project_dir.resolve()
        self.variables = dict(variables or {})
        folder = (profiles_dir or _default_profiles_dir(self.root)).resolve()
        self._options = cache.ProjectOptions(self.root, folder, target, self.variables)
        self._newly_cached: cache.CachedProject | None = None
        self._scratch = tempfile.mkdtemp(prefix="dbt_onnx_")
        weakref.finalize(self, shutil.rmtree, self._scratch, ignore_errors=True)

    @property
    def manifest(self) -> Any:
        """dbt's manifest, parsed once. Raises ConfigError if dbt cannot read the project."""
        return self._parsed[0]

    @property
    def config(self) -> Any:
        """dbt's config of the project. Raises ConfigError if dbt cannot read the project."""
        return self._parsed[1]

    def scoring_models(self) -> list[ScoringModel]:
        """Return the enabled models that are materialized as predictions, sorted by selector."""
        if self._cached is not None:
            return [
                ScoringModel(**{**model, "table": TableName(**model["table"])})
                for model in self._cached.models
            ]
        return _scoring_models(self.manifest)

    @cached_property
    def _cached_before(self) -> cache.CachedProject | None:
        return cache.read_cache(self._options)

    @property
    def _cached(self) -> cache.CachedProject | None:
        """The facts that were cached earlier; None once dbt has parsed the project in this process."""
        return None if "_parsed" in vars(self) else self._cached_before

    @property
    def cached_project(self) -> cache.CachedProject | None:
        """The cached facts about the project; None if they cannot be cached."""
        return self._cached or self._newly_cached

    def scoring_model(self, name: str) -> ScoringModel:
        """Return the scoring model with that name: its selector, its unique id, its dbt name, or its
        alias, which is the ledger's name. Raises ConfigError if there is none, or several.
        """
        models = self.scoring_models()
        found = (
            [model for model in models if name in {model.selector, model.unique_id}]
            or [model for model in models if name == model.name]
            or [model for model in models if name == model.table.identifier]
        )
        if len(found) == 1:
            return found[0]
        if found:
            selectors = {model.selector for model in found}
            is_told_apart = len(selectors) == len(found)
            names = [m.selector if is_told_apart else m.unique_id for m in found]
            raise ConfigError(
                f"{len(found)} scoring models of the project are called {name!r}",
                hint=f"name one of {', '.join(names)}",
            )
        names = [model.selector for model in models]
        if not names:
            raise ConfigError(
                f"the project {self.root.name} has no scoring models: no model is materialized "
                f"as {MATERIALIZATION!r}",
                hint="a scoring model is a Python model with "
                f"dbt.config(materialized='{MATERIALIZATION}'); it may be disabled for this target",
            )
        close = get_close_matches(name, names, n=1)
        raise ConfigError(
            f"{name!r} is not a scoring model of the project {self.root.name}; "
            f"it has {', '.join(names)}",
            hint=f"did you mean {close[0]!r}?" if close else "name one of them",
        )

    @property
    def _engine(self) -> type[Warehouse]:
        return engine_for(self._cached.adapter if self._cached else self.config.credentials.type)

    @contextmanager
    def warehouse(self, *, read_only: bool = True) -> Iterator[Warehouse]:
        """Open the target's warehouse with its engine, like `connect`; close it at the end."""
        with self.connect(read_only=read_only) as connection:
            yield self._engine(connection)

    @contextmanager
    def connect(self, *, read_only: bool = True) -> Iterator[Any]:
        """Open a connection to the target's warehouse as dbt's adapter does; close it at the end.

        With `read_only`, the connection is read-only if the engine supports that, so that any number of
        commands can read at the same time. Raises WarehouseError if the warehouse cannot be opened.
        """
        with ExitStack() as stack:
            # relative paths in a profile are relative to the project's folder
            with chdir(self.root):
                if read_only and (cached := self._cached) is not None:
                    opening = self._engine.reopened(cached.opening)
                else:
                    opening = self._engine.opened(self.config.credentials, read_only=read_only)
                connection = stack.enter_context(opening)
            yield connection

    def render(self, template: str, *, variables: Mapping[str, Any]) -> str:
        """Return the SQL that dbt renders from a template, which may call the project's macros.

        Queries that the macros run use a connection for reading. Raises WarehouseError if the warehouse
        cannot be opened, and ConfigError if dbt cannot render the template.
        """
        question = json.dumps([template, variables], default=str)
        if (cached := self._cached) and (kept := cached.rendered.get(question)):
            with self.connect() as connection:
                if self._engine.has_same_answers(connection, kept["answers"]):
                    return str(kept["sql"])
        manifest, config = self._parsed
        with chdir(self.root), self._engine.rendering(config.credentials) as answers:
            done = self.invoke(
                "compile", "--inline", template, variables=variables, manifest=manifest
            )
        results = getattr(done.result, "results", None) or []
        if not done.success or not results:
            reason = done.exception or "; ".join(str(result.message) for result in results)
            raise ConfigError(
                f"dbt cannot render a query for the project {self.root.name}: {one_line(reason)}",
                hint="`dbt compile` in the project's folder shows more",
            )
        sql = str(results[0].node.compiled_code)
        if self._newly_cached is not None and cache.overrides_no_macros(manifest, config):
            self._newly_cached.keep_rendered(question, answers=answers, sql=sql)
        return sql

    def invoke(
        self, *arguments: str, variables: Mapping[str, Any] | None = None, manifest: Any = None
    ) -> Any:
        """Run a dbt command in this process without output; return its `dbtRunnerResult`.

        `variables` override the project's. If a `manifest` is given, dbt does not parse the project.
        dbt's connections are closed afterwards, so that the database file is free. Raises ConfigError if
        dbt is not installed, and KeyboardInterrupt if dbt was interrupted.
        """
        try:
            from dbt.cli.main import dbtRunner
        except ImportError as error:
            raise ConfigError(
                f"this command runs dbt, which is not installed here: {error}",
                hint="pip install 'dbt-onnx[duckdb]', or 'dbt-onnx[spark]', where dbt is installed",
            ) from error
        flags = self._flags({**self.variables, **(variables or {})})
        with chdir(self.root), warnings.catch_warnings():
            # hide dbt's deprecation warnings, and those about files that its adapters leave open
            warnings.simplefilter("ignore")
            try:
                done = dbtRunner(manifest=manifest).invoke([*arguments, *flags])
            finally:
                close_idle_connections()
        if isinstance(done.exception, KeyboardInterrupt):
            raise KeyboardInterrupt from done.exception
        return done

    def _flags(self, variables: Mapping[str, Any]) -> list[str]:
        """Return the flags of every invocation. They stop output and protect the files of the user's dbt runs."""
        parsed = self.root / os.environ.get("DBT_TARGET_PATH", "target") / "partial_parse.msgpack"
        return [
            *("--project-dir", str(self.root)),
            *("--profiles-dir", str(self._options.profiles_dir)),
            *(("--target", self._options.target) if self._options.target else ()),
            *("--vars", json.dumps(variables, default=str)),
            *("--log-level", "none"),
            *("--log-level-file", "none"),
            *("--log-path", self._scratch),
            *("--target-path", self._scratch),
            "--no-print",
            "--no-write-json",
            # reuse what the user's last dbt run has parsed
            *(("--partial-parse-file-path", str(parsed)) if parsed.is_file() else ()),
        ]

    @cached_property
    def _parsed(self) -> tuple[Any, Any]:
        """The manifest, and dbt's config of the project, which includes the target's credentials."""
        if not (self.root / "dbt_project.yml").is_file():
            raise ConfigError(
                f"{self.root} is not a dbt project: it has no dbt_project.yml",
                hint="run in the project's folder, or name it with --project-dir",
            )
        began = time.time()
        done = self.invoke("parse")
        if not done.success:
            raise ConfigError(
                f"dbt cannot read the project {self.root}: {one_line(done.exception)}",
                hint="`dbt parse` in that folder shows more",
            )
        from dbt.adapters.factory import FACTORY

        adapters: Mapping[str, Any] = FACTORY.adapters  # those of the invocation above
        [(adapter_type, adapter)] = adapters.items()
        engine = engine_for(adapter_type)  # raises if no engine supports the warehouse
        models = [asdict(model) for model in _scoring_models(done.result)]
        self._newly_cached = cache.write_cache(
            self._options,
            adapter.config,
            models,
            opening=engine.how_to_reopen(adapter.config.credentials),
            began=began,
            before=self._cached_before,
        )
        return done.result, adapter.config


def _scoring_models(manifest: Any) -> list[ScoringModel]:
    found = [
        ScoringModel(
            name=node.name,
            selector=node.search_name,
            unique_id=node.unique_id,
            table=table_of(node),
        )
        for node in manifest.nodes.values()
        if node.resource_type == "model" and node.config.materialized == MATERIALIZATION
    ]
    return sorted(found, key=lambda model: (model.selector, model.unique_id))


def one_line(error: object) -> str:
    """Return an error of dbt as one line of text, cut to 1000 characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= 1000 else f"{text[:997]}..."


def _default_profiles_dir(root: Path) -> Path:
    """Return the folder that dbt would use, but look for profiles.yml in the project before ~/.dbt."""
    if named := os.environ.get("DBT_PROFILES_DIR"):
        return Path(named)
    for folder in (Path.cwd(), root):
        if (folder / "profiles.yml").is_file():
            return folder
    return Path.home() / ".dbt"
