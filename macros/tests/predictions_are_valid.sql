{#-
    Purpose: what the model says is plausible. Judged is the version of the last successful run, about the entities
    that the last full run saw.

    Arguments: `key`, a list of columns; `column`, one output to judge (default: all of them); `min` and
    `max`, the inclusive range of that column; `max_rejected_fraction` (default 0.1), of the entities
    that the version tried; `constant_from_rows` (default 100): so many predictions that are all the same
    are a fault, none for never. A constant is looked for in the floating-point outputs, or in `column`
    whatever its type: a label may well be the same for everybody.

    Passes if none of the following is found.
    Fails if more are rejected (`problem`: `too_many_rejected`, a row per reason, the key an example); if
    an output is NULL, NaN or infinite, also within a list (`null_output`, `nan_output`,
    `infinite_output`) or outside the range (`out_of_range`); if an output is constant
    (`constant_output`, the key an example).

    Returns a row per finding: key, `problem`, `column_name`, `expected`, `actual`, `entities`: how many
    are concerned.

    Time zone: none of it depends on one.

    Example:
        data_tests:
            - dbt_onnx.predictions_are_valid:
                arguments: {key: [customer_id], column: churn_probability, min: 0, max: 1}

-#}
{% test predictions_are_valid(
    model, key, column=none, min=none, max=none, max_rejected_fraction=0.1, constant_from_rows=100
) %}
{%- if execute -%}
{%- set returned = ['problem', 'column_name', 'expected', 'actual', 'entities'] -%}
{%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
    + dbt_onnx._faults_of_key(key, taken=returned)
    + dbt_onnx._faults_of_fraction(max_rejected_fraction, 'max_rejected_fraction') -%}
{%- for bound, value in {'min': min, 'max': max}.items() if value is not none -%}
    {%- if column is none -%}
        {%- do faults.append(bound ~ " is given and column is not: the range of which output?") -%}
    {%- endif -%}
    {%- if value is not number or value is boolean -%}
        {%- do faults.append(bound ~ " is '" ~ value ~ "'; it takes a number") -%}
    {%- endif -%}
{%- endfor -%}
{%- if constant_from_rows is not none
    and (constant_from_rows is not integer or constant_from_rows is boolean or constant_from_rows < 2) -%}
    {%- do faults.append("constant_from_rows is " ~ constant_from_rows
        ~ "; it takes a whole number from 2, or none") -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_are_valid', model) -%}

{%- set key = dbt_onnx._key(key) -%}
{%- set ledger = dbt_onnx._ledger(model, key) -%}
{%- set faults = dbt_onnx._faults_of_columns(key, ledger['latest_columns'], ledger['latest'], 'key') -%}
{%- set outputs = [] -%}
{%- for output in ledger['outputs'] if column is none or output['name'] | lower == column | lower -%}
    {%- do outputs.append(output) -%}
{%- endfor -%}
{%- if column is not none and ledger['latest_columns'] is not none and not outputs -%}
    {%- do faults.append("column is '" ~ column ~ "'; the outputs are "
        ~ (ledger['outputs'] | map(attribute='name') | list | tojson)) -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_are_valid', model) -%}

with {{ dbt_onnx._current_rows_ctes(dict(ledger, outputs=outputs), none) }},

scored as (
    select * from current_rows where __dbt_onnx_versions_back = 0 and __dbt_onnx_is_present
),

rejected as (
    select
        {{ dbt_onnx._columns(key) }},
        rejected_reason as __dbt_onnx_reason,
        count(*) over (partition by rejected_reason) as __dbt_onnx_of_reason,
        count(*) over () as __dbt_onnx_rejected
    from current_rows
    where status = 'rejected' and __dbt_onnx_is_present
    qualify row_number() over (partition by rejected_reason order by {{ dbt_onnx._ascending(key) }}) = 1
),

tried as (
    select count(*) as entities from current_rows where status is not null and __dbt_onnx_is_present
),

validation_errors as (
    select
        {{ dbt_onnx._columns(key, of='rejected') }},
        'too_many_rejected' as problem,
        cast(null as varchar) as column_name,
        'at most ' || {{ max_rejected_fraction }} || ' of ' || tried.entities || ' rejected' as expected,
        rejected.__dbt_onnx_reason || ' (' || rejected.__dbt_onnx_rejected || ' in all)' as actual,
        rejected.__dbt_onnx_of_reason as entities
    from rejected
    cross join tried
    where rejected.__dbt_onnx_rejected > {{ max_rejected_fraction }} * tried.entities
    {%- for output in outputs %}

    union all by name

    {{ dbt_onnx._invalid_values(key, output, min, max) }}
    {%- if constant_from_rows is not none
        and (column is not none or modules.re.fullmatch('FLOAT|DOUBLE', output['type'])) %}

    union all by name

    {{ dbt_onnx._constant_values(key, output, constant_from_rows) }}
    {%- endif %}
    {%- endfor %}
)

select *
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by problem asc nulls last, column_name asc nulls last, {{ dbt_onnx._ascending(key) }}
{%- endif -%}
{% endtest %}
