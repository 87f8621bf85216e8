{#-
    The history of predictions, for macros that compare it with another history or with observed outcomes.
    They read the ledger, not `<ledger>__current`, because they ask about the past.

    A row whose features did not change is not scored again. So a version can have a prediction about a moment in
    two ways: the ledger has a row about that moment, or a run about that moment left an earlier row unchanged.
-#}

{#- One ledger to read. `name` is the prefix of its CTEs; `columns` is none if the ledger does not exist yet. -#}
{% macro _history(name, relation, column, version) -%}
    {{ return({
        'name': name, 'relation': relation, 'column': column, 'version': version,
        'columns': dbt_onnx._columns_in(relation),
    }) }}
{%- endmacro %}


{#-
    CTE `<name>_rows`: the ledger's rows with the key, `as_of`, `status`, `model_name`, `model_version`,
    `run_id`, `scored_at` and `__dbt_onnx_value`, the output. Numbers are doubles; a row whose output is NULL, NaN or
    infinite has the status `rejected`.
    CTE `<name>_runs`: the successful full runs and backfills. Both looked at every entity. A backfill confirms
    unchanged rows about the past, just as a full run confirms the served predictions.
-#}
{% macro _history_ctes(history, key) -%}
{%- set value = dbt_onnx._identifier(history['column']) -%}
{%- set is_by_version = '' if history['version'] is none
    else 'and model_version = ' ~ dbt_onnx._literal(history['version']) -%}
{{ history['name'] }}_rows as (
    select
        {{ dbt_onnx._columns(key) }},
        {{ dbt_onnx._number(value) if dbt_onnx._holds_numbers(history['column'], history['columns'])
            else dbt_onnx._joinable(value, dbt_onnx._type_of(history['column'], history['columns'])) }} as __dbt_onnx_value,
        as_of,
        case when status = 'scored' and __dbt_onnx_value is not null then 'scored' else 'rejected' end as status,
        model_name,
        model_version,
        run_id,
        scored_at
    from {{ dbt_onnx._own_relation(history['relation'], history['columns']) if history['columns'] is not none
        else dbt_onnx._no_rows(
            ['as_of', 'status', 'score_reason', 'model_name', 'model_version', 'run_id', 'scored_at'], key=key + [history['column']]
        ) }} as ledger
    where
        {{ dbt_onnx._not_null(key) }}
        -- answers that a service gave in real time were never served by a view
        and score_reason is distinct from 'real_time'
        {{ is_by_version }}
),

{{ history['name'] }}_runs as (
    select
        *,
        scope = 'full' as is_full
    from {{ dbt_onnx._rows_about(history['relation'], [
        'run_id', 'status', 'scope', 'model_name', 'model_version', 'as_of', 'started_at',
    ]) }}
    where
        status = 'success'
        and scope in ('full', 'backfill')
        {{ is_by_version }}
)
{%- endmacro %}


{#-
    The one definition of the prediction that was in force at a moment: the newest row about that moment or earlier,
    by the version of the last full run up to that moment. The newest row by any version would be wrong: after a
    rollback it belongs to the withdrawn version, because the runs after the rollback do not score unchanged rows
    again. Backfills decide the version only where there is no full run, because they change nothing that is served.
    Where there is no run at all, the newest row by any version is in force.

    CTE `<name>_in_force`: each row of the CTE `moments` (the key, `__dbt_onnx_moment` and more) with `model_name`,
    `model_version`, `as_of` and `__dbt_onnx_value` of the prediction in force. Rows of `moments` without such a
    prediction are left out. With `made_at` only rows and runs from before `__dbt_onnx_known_at` of `moments` count:
    by `as_of` alone, or with `scored_at` by both `as_of` and the real time.

    `exactly`: only a run or a row about exactly that moment decides the version, and if the newest row was rejected,
    no prediction is in force. Otherwise rejected rows are skipped.
-#}
{% macro _in_force_ctes(name, key, made_at=none, exactly=false) -%}
{%- set moment_columns = '__dbt_onnx_moment' ~ (', __dbt_onnx_known_at' if made_at is not none) -%}
{{ name }}_version_in_force as (
    select
        distinct_moments.*,
        runs.model_name,
        runs.model_version
    from (select distinct {{ moment_columns }} from moments) as distinct_moments
    inner join {{ name }}_runs as runs
        on distinct_moments.__dbt_onnx_moment {{ '=' if exactly else '>=' }} runs.as_of
        {{- dbt_onnx._was_known_before('distinct_moments', 'runs', made_at, 'started_at') }}
    qualify row_number() over (
        partition by {{ moment_columns }}
        order by
            runs.is_full desc nulls last,
            runs.as_of desc nulls last,
            runs.started_at desc nulls last,
            runs.run_id desc nulls last
    ) = 1
),

{% if exactly -%}
{{ name }}_by_version as (
    select *
    from {{ name }}_rows
    qualify {{ dbt_onnx._is_newest(dbt_onnx._columns(key) ~ ', model_name, model_version, as_of') | indent(4) }}
),

{{ name }}_rows_at_moment as (
    select *
    from {{ name }}_by_version
    qualify {{ dbt_onnx._is_newest(dbt_onnx._columns(key) ~ ', as_of') | indent(4) }}
),

{{ adapter.dispatch('_in_force_exactly_ctes', 'dbt_onnx')(name, key) }}
{%- else -%}
{{ name }}_in_force as (
    select
        moments.*,
        ledger_rows.model_name,
        ledger_rows.model_version,
        ledger_rows.as_of,
        ledger_rows.__dbt_onnx_value
    from moments
    left join {{ name }}_version_in_force as version_in_force using ({{ moment_columns }})
    inner join {{ name }}_rows as ledger_rows
        on {{ dbt_onnx._same_key(key, 'moments', 'ledger_rows') }}
        and ledger_rows.model_name = coalesce(version_in_force.model_name, ledger_rows.model_name)
        and ledger_rows.model_version = coalesce(version_in_force.model_version, ledger_rows.model_version)
        and moments.__dbt_onnx_moment >= ledger_rows.as_of
        {{- dbt_onnx._was_known_before('moments', 'ledger_rows', made_at, 'scored_at') }}
    where ledger_rows.status = 'scored'
    qualify {{ dbt_onnx._is_newest(
        dbt_onnx._columns(key, of='moments') ~ ', moments.__dbt_onnx_moment', of='ledger_rows'
    ) | indent(4) }}
)
{%- endif %}
{%- endmacro %}


{#- `moments` has every moment of each entity, so a plain join would produce the square of the number of its rows. -#}
{% macro default___in_force_exactly_ctes(name, key) -%}
{{ name }}_in_force as (
    select
        moments.*,
        ledger_rows.model_name,
        ledger_rows.model_version,
        ledger_rows.as_of,
        ledger_rows.__dbt_onnx_value
    from moments
    left join {{ name }}_version_in_force as version_in_force using (__dbt_onnx_moment)
    left join {{ name }}_rows_at_moment as rows_at_moment
        on {{ dbt_onnx._same_key(key, 'moments', 'rows_at_moment') }}
        and moments.__dbt_onnx_moment = rows_at_moment.as_of
    asof join {{ name }}_by_version as ledger_rows
        on {{ dbt_onnx._same_key(key, 'moments', 'ledger_rows') }}
        and coalesce(version_in_force.model_name, rows_at_moment.model_name) = ledger_rows.model_name
        and coalesce(version_in_force.model_version, rows_at_moment.model_version) = ledger_rows.model_version
        and moments.__dbt_onnx_moment >= ledger_rows.as_of
    where ledger_rows.status = 'scored'
)
{%- endmacro %}

{#- Spark has no ASOF JOIN. Sorts an entity's moments and rows together; each moment takes the last row before it. -#}
{% macro spark___in_force_exactly_ctes(name, key) -%}
{%- set columns = dbt_onnx._columns(key) -%}
{{ name }}_in_order as (
    select
        {{ dbt_onnx._columns(key, of='moments') }},
        moments.__dbt_onnx_moment,
        coalesce(version_in_force.model_name, rows_at_moment.model_name) as model_name,
        coalesce(version_in_force.model_version, rows_at_moment.model_version) as model_version,
        true as is_moment,
        null as ledger_row
    from moments
    left join {{ name }}_version_in_force as version_in_force using (__dbt_onnx_moment)
    left join {{ name }}_rows_at_moment as rows_at_moment
        on {{ dbt_onnx._same_key(key, 'moments', 'rows_at_moment') }}
        and moments.__dbt_onnx_moment = rows_at_moment.as_of

    union all

    select
        {{ columns }},
        as_of as __dbt_onnx_moment,
        model_name,
        model_version,
        false as is_moment,
        {{ dbt_onnx._struct(['status', 'as_of', '__dbt_onnx_value']) }} as ledger_row
    from {{ name }}_by_version
),

{{ name }}_in_force as (
    select
        {{ columns }},
        __dbt_onnx_moment,
        model_name,
        model_version,
        ledger_row.as_of as as_of,
        ledger_row.__dbt_onnx_value as __dbt_onnx_value
    from (
        select
            {{ columns }},
            __dbt_onnx_moment,
            model_name,
            model_version,
            is_moment,
            last_value(ledger_row ignore nulls) over (
                partition by {{ columns }}, model_name, model_version
                order by __dbt_onnx_moment asc nulls last, is_moment asc nulls last
                rows between unbounded preceding and current row
            ) as ledger_row
        from {{ name }}_in_order
    )
    where is_moment and ledger_row.status = 'scored'
)
{%- endmacro %}


{#- Condition: the row is the newest of those with equal `by`; of rows about the same moment, the one scored last. -#}
{% macro _is_newest(by, of='') -%}
{%- set of = of ~ '.' if of else '' -%}
row_number() over (
    partition by {{ by }}
    order by {{ of }}as_of desc nulls last, {{ of }}scored_at desc nulls last, {{ of }}run_id desc nulls last
) = 1
{%- endmacro %}


{#- Condition: the row or run existed before the outcome became known. `clock` is its column of real time. -#}
{% macro _was_known_before(moments, relation, made_at, clock) -%}
    {%- set clocks = ['as_of', clock] if made_at == 'scored_at' else ['as_of'] if made_at is not none else [] -%}
    {%- for column in clocks %}
        and {{ moments }}.__dbt_onnx_known_at > {{ relation }}.{{ column }}
    {%- endfor %}
{%- endmacro %}


{#- A number as a double; NULL for NaN and infinite values. -#}
{% macro _number(expression) -%}
    {{ return("case when isfinite(cast(" ~ expression ~ " as double)) then cast(" ~ expression ~ " as double) end") }}
{%- endmacro %}


{% macro _holds_numbers(column, columns) -%}
    {{ return(dbt_onnx._is_of_kind(column, columns, ['number', 'whole number'])) }}
{%- endmacro %}


{% macro _is_of_kind(column, columns, kinds) -%}
    {%- set type = dbt_onnx._type_of(column, columns) -%}
    {{ return(type is none or dbt_onnx._kind_of_type(type) in kinds) }}
{%- endmacro %}


{#- `"a" is not null and "b" is not null` -#}
{% macro _not_null(key) -%}
    {{ return(dbt_onnx._each(key, '{0} is not null', ' and ')) }}
{%- endmacro %}


{#- Faults of the columns that `key` and `column` name in a ledger. -#}
{% macro _faults_of_history(history, key, numbers_only) -%}
    {%- set faults = dbt_onnx._faults_of_columns(key, history['columns'], history['relation'], 'key')
        + dbt_onnx._faults_of_columns([history['column']], history['columns'], history['relation'], 'column') -%}
    {%- if numbers_only and not dbt_onnx._holds_numbers(history['column'], history['columns']) -%}
        {%- do faults.append("column '" ~ history['column'] ~ "' of " ~ history['relation']
            ~ " is not numeric: it is " ~ dbt_onnx._type_of(history['column'], history['columns'])) -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{#- The type of a column; none if the column or the relation does not exist. -#}
{% macro _type_of(column, columns) -%}
    {%- set found = dbt_onnx._columns_named(columns or [], column) -%}
    {{ return(found[0]['type'] if found else none) }}
{%- endmacro %}


{#- The rank of `value` within `by`, from 1; equal values all get the average of their ranks. -#}
{% macro _average_rank(value, by) -%}
    rank() over (partition by {{ by }} order by {{ value }} asc nulls last)
    + (count(*) over (partition by {{ by }}, {{ value }}) - 1) / 2e0
{%- endmacro %}
