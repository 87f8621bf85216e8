{#-
    One row that summarizes one scoring model: the served predictions, their age, and the results of runs and tests.
    Write a model that combines one call per scoring model with `union all`.

    The counts are over the rows of `current_predictions`. Each entity is counted as exactly one of `current`, `stale`
    (its prediction is too old) or `missing` (it has no prediction, even if a fallback is served to it).

    Columns:

    - `scoring_model`, `model_name`, `serving_version` (NULL if the registry names none or two);
    - `entities`, `current`, `stale`, `missing`; `rejected`, the entities whose newest attempt by the serving version
      was rejected (each of them is also counted as `current`, `stale` or `missing`);
    - `served_from_shares`, a map from `served_from` to its share of the entities; `served_versions`, a map from each
      version in use to the number of entities that it serves; `oldest_age` and `median_age` of the served predictions;
    - `last_good_run_id`, `last_good_run_at` (its start) and `last_good_run_clock` of the newest successful full run;
    - `last_run_id`, `last_run_at`, `last_run_status` and `last_run_error` of the newest run that was not a backfill;
    - `failing_tests` and `warning_tests`, lists of the names of the tests with the last recorded result `fail` or
      `error`, or `warn`; `drifting_tests`, those tests of both lists that compare with training or with another run;
      `tested_at`, when the newest test ran, NULL if no result was ever recorded. Times are UTC.

    The test results are those that `record_test_results` wrote. Tests that are no longer in the project do not count.
    Building a model with this macro creates the table of results if it does not exist, because a view needs it.

    Arguments: `prediction_health` in macros/_macros.yml. Example:
        {{ dbt_onnx.prediction_health(
            ref('churn_predictions'), registry=ref('model_registry'), key=['customer_id']
        ) }}
        union all
        {{ dbt_onnx.prediction_health(
            ref('demand_predictions'), registry=ref('model_registry'), key=['product_id']
        ) }}
-#}
{% macro prediction_health(
    predictions, registry, key, entities=none, stale_after={'count': 2, 'period': 'day'}, view=none
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('prediction_health', 'dbt_onnx')(
        predictions, registry, key, entities, stale_after, view
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__prediction_health(predictions, registry, key, entities, stale_after, view) -%}
{%- set faults = dbt_onnx._faults_of_predictions(predictions, 'predictions')
    + dbt_onnx._faults_of_relation(registry, 'registry')
    + dbt_onnx._faults_of_optional('relation', {'view': view})
    + (["give view or entities, not both: a view has its own entities"]
        if view is not none and entities is not none else [])
    + dbt_onnx._faults_of_key(key) -%}
{%- if not faults and view is not none -%}
    {%- do faults.extend(dbt_onnx._faults_of_columns(
        ['served_from', 'is_stale', 'age', 'status', 'model_version'], dbt_onnx._columns_in(view), view, 'view'
    )) -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'prediction_health', predictions) -%}

{%- if flags.WHICH in ['run', 'build'] and dbt_onnx._is_writable(predictions) -%}
    {%- do run_query(dbt_onnx._create_test_results(predictions)) -%}
{%- endif -%}
{%- set names_of_tests = dbt_onnx._names_of_tests(predictions) -%}

{#- in parentheses, because a query that begins with `with` cannot follow `union all` -#}
(
with {{ dbt_onnx._served_versions_ctes(dbt_onnx._ledger(predictions, key), registry) }},

served as (
    select
        *,
        served_from in ('serving_version', 'earlier_version') as __dbt_onnx_is_predicted
    from {% if view is not none -%}
        {{ view }}
    {%- else -%} (
        {{ adapter.dispatch('current_predictions', 'dbt_onnx')(
            predictions, registry, key, entities, stale_after, none
        ) | indent(8) }}
    )
    {%- endif %}
),

counts as (
    select
        count(*) as entities,
        count(*) filter (where __dbt_onnx_is_predicted and not is_stale) as current,
        count(*) filter (where __dbt_onnx_is_predicted and is_stale) as stale,
        count(*) filter (where not __dbt_onnx_is_predicted) as missing,
        count(*) filter (where status = 'rejected') as rejected,
        max(age) filter (where __dbt_onnx_is_predicted) as oldest_age,
        median(age) filter (where __dbt_onnx_is_predicted) as median_age
    from served
),

shares as (
    select map_from_entries(list(
        struct_pack(served_from := served_from, share := share) order by share desc nulls last, served_from asc nulls last
    )) as served_from_shares
    from (select served_from, count(*) / cast(sum(count(*)) over () as double) as share from served group by served_from)
),

versions_in_use as (
    select map_from_entries(list(
        struct_pack(model_version := model_version, entities := entities)
        order by entities desc nulls last, model_version asc nulls last
    )) as served_versions
    from (select model_version, count(*) as entities from served where __dbt_onnx_is_predicted group by model_version)
),

recorded_runs as (
    select *
    from {{ dbt_onnx._rows_about(predictions, ['run_id', 'status', 'scope', 'clock', 'started_at', 'error']) }}
    where coalesce(scope, 'full') not in ('empty', 'real_time')
),

last_good_run as (
    select
        run_id as last_good_run_id,
        started_at as last_good_run_at,
        clock as last_good_run_clock
    from recorded_runs
    where status = 'success' and scope = 'full'
    order by started_at desc nulls last, run_id desc nulls last
    limit 1
),

-- a failed run has no scope, so a run under an earlier clock than the newest full run counts as a backfill
last_attempt as (
    select
        run_id as last_run_id,
        started_at as last_run_at,
        status as last_run_status,
        error as last_run_error
    from recorded_runs
    where not coalesce(clock < (select max(clock) from recorded_runs where status = 'success' and scope = 'full'), false)
    order by started_at desc nulls last, run_id desc nulls last
    limit 1
),

outcomes as (
    select *
    from {{ dbt_onnx._rows_about(
        predictions, ['test_name', 'generic_test', 'status', 'executed_at', 'run_id'], 'dbt_onnx_test_results'
    ) }}
    {%- if names_of_tests is not none %}
    where list_contains({{ dbt_onnx._list_of_texts(names_of_tests) }}, test_name)
    {%- endif %}
    qualify row_number() over (partition by test_name order by executed_at desc nulls last, run_id desc nulls last) = 1
),

tests as (
    select
        {%- for column, condition in {
            'failing_tests': "status in ('fail', 'error')",
            'warning_tests': "status = 'warn'",
            'drifting_tests': "status <> 'pass' and generic_test in ('features_match_training',"
                ~ " 'predictions_match_baseline')",
        }.items() %}
        coalesce(list(test_name order by test_name asc nulls last) filter (where {{ condition }}), []) as {{ column }},
        {%- endfor %}
        max(executed_at) as tested_at
    from outcomes
)

select
    {{ dbt_onnx._literal(predictions.identifier) }} as scoring_model,
    (select model_name from last_run) as model_name,
    (select any_value(model_version) from served_versions where versions_back = 0 having count(*) = 1) as serving_version,
    counts.entities,
    counts.current,
    counts.stale,
    counts.missing,
    counts.rejected,
    coalesce(shares.served_from_shares, map()) as served_from_shares,
    coalesce(versions_in_use.served_versions, map()) as served_versions,
    counts.oldest_age,
    counts.median_age,
    last_good_run.*,
    last_attempt.*,
    tests.*
from counts
cross join shares
cross join versions_in_use
cross join tests
left join last_good_run on true
left join last_attempt on true
)
{%- endmacro %}
