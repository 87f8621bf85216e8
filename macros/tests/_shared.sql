{#- Shared by the tests; and the findings of `predictions_are_valid` about one output column, over its CTE `scored`. -#}

{#- NULL, NaN, infinite and out-of-range values. NaN sorts last in DuckDB, so a list with a NaN has the maximum NaN. -#}
{% macro _invalid_values(key, output, min, max) -%}
    {%- set value = dbt_onnx._identifier(output['name']) -%}
    {%- set is_float = modules.re.fullmatch('(FLOAT|DOUBLE)(\\[[0-9]*\\])?', output['type']) is not none -%}
    {%- set is_list = output['type'].endswith(']') -%}
    {%- set highest = 'list_max(' ~ value ~ ')' if is_list else value -%}
    {%- set lowest = 'list_min(' ~ value ~ ')' if is_list else value -%}
    select
        {{ dbt_onnx._columns(key) }},
        case
            when {{ value }} is null then 'null_output'
            {%- if is_float %}
            when isnan({{ highest }}) then 'nan_output'
            when isinf({{ highest }}) or isinf({{ lowest }}) then 'infinite_output'
            {%- endif %}
            {%- if min is not none or max is not none %}
            when
                {{ (lowest ~ ' < ' ~ min) if min is not none else 'false' }}
                or {{ (highest ~ ' > ' ~ max) if max is not none else 'false' }}
                then 'out_of_range'
            {%- endif %}
        end as problem,
        {{ dbt_onnx._literal(output['name']) }} as column_name,
        case
            when problem = 'out_of_range'
                then {{ dbt_onnx._literal(
                    'from ' ~ (min if min is not none else '-inf') ~ ' to ' ~ (max if max is not none else 'inf')
                ) }}
            else 'a finite value'
        end as expected,
        cast({{ value }} as varchar) as actual,
        1 as entities
    from scored
    where problem is not null
{%- endmacro %}


{% macro _constant_values(key, output, constant_from_rows) -%}
    {%- set value = dbt_onnx._identifier(output['name']) -%}
    select
        {{ dbt_onnx._each(key, 'min({0}) as {0}') }},
        'constant_output' as problem,
        {{ dbt_onnx._literal(output['name']) }} as column_name,
        'different values' as expected,
        cast(any_value({{ value }}) as varchar) as actual,
        count(*) as entities
    from scored
    having
        count(*) >= {{ constant_from_rows }}
        and count({{ value }}) = count(*)
        and min({{ value }}) = max({{ value }})
{%- endmacro %}


{#- The query of a test (the body of the call block) in the dialect of the target; empty while dbt parses. -#}
{% macro _compiled() -%}
    {{ return(dbt_onnx._in_dialect(caller()) if execute else '') }}
{%- endmacro %}


{#- Config of a test with a column `severity`: fails if one row is an error, else warns. `failures` counts all rows. -#}
{% macro _fails_on_an_error() -%}
    {{ config(
        fail_calc="count(*)",
        warn_if="<> 0",
        error_if="<> 0 and count(*) filter (where severity = 'error') > 0",
    ) }}
{%- endmacro %}


{% macro _faults_of_output(column, outputs) -%}
    {{ return([] if dbt_onnx._columns_named(outputs, column) else [
        "column is '" ~ column ~ "'; the outputs are " ~ (outputs | map(attribute='name') | list | tojson)
    ]) }}
{%- endmacro %}


{#-
    `_ledger` of the tested model, with only the output `column`, or by default with all outputs. Raises an error if
    there are `faults` of the arguments, or if the ledger does not have the columns.
-#}
{% macro _ledger_of_test(test, model, key, faults, column=none) -%}
    {%- do dbt_onnx._raise_faults(faults, test, model) -%}
    {%- set ledger = dbt_onnx._ledger(model, key) -%}
    {%- set faults = dbt_onnx._faults_of_columns(ledger['key'], ledger['current_columns'], ledger['current'], 'key') -%}
    {%- if column is not none and ledger['current_columns'] is not none -%}
        {%- do faults.extend(dbt_onnx._faults_of_output(column, ledger['outputs'])) -%}
        {%- do ledger.update({'outputs': dbt_onnx._columns_named(ledger['outputs'], column)}) -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, test, model) -%}
    {{ return(ledger) }}
{%- endmacro %}


{#- Condition on `current_rows`: the row's entity is in `entities`, or by default the last full run saw it. -#}
{% macro _is_tested(key, entities) -%}
{%- if entities is none -%}
current_rows.__dbt_onnx_is_present
{%- else -%}
exists (
    select 1
    from {{ dbt_onnx._user_relation(entities) }} as entities
    where {{ dbt_onnx._same_key(key, 'entities', 'current_rows') }}
)
{%- endif -%}
{%- endmacro %}


{#- The final SELECT of a test: the rows of `validation_errors`, sorted by `order` and then by key. -#}
{% macro _sorted_findings(order, key) -%}
select *
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by {{ order }}, {{ dbt_onnx._ascending(key) }}
{%- endmacro %}


{#-
    With `--empty` a test of predictions returns no rows, like dbt's own tests, which then see no rows. The arguments
    are checked nevertheless.
-#}
{% macro _none_if_empty() -%}
    {{ return('where false' if flags.EMPTY else '') }}
{%- endmacro %}
