{#-
    The CTEs of `_served_versions_ctes`, followed by `current_rows`: one row per entity in current, with

    - the key; the outputs, `as_of`, `scored_at`, `model_name`, `model_version` and `run_id` of the served prediction
      (NULL if no prediction is served), and its `fresh_as_of` and `__dbt_onnx_versions_back`;
    - `status` and `rejected_reason` of the newest attempt by the serving version (NULL if it never tried);
    - `__dbt_onnx_is_present`: whether the last full run still saw the entity.

    The CTEs use one aggregation over the key columns, because DuckDB pushes a lookup by key down through the
    aggregation into the scan. It does not push it down through joins of current to itself.

    `oldest`, a SQL expression: predictions with an older `fresh_as_of` are ignored, and a prediction by an earlier
    version is served if it is fresh enough. `status` still takes the ignored ones into account. None: predictions of
    any age are served.
-#}
{% macro _current_rows_ctes(ledger, registry, oldest=none) -%}
{%- set key = dbt_onnx._columns(ledger['key']) -%}
{{ dbt_onnx._served_versions_ctes(ledger, registry) }},

attempts as (
    select
        current.*,
        served_versions.versions_back as __dbt_onnx_versions_back,
        served_versions.confirmed_as_of as __dbt_onnx_confirmed_as_of,
        served_versions.defines_presence and current.last_seen_as_of is null as __dbt_onnx_is_present
        {%- if oldest is not none %},
        rejections.scored_at as __dbt_onnx_rejected_at
        {%- endif %}
    from current
    left join served_versions using (model_name, model_version)
    {%- if oldest is not none %}
    {#- there are few rejections, and a lookup by key is pushed down through this join, too #}
    left join {{ dbt_onnx._rejections(ledger) }} as rejections using ({{ key }}, model_name, model_version)
    {%- endif %}
),

entities_in_current as (
    select
        {{ key }},
        coalesce(bool_or(__dbt_onnx_is_present), false) as __dbt_onnx_is_present,
        {#- the smallest struct belongs to the newest version; min() is twice as fast as arg_min() of a struct -#}
        min({{ dbt_onnx._struct(['__dbt_onnx_versions_back'] + ledger['outputs'] | map(attribute='name') | list + [
            'as_of', 'scored_at', 'model_name', 'model_version', 'run_id', 'last_seen_as_of',
            '__dbt_onnx_confirmed_as_of',
        ]) }}) filter (
            where status = 'scored' and __dbt_onnx_versions_back is not null
            {%- if oldest is not none %}
            and {{ dbt_onnx.fresh_as_of(
                'as_of', 'last_seen_as_of', '__dbt_onnx_confirmed_as_of', '__dbt_onnx_rejected_at > scored_at'
            ) | indent(12) }} >= {{ oldest }}
            {%- endif %}
        ) as __dbt_onnx_prediction,
        max(scored_at) filter (where status = 'scored' and __dbt_onnx_versions_back = 0) as __dbt_onnx_serving_scored_at,
        max(scored_at) filter (where status = 'rejected' and __dbt_onnx_versions_back = 0) as __dbt_onnx_serving_rejected_at,
        max(rejected_reason) filter (where status = 'rejected' and __dbt_onnx_versions_back = 0) as __dbt_onnx_reason,
        list({{ dbt_onnx._struct(['__dbt_onnx_versions_back', 'scored_at']) }}) filter (where status = 'rejected')
            as __dbt_onnx_rejections
    from attempts
    group by {{ key }}
),

current_rows as (
    select
        {{ key }},
        __dbt_onnx_is_present,
        __dbt_onnx_prediction.*,
        case
            when __dbt_onnx_serving_rejected_at > __dbt_onnx_serving_scored_at then 'rejected'
            when __dbt_onnx_serving_scored_at is not null then 'scored'
            when __dbt_onnx_serving_rejected_at is not null then 'rejected'
        end as status,
        case when status = 'rejected' then __dbt_onnx_reason end as rejected_reason,
        {#- the rejection by the same version as the served prediction #}
        list_filter(
            __dbt_onnx_rejections,
            lambda rejection: rejection.__dbt_onnx_versions_back = __dbt_onnx_prediction.__dbt_onnx_versions_back
        )[1].scored_at > __dbt_onnx_prediction.scored_at as __dbt_onnx_is_rejected_since,
        {{ dbt_onnx.fresh_as_of(
            '__dbt_onnx_prediction.as_of',
            '__dbt_onnx_prediction.last_seen_as_of',
            '__dbt_onnx_prediction.__dbt_onnx_confirmed_as_of',
            '__dbt_onnx_is_rejected_since',
        ) | indent(8) }} as fresh_as_of
    from entities_in_current
)
{%- endmacro %}


{#- The rejections in current. Does not use the CTE `current`, because DuckDB materializes a CTE that is read twice. -#}
{% macro _rejections(ledger) -%}
    {{ return('(select * from ' ~ dbt_onnx._rows_of_current(ledger) ~ " as current where status = 'rejected')") }}
{%- endmacro %}
