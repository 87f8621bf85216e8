{#-
    The history of predictions, for macros that compare it with another history or with what happened.
    They read the ledger itself, not `<ledger>__current`: they ask about the past.

    A row whose features did not change is not scored again. So a version has a prediction about a moment
    in two ways: by a row about it, or by a run about it that left the row before as it was.
-#}

{#- One ledger to read: `name` begins the names of its CTEs. `columns`: none if it does not exist yet. -#}
{% macro _history(name, relation, column, version) -%}
    {{ return({
        'name': name, 'relation': relation, 'column': column, 'version': version,
        'columns': dbt_onnx._columns_in(relation),
    }) }}
{%- endmacro %}


{#-
    `<name>_statements`: the key, `as_of`, `status`, `model_name`, `model_version`, `run_id`, `scored_at` of
    the ledger's rows, and `__dbt_onnx_value`: the output, numbers as doubles; a NULL, NaN or infinite one
    counts as not scored. `<name>_runs`: the successful runs that looked at every entity; those of
    backfills confirm rows about the past as full runs confirm what is served.
-#}
{% macro _history_ctes(history, key) -%}
{%- set value = dbt_onnx._identifier(history['column']) -%}
{%- set is_by_version = '' if history['version'] is none
    else 'and model_version = ' ~ dbt_onnx._literal(history['version']) -%}
{{ history['name'] }}_statements as (
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
    from {{ dbt_onnx._written(history['relation'], history['columns']) if history['columns'] is not none
        else dbt_onnx._no_rows(
            ['as_of', 'status', 'score_reason', 'model_name', 'model_version', 'run_id', 'scored_at'], key=key + [history['column']]
        ) }} as ledger
    where
        {{ dbt_onnx._not_null(key) }}
        -- what a service has answered in real time was never served by a view
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
    What held at a moment, in one place: the newest row up to the moment, by the version whose full run was the
    last up to it. After a rollback the newest row is by the version that was withdrawn, for what did not change
    since is not scored again. Backfills decide only where there is no full run, for they change nothing that
    is served; where there is no run at all, a row by any version holds.

    `<name>_held`: each row of the CTE `asked` (the key, `__dbt_onnx_moment` and more) with `model_name`,
    `model_version`, `as_of` and `__dbt_onnx_value` of what held, or no row. What history had later counts for
    nothing: with `made_at`, of `as_of` and `scored_at`, only what was there before `__dbt_onnx_known_at` of `asked`.

    `exactly`: only a run or a row about the very moment decides the version, and a newest row that was
    rejected leaves nothing that holds. Else rejected rows are passed over.
-#}
{% macro _held_ctes(name, key, made_at=none, exactly=false) -%}
{%- set asked_by = '__dbt_onnx_moment' ~ (', __dbt_onnx_known_at' if made_at is not none) -%}
{{ name }}_deciding as (
    select
        moments.*,
        runs.model_name,
        runs.model_version
    from (select distinct {{ asked_by }} from asked) as moments
    inner join {{ name }}_runs as runs
        on moments.__dbt_onnx_moment {{ '=' if exactly else '>=' }} runs.as_of
        {{- dbt_onnx._was_known_before('moments', 'runs', made_at, 'started_at') }}
    qualify row_number() over (
        partition by {{ asked_by }}
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
    from {{ name }}_statements
    qualify {{ dbt_onnx._is_newest(dbt_onnx._columns(key) ~ ', model_name, model_version, as_of') | indent(4) }}
),

{{ name }}_about_then as (
    select *
    from {{ name }}_by_version
    qualify {{ dbt_onnx._is_newest(dbt_onnx._columns(key) ~ ', as_of') | indent(4) }}
),

{{ adapter.dispatch('_held_exactly_ctes', 'dbt_onnx')(name, key) }}
{%- else -%}
{{ name }}_held as (
    select
        asked.*,
        statements.model_name,
        statements.model_version,
        statements.as_of,
        statements.__dbt_onnx_value
    from asked
    left join {{ name }}_deciding as deciding using ({{ asked_by }})
    inner join {{ name }}_statements as statements
        on {{ dbt_onnx._same_key(key, 'asked', 'statements') }}
        and statements.model_name = coalesce(deciding.model_name, statements.model_name)
        and statements.model_version = coalesce(deciding.model_version, statements.model_version)
        and asked.__dbt_onnx_moment >= statements.as_of
        {{- dbt_onnx._was_known_before('asked', 'statements', made_at, 'scored_at') }}
    where statements.status = 'scored'
    qualify {{ dbt_onnx._is_newest(
        dbt_onnx._columns(key, of='asked') ~ ', asked.__dbt_onnx_moment', of='statements'
    ) | indent(4) }}
)
{%- endif %}
{%- endmacro %}


{#- Each moment of an entity is asked about: with a plain join that is the square of its rows. -#}
{% macro default___held_exactly_ctes(name, key) -%}
{{ name }}_held as (
    select
        asked.*,
        statements.model_name,
        statements.model_version,
        statements.as_of,
        statements.__dbt_onnx_value
    from asked
    left join {{ name }}_deciding as deciding using (__dbt_onnx_moment)
    left join {{ name }}_about_then as about_then
        on {{ dbt_onnx._same_key(key, 'asked', 'about_then') }}
        and asked.__dbt_onnx_moment = about_then.as_of
    asof join {{ name }}_by_version as statements
        on {{ dbt_onnx._same_key(key, 'asked', 'statements') }}
        and coalesce(deciding.model_name, about_then.model_name) = statements.model_name
        and coalesce(deciding.model_version, about_then.model_version) = statements.model_version
        and asked.__dbt_onnx_moment >= statements.as_of
    where statements.status = 'scored'
)
{%- endmacro %}

{#- Spark has no ASOF JOIN: of an entity's moments and rows in one order, each moment takes the row before it. -#}
{% macro spark___held_exactly_ctes(name, key) -%}
{%- set columns = dbt_onnx._columns(key) -%}
{{ name }}_in_order as (
    select
        {{ dbt_onnx._columns(key, of='asked') }},
        asked.__dbt_onnx_moment,
        coalesce(deciding.model_name, about_then.model_name) as model_name,
        coalesce(deciding.model_version, about_then.model_version) as model_version,
        true as is_asked,
        null as statement
    from asked
    left join {{ name }}_deciding as deciding using (__dbt_onnx_moment)
    left join {{ name }}_about_then as about_then
        on {{ dbt_onnx._same_key(key, 'asked', 'about_then') }}
        and asked.__dbt_onnx_moment = about_then.as_of

    union all

    select
        {{ columns }},
        as_of as __dbt_onnx_moment,
        model_name,
        model_version,
        false as is_asked,
        {{ dbt_onnx._struct(['status', 'as_of', '__dbt_onnx_value']) }} as statement
    from {{ name }}_by_version
),

{{ name }}_held as (
    select
        {{ columns }},
        __dbt_onnx_moment,
        model_name,
        model_version,
        statement.as_of as as_of,
        statement.__dbt_onnx_value as __dbt_onnx_value
    from (
        select
            {{ columns }},
            __dbt_onnx_moment,
            model_name,
            model_version,
            is_asked,
            last_value(statement ignore nulls) over (
                partition by {{ columns }}, model_name, model_version
                order by __dbt_onnx_moment asc nulls last, is_asked asc nulls last
                rows between unbounded preceding and current row
            ) as statement
        from {{ name }}_in_order
    )
    where is_asked and statement.status = 'scored'
)
{%- endmacro %}


{#- Of the rows with equal `by`: whether one is the newest, of those about the same moment the last one scored. -#}
{% macro _is_newest(by, of='') -%}
{%- set of = of ~ '.' if of else '' -%}
row_number() over (
    partition by {{ by }}
    order by {{ of }}as_of desc nulls last, {{ of }}scored_at desc nulls last, {{ of }}run_id desc nulls last
) = 1
{%- endmacro %}


{#- The condition that a row or run was there when the outcome became known; `clock`: its real time. -#}
{% macro _was_known_before(asked, relation, made_at, clock) -%}
    {%- set clocks = ['as_of', clock] if made_at == 'scored_at' else ['as_of'] if made_at is not none else [] -%}
    {%- for column in clocks %}
        and {{ asked }}.__dbt_onnx_known_at > {{ relation }}.{{ column }}
    {%- endfor %}
{%- endmacro %}


{#- A number as a double, NULL for NaN and the infinities. -#}
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


{#- What can be wrong with a ledger, its `column` and its `version`, once relation and key are right. -#}
{% macro _faults_of_history(history, key, numbers_only) -%}
    {%- set faults = dbt_onnx._faults_of_columns(key, history['columns'], history['relation'], 'key')
        + dbt_onnx._faults_of_columns([history['column']], history['columns'], history['relation'], 'column') -%}
    {%- if numbers_only and not dbt_onnx._holds_numbers(history['column'], history['columns']) -%}
        {%- do faults.append("column '" ~ history['column'] ~ "' of " ~ history['relation']
            ~ " holds no numbers: it is " ~ dbt_onnx._type_of(history['column'], history['columns'])) -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{#- The type of a column, none if there is no such column or no such relation. -#}
{% macro _type_of(column, columns) -%}
    {%- set found = dbt_onnx._called(columns or [], column) -%}
    {{ return(found[0]['type'] if found else none) }}
{%- endmacro %}


{#- Rank from 1 among `by`, ties at the average of their ranks. -#}
{% macro _average_rank(value, by) -%}
    rank() over (partition by {{ by }} order by {{ value }} asc nulls last)
    + (count(*) over (partition by {{ by }}, {{ value }}) - 1) / 2e0
{%- endmacro %}
