{#-
    Purpose: the ledger can be trusted. The model, when it scores the kept inputs of a run again, returns the outputs
    in the ledger, and neither the ledger nor the inputs were altered since.

    Passes if the ledger and the kept inputs match the run row (number of rows, stamps, fingerprint, the hash of each
    row's inputs), the registry's file still has the sha256 of the run, and every prediction is reproduced.
    Fails otherwise (`problem`: `ledger`, `inputs`, `artifact` or `prediction`), and if no run has kept its inputs.

    SQL cannot run a model. On DuckDB a dbt-duckdb plugin does it, and the target in profiles.yml must name it:
    `plugins: [{module: dbt_onnx.replay_plugin}]`. On Spark the adapter does it.

    Arguments, and the rows that it returns: `test_predictions_replay` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.predictions_replay:
                arguments: {registry: ref('model_registry'), sample: 500}
-#}
{% test predictions_replay(model, registry, sample=1000, runs=2) %}
{%- if execute -%}
{{ adapter.dispatch('_predictions_replay', 'dbt_onnx')(model, registry, sample, runs) }}
{%- endif -%}
{% endtest %}


{#- The adapter replays the runs while this macro is rendered; the returned SQL selects the findings. -#}
{% macro spark___predictions_replay(model, registry, sample, runs) -%}
{%- do dbt_onnx._raise_faults(dbt_onnx._faults_of_replay(model, registry, sample, runs), 'predictions_replay', model) -%}
{%- set names = ['model_name', 'model_version', 'alias', 'artifact', 'sha256'] -%}
{%- set entries = [] -%}
{%- for row in dbt_onnx._query('select ' ~ dbt_onnx._each(names, 'cast({0} as varchar) as {0}') ~ ' from ' ~ registry).rows -%}
    {%- do entries.append(dict(zip(names, row.values()))) -%}
{%- endfor -%}
{%- set findings = '' if flags.EMPTY else adapter.replay_sample({
    'database': '', 'schema': model.schema, 'identifier': model.identifier,
    'registry': entries, 'sample': sample, 'runs': runs,
}) -%}

select finding.*
from (
    select explode(from_json(
        cast(unbase64('{{ findings }}') as string),
        'array<struct<run_id: string, problem: string, key: string, column_name: string, expected: string, actual: string>>'
    )) as finding
)
{%- endmacro %}

{% macro default___predictions_replay(model, registry, sample, runs) -%}
{%- set faults = dbt_onnx._faults_of_replay(model, registry, sample, runs) -%}
{%- if run_query("select 1 from duckdb_functions() where function_name = 'dbt_onnx_replay'").rows | length == 0 -%}
    {%- do faults.append("the target " ~ target.name ~ " of profiles.yml does not load the replay plugin."
        ~ " Hint: add `plugins: [{module: dbt_onnx.replay_plugin}]` to it") -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_replay', model) -%}

with registry as (
    select
        list(struct_pack({{ dbt_onnx._each(
            ['model_name', 'model_version', 'alias', 'artifact', 'sha256'], '{0} := cast({0} as varchar)'
        ) }})) as entries
    from {{ registry }}
),

answer as (
    select
        dbt_onnx_replay(cast(to_json(struct_pack(
            database := {{ dbt_onnx._literal(model.database) }},
            schema := {{ dbt_onnx._literal(model.schema) }},
            identifier := {{ dbt_onnx._literal(model.identifier) }},
            registry := entries,
            sample := {{ sample }},
            runs := {{ runs }}
        )) as varchar)) as findings
    from registry
)

select
    unnest(from_json(
        findings,
        '[{"run_id": "VARCHAR", "problem": "VARCHAR", "key": "VARCHAR", "column_name": "VARCHAR",'
        || ' "expected": "VARCHAR", "actual": "VARCHAR"}]'
    ), recursive := true)
from answer
{{ dbt_onnx._none_if_empty() }}
{%- endmacro %}


{% macro _faults_of_replay(model, registry, sample, runs) -%}
    {{ return(
        dbt_onnx._faults_of_predictions(model, 'model')
        + dbt_onnx._faults_of_relation(registry, 'registry')
        + dbt_onnx._faults_of_count(sample, 'sample')
        + dbt_onnx._faults_of_count(runs, 'runs')
    ) }}
{%- endmacro %}
