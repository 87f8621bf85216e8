{#-
    The entities that have no prediction, and how long they have been waiting for one.

    Columns: the key; `problem`: `missing` (never tried), `rejected` (tried, without success) or `null_key`
    (cannot be scored); `rejected_reason`, `rejected_as_of`, `rejected_at` and `model_version` of the newest
    rejection; `waiting_since`, the entity's `entity_since` or NULL; `waiting`, the clock minus `waiting_since`.

    Arguments: `missing_predictions` in macros/_macros.yml. Example:
        {{ dbt_onnx.missing_predictions(
            ref('churn_predictions'), entities=ref('customers'), key=['customer_id'], entity_since='signed_up_at'
        ) }}
-#}
{% macro missing_predictions(predictions, entities, key, registry=none, entity_since=none) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('missing_predictions', 'dbt_onnx')(
        predictions, entities, key, registry, entity_since
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__missing_predictions(predictions, entities, key, registry, entity_since) -%}
{%- set faults = dbt_onnx._faults_of_missing(predictions, entities, key, registry, entity_since, 'predictions') -%}
{%- do dbt_onnx._raise_faults(faults, 'missing_predictions', predictions) -%}

with {{ dbt_onnx._missing_entities_ctes(
    dbt_onnx._ledger(predictions, key), registry, entities, entity_since
) }}

select *
from missing_entities
{%- endmacro %}
