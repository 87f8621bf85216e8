{#-
    The body of the view that serves predictions: one row per entity with the newest scored prediction of the serving
    version, or else of the newest earlier version that is still in the registry.

    The view reads the registry on every query, so a promotion or a rollback takes effect when the seed is loaded. The
    output columns are those that the ledger has when the view is built; there are none before the first run.

    Columns: the key; the outputs; `as_of`, `scored_at`, `model_name`, `model_version`, `run_id` of the
    prediction; `status` and `rejected_reason` of the newest attempt by the serving version (NULL if it
    never tried); `fresh_as_of`, `age` (never negative), `is_stale` (also true if nothing is served);
    `served_from`: `serving_version`, `earlier_version` or `missing`, and with `fallback` also
    `segment_average` or `constant`.

    Arguments: `current_predictions` in macros/_macros.yml. `fallback` defines what to serve to an entity without a
    prediction. The first of its links that applies is served:

        fallback={
            'allow_stale': {'count': 14, 'period': 'day'},
            'segment': ['country'],
            'min_segment_size': 20,
            'constant': {'churn_probability': 0.5},
        }

    - `allow_stale`: older predictions are not served; an earlier version's prediction is served instead if it is fresh
      enough. Default: predictions of any age are served.
    - `segment`: columns of `entities`. Serves the average of the fresh predictions by the serving version over all
      entities with the same values in these columns (NULL counts as a value), if there are at least `min_segment_size`
      (default 20) of them. Floating-point outputs are averaged. For whole numbers, booleans and text the average is
      the most frequent value, and the smallest of equally frequent ones; for lists it is NULL.
    - `segment_averages`: a model built with `segment_averages`, so that the averages are not computed at each read.
    - `constant`: values for output columns; outputs that are not named are NULL.

    In a row served from segment or constant, `as_of`, `scored_at`, `model_name`, `model_version`,
    `run_id`, `fresh_as_of` and `age` are NULL and `is_stale` is true, because the entity has no prediction. `status`
    and `rejected_reason` show why: `scored` (the prediction is too old), `rejected`, or NULL (never tried).

    Example:
        {{ config(materialized='view') }}
        {{ dbt_onnx.current_predictions(
            ref('churn_predictions'), registry=ref('model_registry'), key=['customer_id']
        ) }}
-#}
{% macro current_predictions(
    predictions, registry, key, entities=none, stale_after={'count': 2, 'period': 'day'}, fallback=none
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('current_predictions', 'dbt_onnx')(
        predictions, registry, key, entities, stale_after, fallback
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__current_predictions(predictions, registry, key, entities, stale_after, fallback) -%}
{%- set added = ['fresh_as_of', 'age', 'is_stale', 'served_from'] -%}
{%- set faults = dbt_onnx._faults_of_predictions(predictions, 'predictions')
    + dbt_onnx._faults_of_relation(registry, 'registry')
    + dbt_onnx._faults_of_optional('relation', {'entities': entities})
    + dbt_onnx._faults_of_key(key, taken=added)
    + dbt_onnx._faults_of_optional('period', {'stale_after': stale_after})
    + (dbt_onnx._faults_of_fallback(fallback, entities, stale_after) if fallback is not none else []) -%}
{%- do dbt_onnx._raise_faults(faults, 'current_predictions', predictions) -%}

{%- set ledger = dbt_onnx._ledger(predictions, key) -%}
{%- set faults = dbt_onnx._faults_of_columns(key, ledger['current_columns'], ledger['current'], 'key') -%}
{%- for output in ledger['outputs'] if output['name'] | lower in added -%}
    {%- do faults.append("output column '" ~ output['name'] ~ "' has the name of a column that the view adds."
        ~ " Hint: give the output another name in the model's contract") -%}
{%- endfor -%}
{%- if fallback is not none -%}
    {%- do faults.extend(dbt_onnx._faults_of_fallback_columns(fallback, ledger, entities)) -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'current_predictions', predictions) -%}

{%- set links = dbt_onnx._fallback_links(fallback, ledger) -%}
with {{ dbt_onnx._current_rows_ctes(ledger, registry, oldest=links['oldest']) }}
{%- if entities is not none %},

{{ dbt_onnx._entities_cte(entities, key, links['segment']) }}
{%- endif %}
{%- if links['segment'] is not none %},

{{ dbt_onnx._fallback_averages_ctes(fallback, ledger, stale_after) }}
{%- endif %}

select
    {{ dbt_onnx._columns(key, of='entities' if entities is not none else 'current_rows') }},
    {%- for output in ledger['outputs'] %}
    {{ dbt_onnx._served_output(output, links) | indent(4) }},
    {%- endfor %}
    current_rows.as_of,
    current_rows.scored_at,
    current_rows.model_name,
    current_rows.model_version,
    current_rows.run_id,
    current_rows.status,
    current_rows.rejected_reason,
    current_rows.fresh_as_of,
    {{ dbt_onnx._elapsed('current_rows.fresh_as_of') }} as age,
    {%- if stale_after is none %}
    current_rows.fresh_as_of is null as is_stale,
    {%- else %}
    coalesce(
        current_rows.fresh_as_of < {{ dbt_onnx.clock() | trim }} - {{ dbt_onnx._interval(stale_after) }}, true
    ) as is_stale,
    {%- endif %}
    case
        when current_rows.__dbt_onnx_versions_back = 0 then 'serving_version'
        when current_rows.__dbt_onnx_versions_back is not null then 'earlier_version'
        {%- if links['segment'] is not none %}
        when segment_averages.__dbt_onnx_segment is not null then 'segment_average'
        {%- endif %}
        else '{{ 'missing' if links['constant'] is none else 'constant' }}'
    end as served_from
{%- if entities is none %}
from current_rows
where current_rows.__dbt_onnx_is_present
{%- else %}
from entities
left join current_rows on {{ dbt_onnx._same_key(key, 'entities', 'current_rows') }}
{%- endif %}
{%- if links['segment'] is not none %}
left join segment_averages
    on entities.__dbt_onnx_segment is not distinct from segment_averages.__dbt_onnx_segment
{%- endif %}
{%- endmacro %}
