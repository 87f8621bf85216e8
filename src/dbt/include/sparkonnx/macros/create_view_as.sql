{#-
    Drops a view before it is created again. In a Hive metastore, Iceberg before 1.11 replaces only its own record of a
    view. Spark reads the metastore's record, so it would keep using the view's first query
    (apache/iceberg, pull request 14831).
-#}
{% macro sparkonnx__create_view_as(relation, sql) -%}
    {%- do run_query('drop view if exists ' ~ relation) -%}
    {{ return(spark__create_view_as(relation, sql)) }}
{%- endmacro %}
