{#-
    Purpose: the predictions in force are distributed as they were. A model that says the same for
    everybody, or something else than yesterday, is seen here before the outcomes are known.

    Judged are the predictions of the version of the last successful full run, one per entity that this
    run saw. `baseline` is what they are compared with:
      training        what the model predicted for its training rows, as the version's card holds it;
      previous_run    what the same version predicted for the entities of its run before that, when the last
                      run began. Most rows of a run are unchanged and not scored again, so a run's own rows
                      are no population: the state before is put together from the current rows and, for the
                      entities that the last run scored, from the ledger, which is read once. A jump is told
                      by the first test after it; from the next run on it is the state before.

    Arguments: `column`, the output to judge; `baseline` (default training); `warn_psi` (default 0.1) and
    `error_psi` (default 0.25), of the population stability index, none for never; `max_label_share`, the
    share of the predictions that may be one and the same value (default: any); `min_rows` (default 1000):
    with fewer predictions there is no verdict.

    Population stability index, its bins and its source: as in `features_match_training`. With
    `previous_run` the bins are tenths of the earlier predictions (floating-point outputs), or their 100 most
    frequent values and one for all others (labels). A vector counts by element.

    Passes if nothing of the following is found; a figure exactly at its threshold passes. Passes where no
    run ever succeeded, and with `previous_run` where the version has run once only: what a promotion
    changes is no drift, and `compare_predictions` tells of it.
    Warns or fails beyond `warn_psi` or `error_psi` (`problem`: `psi`, with the bin that moved most).
    Fails if all values are the same and by the baseline the chance of that is below one in a million
    (`constant`); if one value has too large a share (`label_share`); if the card does not describe the column
    (`no_reference`): one that `dbt-onnx register` wrote does not.

    Returns a row per finding: `column_name`, `problem`, `expected`, `actual`, `figure`, `threshold`,
    `severity`, `model_version`.

    Time zone: none of it depends on one.

    Example:
        data_tests:
            - dbt_onnx.predictions_match_baseline:
                arguments: {column: churn_probability, baseline: previous_run}

-#}
{% test predictions_match_baseline(
    model, column, baseline='training', warn_psi=0.1, error_psi=0.25, max_label_share=none, min_rows=1000
) %}
{{ dbt_onnx._fails_on_an_error() }}
{%- if execute -%}
{%- set faults = dbt_onnx._faults_of_drift(model, warn_psi, error_psi, min_rows)
    + dbt_onnx._faults_of_given('fraction', {'max_label_share': max_label_share}) -%}
{%- if column is not string -%}
    {%- do faults.append("column is " ~ ("missing" if column is undefined else column | tojson) ~ "; it takes the name of an output") -%}
{%- endif -%}
{%- if baseline not in ['training', 'previous_run'] -%}
    {%- do faults.append("baseline is " ~ (baseline | tojson) ~ "; it takes 'training' or 'previous_run'") -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_match_baseline', model) -%}

{%- set run = dbt_onnx._last_full_run(model) -%}
{%- set output = {} -%}
{%- set previous = none -%}
{%- if run is not none -%}
    {%- set outputs = dbt_onnx._ledger(model, run['key'])['outputs'] -%}
    {%- for found in outputs if found['name'] | lower == column | lower -%}
        {%- do output.update(found) -%}
    {%- endfor -%}
    {%- if not output -%}
        {%- do dbt_onnx._raise_faults(
            ["column is '" ~ column ~ "'; the outputs are " ~ (outputs | map(attribute='name') | list | tojson)],
            'predictions_match_baseline', model
        ) -%}
    {%- endif -%}
    {%- if baseline == 'training' -%}
        {%- set described = dbt_onnx._described_columns(model, run, 'output') -%}
        {%- for reference in described if reference['name'] | lower == column | lower -%}
            {%- do output.update(reference) -%}
        {%- endfor -%}
    {%- else -%}
        {%- set previous = dbt_onnx._last_full_run(model, before=run) -%}
        {%- set is_float = dbt_onnx._element_type(output['type']) in ['FLOAT', 'DOUBLE'] -%}
        {%- do output.update({'kind': 'numeric' if is_float else 'categorical', 'is_boolean': false}) -%}
    {%- endif -%}
{%- endif -%}
{%- set has_reference = output.get('kind') is not none and (baseline == 'training' or previous is not none) -%}

with {% if run is not none -%}
in_force as (
    select {{ dbt_onnx._identifier(output['name']) }}
    from {{ dbt_onnx._latest_rows(dbt_onnx._ledger(model, run['key'])) }} as latest
    where {{ dbt_onnx._is_version(run) }} and status = 'scored' and last_seen_as_of is null
),

{% endif -%}
{% if has_reference -%}
{% if baseline == 'training' -%}
{{ dbt_onnx._reference_cte(model, run, 'output', [output]) }},
{%- else -%}
{{ dbt_onnx._earlier_predictions_ctes(model, output, run, previous) }},

{{ dbt_onnx._described_ctes('earlier', output) }},
{%- endif %}

{{ dbt_onnx._measured_ctes('in_force', [output]) }},

{{ dbt_onnx._compared_ctes() }},

{% endif -%}
validation_errors as (
    {{ dbt_onnx._no_findings() }}
    {%- if has_reference %}

    union all by name

{{ dbt_onnx._drift_findings(warn_psi, error_psi, min_rows) }}
    {%- elif run is not none and baseline == 'training' %}

    union all by name

    select
        {{ dbt_onnx._literal(output['name']) }} as column_name,
        'no_reference' as problem,
        {{ dbt_onnx._literal("the distribution of '" ~ output['name'] ~ "' in the card of " ~ run['model_name'] ~ '/'
            ~ run['model_version'] ~ ', as dbt_onnx.export writes it; or baseline: previous_run') }} as expected,
        'none' as actual,
        'error' as severity
    {%- endif %}
    {%- if run is not none and max_label_share is not none %}

    union all by name

    select
        {{ dbt_onnx._literal(output['name']) }} as column_name,
        'label_share' as problem,
        'no value with a share above ' || {{ max_label_share }} as expected,
        value || ': ' || round(figure, 4) as actual,
        figure,
        {{ max_label_share }} as threshold,
        'error' as severity
    from (
        select
            {{ dbt_onnx._text(dbt_onnx._identifier(output['name'])) }} as value,
            count(*) as row_count,
            sum(row_count) over () as known,
            row_count / cast(known as double) as figure
        from in_force
        where {{ dbt_onnx._identifier(output['name']) }} is not null
        group by all
    )
    where known >= {{ min_rows }} and figure > {{ max_label_share }}
    {%- endif %}
)

select
    *,
    {{ dbt_onnx._literal(run['model_version']) if run is not none else 'cast(null as varchar)' }} as model_version
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by severity asc nulls last, figure desc nulls last
{%- endif -%}
{% endtest %}
