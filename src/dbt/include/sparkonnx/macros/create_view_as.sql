{#-
    A view is dropped before it is made anew. On a metastore of Hive, Iceberg before 1.11 replaces its own record of a
    view and not the metastore's, which is what Spark reads: the view would say for ever what it said first
    (apache/iceberg, pull request 14831).
-#}
{% macro sparkonnx__create_view_as(relation, sql) -%}
    {%- do run_query('drop view if exists ' ~ relation) -%}
    {{ return(spark__create_view_as(relation, sql)) }}
{%- endmacro %}
