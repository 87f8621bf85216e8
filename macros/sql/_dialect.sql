{#-
    The macros are written in DuckDB's SQL. `_in_dialect` translates a finished query to the SQL of the target.
-#}

{% macro _in_dialect(sql) -%}
    {{ return(adapter.dispatch('_in_dialect', 'dbt_onnx')(sql)) }}
{%- endmacro %}

{% macro default___in_dialect(sql) -%}
    {{ return(sql) }}
{%- endmacro %}

{% macro spark___in_dialect(sql) -%}
    {{ return(adapter.in_spark_sql(sql)) }}
{%- endmacro %}


{#- Runs a query while a macro is rendered, and returns its result. -#}
{% macro _query(sql) -%}
    {{ return(run_query(dbt_onnx._in_dialect(sql))) }}
{%- endmacro %}
