{#-
    Purpose: the served predictions were scored by the version, and by exactly the artifact, that the registry names.

    Passes if every served prediction is by the serving version and its run read an artifact with the registry's
    sha256, and if the artifact file of that version exists and still has that sha256.
    Fails if a prediction is by an earlier version (`problem`: `earlier_version`); if its run read another artifact or
    recorded none (`another_artifact`); if the file does not exist (`artifact_missing`) or has another sha256
    (`artifact_altered`); if the registry names no version for the scoring model (`no_serving_version`) or two
    (`two_serving_versions`); if no run ever succeeded (`no_successful_run`).

    Arguments, and the rows that it returns: `test_predictions_match_registry` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.predictions_match_registry:
                arguments: {key: [customer_id], registry: ref('model_registry')}
-#}
{% test predictions_match_registry(model, key, registry, entities=none, max_earlier_fraction=0) %}
{% call dbt_onnx._compiled() -%}
{%- set of_prediction = ['model_version', 'run_id', 'scored_at', 'rejected_reason'] -%}
{%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
    + dbt_onnx._faults_of_key(key, taken=['problem', 'expected', 'actual'] + of_prediction)
    + dbt_onnx._faults_of_relation(registry, 'registry')
    + dbt_onnx._faults_of_optional('relation', {'entities': entities})
    + dbt_onnx._faults_of_fraction(max_earlier_fraction, 'max_earlier_fraction') -%}
{%- set ledger = dbt_onnx._ledger_of_test('predictions_match_registry', model, key, faults) -%}

with {{ dbt_onnx._current_rows_ctes(dict(ledger, outputs=[]), registry) }},

served as (
    select
        current_rows.*,
        served_versions.sha256 as __dbt_onnx_expected_sha256,
        run_artifacts.sha256 as __dbt_onnx_sha256
    from current_rows
    inner join served_versions using (model_name, model_version)
    left join (select run_id, max(artifact_sha256) as sha256 from runs group by run_id) as run_artifacts using (run_id)
    where {{ dbt_onnx._is_tested(key, entities) | indent(4) }}
),

validation_errors as (
    select
        {{ dbt_onnx._columns(key) }},
        'earlier_version' as problem,
        (select model_version from served_versions where versions_back = 0) as expected,
        model_version as actual,
        {{ dbt_onnx._columns(of_prediction) }}
    from served
    where __dbt_onnx_versions_back > 0
    qualify count(*) over () > {{ max_earlier_fraction }} * (select count(*) from served)

    union all by name

    select
        {{ dbt_onnx._columns(key + of_prediction) }},
        'another_artifact' as problem,
        __dbt_onnx_expected_sha256 as expected,
        __dbt_onnx_sha256 as actual
    from served
    where lower(__dbt_onnx_sha256) is distinct from lower(__dbt_onnx_expected_sha256)

    union all by name

    select
        case
            when not exists (select 1 from last_run) then 'no_successful_run'
            when count(*) = 0 then 'no_serving_version'
            else 'two_serving_versions'
        end as problem,
        (select model_name || coalesce('@' || model_alias, '/' || model_version) from last_run) as expected,
        array_to_string(list(model_version order by version_rank desc nulls last), ', ') as actual
    from (select distinct model_version, version_rank from ranked_versions where is_serving)
    having count(*) <> 1
    {%- for file in dbt_onnx._artifact_files(ledger, registry) %}

    union all by name

    {{ dbt_onnx._altered_file(file) }}
    {%- endfor %}
)

{{ dbt_onnx._sorted_findings('problem asc nulls last', key) }}
{%- endcall %}
{% endtest %}
