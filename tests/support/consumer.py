"""A user's dbt project with the package installed, in a temporary folder with its own warehouse."""

from __future__ import annotations

import gc
import os
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING, Any

import yaml
from hardening import IS_HARDENED, config_of, connect, settings_of, with_own_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PACKAGE = Path(__file__).resolve().parents[2]

PROJECT = """
name: consumer
version: "1.0"
config-version: 2
profile: consumer
model-paths: [models, python_models]
# dbt 1.10 reads `arguments:` of data tests only with the second flag; later versions always do
flags: {send_anonymous_usage_stats: false, require_generic_test_arguments_property: true}
"""
if IS_HARDENED:
    # by default dbt-duckdb reads the seed file in SQL, which a hardened warehouse refuses
    PROJECT += "seeds: {+fast: false}\n"
PACKAGES = f"packages: [{{local: {PACKAGE}}}]\n"


@dataclass(frozen=True)
class NodeResult:
    """dbt's result of one node. `failures` is the number of rows that a test returned, None for other nodes."""

    name: str
    status: str
    message: str
    failures: int | None
    relation: str | None


@dataclass(frozen=True)
class Outcome:
    """One dbt invocation: results by node name, all lines that dbt would log, and the warnings among them."""

    success: bool
    nodes: dict[str, NodeResult]
    log: str
    error: str = ""
    warnings: tuple[str, ...] = ()
    value: Any = field(default=None, repr=False)

    def statuses(self) -> dict[str, str]:
        return {name: node.status for name, node in self.nodes.items()}


class Project:
    """A folder with `dbt_project.yml`, `profiles.yml`, `packages.yml` and `warehouse.duckdb`.

    `profile` is added to the only target: `{"settings": {"TimeZone": "Asia/Tokyo"}}`. The package is
    installed by `dbt deps` at the first command that needs it.
    """

    def __init__(self, root: Path, *, profile: Mapping[str, Any] | None = None) -> None:
        self.root = root
        self.warehouse = root / "warehouse.duckdb"
        self.outcome = Outcome(success=False, nodes={}, log="")  # of the last invocation
        root.mkdir(parents=True, exist_ok=True)
        self.write("dbt_project.yml", PROJECT)
        self.write("packages.yml", PACKAGES)
        self.config = config_of(profile or {})
        self.write_profile(profile or {})

    def write(self, path: str, text: str) -> Path:
        """Write `text`, dedented, to a path below the root."""
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text).lstrip("\n"), encoding="utf-8")
        return target

    def write_yaml(self, path: str, content: Mapping[str, Any]) -> Path:
        return self.write(path, yaml.safe_dump(dict(content), allow_unicode=True, sort_keys=False))

    def write_profile(self, profile: Mapping[str, Any]) -> None:
        target = {"type": "duckdb", "path": str(self.warehouse), "threads": 2, **profile}
        if settings := settings_of(profile):
            target["settings"] = settings
        if self.config:
            target["config_options"] = self.config
        self.write_yaml("profiles.yml", {"consumer": {"target": "dev", "outputs": {"dev": target}}})

    def dbt(self, *arguments: str, vars: Mapping[str, Any] | None = None) -> Outcome:  # noqa: A002
        """Run a dbt command in this process, as `dbt ARGUMENTS` would from the root."""
        if arguments[0] != "deps" and not (self.root / "dbt_packages").exists():
            installed = invoke(self.root, "deps")
            if not installed.success:
                raise RuntimeError(f"dbt deps failed: {installed.error}\n{installed.log}")
        given = ["--vars", yaml.safe_dump(dict(vars), allow_unicode=True)] if vars else []
        self.outcome = invoke(self.root, *arguments, *given)
        return self.outcome

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run SQL on the warehouse, and close the connection, because dbt needs exclusive access to the file."""
        with with_own_order(connect(self.warehouse, self.config)) as connection:
            return connection.execute(query, list(parameters)).fetchall()

    def rows(self, query: str) -> list[dict[str, Any]]:
        with with_own_order(connect(self.warehouse, self.config)) as connection:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or []]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def found(self, test: str, *columns: str) -> list[tuple[Any, ...]]:
        """Return some columns of the rows that a test returned."""
        return [tuple(row[column] for column in columns) for row in self.failures(test)]

    def failures(self, test: str) -> list[dict[str, Any]]:
        """Return the rows that a test with `store_failures` returned, in its order."""
        return self.rows(f"select * from {self.outcome.nodes[test].relation}")


def invoke(root: Path, *arguments: str) -> Outcome:
    from dbt.cli.main import dbtRunner
    from dbt.deprecations import active_deprecations
    from dbt_common.tests import enable_test_caching

    # a short invocation mostly parses the same macros; dbt's own tests cache them with this function
    enable_test_caching()
    # otherwise deprecations of an earlier invocation would be reported again
    active_deprecations.clear()
    lines: list[tuple[str, str]] = []
    runner = dbtRunner(callbacks=[lambda event: lines.append((event.info.level, event.info.msg))])
    folders = ["--project-dir", str(root), "--profiles-dir", str(root)]
    with _quiet_dbt(root):
        done = runner.invoke([arguments[0], "--quiet", *arguments[1:], *folders])
    results = getattr(done.result, "results", None) or []
    nodes = {
        result.node.name: NodeResult(
            name=result.node.name,
            status=str(result.status),
            message=result.message or "",
            failures=result.failures,
            relation=getattr(result.node, "relation_name", None),
        )
        for result in results
        if hasattr(result, "node")
    }
    return Outcome(
        success=bool(done.success),
        nodes=nodes,
        log="\n".join(line for _, line in lines),
        warnings=tuple(line for level, line in lines if level == "warn"),
        error=str(done.exception or ""),
        value=done.result,
    )


@contextmanager
def _quiet_dbt(root: Path) -> Iterator[None]:
    """Run dbt in the root, so that `.user.yml` and logs stay below it, and ignore dbt's own deprecation warnings."""
    before = Path.cwd()
    os.environ["DO_NOT_TRACK"] = "1"
    os.chdir(root)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            # dbt-duckdb opens an event loop for each thread that runs a Python model, and never closes it
            gc.collect()
            if not gc.get_freeze_count():
                gc.freeze()  # later collections need not visit dbt's modules and macros
    finally:
        os.chdir(before)
