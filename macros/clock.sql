{#
    The run's clock: the moment that the run is about, as a SQL expression of type timestamp (UTC, without time zone).

    Features, `as_of`, staleness and the plan all use this clock. `scored_at` does not: it is always real time.

    The variable `dbt_onnx_clock` sets the clock: a date or timestamp in ISO form, `1998-04-01` or
    `1998-04-01 06:30:00`, in UTC. Without the variable the clock is the current time.

    Example:
        select * from {{ ref('purchases') }} where purchased_at < {{ dbt_onnx.clock() }}
#}
{% macro clock() %}
    {%- set moment = var('dbt_onnx_clock', none) -%}
    {%- if moment is none and target.profile_name == 'dbt_onnx_demo' -%}
        {#- the purchases of the reference project end in June 1998. A default under `vars:` in dbt_project.yml
            would also apply to operations in projects that install the package -#}
        {%- set moment = '1998-04-01' -%}
    {%- endif -%}
    {%- if moment is none -%}
        {{ dbt_onnx._utc('now()') }}
    {%- elif not dbt_onnx._is_moment(moment, 'Z?') or moment | string < '1900' -%}
        {{ exceptions.raise_compiler_error(
            "variable dbt_onnx_clock is '" ~ moment ~ "'; it takes a date or a UTC timestamp, of the year 1900 or later."
            ~ " Hint: --vars '{dbt_onnx_clock: \"1998-04-01\"}'"
        ) }}
    {%- else -%}
        {%- set type = adapter.dispatch('_moment_type', 'dbt_onnx')() -%}
        cast('{{ moment | string | replace('T', ' ') | replace('Z', '') }}' as {{ type }})
    {%- endif -%}
{% endmacro %}
