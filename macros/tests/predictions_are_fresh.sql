{#-
    Purpose: no served prediction is older than allowed. Its age counts from `fresh_as_of`: the moment that the
    prediction is about, or for which it was last confirmed. A backfill confirms nothing, so it cannot make a failing
    test pass.

    Passes if no prediction is older than the thresholds; a prediction exactly as old as a threshold passes.
    Warns or fails if a prediction is older than `warn_after` or `error_after` (`problem`: `stale`).
    Fails if a prediction is about a moment in the future, or was scored before the moment that it is about
    (`future_as_of`); if no run ever succeeded (`no_successful_run`) or nothing is served (`no_predictions`).

    Arguments, and the rows that it returns: `test_predictions_are_fresh` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.predictions_are_fresh:
                arguments: {key: [customer_id], warn_after: {count: 1, period: day}, error_after: {count: 2, period: day}}
-#}
{% test predictions_are_fresh(
    model, key, warn_after=none, error_after=none, max_stale_fraction=0, registry=none, entities=none
) %}
{{ dbt_onnx._fails_on_an_error() }}
{% call dbt_onnx._compiled() -%}
{%- set returned = ['problem', 'model_version', 'as_of', 'scored_at', 'fresh_as_of', 'age', 'threshold', 'severity'] -%}
{%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
    + dbt_onnx._faults_of_key(key, taken=returned)
    + dbt_onnx._faults_of_optional('period', {'warn_after': warn_after, 'error_after': error_after})
    + dbt_onnx._faults_of_fraction(max_stale_fraction, 'max_stale_fraction')
    + dbt_onnx._faults_of_optional('relation', {'registry': registry, 'entities': entities}) -%}
{%- if warn_after is none and error_after is none -%}
    {%- do faults.append("neither warn_after nor error_after is given; one of them is needed") -%}
{%- elif not faults and warn_after is not none and error_after is not none
    and dbt_onnx._seconds(warn_after) > dbt_onnx._seconds(error_after) -%}
    {%- do faults.append("warn_after is longer than error_after, so nothing would ever warn") -%}
{%- endif -%}
{%- set ledger = dbt_onnx._ledger_of_test('predictions_are_fresh', model, key, faults) -%}
{%- set clock = dbt_onnx.clock() | trim -%}

with {{ dbt_onnx._current_rows_ctes(dict(ledger, outputs=[]), registry) }},

served as (
    select
        *,
        {{ dbt_onnx._elapsed('fresh_as_of') }} as age,
        {#- with a clock set to the past, a moment between that clock and the present is not in the future -#}
        fresh_as_of > greatest({{ clock }}, {{ dbt_onnx._utc('now()') }})
        {%- if var('dbt_onnx_clock', none) is none %}
        {#- only if no clock is set: under a set clock `as_of` may be later than `scored_at`, which is real time -#}
        or as_of > scored_at
        {%- endif %} as __dbt_onnx_is_future,
        case
            when __dbt_onnx_is_future then 'error'
            {%- for severity, after in {'error': error_after, 'warn': warn_after}.items() if after is not none %}
            {%- set is_stale = 'fresh_as_of < ' ~ clock ~ ' - ' ~ dbt_onnx._interval(after) %}
            when {{ is_stale }} and count_if({{ is_stale }}) over () > {{ max_stale_fraction }} * count(*) over ()
                then '{{ severity }}'
            {%- endfor %}
        end as severity,
        case when __dbt_onnx_is_future then 'future_as_of' else 'stale' end as problem,
        case
            when severity = 'warn' then {{ dbt_onnx._duration(warn_after) }}
            when problem = 'stale' then {{ dbt_onnx._duration(error_after) }}
        end as threshold
    from current_rows
    where
        __dbt_onnx_versions_back is not null
        and {{ dbt_onnx._is_tested(key, entities) | indent(8) }}
),

validation_errors as (
    select {{ dbt_onnx._columns(ledger['key'] + returned) }}
    from served
    where severity is not null

    union all by name

    select
        case when exists (select 1 from last_run) then 'no_predictions' else 'no_successful_run' end as problem,
        'error' as severity
    where not exists (select 1 from served)
)

{{ dbt_onnx._sorted_findings('severity asc nulls last, age desc nulls last', ledger['key']) }}
{%- endcall %}
{% endtest %}
