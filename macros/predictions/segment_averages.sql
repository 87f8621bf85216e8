{#-
    The body of a model with the average prediction of each segment, for `fallback.segment_averages` of
    `current_predictions`. Without such a model the current view computes the averages at each read, even for a lookup
    by key. A table holds the averages of its last build, so build it after the scoring model.

    Columns: those of `segment`; the outputs, NULL for lists; `segment_size`, the number of fresh predictions. One row
    per segment with at least `min_segment_size` fresh predictions.

    Arguments: `segment_averages` in macros/_macros.yml. Example:
        {{ config(materialized='table') }}
        {{ dbt_onnx.segment_averages(
            ref('churn_predictions'), registry=ref('model_registry'), key=['customer_id'], entities=ref('customers'),
            segment=['country']
        ) }}
-#}
{% macro segment_averages(
    predictions, registry, key, entities, segment, stale_after={'count': 2, 'period': 'day'}, min_segment_size=20
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('segment_averages', 'dbt_onnx')(
        predictions, registry, key, entities, segment, stale_after, min_segment_size
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__segment_averages(predictions, registry, key, entities, segment, stale_after, min_segment_size) -%}
{%- set faults = dbt_onnx._faults_of_predictions(predictions, 'predictions')
    + dbt_onnx._faults_of_relation(registry, 'registry')
    + dbt_onnx._faults_of_relation(entities, 'entities')
    + dbt_onnx._faults_of_key(key)
    + dbt_onnx._faults_of_segment(segment, 'segment')
    + dbt_onnx._faults_of_count(min_segment_size, 'min_segment_size')
    + dbt_onnx._faults_of_optional('period', {'stale_after': stale_after}) -%}
{%- do dbt_onnx._raise_faults(faults, 'segment_averages', predictions) -%}

{%- set segment = dbt_onnx._list_of_names(segment) -%}
{%- set ledger = dbt_onnx._ledger(predictions, key) -%}
{%- set columns = dbt_onnx._columns_in(entities) -%}
{%- set faults = dbt_onnx._faults_of_columns(key, ledger['current_columns'], ledger['current'], 'key')
    + dbt_onnx._faults_of_columns(key, columns, entities, 'key')
    + dbt_onnx._faults_of_columns(segment, columns, entities, 'segment') -%}
{%- set taken = segment | map('lower') | list + ['segment_size'] -%}
{%- for output in ledger['outputs'] if output['name'] | lower in taken -%}
    {%- do faults.append("output column '" ~ output['name'] ~ "' has the name of another column of this model."
        ~ " Hint: rename the column of entities") -%}
{%- endfor -%}
{%- do dbt_onnx._raise_faults(faults, 'segment_averages', predictions) -%}
{%- if ledger['current_columns'] is none -%}
    {#- the first run creates the ledger -#}
    {{ return('select ' ~ dbt_onnx._columns(segment) ~ ', 0 as segment_size from ' ~ entities ~ ' where false') }}
{%- endif -%}

with {{ dbt_onnx._served_versions_ctes(ledger, registry) }},

{{ dbt_onnx._entities_cte(entities, key, segment) }},

{{ dbt_onnx._segment_averages_ctes(ledger, stale_after, min_segment_size) }}

select
    {{ dbt_onnx._each(segment, '__dbt_onnx_segment.{0} as {0}') }},
    {%- for output in ledger['outputs'] %}
    {%- set name = dbt_onnx._identifier(output['name']) %}
    {%- if dbt_onnx._kind_of_type(output['type']) == 'list' %}
    cast(null as {{ output['type'] }}) as {{ name }},
    {%- else %}
    {{ name }},
    {%- endif %}
    {%- endfor %}
    __dbt_onnx_segment_size as segment_size
from segment_averages
{%- endmacro %}
