{#-
    What the tests share, and the findings of `predictions_are_valid` in one output column, over its CTE
    `scored`.
-#}

{#- NULL, NaN, infinite and out of range. NaN sorts last in DuckDB, so that a list's maximum tells of it. -#}
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
        {%- for name in key %}
        min({{ dbt_onnx._identifier(name) }}) as {{ dbt_onnx._identifier(name) }},
        {%- endfor %}
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


{#-
    With `--empty` a test of predictions finds nothing, as dbt's own tests do, which then see no rows. What
    it was given is checked all the same.
-#}
{% macro _none_if_empty() -%}
    {{ return('where false' if flags.EMPTY else '') }}
{%- endmacro %}
