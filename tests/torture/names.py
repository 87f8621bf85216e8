"""Hostile names and values: each comes back unchanged, or is refused by one clear error."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import duckdb
from tests.torture.report import Attack
from warehouse import Warehouse, line_contract

from dbt_onnx.engines.duckdb.identifiers import literal, quote
from dbt_onnx.errors import DbtOnnxError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROMISE = "Hostile names and values"
_SQL = (
    "x'\"; drop table canary; --", "x'; drop table canary; --", 'x"; drop table canary; --', "x) from features; drop table canary; --",
    '"; delete from canary; select "', "' or 1=1 --", "1; attach 'stolen.duckdb'", "x' || (select 1) || '",
    "/* x */", "-- x", "$1", "$run_id", "?", ":name", "%s", "{0}", "$$x$$", "E'\\\\x'", "\\", "\\'", '""', "''", '"', "'",
    "a.b", "a.b.c", '"a"."b"', "[0]", "a::int", "count(*)", "*", "columns(*)", "x as y", "a,b", "a;b", "(a)", "a=b",
)  # fmt: skip
_TEMPLATES = (
    "{{ 1 / 0 }}", "{% raw %}", "{# x #}", "{{ ref('x') }}", "${HOME}", "`id`", "$(id)", "&& id", "| id", "%0a",
    "../../x", "/etc/passwd", "C:\\x", "file:///x", "CON", "nul.txt", "~", ".", "..",
)  # fmt: skip
_TEXT = (
    " ", "  a", "a  ", "a b", "a\tb", "a\nb", "a\r\nb", "ü", "客户 id", "\u202eabc", "\u200b", "مرحبا", "🦆", "👩‍👩‍👧", "ﬁ",
    "e\u0301", "é", "İ", "ß", "ẞ", "\ufeffa", "a\u0000b", "\u2028", "A" * 1_000, "ü" * 500, "0", "1a", "-1", "1e5", "NaN",
    "null", "true", "None", "",
)  # fmt: skip
_RESERVED = (
    "select", "from", "where", "table", "order", "group", "by", "at", "hour", "user", "end", "case", "all", "any",
    "join", "on", "using", "with", "limit", "default", "check", "primary", "foreign", "unique", "rowid", "analyze",
)  # fmt: skip
_OURS = (
    "as_of", "AS_OF", "status", "run_id", "Run_ID", "run_no", "Run_No", "rejected_reason_no", "model_name", "scored_at", "features_hash", "is_late",
    "rejected_reason", "score_reason", "confirmed_as_of", "last_seen_as_of", "__dbt_onnx_key_0", "__dbt_onnx_x",
    "__DBT_ONNX_AS_OF", "dbt_onnx_runs", "model_registry", "scores__current", "x__history", "x__inputs", "said", "latest", "scored",
    "rejected", "features", "planned", "known", "source", "plain", "occurrences", "inputs", "values_hash", "feature_0",
)  # fmt: skip
NAMES = tuple(dict.fromkeys((*_SQL, *_TEMPLATES, *_TEXT, *_RESERVED, *_OURS)))


def measure(folder: Path, *, every: int) -> Iterator[Attack]:
    """Use every `every`th name in each role where a name or a text comes from outside."""
    for role, act in ROLES.items():
        attack = Attack(PROMISE, role)
        for name in NAMES[::every]:
            shutil.rmtree(folder / "w", ignore_errors=True)
            (folder / "w").mkdir()
            attack.made(harm=_harm(folder / "w", name, act))
        yield attack


def _harm(folder: Path, name: str, act: Callable[[Path, str], Warehouse]) -> str | None:
    shown = repr(name if len(name) < 40 else name[:40] + "...")
    with duckdb.connect(folder / "w.duckdb") as connection:
        connection.execute("create table canary as select 7 as x")
    try:
        act(folder, name).connection.close()
    except DbtOnnxError as error:
        is_clear = "Parser Error" not in str(error) or _is_refused_by_duckdb(name)
        if "Hint" not in str(error) or not is_clear:
            return f"{shown}: no clear refusal: {error}"
    except duckdb.Error as error:
        if not _is_refused_by_duckdb(name):
            return f"{shown}: {error}"
    except Exception as error:  # noqa: BLE001, any other exception is a failure
        return f"{shown}: {type(error).__name__}: {error}"
    files = sorted(path.name for path in folder.iterdir() if path.name[0] != "w")
    if not set(files) <= {"artifacts"}:
        return f"{shown}: {files}"
    with duckdb.connect(folder / "w.duckdb") as connection:
        try:
            rows = connection.execute("select * from canary").fetchall()
        except duckdb.Error as error:
            return f"{shown}: {error}"
    return None if rows == [(7,)] else f"{shown}: the canary has {rows}"


def _is_refused_by_duckdb(name: str) -> bool:
    """Whether DuckDB itself allows no such column, schema or table, so that dbt_onnx need not refuse the name."""
    with duckdb.connect() as connection:
        try:
            connection.execute(f"create table canary as select 1 as {quote(name)}")
            connection.execute(f"create schema {quote(name)}")
            connection.execute(f"create table {quote(name)} (x integer)")
        except duckdb.Error:
            return True
    return False


def _run(folder: Path, features: str, *, contract: Any = None, **arguments: Any) -> Warehouse:
    """Score one row with a = 1 and b = 2 twice: the output is 0.5, and the second run writes nothing."""
    where = {name: arguments.pop(name) for name in ("name", "schema") if name in arguments}
    warehouse = Warehouse(folder, **where)
    try:
        warehouse.sql(f"create schema if not exists {quote(warehouse.schema)}")
        warehouse.sql(f"create table given as {features}")
        warehouse.register("1", contract=contract)
        first = warehouse.run(features="select * from given", **arguments)
        again = warehouse.run(features="select * from given", **arguments)
        assert (first.rows_scored, again.rows_unchanged) == (1, 1), f"{first}; {again}"
    except BaseException:
        warehouse.connection.close()
        raise
    return warehouse


def as_key(folder: Path, name: str) -> Warehouse:
    warehouse = _run(folder, f"select 1 as {quote(name)}, 1.0 as a, 2.0 as b", key=[name])
    assert warehouse.sql(f"select {quote(name)}, y from scores") == [(1, 0.5)], "other rows"
    return warehouse


def as_feature(folder: Path, name: str) -> Warehouse:
    contract = line_contract(features=(name, "b"))
    warehouse = _run(folder, f"select 1 as id, 1.0 as {quote(name)}, 2.0 as b", contract=contract)
    assert warehouse.sql(f"select id, {quote(name)} from scores__inputs") == [(1, 1)], (
        "other inputs"
    )
    assert warehouse.sql("select y from scores") == [(0.5,)], "another score"
    return warehouse


def as_output(folder: Path, name: str) -> Warehouse:
    contract = line_contract(column=name)
    warehouse = _run(folder, "select 1 as id, 1.0 as a, 2.0 as b", contract=contract)
    assert warehouse.sql(f"select {quote(name)} from scores__current") == [(0.5,)], "another score"
    return warehouse


def as_table(folder: Path, name: str) -> Warehouse:
    warehouse = _run(folder, "select 1 as id, 1.0 as a, 2.0 as b", name=name)
    assert warehouse.sql(f"select y from {quote(name)}") == [(0.5,)], "another score"
    return warehouse


def as_schema(folder: Path, name: str) -> Warehouse:
    warehouse = _run(folder, "select 1 as id, 1.0 as a, 2.0 as b", schema=name)
    assert warehouse.sql(f'select y from {quote(name)}."scores"') == [(0.5,)], "another score"
    return warehouse


def as_value(folder: Path, name: str) -> Warehouse:
    warehouse = _run(folder, f"select {literal(name)} as id, 1.0 as a, 2.0 as b")
    assert warehouse.sql("select id, y from scores") == [(name, 0.5)], "other rows"
    return warehouse


def as_moment(folder: Path, name: str) -> Warehouse:
    features = f"select 1 as id, 1.0 as a, 2.0 as b, timestamp '2024-01-01' as {quote(name)}"
    return _run(folder, features, as_of=name)


def as_model(folder: Path, name: str) -> Warehouse:
    """Use the name as model and version in the registry; the artifact's path is an ordinary one."""
    warehouse = Warehouse(folder)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0))
    cursor = warehouse.connection.cursor()
    cursor.execute("update model_registry set model_name = $1, model_version = $1", [name])
    try:
        warehouse.run(model=name)
    except BaseException:
        warehouse.connection.close()
        raise
    return warehouse


def as_path(folder: Path, name: str) -> Warehouse:
    """Use the name as the artifact's path in the registry."""
    warehouse = Warehouse(folder)
    warehouse.register("1")
    warehouse.features((1, 1.0, 2.0))
    warehouse.connection.cursor().execute("update model_registry set artifact = $1", [name])
    try:
        said = warehouse.run()
    except BaseException:
        warehouse.connection.close()
        raise
    raise AssertionError(f"scored: {said}")


ROLES: dict[str, Callable[[Path, str], Warehouse]] = {
    "name of a key column": as_key,
    "name of a feature": as_feature,
    "name of an output column": as_output,
    "name of the as_of column": as_moment,
    "name of the scoring model's table": as_table,
    "name of its schema": as_schema,
    "text in a key": as_value,
    "name and version of a model": as_model,
    "path of an artifact": as_path,
}
