{#-
    What the ledger contained at a moment in the past: for each entity the newest scored prediction (by `as_of`, then
    `scored_at`), by any version, among those with `scored_at` at or before the argument `said_at` and `as_of` at or
    before the argument `about`. Reads the ledger, so an answer never changes once `said_at` is past.
    Answers that a service gave in real time are left out, because no view ever served them.

    Columns: those of the ledger, in its order.

    Arguments: `predictions_as_of` in macros/_macros.yml. Example:
        {{ dbt_onnx.predictions_as_of(
            ref('churn_predictions'), key=['customer_id'], said_at='2024-02-03 12:00', about='2024-01-31'
        ) }}
-#}
{% macro predictions_as_of(predictions, key, said_at=none, about=none) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('predictions_as_of', 'dbt_onnx')(
        predictions, key, said_at, about
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__predictions_as_of(predictions, key, said_at, about) -%}
{%- set faults = dbt_onnx._faults_of_predictions(predictions, 'predictions')
    + dbt_onnx._faults_of_key(key)
    + dbt_onnx._faults_of_optional('moment', {'said_at': said_at, 'about': about}) -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_as_of', predictions) -%}

{%- set columns = dbt_onnx._columns_in(predictions) -%}
{%- do dbt_onnx._raise_faults(
    dbt_onnx._faults_of_columns(key, columns, predictions, 'key'), 'predictions_as_of', predictions
) -%}
{%- if columns is none -%}
    {#- the first run creates the ledger; a view over it can be built before that -#}
    {{ return('select cast(null as timestamp) as as_of, cast(null as timestamp) as scored_at where false') }}
{%- endif -%}

select {{ dbt_onnx._columns(columns | map(attribute='name'), of='ledger') }}
from {{ dbt_onnx._own_relation(predictions, columns) }} as ledger
where
    ledger.status = 'scored'
    and ledger.score_reason is distinct from 'real_time'
    {%- if said_at is not none %}
    and ledger.scored_at <= {{ dbt_onnx._moment(said_at) }}
    {%- endif %}
    {%- if about is not none %}
    and ledger.as_of <= {{ dbt_onnx._moment(about) }}
    {%- endif %}
qualify {{ dbt_onnx._is_newest(dbt_onnx._columns(key, of='ledger'), of='ledger') }}
{%- endmacro %}
