{#- Shared by `compare_predictions` and `prediction_movers`: the checks of arguments, and the pairs. -#}

{#-
    Returns the `_history` of each of the two ledgers to compare, `[champion, challenger]`. Raises one error that names
    every wrong argument of `macro`.
-#}
{% macro _checked_histories(
    macro, champion, challenger, key, column, about, champion_version, challenger_version,
    also_taken, numbers_only=false, faults=none
) -%}
    {%- set taken = ['champion', 'challenger', 'champion_model', 'challenger_model', 'champion_value',
        'challenger_value', 'champion_as_of', 'challenger_as_of'] + also_taken -%}
    {%- set faults = (faults or [])
        + dbt_onnx._faults_of_predictions(champion, 'champion')
        + dbt_onnx._faults_of_predictions(challenger, 'challenger')
        + dbt_onnx._faults_of_key(key, taken=taken)
        + dbt_onnx._faults_of_text(column, 'column', "an output column, such as 'churn_probability'")
        + dbt_onnx._faults_of_optional('moment', {'about': about})
        + dbt_onnx._faults_of_optional(
            'version', {'champion_version': champion_version, 'challenger_version': challenger_version}
        ) -%}
    {%- if not faults and champion | string | lower == challenger | string | lower
        and champion_version == challenger_version -%}
        {%- do faults.append("champion and challenger are the same predictions. Hint: to compare two versions in one"
            ~ " ledger, give champion_version and challenger_version") -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, macro, champion) -%}

    {%- set histories = [
        dbt_onnx._history('champion', champion, column, champion_version),
        dbt_onnx._history('challenger', challenger, column, challenger_version),
    ] -%}
    {%- set kinds = [] -%}
    {%- for history in histories -%}
        {%- for fault in dbt_onnx._faults_of_history(history, key, numbers_only) if fault not in faults -%}
            {%- do faults.append(fault) -%}
        {%- endfor -%}
        {%- if history['columns'] is not none and dbt_onnx._type_of(column, history['columns']) -%}
            {%- do kinds.append('numbers' if dbt_onnx._holds_numbers(column, history['columns'])
                else dbt_onnx._type_of(column, history['columns'])) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if not faults and kinds | unique | list | length > 1 -%}
        {%- do faults.append("column '" ~ column ~ "' holds " ~ (kinds | join(' in the champion and ')) ~ " in the challenger") -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, macro, champion) -%}
    {{ return(histories) }}
{%- endmacro %}


{#-
    The CTEs up to `paired`: one row per key and moment (`__dbt_onnx_moment`) for which at least one ledger has a
    prediction, with `<name>_model` (`name/version`), `<name>_value` and `<name>_as_of` of both `histories`; NULL if a
    ledger has no prediction. If `about` is none, the moments are the `as_of` of all scored rows.
-#}
{% macro _paired_predictions_ctes(histories, key, about) -%}
with {% for history in histories -%}
{{ dbt_onnx._history_ctes(history, key) }},

{% endfor -%}
moments as (
    {%- for history in histories %}
    {%- if not loop.first %}
    union
    {%- endif %}
    select
        {{ dbt_onnx._columns(key) }},
        {{ 'as_of' if about is none else dbt_onnx._moment(about) }} as __dbt_onnx_moment
    from {{ history['name'] }}_rows
    where status = 'scored'
    {%- endfor %}
),

{% for history in histories -%}
{{ dbt_onnx._in_force_ctes(history['name'], key, exactly=about is none) }},

{% endfor -%}
paired as (
    select
        {{ dbt_onnx._columns(key, of='moments') }},
        moments.__dbt_onnx_moment
        {%- for history in histories %},
        {%- set in_force = history['name'] ~ '_in_force' %}
        {{ dbt_onnx._text("(" ~ in_force ~ ".model_name || '/' || " ~ in_force ~ ".model_version)") }}
            as {{ history['name'] }}_model,
        {{ in_force }}.__dbt_onnx_value as {{ history['name'] }}_value,
        {{ in_force }}.as_of as {{ history['name'] }}_as_of
        {%- endfor %}
    from moments
    {%- for history in histories %}
    {%- set in_force = history['name'] ~ '_in_force' %}
    left join {{ in_force }}
        on {{ dbt_onnx._same_key(key, 'moments', in_force) }}
        and moments.__dbt_onnx_moment = {{ in_force }}.__dbt_onnx_moment
    {%- endfor %}
    where champion_model is not null or challenger_model is not null
)
{%- endmacro %}
