{#- The version of this package. A macro cannot read it from dbt_project.yml; a test compares the two. -#}
{% macro _version() %}{{ return('0.1.0') }}{% endmacro %}
