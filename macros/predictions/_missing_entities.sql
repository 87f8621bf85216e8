{#-
    The CTEs of `_served_versions_ctes`, followed by

    - `known_entities`: one row per entity in current, with `__dbt_onnx_prediction` and `__dbt_onnx_rejection` (the
      newest of each, or NULL), `__dbt_onnx_is_present`, and `last_seen_as_of`, the newest moment for which one of its
      rows is known to hold;
    - `entities`: one row per key, with `__dbt_onnx_since`;
    - `missing_entities`: the entities without a prediction that can be served, with `problem` (`missing`, `rejected` or
      `null_key`), `waiting_since`, `waiting`, and `rejected_reason`, `rejected_as_of`, `rejected_at` and
      `model_version` of the newest rejection. Without a registry, predictions by any version count.
-#}
{% macro _missing_entities_ctes(ledger, registry, entities, entity_since) -%}
{%- set key = dbt_onnx._columns(ledger['key']) -%}
{%- set counts = 'versions_back is not null' if registry is not none else 'true' -%}
{{ dbt_onnx._served_versions_ctes(ledger, registry) }},

known_entities as (
    select
        {{ dbt_onnx._columns(ledger['key'], of='current') }},
        max({{ dbt_onnx._struct(['scored_at', 'model_version', 'as_of']) }})
            filter (where status = 'scored' and {{ counts }}) as __dbt_onnx_prediction,
        arg_max(
            {{ dbt_onnx._struct(['rejected_reason', 'as_of', 'scored_at', 'model_version']) }}, scored_at
        ) filter (where status = 'rejected' and {{ counts }}) as __dbt_onnx_rejection,
        coalesce(bool_or(defines_presence and last_seen_as_of is null), false) as __dbt_onnx_is_present,
        max(coalesce(last_seen_as_of, confirmed_as_of, as_of)) as last_seen_as_of
    from current
    left join served_versions using (model_name, model_version)
    group by {{ dbt_onnx._columns(ledger['key'], of='current') }}
),

entities as (
    select
        {{ key }},
        {{ 'cast(null as timestamp)' if entity_since is none
            else 'min(' ~ dbt_onnx._utc(dbt_onnx._identifier(entity_since)) ~ ')' }} as __dbt_onnx_since
    from {{ dbt_onnx._user_relation(entities) }} as entities
    group by {{ key }}
),

missing_entities as (
    select
        {{ dbt_onnx._columns(ledger['key'], of='entities') }},
        case
            when {{ dbt_onnx._each(ledger['key'], 'entities.{0} is null', ' or ') }} then 'null_key'
            when known_entities.__dbt_onnx_rejection is not null then 'rejected'
            else 'missing'
        end as problem,
        known_entities.__dbt_onnx_rejection.rejected_reason as rejected_reason,
        known_entities.__dbt_onnx_rejection.as_of as rejected_as_of,
        known_entities.__dbt_onnx_rejection.scored_at as rejected_at,
        known_entities.__dbt_onnx_rejection.model_version as model_version,
        entities.__dbt_onnx_since as waiting_since,
        {{ dbt_onnx._elapsed('entities.__dbt_onnx_since') }} as waiting
    from entities
    left join known_entities on {{ dbt_onnx._same_key(ledger['key'], 'entities', 'known_entities') }}
    where known_entities.__dbt_onnx_prediction is null
)
{%- endmacro %}
