{#-
    Purpose: the model's outputs are plausible. The test checks the predictions by the version of the last successful
    full run, for the entities that this run saw.

    Passes if none of the following is found.
    Fails if too many rows are rejected (`problem`: `too_many_rejected`, one row per reason with an example key); if
    an output is NULL, NaN or infinite, also within a list (`null_output`, `nan_output`, `infinite_output`) or
    outside the range (`out_of_range`); if an output is constant (`constant_output`, with an example key).

    Arguments, and the rows that it returns: `test_predictions_are_valid` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.predictions_are_valid:
                arguments: {key: [customer_id], column: churn_probability, min: 0, max: 1}
-#}
{% test predictions_are_valid(
    model, key, column=none, min=none, max=none, max_rejected_fraction=0.1, constant_from_rows=100
) %}
{% call dbt_onnx._compiled() -%}
{%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
    + dbt_onnx._faults_of_key(key, taken=['problem', 'column_name', 'expected', 'actual', 'entities'])
    + dbt_onnx._faults_of_fraction(max_rejected_fraction, 'max_rejected_fraction') -%}
{%- for bound, value in {'min': min, 'max': max}.items() if value is not none -%}
    {%- if column is none -%}
        {%- do faults.append(bound ~ " needs column, the output to check") -%}
    {%- endif -%}
    {%- if value is not number or value is boolean -%}
        {%- do faults.append(bound ~ " is '" ~ value ~ "'; it takes a number") -%}
    {%- endif -%}
{%- endfor -%}
{%- if constant_from_rows is not none -%}
    {%- do faults.extend(dbt_onnx._faults_of_count(constant_from_rows, 'constant_from_rows', 2, ', or none')) -%}
{%- endif -%}
{%- set ledger = dbt_onnx._ledger_of_test('predictions_are_valid', model, key, faults, column) -%}

with {{ dbt_onnx._current_rows_ctes(ledger, none) }},

tried as (
    select *
    from current_rows
    where status is not null and __dbt_onnx_is_present
),

scored as (
    select *
    from current_rows
    where __dbt_onnx_versions_back = 0 and __dbt_onnx_is_present
),

validation_errors as (
    select
        {{ dbt_onnx._columns(key) }},
        'too_many_rejected' as problem,
        cast(null as varchar) as column_name,
        'at most ' || {{ max_rejected_fraction }} || ' of ' || (select count(*) from tried) || ' rejected' as expected,
        rejected_reason || ' (' || count(*) over () || ' in all)' as actual,
        count(*) over (partition by rejected_reason) as entities
    from tried
    where status = 'rejected'
    qualify
        row_number() over (partition by rejected_reason order by {{ dbt_onnx._ascending(key) }}) = 1
        and count(*) over () > {{ max_rejected_fraction }} * (select count(*) from tried)
    {%- for output in ledger['outputs'] %}

    union all by name

    {{ dbt_onnx._invalid_values(key, output, min, max) }}
    {%- if constant_from_rows is not none
        and (column is not none or modules.re.fullmatch('FLOAT|DOUBLE', output['type'])) %}

    union all by name

    {{ dbt_onnx._constant_values(key, output, constant_from_rows) }}
    {%- endif %}
    {%- endfor %}
)

{{ dbt_onnx._sorted_findings('problem asc nulls last, column_name asc nulls last', key) }}
{%- endcall %}
{% endtest %}
