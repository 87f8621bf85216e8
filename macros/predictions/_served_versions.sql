{#-
    Shared by the current view and the tests of this package: the common table expressions that find the served
    prediction of each entity. They read `<ledger>__current` and `dbt_onnx_runs`, never the history, so their cost
    does not grow with the history.

    The names of the columns that they add begin with `__dbt_onnx_`. The contract reserves this prefix, so no key or
    output can have the same name.
-#}

{#- The current rows joined with their runs, for a FROM clause. Arrays of a fixed size are cast to lists. -#}
{% macro _rows_of_current(ledger) -%}
{%- if ledger['current_columns'] is none -%}
    {{ return(dbt_onnx._no_rows([
        'as_of', 'status', 'rejected_reason', 'last_seen_as_of', 'model_name', 'model_version', 'run_id', 'scored_at',
    ], key=ledger['key'])) }}
{%- endif -%}
{#- on DuckDB `last_seen_as_of` is in a separate table, `<ledger>__presence` -#}
{%- set has_last_seen = dbt_onnx._columns_named(ledger['current_columns'], 'last_seen_as_of') -%}
(
    select
        {{ dbt_onnx._columns(ledger['key'], of='rows_of_runs') }},
        {%- for output in ledger['outputs'] %}
        {%- set name = dbt_onnx._identifier(output['name']) %}
        {{ dbt_onnx._joinable('rows_of_runs.' ~ name, output['type']) }} as {{ name }},
        {%- endfor %}
        rows_of_runs.as_of,
        {%- if dbt_onnx._columns_named(ledger['current_columns'], 'rejected_reason') %}
        case when rows_of_runs.rejected_reason is null then 'scored' else 'rejected' end as status,
        rows_of_runs.rejected_reason,
        {%- else %}
        {#- on DuckDB the row stores an index into the run's list of reasons #}
        case when rows_of_runs.rejected_reason_no is null then 'scored' else 'rejected' end as status,
        runs.rejected_reasons[rows_of_runs.rejected_reason_no] as rejected_reason,
        {%- endif %}
        {{ 'rows_of_runs' if has_last_seen else 'presence' }}.last_seen_as_of,
        {{ dbt_onnx._text('runs.model_name') }} as model_name,
        {{ dbt_onnx._text('runs.model_version') }} as model_version,
        {{ dbt_onnx._text('runs.run_id') }} as run_id,
        runs.scored_at
    from {{ dbt_onnx._own_relation(ledger['current'], ledger['current_columns']) }} as rows_of_runs
    inner join {{ dbt_onnx._table(dbt_onnx._in_same_schema(ledger['relation'], 'dbt_onnx_runs')) }} as runs
        on rows_of_runs.run_no = runs.run_no and runs.status = 'success'
    {%- if not has_last_seen %}
    {%- set presence = dbt_onnx._in_same_schema(ledger['relation'], ledger['relation'].identifier ~ '__presence') %}
    {%- set of_key = [] %}
    {%- for name in ledger['key'] %}
    {%- do of_key.extend(dbt_onnx._columns_named(ledger['current_columns'], name)) %}
    {%- endfor %}
    left join {{ dbt_onnx._by_bytes(dbt_onnx._table(presence), of_key) }} as presence
        on rows_of_runs.run_no = presence.run_no
        and {{ dbt_onnx._same_key(ledger['key'], 'rows_of_runs', 'presence') }}
    {%- endif %}
)
{%- endmacro %}


{#- The rows about one scoring model in a table that scoring models share, for a FROM clause; by default its runs. -#}
{% macro _rows_about(relation, names, table='dbt_onnx_runs') -%}
    {%- set shared = dbt_onnx._in_same_schema(relation, table) -%}
    {%- set columns = dbt_onnx._columns_in(shared) -%}
    {%- if columns is none -%}
        {{ return(dbt_onnx._no_rows(names)) }}
    {%- endif -%}
    {#- only the needed columns: a lookup through the view has to bind every column named here, and pays for each -#}
    {%- set named = columns | selectattr('name', 'in', names + ['scoring_model']) | list -%}
    {{ return('(select ' ~ (names | join(', ')) ~ ' from ' ~ dbt_onnx._own_relation(shared, named) ~ ' as shared where '
        ~ dbt_onnx._name_equals('scoring_model', relation.identifier) ~ ')') }}
{%- endmacro %}


{#-
    Describes a ledger: its `key`, its `current` relation, `current_columns` (none if this table does not exist yet),
    and the `outputs`, `[{'name': .., 'type': ..}]`.
-#}
{% macro _ledger(relation, key) -%}
    {%- set current = dbt_onnx._in_same_schema(relation, relation.identifier ~ '__current') -%}
    {%- set current_columns = dbt_onnx._columns_in(current) -%}
    {%- set not_outputs = key | map('lower') | list + [
        'as_of', 'status', 'rejected_reason', 'score_reason', 'is_late', 'model_name', 'model_version', 'run_id',
        'scored_at', 'features_hash', 'last_seen_as_of', 'confirmed_as_of', 'run_no', 'rejected_reason_no',
    ] + adapter.dispatch('_engine_columns_of_current', 'dbt_onnx')() -%}
    {%- set outputs = [] -%}
    {%- for column in current_columns or [] if column['name'] | lower not in not_outputs -%}
        {%- do outputs.append(column) -%}
    {%- endfor -%}
    {{ return({
        'relation': relation, 'key': key, 'outputs': outputs,
        'current': current, 'current_columns': current_columns,
    }) }}
{%- endmacro %}


{#- Columns of `<ledger>__current` that exist on one engine only. -#}
{% macro default___engine_columns_of_current() -%}
    {{ return([]) }}
{%- endmacro %}

{% macro spark___engine_columns_of_current() -%}
    {{ return(['is_confirmed_by_runs', 'from_run']) }}
{%- endmacro %}


{#-
    The import CTEs `current`, `runs` and `registry`, followed by

    - `last_run`: the last successful full run, one row or none;
    - `served_versions`: one row per version that may be served, with `sha256`, `versions_back` (0: the serving
      version), `confirmed_as_of` and `defines_presence`. The version of the last full run always has a row if it is in
      the registry; its `versions_back` is NULL if it is not served.

    `defines_presence`: this version's rows in current show which entities are present. That is true for the version of
    the last full run, because that run left a row of this version for each entity that it saw. If the registry no
    longer has that version, it is true for every version.

    Without a registry the serving version is that of the last successful full run, and the versions of all successful
    full runs take the place of the registry. Crashed and failed runs and backfills never decide the serving version.

    `last_run` collects everything needed from the runs in one row, because each further join or grouping makes a
    lookup through the view slower by as much as a scan of a million keys (docs/decisions/current-view-lookups.md).
-#}
{% macro _served_versions_ctes(ledger, registry) -%}
current as {{ dbt_onnx._rows_of_current(ledger) }},

runs as {{ dbt_onnx._rows_about(ledger['relation'], [
    'run_id', 'status', 'scope', 'started_at', 'as_of', 'model_name', 'model_version', 'model_alias', 'artifact_sha256',
]) }},

last_run as (
    select
        newest.*,
        full_runs
    from (
        select
            arg_max({{ dbt_onnx._struct(['model_name', 'model_version', 'model_alias']) }}, (started_at, run_id)) as newest,
            list({{ dbt_onnx._struct(['model_name', 'model_version', 'as_of']) }}) as full_runs
        from runs
        where status = 'success' and scope = 'full'
        having count(*) > 0
    )
),

registry as (
    {%- if registry is none %}
    select distinct
        model_name,
        model_version,
        cast(null as varchar) as alias,
        cast(null as varchar) as sha256
    from runs
    where status = 'success' and scope = 'full'
    {%- else %}
    select {{ dbt_onnx._texts(['model_name', 'model_version', 'alias', 'sha256']) }}
    from {{ registry }}
    {%- endif %}
),

ranked_versions as (
    select
        registry.model_name,
        registry.model_version,
        registry.sha256,
        {%- if registry is none %}
        registry.model_version = last_run.model_version as is_serving,
        {%- else %}
        registry.alias = last_run.model_alias
        or (last_run.model_alias is null and registry.model_version = last_run.model_version) as is_serving,
        {%- endif %}
        list_max(list_transform(
            last_run.full_runs,
            lambda run: case
                when run.model_name = registry.model_name and run.model_version = registry.model_version
                    then run.as_of
            end
        )) as confirmed_as_of,
        registry.model_version = last_run.model_version as is_last_run,
        -- a version has one registry row per alias, but only one rank
        dense_rank() over by_version as version_rank,
        coalesce(lag(registry.model_version) over by_version <> registry.model_version, true) as is_first
    from registry
    inner join last_run on registry.model_name = last_run.model_name
    window by_version as (
        -- versions are ordered by the numbers in their text: 1.10 is later than 1.9
        order by
            try_cast(regexp_extract_all(registry.model_version, '[0-9]+') as hugeint[]) desc nulls last,
            registry.model_version desc nulls last
    )
),

served_versions as (
    select
        model_name,
        model_version,
        sha256,
        case when version_rank >= serving_rank then version_rank - serving_rank end as versions_back,
        confirmed_as_of,
        defines_presence
    from (
        select
            *,
            min(case when is_serving then version_rank end) over () as serving_rank,
            is_last_run or not bool_or(is_last_run) over () as defines_presence
        from ranked_versions
    )
    where is_first and (version_rank >= serving_rank or is_last_run)
)
{%- endmacro %}


{#- SQL of `clock - since` as a duration, never negative; NULL if `since` is NULL. -#}
{% macro _elapsed(since) -%}
    {{ return(adapter.dispatch('_elapsed', 'dbt_onnx')(since)) }}
{%- endmacro %}

{% macro spark___elapsed(since) -%}
    {#- the CASE keeps NULL, which greatest() alone would ignore -#}
    {{ return("case when " ~ since ~ " is not null then greatest(cast(cast(" ~ (dbt_onnx.clock() | trim) ~ " - " ~ since
        ~ " as decimal(20, 6)) as double), 0e0) end") }}
{%- endmacro %}

{% macro default___elapsed(since) -%}
    {{ return("greatest(" ~ (dbt_onnx.clock() | trim) ~ " - " ~ since ~ ", case when " ~ since
        ~ " is not null then interval '0' second end)") }}
{%- endmacro %}
