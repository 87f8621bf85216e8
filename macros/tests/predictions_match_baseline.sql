{#-
    Purpose: the predictions in force are distributed as in training, or as before the last run. So a model that
    predicts the same value for every entity, or suddenly other values than yesterday, is found before the outcomes
    are known.

    Passes if none of the following is found, or if no run ever succeeded.
    Warns or fails if the index is above `warn_psi` or `error_psi` (`problem`: `psi`, with the bin that moved most).
    Fails if all values are the same and the baseline gives that a chance below one in a million
    (`constant`); if one value has too large a share (`label_share`); if the card does not describe the column
    (`no_reference`).

    Arguments, and the rows that it returns: `test_predictions_match_baseline` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.predictions_match_baseline:
                arguments: {column: churn_probability, baseline: previous_run}
-#}
{% test predictions_match_baseline(
    model, column, baseline='training', warn_psi=0.1, error_psi=0.25, max_label_share=none, min_rows=1000
) %}
{{ dbt_onnx._fails_on_an_error() }}
{% call dbt_onnx._compiled() -%}
{%- set faults = dbt_onnx._faults_of_drift(model, warn_psi, error_psi, min_rows)
    + dbt_onnx._faults_of_optional('fraction', {'max_label_share': max_label_share}) -%}
{%- if column is not string -%}
    {%- do faults.append("column is " ~ ("missing" if column is undefined else column | tojson) ~ "; it takes the name of an output") -%}
{%- endif -%}
{%- if baseline not in ['training', 'previous_run'] -%}
    {%- do faults.append("baseline is " ~ (baseline | tojson) ~ "; it takes 'training' or 'previous_run'") -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_match_baseline', model) -%}

{%- set run = dbt_onnx._last_full_run(model) -%}

{%- if run is none -%}
with validation_errors as (
    {{ dbt_onnx._findings([]) }}
)
{%- else -%}
{%- set previous = dbt_onnx._last_full_run(model, before=run) if baseline == 'previous_run' else none -%}
{%- set output = dbt_onnx._tested_output(model, run, column, baseline, previous) -%}
{%- set name = dbt_onnx._identifier(output['name']) -%}
{%- set has_reference = output['kind'] is defined -%}

with {{ dbt_onnx._in_force_cte(model, run, output) }},

{% if has_reference -%}
{%- if previous is none -%}
{{ dbt_onnx._reference_cte(model, run, 'output', [output]) }},
{%- else -%}
{{ dbt_onnx._earlier_predictions_ctes(model, output, run, previous) }},

{{ dbt_onnx._described_ctes(output) }},
{%- endif %}

{{ dbt_onnx._compared_ctes('in_force', [output]) }},

{% endif -%}
validation_errors as (
    {{ dbt_onnx._findings([] if has_reference or baseline != 'training' else [[
        output['name'], 'no_reference',
        "the distribution of '" ~ output['name'] ~ "' in the card of " ~ dbt_onnx._version_of(run)
            ~ ', as dbt_onnx.export writes it; or baseline: previous_run', 'none'
    ]]) }}
    {%- if has_reference %}

    union all by name

    {{ dbt_onnx._drift_findings(warn_psi, error_psi, min_rows) }}
    {%- endif %}
    {%- if max_label_share is not none %}

    union all by name

    select
        {{ dbt_onnx._literal(output['name']) }} as column_name,
        'label_share' as problem,
        'no value with a share above ' || {{ max_label_share }} as expected,
        count(*) / cast(sum(count(*)) over () as double) as figure,
        {{ dbt_onnx._text(name) }} || ': ' || {{ dbt_onnx._four_decimals('figure') }} as actual,
        {{ max_label_share }} as threshold,
        'error' as severity
    from in_force
    where {{ name }} is not null
    group by {{ dbt_onnx._text(name) }}
    qualify sum(count(*)) over () >= {{ min_rows }} and figure > threshold
    {%- endif %}
)
{%- endif %}

{{ dbt_onnx._sorted_drift(run) }}
{%- endcall %}
{% endtest %}
