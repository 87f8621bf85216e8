{#-
    Segments and their average predictions. A segment is a struct of columns of `entities`, so entities with NULL in
    these columns form a segment, too.
-#}

{#-
    CTE `entities`: one row per entity. With `segment` it also has `__dbt_onnx_segment`, the first in sort order if an
    entity is in several segments. `not materialized`, because otherwise a lookup by key would not be pushed down
    into a CTE that is read twice.
-#}
{% macro _entities_cte(entities, key, segment) -%}
entities as not materialized (
    select
        {{ dbt_onnx._columns(key) }}
        {{- ', min(' ~ dbt_onnx._struct(segment) ~ ') as __dbt_onnx_segment' if segment is not none }}
    from {{ dbt_onnx._user_relation(entities) }} as entities
    where {{ dbt_onnx._not_null(key) }}
    group by {{ dbt_onnx._columns(key) }}
)
{%- endmacro %}


{#- The outputs that have an average: those that are not lists. -#}
{% macro _averaged_outputs(ledger) -%}
    {%- set outputs = [] -%}
    {%- for output in ledger['outputs'] if dbt_onnx._kind_of_type(output['type']) != 'list' -%}
        {%- do outputs.append(output) -%}
    {%- endfor -%}
    {{ return(outputs) }}
{%- endmacro %}


{#-
    CTEs `fresh_predictions`, `segments` (on Spark `counted_predictions`) and `segment_averages`: per segment of the CTE
    `entities` its `__dbt_onnx_segment_size` and the average of each output that is not a list, over the predictions of
    the serving version that are not stale.
    They read current directly. If they read the CTE `current`, DuckDB would materialize it, and would no longer push
    a lookup by key down through `attempts`.
-#}
{% macro _segment_averages_ctes(ledger, stale_after, min_segment_size) -%}
fresh_predictions as (
    select scored.*
    from {{ dbt_onnx._rows_of_current(ledger) }} as scored
    inner join served_versions using (model_name, model_version)
    left join {{ dbt_onnx._rejections(ledger) }} as rejected
        using ({{ dbt_onnx._columns(ledger['key']) }}, model_name, model_version)
    where
        served_versions.versions_back = 0
        and scored.status = 'scored'
        {%- if stale_after is not none %}
        and {{ dbt_onnx.fresh_as_of(
            'scored.as_of',
            'scored.last_seen_as_of',
            'served_versions.confirmed_as_of',
            'rejected.scored_at > scored.scored_at',
        ) | indent(8) }} >= {{ dbt_onnx.clock() | trim }} - {{ dbt_onnx._interval(stale_after) }}
        {%- endif %}
),

{{ adapter.dispatch('_segments_ctes', 'dbt_onnx')(ledger, min_segment_size) }}
{%- endmacro %}


{% macro default___segments_ctes(ledger, min_segment_size) -%}
segments as (
    select
        entities.__dbt_onnx_segment,
        {%- for output in dbt_onnx._averaged_outputs(ledger) %}
        {%- set column = dbt_onnx._identifier(output['name']) %}
        {%- set average = 'avg' if dbt_onnx._kind_of_type(output['type']) == 'number' else 'histogram' %}
        {{ average }}(fresh_predictions.{{ column }}) as {{ column }},
        {%- endfor %}
        count(*) as __dbt_onnx_segment_size
    from fresh_predictions
    inner join entities on {{ dbt_onnx._same_key(ledger['key'], 'fresh_predictions', 'entities') }}
    group by entities.__dbt_onnx_segment
    having count(*) >= {{ min_segment_size }}
),

segment_averages as (
    select
        __dbt_onnx_segment,
        __dbt_onnx_segment_size,
        {%- for output in dbt_onnx._averaged_outputs(ledger) %}
        {%- set column = dbt_onnx._identifier(output['name']) %}
        {%- if dbt_onnx._kind_of_type(output['type']) == 'number' %}
        cast({{ column }} as {{ output['type'] }}) as {{ column }},
        {%- else %}
        {#- not mode(), which returns any of several equally frequent values; this takes the smallest #}
        list_min(list_transform(
            list_filter(
                map_entries({{ column }}), lambda entry: entry.value = list_max(map_values({{ column }}))
            ),
            lambda entry: entry.key
        )) as {{ column }},
        {%- endif %}
        {%- endfor %}
    from segments
)
{%- endmacro %}

{#- Spark has no histogram(), so each row counts the rows of its segment that have the same value. -#}
{% macro spark___segments_ctes(ledger, min_segment_size) -%}
counted_predictions as (
    select
        entities.__dbt_onnx_segment,
        {%- for output in dbt_onnx._averaged_outputs(ledger) %}
        {%- set column = 'fresh_predictions.' ~ dbt_onnx._identifier(output['name']) %}
        {{ column }},
        count(*) over (partition by entities.__dbt_onnx_segment, {{ column }}) as __dbt_onnx_equal_{{ loop.index0 }},
        {%- endfor %}
    from fresh_predictions
    inner join entities on {{ dbt_onnx._same_key(ledger['key'], 'fresh_predictions', 'entities') }}
),

segment_averages as (
    select
        __dbt_onnx_segment,
        {%- for output in dbt_onnx._averaged_outputs(ledger) %}
        {%- set column = dbt_onnx._identifier(output['name']) %}
        {%- if dbt_onnx._kind_of_type(output['type']) == 'number' %}
        cast(avg({{ column }}) as {{ output['type'] }}) as {{ column }},
        {%- else %}
        min_by(
            {{ column }},
            case when {{ column }} is not null then (-__dbt_onnx_equal_{{ loop.index0 }}, {{ column }}) end
        ) as {{ column }},
        {%- endif %}
        {%- endfor %}
        count(*) as __dbt_onnx_segment_size
    from counted_predictions
    group by __dbt_onnx_segment
    having count(*) >= {{ min_segment_size }}
)
{%- endmacro %}


{#- Faults of the columns that define an entity's segment. -#}
{% macro _faults_of_segment(names, argument) -%}
    {%- set columns = dbt_onnx._list_of_names(names) -%}
    {%- if columns is mapping or columns is not iterable or columns | length == 0
        or columns | reject('string') | list or '' in columns
        or columns | map('lower') | unique | list | length != columns | length -%}
        {{ return([argument ~ " is " ~ names ~ "; it takes a list of columns of entities, such as ['country']"]) }}
    {%- endif -%}
    {{ return([]) }}
{%- endmacro %}
