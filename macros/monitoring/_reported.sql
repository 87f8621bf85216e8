{#-
    Queries of `dbt-onnx report`. The distributions are those of the tests `features_match_training` and
    `predictions_match_baseline`, with the same index.
-#}

{#-
    One row per bin of each feature: `column_name`, `problem` (NULL, or why the feature cannot be compared), `number`
    and `bin`, `expected` and `actual` (the share in training and now), `psi`, `null_share`, `expected_null_share`,
    `row_count`. A feature without a known value has one row, without a bin.
-#}
{% macro _reported_features(model, features) -%}
{%- set run = dbt_onnx._last_full_run(model) -%}
{%- set tested = dbt_onnx._tested_features(model, run, features, none) -%}
{%- set query -%}
with {% if tested['columns'] -%}
{{ dbt_onnx._reference_cte(model, run, 'feature', tested['columns']) }},

{{ dbt_onnx._compared_ctes(dbt_onnx._table(features), tested['columns']) }},

{% endif -%}
not_compared as (
    {{ dbt_onnx._findings(tested['findings']) }}
)

select
    column_name,
    problem
from not_compared
{%- if tested['columns'] %}

union all by name

{{ dbt_onnx._reported_bins() }}
{%- endif %}
{%- endset -%}
{{ return(dbt_onnx._in_dialect(query)) }}
{%- endmacro %}


{#-
    The same for each output that is no list, with a column `comparison`: `training` compares the predictions in force
    with training, `previous_run` with those before the last run, and `before` compares those before the last run with
    training. A comparison without a reference has no rows; an output without any has `now`, in its own ranges.
-#}
{% macro _reported_outputs(model, key) -%}
{%- set run = dbt_onnx._last_full_run(model) -%}
{%- set previous = dbt_onnx._last_full_run(model, before=run) if run is not none else none -%}
{%- set queries = [] -%}
{%- for output in dbt_onnx._ledger(model, key)['outputs'] if run is not none and not output['type'].endswith(']') -%}
    {%- set others = queries | length -%}
    {%- for comparison in ['training', 'previous_run', 'before'] -%}
        {%- set baseline = 'previous_run' if comparison == 'previous_run' else 'training' -%}
        {%- set compared = dbt_onnx._tested_output(model, run, output['name'], baseline, previous) -%}
        {%- if compared['kind'] is defined and (comparison == 'training' or previous is not none) -%}
            {%- do queries.append(dbt_onnx._reported_output(model, run, previous, compared, comparison)) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if queries | length == others -%}
        {%- set compared = dbt_onnx._tested_output(model, run, output['name'], 'previous_run', run) -%}
        {%- do queries.append(dbt_onnx._reported_output(model, run, none, compared, 'now')) -%}
    {%- endif -%}
{%- endfor -%}
{{ return(dbt_onnx._in_dialect(queries | join('\n\nunion all\n\n') or 'select 1 as nothing where false')) }}
{%- endmacro %}


{% macro _reported_output(model, run, previous, output, comparison) -%}
(
with {{ dbt_onnx._in_force_cte(model, run, output) }},

{% if comparison == 'now' -%}
earlier as (select * from in_force),

{% elif comparison != 'training' -%}
{{ dbt_onnx._earlier_predictions_ctes(model, output, run, previous) }},

{% endif -%}
{{ dbt_onnx._described_ctes(output) if comparison in ['previous_run', 'now']
    else dbt_onnx._reference_cte(model, run, 'output', [output]) }},

{{ dbt_onnx._compared_ctes('earlier' if comparison == 'before' else 'in_force', [output]) }}

{{ dbt_onnx._reported_bins(comparison) }}
)
{%- endmacro %}


{% macro _reported_bins(comparison=none) -%}
select
    {%- if comparison is not none %}
    {{ dbt_onnx._literal(comparison) }} as comparison,
    {%- endif %}
    compared.column_name,
    bins.number,
    bins.bin,
    bins.expected,
    bins.actual,
    compared.psi,
    compared.null_share,
    compared.expected_null_share,
    compared.row_count
from compared
left join bins on compared.column_name = bins.column_name
{%- endmacro %}


{#-
    The number of entities by `served_from`, `model_version` and `age_band`, the number of whole days 1, 2, 7 and 30
    that have passed since `fresh_as_of`, from 0 to 4; NULL without a prediction.
-#}
{% macro _reported_ages(predictions, registry, key, entities) -%}
{%- set clock = dbt_onnx.clock() | trim -%}
{%- set query -%}
select
    served_from,
    model_version,
    case
        when fresh_as_of is null then null
        {%- for days in [1, 2, 7, 30] %}
        when fresh_as_of > {{ clock }} - interval '{{ days }}' day then {{ loop.index0 }}
        {%- endfor %}
        else 4
    end as age_band,
    count(*) as entities
from (
    {{ adapter.dispatch('current_predictions', 'dbt_onnx')(
        predictions, registry, key, entities, {'count': 2, 'period': 'day'}, none
    ) | indent(4) }}
)
group by 1, 2, 3
{%- endset -%}
{{ return(dbt_onnx._in_dialect(query)) }}
{%- endmacro %}


{#- The newest recorded result of each test of a scoring model that did not pass. -#}
{% macro _reported_tests(model) -%}
{%- set query -%}
select *
from {{ dbt_onnx._rows_about(
    model, ['test_name', 'generic_test', 'status', 'failures', 'message', 'executed_at', 'run_id'], 'dbt_onnx_test_results'
) }}
qualify row_number() over (partition by test_name order by executed_at desc nulls last, run_id desc nulls last) = 1
{%- endset -%}
{{ return(dbt_onnx._in_dialect(query)) }}
{%- endmacro %}
