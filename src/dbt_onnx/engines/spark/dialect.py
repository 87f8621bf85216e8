"""Translates the SQL of the macros from DuckDB's dialect to that of Spark 3.5.

sqlglot translates most of it. This module first handles the parts that sqlglot leaves unchanged: syntax that Spark does
not have (QUALIFY, UNION BY NAME, aliases in WHERE), and functions that return something else for NULL, for no rows, or
beyond the end of a list. The translated SQL gives the same result with and without ANSI arithmetic.
"""

from __future__ import annotations

import json
import re
from itertools import chain, count
from typing import TYPE_CHECKING, Any

import sqlglot
from sqlglot import exp
from sqlglot.dialects.dialect import Dialect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_DUCKDB_TYPES = {
    "string": "VARCHAR", "tinyint": "TINYINT", "smallint": "SMALLINT", "int": "INTEGER", "bigint": "BIGINT",
    "float": "FLOAT", "double": "DOUBLE", "boolean": "BOOLEAN", "date": "DATE", "timestamp_ntz": "TIMESTAMP",
    "timestamp": "TIMESTAMP WITH TIME ZONE", "binary": "BLOB", "interval day to second": "INTERVAL",
}  # fmt: skip
_SPARK_TYPES = {theirs: ours for ours, theirs in _DUCKDB_TYPES.items()}
_LIST = re.compile(r"array<(.*)>", re.DOTALL)
_INTERVAL_TYPE = exp.DataType.build("interval day to second", dialect="spark")


def duckdb_type(spark_type: str) -> str:
    """Return DuckDB's name of a Spark type: `array<float>` -> `FLOAT[]`. Other types are returned unchanged."""
    if found := _LIST.fullmatch(spark_type):
        return f"{duckdb_type(found[1])}[]"
    if spark_type.startswith("decimal"):
        return spark_type.upper()
    return _DUCKDB_TYPES.get(spark_type, spark_type)


def in_spark_sql(sql: str) -> str:
    """Translate a query of the macros to Spark's SQL."""
    dialect = Dialect.get_or_raise("duckdb")
    # do not let sqlglot shift indexes: it only shifts those that it knows to be numbers, see `_element`
    dialect.INDEX_OFFSET = 0
    # wrap the statement in a tuple, so that even its root node can be replaced
    root = exp.Tuple(expressions=[sqlglot.parse_one(sql, read=dialect)])
    for kind, translate in _TRANSLATIONS.items():
        # translate inner nodes first: an outer translation copies the translated inner nodes
        for node in reversed(list(root.find_all(kind, bfs=False))):
            node.replace(translate(node))
    _rename_ctes(root)
    generator = Dialect.get_or_raise("spark").generator(identify=True, pretty=True, comments=False)
    # keep WITH inside subqueries, which Spark supports: a query in brackets can then still follow UNION ALL
    generator.EXPRESSIONS_WITHOUT_NESTED_CTES = set()
    return str(generator.generate(root.expressions[0]))


def _within(node: Any) -> Iterator[Any]:
    """Return the nodes below a node, without the nodes of nested queries."""
    found: Iterator[Any] = node.walk(prune=lambda below: isinstance(below, exp.Query))
    return found


def _call(name: str, *arguments: Any) -> Any:
    return exp.Anonymous(this=name, expressions=[_expression(given) for given in arguments])


def _expression(given: Any) -> Any:
    return exp.Literal.number(given) if isinstance(given, int) else given.copy()


def _aliases(select: Any) -> dict[str, Any]:
    """Return {alias: expression} for a SELECT. Leaves out an alias that is also a column of its expression: in DuckDB,
    such a name means the column.
    """
    found = {}
    for projection in select.expressions:
        if isinstance(projection, exp.Alias):
            names = {column.name.lower() for column in projection.this.find_all(exp.Column)}
            if projection.alias.lower() not in names:
                found[projection.alias.lower()] = projection.this
    return found


def _without_aliases(expression: Any, aliases: dict[str, Any]) -> Any:
    """Return the expression with each alias replaced by the expression that it stands for."""
    inlined = exp.Tuple(expressions=[expression.copy()])
    for column in [node for node in _within(inlined) if isinstance(node, exp.Column)]:
        meant = aliases.get(column.name.lower()) if not column.table else None
        if meant is not None:
            column.replace(exp.Paren(this=_without_aliases(meant, aliases)))
    return inlined.expressions[0]


def _select(select: Any) -> Any:
    """Replace aliases in WHERE, and turn QUALIFY into a WHERE around a subquery."""
    aliases = _aliases(select)
    if condition := select.args.get("where"):
        select.set("where", exp.Where(this=_without_aliases(condition.this, aliases)))
    if not (qualify := select.args.get("qualify")):
        return select
    names = _names(select, within=select)
    outer = exp.Select()
    for part in ("with_", "order", "limit"):
        outer.set(part, select.args.get(part))
        select.set(part, None)
    select.set("qualify", None)
    condition = exp.Tuple(expressions=[qualify.this.copy()])
    windows = [node for node in _within(condition) if isinstance(node, exp.Window)]
    for place, window in enumerate(windows):
        name = f"__dbt_onnx_window_{place}"
        select.append("expressions", exp.alias_(_without_aliases(window, aliases), name))
        window.replace(exp.column(name))
    inner = exp.Subquery(this=select.copy(), alias=exp.TableAlias(this=exp.to_identifier("given")))
    return (
        outer.select(*(exp.column(name, quoted=True) for name in names))
        .from_(inner)
        .where(condition.expressions[0])
    )


def _union(union: Any) -> Any:
    """Replace UNION BY NAME by a union in which each branch selects all columns in the same order."""
    is_branch = isinstance(union.parent, exp.Union) and union.parent.args.get("by_name")
    if is_branch or not union.args.get("by_name"):
        return union
    branches: list[Any] = []
    left = union
    while isinstance(left, exp.Union) and left.args.get("by_name"):
        branches.insert(0, left.expression)
        left = left.this
    branches.insert(0, left)
    of_branches = [_names(branch, within=union) for branch in branches]
    names = list(dict.fromkeys(name for of_branch in of_branches for name in of_branch))
    aligned = [
        exp.select(
            *(
                exp.column(name, quoted=True)
                if name in own
                else exp.alias_(exp.null(), name, quoted=True)
                for name in names
            )
        ).from_(
            exp.Subquery(this=branch.copy(), alias=exp.TableAlias(this=exp.to_identifier("given")))
        )
        for branch, own in zip(branches, of_branches, strict=True)
    ]
    united = exp.union(*aligned, distinct=False, copy=False)
    united.set("with_", union.args.get("with_"))
    return united


def _names(query: Any, *, within: Any) -> list[str]:
    """Return the column names of a query. CTEs that the query reads are looked up from the node `within` outwards."""
    if isinstance(query, exp.Subquery):
        return _names(query.this, within=within)
    if isinstance(query, exp.SetOperation):
        return _names(query.this, within=within)
    names: list[str] = []
    for projection in query.expressions:
        if projection.is_star:
            of = projection.table if isinstance(projection, exp.Column) else None
            names += _names_of_sources(query, of=of, within=within)
        else:
            names.append(projection.output_name)
    return list(dict.fromkeys(names))


def _names_of_sources(query: Any, *, of: str | None, within: Any) -> list[str]:
    sources = [query.args["from_"].this, *(join.this for join in query.args.get("joins") or [])]
    read = [source for source in sources if of is None or source.alias_or_name == of]
    names = []
    for source in read:
        meant = source.this if isinstance(source, exp.Subquery) else _cte(source, within)
        names += _names(meant, within=within)
    return names


def _cte(table: Any, within: Any) -> Any:
    node = within
    while node is not None:
        for cte in node.ctes if isinstance(node, exp.Query) else []:
            if cte.alias == table.name and not table.db:
                return cte.this
        node = node.parent
    raise ValueError(
        f"cannot determine the columns of {table.sql()}: list them instead of using `*`"
    )


def _cte_without_hint(cte: Any) -> Any:
    cte.set("materialized", None)
    return cte


def _rename_ctes(root: Any) -> None:
    """Give each CTE a unique name. Spark refuses a CTE with the same name as a CTE of an outer query, and the outer
    query may be a user's query around a macro.
    """
    taken: set[str] = set()
    for with_ in reversed(list(root.find_all(exp.With, bfs=False))):
        for cte in with_.expressions:
            numbered = (f"__dbt_onnx_{cte.alias}_{number}" for number in count(2))
            name = next(n for n in chain([f"__dbt_onnx_{cte.alias}"], numbered) if n not in taken)
            taken.add(name)
            for table in with_.parent.find_all(exp.Table):
                if table.name == cte.alias and not table.db:
                    table.set("alias", exp.TableAlias(this=exp.to_identifier(table.alias_or_name)))
                    table.set("this", exp.to_identifier(name))
            cte.set("alias", exp.TableAlias(this=exp.to_identifier(name)))


def _element(bracket: Any) -> Any:
    """Translate `l[n]` to a call that returns NULL beyond the end."""
    [index] = bracket.expressions
    if bracket.this.name == "map_extract":
        return _call("try_element_at", *bracket.this.expressions)
    return _call(
        "get", bracket.this, exp.Sub(this=exp.paren(index.copy()), expression=_expression(1))
    )


def _collected(call: Any) -> Any:
    """Translate `list(x order by y) filter (where z)`, which keeps NULLs, and is NULL if there are no rows."""
    filtered = isinstance(call, exp.Filter)
    given = call.this.this if filtered else call.this
    order = given.expressions if isinstance(given, exp.Order) else []
    value = given.this if isinstance(given, exp.Order) else given
    fields = {"v": value, **{f"k{i}": key.this for i, key in enumerate(order)}}
    entries = _call("collect_list", _struct(fields))
    rows = exp.Count(this=exp.Star())
    if filtered:
        entries, rows = (
            exp.Filter(this=found, expression=call.expression.copy()) for found in (entries, rows)
        )
    if order:
        entries = _call(
            "array_sort", entries, _comparison([bool(key.args.get("desc")) for key in order])
        )
    entry = exp.to_identifier("entry")
    values = _call(
        "transform",
        entries,
        _lambda(exp.Dot(this=entry, expression=exp.to_identifier("v")), "entry"),
    )
    return exp.case().when(exp.GT(this=rows, expression=_expression(0)), values)


def _comparison(descending: list[bool]) -> Any:
    """Return the comparison for `array_sort`: two structs are compared by their fields k0, k1 ..., NULLs last."""
    sql = "0"
    for place, is_descending in reversed(list(enumerate(descending))):
        left, right = f"l.k{place}", f"r.k{place}"
        before = ">" if is_descending else "<"
        sql = (
            f"case when {left} is not distinct from {right} then {sql} when {left} is null then 1 "
            f"when {right} is null then -1 when {left} {before} {right} then -1 else 1 end"
        )
    return _lambda(sqlglot.parse_one(sql, read="duckdb"), "l", "r")


def _place(function: Any) -> Any:
    """Translate `lambda value, place`: DuckDB counts places from 1, Spark from 0."""
    for place in function.expressions[1:]:
        used = [node for node in function.this.find_all(exp.Identifier) if node.name == place.name]
        for node in used:
            node.replace(exp.paren(exp.Add(this=node.copy(), expression=_expression(1))))
    return function


def _lambda(body: Any, *names: str) -> Any:
    return exp.Lambda(this=body, expressions=[exp.to_identifier(name) for name in names])


def _struct(fields: dict[str, Any]) -> Any:
    return exp.Struct(
        expressions=[
            exp.PropertyEQ(this=exp.to_identifier(name), expression=value.copy())
            for name, value in fields.items()
        ]
    )


def _filter(call: Any) -> Any:
    if isinstance(call.this, exp.ArrayAgg):
        return _collected(call)
    if isinstance(call.this, exp.IgnoreNulls):
        return exp.Filter(
            this=_call("any_value", call.this.this.this, exp.true()), expression=call.expression
        )
    return call


def _any_value(call: Any) -> Any:
    is_of_filter = isinstance(call.parent, exp.Filter)
    if is_of_filter or not isinstance(call.this, exp.AnyValue):
        return call
    return _call("any_value", call.this.this, exp.true())


def _array_agg(call: Any) -> Any:
    return call if isinstance(call.parent, exp.Filter) else _collected(call)


def _cast(cast: Any) -> Any:
    """Translate casts to types that Spark does not have, from a text to a list, and from a month to a day."""
    kind = cast.to
    if kind.this == exp.DType.INTERVAL:
        cast.set("to", _INTERVAL_TYPE.copy())
    elif kind.this == exp.DType.ARRAY and cast.this.is_string:
        return _call("from_json", cast.this, exp.Literal.string(kind.sql("spark").lower()))
    elif kind.this == exp.DType.DATE and isinstance(cast.this, exp.TimestampTrunc):
        # trunc() works on a day without a time zone; date_trunc() would give a timestamp in the session's time zone
        day = exp.cast(cast.this.this.copy(), "date")
        return _call("trunc", day, exp.Literal.string(cast.this.unit.name))
    return cast


def _type(kind: Any) -> Any:
    return exp.DataType.build("decimal(38, 0)") if kind.this == exp.DType.INT128 else kind


def _from_json(call: Any) -> Any:
    """Translate the type argument of from_json, which is JSON in DuckDB: `'["VARCHAR"]'` -> `'array<string>'`."""
    return _call(
        "from_json", call.this, exp.Literal.string(_json_type(json.loads(call.expression.name)))
    )


def _json_type(described: Any) -> str:
    if isinstance(described, list):
        return f"array<{_json_type(described[0])}>"
    if isinstance(described, dict):
        fields = (f"{name}: {_json_type(kind)}" for name, kind in described.items())
        return f"struct<{', '.join(fields)}>"
    return _SPARK_TYPES[described]


def _series(call: Any) -> Any:
    """Translate `range(a, b)`, which excludes b, with a filter: for b = a, `sequence(a, b - 1)` would count down."""
    if not call.args.get("is_end_exclusive"):
        return call
    numbers = _call("sequence", call.args["start"], call.args["end"])
    place = exp.to_identifier("place")
    return _call(
        "filter", numbers, _lambda(exp.LT(this=place, expression=call.args["end"].copy()), "place")
    )


def _compare_with_infinity(value: Any, comparison: Any) -> Any:
    infinite = exp.cast(exp.Literal.string("inf"), "double")
    return exp.Paren(this=comparison(this=_call("abs", value), expression=infinite))


def _function(call: Any) -> Any:
    translate = _FUNCTIONS.get(call.name.lower())
    return translate(*call.expressions) if translate else call


# functions of DuckDB that sqlglot does not know
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    # in Spark, NaN is greater than infinity, so this is false for NaN
    "isfinite": lambda value: _compare_with_infinity(value, exp.LT),
    "error": lambda text: _call("raise_error", text),
    "list_position": lambda values, value: _call(
        "nullif", _call("array_position", values, value), 0
    ),
    "list_unique": lambda values: _call("array_size", _call("array_distinct", _call("array_compact", values))),
    "list_has_all": lambda values, wanted: exp.Paren(
        this=exp.EQ(
            this=_call("array_size", _call("array_except", wanted, values)), expression=_expression(0)
        )
    ),
    "list_sum": lambda values: _call(
        "aggregate",
        values,
        exp.cast(_expression(0), "double"),
        _lambda(exp.Add(this=exp.to_identifier("sum"), expression=exp.to_identifier("each")), "sum", "each"),
    ),
    "list_bool_and": lambda values: _call("forall", values, _lambda(exp.to_identifier("each"), "each")),
    "list_bool_or": lambda values: _call("exists", values, _lambda(exp.to_identifier("each"), "each")),
}  # fmt: skip

_TRANSLATIONS: dict[Any, Callable[[Any], Any]] = {
    exp.Select: _select,
    exp.Union: _union,
    exp.CTE: _cte_without_hint,
    exp.Collate: lambda collated: collated.this,
    exp.Lambda: _place,
    exp.Bracket: _element,
    exp.Filter: _filter,
    exp.IgnoreNulls: _any_value,
    exp.ArrayAgg: _array_agg,
    exp.DataType: _type,
    exp.Cast: _cast,
    exp.FromJson: _from_json,
    exp.GenerateSeries: _series,
    exp.PercentileCont: lambda call: _call("percentile", call.this, call.expression),
    exp.ArrayDistinct: lambda call: _call("array_distinct", _call("array_compact", call.this)),
    exp.IsInf: lambda call: _compare_with_infinity(call.this, exp.EQ),
    # the macros use length() for lists only; not size(), which is -1 for NULL without ANSI arithmetic
    exp.Length: lambda call: _call("array_size", call.this),
    exp.Anonymous: _function,
}
