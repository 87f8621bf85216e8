{#-
    Purpose: the predictions that are served are as recent as promised. One test gives both levels: it
    warns beyond `warn_after` and errors beyond `error_after`.

    Judged is what `current_predictions` serves, by `fresh_as_of`: the moment that the prediction is
    about or was last confirmed for. A backfill writes an old `as_of` and confirms nothing, so its new
    `scored_at` cannot make this pass.

    Arguments: `key`, a list of columns; `warn_after` and `error_after`, each `{count, period}`, at least
    one of them; `max_stale_fraction` (default 0), of the served predictions, for each level;
    `registry` (default: the version of the last successful run is served, or one before it);
    `entities`, a relation with the key columns: only these are judged (default: those that the last full
    run still saw, as `current_predictions` serves them).

    Passes if no served prediction is older than the thresholds, up to the tolerated fraction.
    A prediction exactly as old as a threshold is fresh.
    Fails if there are older ones (`problem`: `stale`); if one is about a moment to come, or was scored
    before the moment that it is about (`future_as_of`); if no run ever succeeded
    (`no_successful_run`) or nothing is served (`no_predictions`). The last three are always errors.

    Returns a row per prediction: key, `problem`, `model_version`, `as_of`, `scored_at`, `fresh_as_of`,
    `age`, `threshold`, `severity`.

    Time zone: `dbt_onnx.clock()`, and all columns, are UTC.

    Example:
        data_tests:
            - dbt_onnx.predictions_are_fresh:
                arguments:
                    key: [customer_id]
                    warn_after: {count: 1, period: day}
                    error_after: {count: 2, period: day}
-#}
{% test predictions_are_fresh(
    model, key, warn_after=none, error_after=none, max_stale_fraction=0, registry=none, entities=none
) %}
{{ dbt_onnx._fails_on_an_error() }}
{%- if execute -%}
{%- set returned = ['problem', 'model_version', 'as_of', 'scored_at', 'fresh_as_of', 'age', 'threshold', 'severity'] -%}
{%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
    + dbt_onnx._faults_of_key(key, taken=returned)
    + dbt_onnx._faults_of_given('period', {'warn_after': warn_after, 'error_after': error_after})
    + dbt_onnx._faults_of_fraction(max_stale_fraction, 'max_stale_fraction')
    + dbt_onnx._faults_of_given('relation', {'registry': registry, 'entities': entities}) -%}
{%- if warn_after is none and error_after is none -%}
    {%- do faults.append("neither warn_after nor error_after is given; one of them is needed") -%}
{%- elif not faults and warn_after is not none and error_after is not none
    and dbt_onnx._seconds(warn_after) > dbt_onnx._seconds(error_after) -%}
    {%- do faults.append("warn_after is longer than error_after, so nothing would ever warn") -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_are_fresh', model) -%}

{%- set ledger = dbt_onnx._ledger_of_test('predictions_are_fresh', model, key) -%}
{%- set key = ledger['key'] -%}
{%- set clock = dbt_onnx.clock() | trim -%}

with {{ dbt_onnx._current_rows_ctes(dict(ledger, outputs=[]), registry) }},

served as (
    select
        {{ dbt_onnx._columns(key) }},
        model_version,
        as_of,
        scored_at,
        fresh_as_of,
        {{ dbt_onnx._elapsed('fresh_as_of') }} as age,
        {% if error_after is none -%} false
        {%- else -%} fresh_as_of < {{ clock }} - {{ dbt_onnx._interval(error_after) }}
        {%- endif %} as __dbt_onnx_is_error,
        {% if warn_after is none -%} false
        {%- else -%} fresh_as_of < {{ clock }} - {{ dbt_onnx._interval(warn_after) }}
        {%- endif %} as __dbt_onnx_is_warning,
        {#- under a clock that is set back, what was scored since is not about a moment to come -#}
        fresh_as_of > greatest({{ clock }}, {{ dbt_onnx._utc('now()') }})
        {%- if var('dbt_onnx_clock', none) is none %}
        {#- a clock that is set says nothing about `scored_at`, which is the real time -#}
        or as_of > scored_at
        {%- endif %} as __dbt_onnx_is_future
    from current_rows
    where
        __dbt_onnx_versions_back is not null
        and {{ dbt_onnx._is_judged(key, entities) | indent(8) }}
),

tally as (
    select
        count(*) as predictions,
        count(*) filter (where __dbt_onnx_is_error) > {{ max_stale_fraction }} * count(*) as are_errors,
        count(*) filter (where __dbt_onnx_is_warning or __dbt_onnx_is_error) > {{ max_stale_fraction }} * count(*)
            as are_warnings
    from served
),

validation_errors as (
    select
        {{ dbt_onnx._columns(key, of='served') }},
        case when served.__dbt_onnx_is_future then 'future_as_of' else 'stale' end as problem,
        served.model_version,
        served.as_of,
        served.scored_at,
        served.fresh_as_of,
        served.age,
        case
            when served.__dbt_onnx_is_future then null
            {%- if error_after is not none %}
            when served.__dbt_onnx_is_error and tally.are_errors then {{ dbt_onnx._interval(error_after) }}
            {%- endif %}
            else {{ dbt_onnx._interval(warn_after or error_after) }}
        end as threshold,
        case
            when served.__dbt_onnx_is_future or (served.__dbt_onnx_is_error and tally.are_errors) then 'error'
            else 'warn'
        end as severity
    from served
    cross join tally
    where
        served.__dbt_onnx_is_future
        or (served.__dbt_onnx_is_error and tally.are_errors)
        {%- if warn_after is not none %}
        or ((served.__dbt_onnx_is_warning or served.__dbt_onnx_is_error) and tally.are_warnings)
        {%- endif %}

    union all by name

    select
        case when exists (select 1 from last_run) then 'no_predictions' else 'no_successful_run' end as problem,
        'error' as severity
    from tally
    where tally.predictions = 0
)

select *
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by severity asc nulls last, age desc nulls last, {{ dbt_onnx._ascending(key) }}
{%- endif -%}
{% endtest %}
