{#-
    The macros are written in DuckDB's SQL. What leaves them, for dbt or for the warehouse, is in that of the target.
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


{#- What the warehouse answers while a macro is rendered. -#}
{% macro _query(sql) -%}
    {{ return(run_query(dbt_onnx._in_dialect(sql))) }}
{%- endmacro %}
