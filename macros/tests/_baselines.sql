{#- The baseline `previous_run` of `predictions_match_baseline`: the predictions in force before the last run. -#}

{% macro _is_version(run) -%}
    {{ return("model_name = " ~ dbt_onnx._text(dbt_onnx._literal(run['model_name']))
        ~ " and model_version = " ~ dbt_onnx._text(dbt_onnx._literal(run['model_version']))) }}
{%- endmacro %}


{#- CTE `in_force`: the predictions in force of a run's version, without entities that have left the features. -#}
{% macro _in_force_cte(model, run, output) -%}
in_force as (
    select {{ dbt_onnx._identifier(output['name']) }}
    from {{ dbt_onnx._rows_of_current(dbt_onnx._ledger(model, run['key'])) }} as current
    where {{ dbt_onnx._is_version(run) }} and status = 'scored' and last_seen_as_of is null
)
{%- endmacro %}


{#-
    CTE `earlier`: the predictions of a version that were in force when its run `run` began, for the entities of its
    run `previous`. Current rows that `run` did not write were already in force. For rows that `run` wrote, the CTE
    `replaced` finds the superseded rows in the ledger.
-#}
{% macro _earlier_predictions_ctes(model, output, run, previous) -%}
{%- set column = dbt_onnx._identifier(output['name']) -%}
{%- set key = dbt_onnx._columns(run['key']) -%}
{%- set began = 'cast(' ~ dbt_onnx._literal(run['scored_at']) ~ ' as timestamp)' -%}
rows_of_version as (
    select
        {{ key }},
        {{ column }},
        scored_at < {{ began }} as is_earlier
    from {{ dbt_onnx._rows_of_current(dbt_onnx._ledger(model, run['key'])) }} as current
    where
        {{ dbt_onnx._is_version(run) }}
        and status = 'scored'
        and (last_seen_as_of is null or last_seen_as_of >= cast({{ dbt_onnx._literal(previous['as_of']) }} as timestamp))
),

replaced as (
    select arg_max({'output': {{ column }}}, scored_at).output as {{ column }}
    from {{ dbt_onnx._own_relation(model) }} as ledger
    where
        {{ dbt_onnx._is_version(run) }}
        and status = 'scored'
        and not is_late
        and score_reason is distinct from 'real_time'
        and scored_at < {{ began }}
        and exists (
            select 1
            from rows_of_version
            where not rows_of_version.is_earlier and {{ dbt_onnx._same_key(run['key'], 'ledger', 'rows_of_version') }}
        )
    group by {{ key }}
),

earlier as (
    select {{ column }} from rows_of_version where is_earlier
    union all
    select {{ column }} from replaced
)
{%- endmacro %}


{#- CTE `reference` for one column of the CTE `earlier`, as `dbt_onnx.authoring.distributions.describe` would. -#}
{% macro _described_ctes(column) -%}
described_values as (
    select {{ dbt_onnx._counted_value('value', column) }} as value
    from {{ dbt_onnx._values_of('earlier', column) }}
),

described_totals as (
    select
        count(*) as row_count,
        count(value) as known
        {%- if column['kind'] == 'numeric' %},
        quantile_cont(value, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]) as deciles,
        list_filter(
            case
                when list_unique(deciles) < 9
                    then list_sort(list_distinct(list_append(deciles, min(value))), 'asc', 'nulls last')
                else coalesce(deciles, [])
            end,
            lambda edge: isfinite(edge)
        ) as edges
        {%- endif %}
    from described_values
),
{%- if column['kind'] == 'numeric' %}

{{ adapter.dispatch('_described_histogram_cte', 'dbt_onnx')() }},

reference as (
    select
        {{ dbt_onnx._text(dbt_onnx._literal(column['name'])) }} as column_name,
        'numeric' as kind,
        (row_count - known) / cast(nullif(row_count, 0) as double) as null_share,
        edges,
        case
            when known = 0 then [0.0]
            else list_transform(
                list_append(edges, cast('inf' as double)),
                lambda edge: coalesce(map_extract(numbers, edge)[1], 0) / cast(known as double)
            )
        end as shares,
        cast(null as varchar[]) as categories,
        0.0 as other_share
    from described_totals
    cross join described_histogram
)
{%- else %}

frequent as (
    select
        value,
        count(*) as row_count
    from described_values
    where value is not null
    group by value
    order by row_count desc nulls last, value asc nulls last
    limit 100
),

reference as (
    select
        {{ dbt_onnx._text(dbt_onnx._literal(column['name'])) }} as column_name,
        'categorical' as kind,
        any_value((described_totals.row_count - known) / cast(nullif(described_totals.row_count, 0) as double)) as null_share,
        cast(null as double[]) as edges,
        coalesce(
            list(frequent.row_count / cast(known as double) order by frequent.row_count desc nulls last, value asc nulls last),
            []
        ) as shares,
        coalesce(list(value order by frequent.row_count desc nulls last, value asc nulls last), []) as categories,
        (any_value(known) - sum(frequent.row_count)) / cast(any_value(known) as double) as other_share
    from described_totals
    cross join frequent
)
{%- endif %}
{%- endmacro %}


{#- The number of values in each bin, as a map from the bin's upper edge (inclusive) to the number. -#}
{% macro default___described_histogram_cte() -%}
described_histogram as (
    select histogram(value, (select list_append(edges, cast('inf' as double)) from described_totals)) as numbers
    from described_values
)
{%- endmacro %}

{% macro spark___described_histogram_cte() -%}
described_histogram as (
    select map_from_entries(list({'edge': edge, 'row_count': row_count})) as numbers
    from (
        select
            coalesce(list_min(list_filter(edges, lambda edge: edge >= value)), cast('inf' as double)) as edge,
            count(*) as row_count
        from described_values
        cross join described_totals
        where value is not null
        group by 1
    )
)
{%- endmacro %}
