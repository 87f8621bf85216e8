"""The translation of the macros' DuckDB SQL to Spark SQL, compared as text, without a Spark session."""

from __future__ import annotations

import pytest

from dbt_onnx.engines.spark.dialect import duckdb_type, in_spark_sql


def translated(sql: str) -> str:
    return " ".join(in_spark_sql(sql).split()).replace("( ", "(").replace(" )", ")")


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ('select cast("a" as varchar) collate "binary" as "a"', "SELECT CAST(`a` AS STRING) AS `a`"),
        ('select "a`b""c"', 'SELECT `a``b"c`'),
        ("select 'it''s \\ a'", "SELECT 'it\\'s \\\\ a'"),
        # NULL beyond the end; Spark's own `l[n]` fails in ANSI mode
        ("select l[1]", "SELECT GET(`l`, (1) - 1)"),
        ("select l[n - 1]", "SELECT GET(`l`, (`n` - 1) - 1)"),
        ("select map_extract(m, k)[1]", "SELECT TRY_ELEMENT_AT(`m`, `k`)"),
        # DuckDB counts places from 1, Spark from 0
        (
            "select list_filter(a, lambda x, i: i > 1)",
            "SELECT FILTER(`a`, (`x`, `i`) -> (`i` + 1) > 1)",
        ),
        ("select range(1, n)", "SELECT FILTER(SEQUENCE(1, `n`), `place` -> `place` < `n`)"),
        ("select isfinite(x)", "SELECT (ABS(`x`) < CAST('inf' AS DOUBLE))"),
        ("select isinf(x)", "SELECT (ABS(`x`) = CAST('inf' AS DOUBLE))"),
        # not size(), which is -1 for NULL without ANSI
        ("select len(x)", "SELECT ARRAY_SIZE(`x`)"),
        ("select any_value(x)", "SELECT ANY_VALUE(`x`, TRUE)"),
        (
            "select any_value(x) filter (where y)",
            "SELECT ANY_VALUE(`x`, TRUE) FILTER(WHERE `y`)",
        ),
        ("select cast(null as interval)", "SELECT CAST(NULL AS INTERVAL DAY TO SECOND)"),
        ("select cast(x as timestamp)", "SELECT CAST(`x` AS TIMESTAMP_NTZ)"),
        ("select cast(x as timestamptz)", "SELECT CAST(`x` AS TIMESTAMP)"),
        ("select cast('[1.5]' as float[])", "SELECT FROM_JSON('[1.5]', 'array<float>')"),
        # without a conversion through the session's time zone
        (
            "select cast(date_trunc('month', x) as date)",
            "SELECT TRUNC(CAST(`x` AS DATE), 'MONTH')",
        ),
        (
            """select from_json(x, '[{"a": "VARCHAR", "n": "BIGINT"}]')""",
            "SELECT FROM_JSON(`x`, 'array<struct<a: string, n: bigint>>')",
        ),
        (
            "select list(x) filter (where y)",
            "SELECT CASE WHEN COUNT(*) FILTER(WHERE `y`) > 0 THEN TRANSFORM(COLLECT_LIST(STRUCT(`x` AS `v`)) FILTER(WHERE `y`), `entry` -> `entry`.`v`) END",
        ),
        ("select try_cast(x as hugeint[])", "SELECT TRY_CAST(`x` AS ARRAY<DECIMAL(38, 0)>)"),
        ("select quantile_cont(x, [0.1])", "SELECT PERCENTILE(`x`, ARRAY(0.1))"),
    ],
)  # fmt: skip
def test_an_expression(sql: str, expected: str) -> None:
    assert translated(sql) == expected


def test_an_alias_in_where_is_what_it_stands_for() -> None:
    assert translated("select a + 1 as b, b * 2 as c from t where c > 3 and d") == (
        "SELECT `a` + 1 AS `b`, `b` * 2 AS `c` FROM `t` WHERE ((`a` + 1) * 2) > 3 AND `d`"
    )


def test_a_column_comes_before_the_alias_of_its_name() -> None:
    sql = "select case when status = 'x' then 1 end as status from t where status = 'y'"
    assert translated(sql).endswith("WHERE `status` = 'y'")


def test_an_alias_is_none_within_a_query_of_its_own() -> None:
    sql = "select 1 as n from t where exists (select 1 from u where n = 2)"
    assert translated(sql).endswith("WHERE EXISTS(SELECT 1 FROM `u` WHERE `n` = 2)")


def test_qualify_leaves_no_column_behind() -> None:
    sql = """
        with t as (select 1 as a, 2 as b), u as (select * from t qualify row_number() over (order by a desc nulls last) = 1)
        select * from u qualify count(*) over () > 1
    """
    assert translated(sql) == (
        "WITH `__dbt_onnx_t` AS (SELECT 1 AS `a`, 2 AS `b`), `__dbt_onnx_u` AS (SELECT `a`, `b` FROM (SELECT *, "
        "ROW_NUMBER() OVER (ORDER BY `a` DESC) AS `__dbt_onnx_window_0` FROM `__dbt_onnx_t` AS `t`) AS `given` WHERE "
        "`__dbt_onnx_window_0` = 1) SELECT `a`, `b` FROM (SELECT *, COUNT(*) OVER () AS `__dbt_onnx_window_0` FROM "
        "`__dbt_onnx_u` AS `u`) AS `given` WHERE `__dbt_onnx_window_0` > 1"
    )


def test_a_star_over_a_table_with_qualify_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot determine the columns of a\\.t"):
        in_spark_sql("select * from a.t qualify count(*) over () > 1")


def test_union_by_name_has_all_columns_in_each_branch() -> None:
    sql = "select 1 as a, 2 as b union all by name select 3 as b union all by name select 4 as c, 5 as a"
    assert translated(sql) == (
        "SELECT `a`, `b`, NULL AS `c` FROM (SELECT 1 AS `a`, 2 AS `b`) AS `given` UNION ALL "
        "SELECT NULL AS `a`, `b`, NULL AS `c` FROM (SELECT 3 AS `b`) AS `given` UNION ALL "
        "SELECT `a`, NULL AS `b`, `c` FROM (SELECT 4 AS `c`, 5 AS `a`) AS `given`"
    )


def test_no_cte_has_the_name_of_another_around_it() -> None:
    sql = "(with a as (select 1 as x), b as (select * from (with a as (select 2 as x) select a.x from a)) select a.x from a)"
    assert translated(sql) == (
        "(WITH `__dbt_onnx_a_2` AS (SELECT 1 AS `x`), `__dbt_onnx_b` AS (SELECT * FROM (WITH `__dbt_onnx_a` AS "
        "(SELECT 2 AS `x`) SELECT `a`.`x` FROM `__dbt_onnx_a` AS `a`)) SELECT `a`.`x` FROM `__dbt_onnx_a_2` AS `a`)"
    )


def test_what_is_translated_may_hold_text_of_spark() -> None:
    clock = "case when typeof(now()) = 'timestamp' then cast(to_utc_timestamp(now(), current_timezone()) as timestamp_ntz) end"
    assert translated(f"select {clock}") == (
        "SELECT CASE WHEN TYPEOF(NOW()) = 'timestamp' THEN CAST(TO_UTC_TIMESTAMP(NOW(), CURRENT_TIMEZONE()) AS "
        "TIMESTAMP_NTZ) END"
    )


@pytest.mark.parametrize(
    ("of_spark", "of_duckdb"),
    [
        ("string", "VARCHAR"),
        ("array<float>", "FLOAT[]"),
        ("array<array<bigint>>", "BIGINT[][]"),
        ("decimal(10,2)", "DECIMAL(10,2)"),
        ("timestamp_ntz", "TIMESTAMP"),
        ("timestamp", "TIMESTAMP WITH TIME ZONE"),
        ("struct<a:int>", "struct<a:int>"),
    ],
)
def test_a_type(of_spark: str, of_duckdb: str) -> None:
    assert duckdb_type(of_spark) == of_duckdb
