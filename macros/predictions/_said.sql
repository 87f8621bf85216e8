{#-
    What a ledger says about moments, for macros that compare it with another ledger or with what
    happened. These read the ledger itself, not `<ledger>__latest`: they ask about the past.

    A row whose features did not change is not scored again. So a version says something about a moment
    in two ways: by a row about it, or by a run about it that left the row before as it was.
-#}

{#- One ledger to read: `name` begins the names of its CTEs. `columns`: none if it does not exist yet. -#}
{% macro _speaker(name, relation, column, version) -%}
    {%- set runs = dbt_onnx._beside(relation, 'dbt_onnx_runs') -%}
    {%- set runs_columns = dbt_onnx._columns_in(runs) -%}
    {{ return({
        'name': name, 'relation': relation, 'column': column, 'version': version,
        'columns': dbt_onnx._columns_in(relation),
        'runs': runs, 'runs_columns': runs_columns, 'has_runs': runs_columns is not none,
    }) }}
{%- endmacro %}


{#-
    `<name>_said`: the key, `as_of`, `status`, `model_name`, `model_version`, `run_id`, `scored_at` of the
    ledger's rows, and `__dbt_onnx_value`: the output, numbers as doubles; a NULL, NaN or infinite one
    counts as not scored. `<name>_runs`: the successful runs that looked at every entity; those of
    backfills confirm rows about the past as full runs confirm what is served.
-#}
{% macro _said_ctes(speaker, key) -%}
{%- set value = dbt_onnx._identifier(speaker['column']) -%}
{{ speaker['name'] }}_said as (
    {%- if speaker['columns'] is none %}
    {{ dbt_onnx._no_rows({
        '__dbt_onnx_value': 'double', 'as_of': 'timestamp', 'status': 'varchar',
        'model_name': 'varchar', 'model_version': 'varchar', 'run_id': 'varchar',
        'scored_at': 'timestamp'
    }, key=key) }}
    {%- else %}
    select
        {{ dbt_onnx._columns(key) }},
        {{ dbt_onnx._number(value) if dbt_onnx._holds_numbers(speaker['column'], speaker['columns'])
            else dbt_onnx._joinable(value, dbt_onnx._type_of(speaker['column'], speaker['columns'])) }} as __dbt_onnx_value,
        as_of,
        case when status = 'scored' and __dbt_onnx_value is not null then 'scored' else 'rejected' end as status,
        model_name,
        model_version,
        run_id,
        scored_at
    from {{ dbt_onnx._written(speaker['relation'], speaker['columns']) }} as ledger
    where
        {{ dbt_onnx._not_null(key) }}
        {%- if speaker['version'] is not none %}
        and model_version = {{ dbt_onnx._literal(speaker['version']) }}
        {%- endif %}
    {%- endif %}
),

{{ speaker['name'] }}_runs as (
    {%- if not speaker['has_runs'] %}
    {{ dbt_onnx._no_rows({
        'run_id': 'varchar', 'model_name': 'varchar', 'model_version': 'varchar',
        'as_of': 'timestamp', 'started_at': 'timestamp', 'is_full': 'boolean'
    }) }}
    {%- else %}
    select
        run_id,
        model_name,
        model_version,
        as_of,
        started_at,
        scope = 'full' as is_full
    from {{ dbt_onnx._written(speaker['runs'], speaker['runs_columns']) }} as runs
    where
        {{ dbt_onnx._is_called('scoring_model', speaker['relation'].identifier) }}
        and status = 'success'
        and scope in ('full', 'backfill')
        {%- if speaker['version'] is not none %}
        and model_version = {{ dbt_onnx._literal(speaker['version']) }}
        {%- endif %}
    {%- endif %}
)
{%- endmacro %}


{#- A number as a double, NULL for NaN and the infinities. -#}
{% macro _number(expression) -%}
    {{ return("case when isfinite(cast(" ~ expression ~ " as double)) then cast(" ~ expression ~ " as double) end") }}
{%- endmacro %}


{% macro _holds_numbers(column, columns) -%}
    {{ return(dbt_onnx._is_of_type(
        column, columns, 'U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|DECIMAL[(].*[)]'
    )) }}
{%- endmacro %}


{% macro _is_of_type(column, columns, pattern) -%}
    {%- for found in columns or [] if found['name'] | lower == column | lower -%}
        {{ return(modules.re.fullmatch(pattern, found['type']) is not none) }}
    {%- endfor -%}
    {{ return(true) }}
{%- endmacro %}


{#- `"a" is not null and "b" is not null` -#}
{% macro _not_null(key) -%}
    {%- set conditions = [] -%}
    {%- for name in key -%}
        {%- do conditions.append(dbt_onnx._identifier(name) ~ ' is not null') -%}
    {%- endfor -%}
    {{ return(conditions | join(' and ')) }}
{%- endmacro %}


{#- What can be wrong with a ledger, its `column` and its `version`, once relation and key are right. -#}
{% macro _faults_of_speaker(speaker, key, numbers_only) -%}
    {%- set faults = dbt_onnx._faults_of_columns(key, speaker['columns'], speaker['relation'], 'key')
        + dbt_onnx._faults_of_columns([speaker['column']], speaker['columns'], speaker['relation'], 'column') -%}
    {%- if numbers_only and not dbt_onnx._holds_numbers(speaker['column'], speaker['columns']) -%}
        {%- do faults.append("column '" ~ speaker['column'] ~ "' of " ~ speaker['relation']
            ~ " holds no numbers: it is " ~ dbt_onnx._type_of(speaker['column'], speaker['columns'])) -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{% macro _type_of(column, columns) -%}
    {%- for found in columns if found['name'] | lower == column | lower -%}
        {{ return(found['type']) }}
    {%- endfor -%}
{%- endmacro %}


{% macro _faults_of_text(text, argument, what) -%}
    {%- if text is not string or not text -%}
        {{ return([argument ~ " is " ~ (text | string) ~ "; it takes " ~ what]) }}
    {%- endif -%}
    {{ return([]) }}
{%- endmacro %}


{#- Rank from 1 among `by`, ties at the average of their ranks. -#}
{% macro _average_rank(value, by) -%}
    rank() over (partition by {{ by }} order by {{ value }} asc nulls last)
    + (count(*) over (partition by {{ by }}, {{ value }}) - 1) / 2e0
{%- endmacro %}
