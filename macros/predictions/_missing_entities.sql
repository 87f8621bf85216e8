{#-
    The CTEs of `_served_versions_ctes`; `attempts`, by the served versions or, without a registry, by any;
    `answers`; `entities`; and `missing_entities`: the entities
    without a prediction that can be served, with `problem` (`missing`, `rejected` or `null_key`),
    `waiting_since`, and `rejected_reason`, `rejected_as_of`, `rejected_at`, `model_version` of the newest
    rejection. Without a registry a prediction by any version counts.
-#}
{% macro _missing_entities_ctes(ledger, registry, entities, entity_since) -%}
{%- set key = dbt_onnx._columns(ledger['key']) -%}
{{ dbt_onnx._served_versions_ctes(ledger, registry) }},

attempts as (
    select current.*
    from current
    {%- if registry is not none %}
    inner join served_versions
        on current.model_name = served_versions.model_name
        and current.model_version = served_versions.model_version
        and served_versions.versions_back is not null
    {%- endif %}
),

answers as (
    select
        {{ key }},
        bool_or(status = 'scored') as __dbt_onnx_is_scored,
        arg_max(
            struct_pack(
                rejected_reason := rejected_reason,
                as_of := as_of,
                scored_at := scored_at,
                model_version := model_version
            ),
            scored_at
        ) filter (where status = 'rejected') as __dbt_onnx_rejection
    from attempts
    group by {{ key }}
),

entities as (
    select
        {{ key }},
        {{ 'cast(null as timestamp)' if entity_since is none
            else 'min(' ~ dbt_onnx._utc(dbt_onnx._identifier(entity_since)) ~ ')' }} as __dbt_onnx_since
    from {{ dbt_onnx._given(entities) }} as entities
    group by {{ key }}
),

missing_entities as (
    select
        {{ dbt_onnx._columns(ledger['key'], of='entities') }},
        case
            when {{ dbt_onnx._each(ledger['key'], 'entities.{0} is null', ' or ') }} then 'null_key'
            when answers.__dbt_onnx_rejection is not null then 'rejected'
            else 'missing'
        end as problem,
        answers.__dbt_onnx_rejection.rejected_reason as rejected_reason,
        answers.__dbt_onnx_rejection.as_of as rejected_as_of,
        answers.__dbt_onnx_rejection.scored_at as rejected_at,
        answers.__dbt_onnx_rejection.model_version as model_version,
        entities.__dbt_onnx_since as waiting_since,
        {{ dbt_onnx._elapsed('entities.__dbt_onnx_since') }} as waiting
    from entities
    left join answers on {{ dbt_onnx._same_key(ledger['key'], 'entities', 'answers') }}
    where not coalesce(answers.__dbt_onnx_is_scored, false)
)
{%- endmacro %}
