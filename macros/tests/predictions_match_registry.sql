{#-
    Purpose: what is served was scored by the version, and by the very artifact, that the registry names.

    Arguments: `key`, a list of columns; `registry`, the seed; `entities`, a relation with the key
    columns: only these are judged (default: those that the last full run still saw); `max_earlier_fraction` (default 0), of the served
    predictions, may be by an earlier version.

    Passes if every served prediction is by the serving version, made by a run that read an artifact
    with the registry's sha256, and the serving version's file is there and has that sha256 still.
    Fails if one is by an earlier version (`problem`: `earlier_version`; with `rejected_reason` where the
    serving version rejected the entity); if its run read another artifact (`another_artifact`), or does
    not say which; if the serving version's file is gone (`artifact_missing`) or has other bytes
    (`artifact_altered`); if the registry has no row for what the scoring model runs
    (`no_serving_version`) or two (`two_serving_versions`); if no run ever succeeded
    (`no_successful_run`).

    Returns a row per prediction: key, `problem`, `expected`, `actual`, `model_version`, `run_id`,
    `scored_at`, `rejected_reason`.

    Where the warehouse is closed to files (`enable_external_access: false`) SQL cannot read the
    artifact: there, each run compares its sha256 before it scores, and `dbt-onnx verify` at any time.

    Time zone: none of it depends on one; `scored_at` is UTC.

    Example:
        data_tests:
            - dbt_onnx.predictions_match_registry:
                arguments: {key: [customer_id], registry: ref('model_registry')}

-#}
{% test predictions_match_registry(model, key, registry, entities=none, max_earlier_fraction=0) %}
{%- if execute -%}
{%- set returned = ['problem', 'expected', 'actual', 'model_version', 'run_id', 'scored_at', 'rejected_reason'] -%}
{%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
    + dbt_onnx._faults_of_key(key, taken=returned)
    + dbt_onnx._faults_of_relation(registry, 'registry')
    + dbt_onnx._faults_of_given('relation', {'entities': entities})
    + dbt_onnx._faults_of_fraction(max_earlier_fraction, 'max_earlier_fraction') -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_match_registry', model) -%}

{%- set ledger = dbt_onnx._ledger_of_test('predictions_match_registry', model, key) -%}
{%- set key = ledger['key'] -%}

{%- set files = dbt_onnx._artifact_files(ledger, registry) -%}

with {{ dbt_onnx._current_rows_ctes(dict(ledger, outputs=[]), registry) }},

run_artifacts as (
    select
        run_id,
        max(artifact_sha256) as artifact_sha256
    from runs
    group by run_id
),

served as (
    select
        {{ dbt_onnx._columns(key, of='current_rows') }},
        current_rows.model_version,
        current_rows.run_id,
        current_rows.scored_at,
        current_rows.rejected_reason,
        current_rows.__dbt_onnx_versions_back,
        served_versions.sha256 as __dbt_onnx_expected_sha256,
        run_artifacts.artifact_sha256 as __dbt_onnx_sha256
    from current_rows
    inner join served_versions
        on current_rows.model_name = served_versions.model_name
        and current_rows.model_version = served_versions.model_version
    left join run_artifacts on current_rows.run_id = run_artifacts.run_id
    where {{ dbt_onnx._is_judged(key, entities) | indent(4) }}
),

by_earlier_version as (
    select
        {{ dbt_onnx._columns(key) }},
        'earlier_version' as problem,
        (select model_version from served_versions where versions_back = 0) as expected,
        model_version as actual,
        model_version,
        run_id,
        scored_at,
        rejected_reason
    from served
    where __dbt_onnx_versions_back > 0
),

by_another_artifact as (
    select
        {{ dbt_onnx._columns(key) }},
        'another_artifact' as problem,
        __dbt_onnx_expected_sha256 as expected,
        __dbt_onnx_sha256 as actual,
        model_version,
        run_id,
        scored_at,
        rejected_reason
    from served
    where lower(__dbt_onnx_sha256) is distinct from lower(__dbt_onnx_expected_sha256)
),

without_one_serving_version as (
    select
        case
            when not exists (select 1 from last_run) then 'no_successful_run'
            when count(*) = 0 then 'no_serving_version'
            else 'two_serving_versions'
        end as problem,
        (select model_name || coalesce('@' || model_alias, '/' || model_version) from last_run) as expected,
        string_agg(model_version, ', ' order by place desc nulls last) as actual
    from (select distinct model_version, place from places where is_serving)
    having count(*) <> 1
),

{% if files -%}
artifact_files as (
    {%- for file in files %}
    select
        {{ dbt_onnx._literal(file['version']) }} as model_version,
        {{ dbt_onnx._literal(file['path']) }} as path,
        {{ dbt_onnx._literal(file['expected']) }} as expected,
        {% if file['exists'] -%}
        (select sha256(content) from read_blob({{ dbt_onnx._literal(file['path']) }})) as actual
        {%- else -%}
        cast(null as varchar) as actual
        {%- endif %}
    {{- '\n    union all' if not loop.last }}
    {%- endfor %}
),

by_file as (
    select
        case when actual is null then 'artifact_missing' else 'artifact_altered' end as problem,
        path || ' with sha256 ' || expected as expected,
        actual,
        model_version
    from artifact_files
    where actual is distinct from lower(expected)
),
{%- endif %}

validation_errors as (
    select *
    from by_earlier_version
    where
        (select count(*) from by_earlier_version)
        > {{ max_earlier_fraction }} * (select count(*) from served)

    union all by name

    select * from by_another_artifact

    union all by name

    select * from without_one_serving_version
    {%- if files %}

    union all by name

    select * from by_file
    {%- endif %}
)

select *
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by problem asc nulls last, {{ dbt_onnx._ascending(key) }}
{%- endif -%}
{% endtest %}
