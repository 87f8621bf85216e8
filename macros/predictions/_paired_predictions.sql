{#- What `compare_predictions` and `prediction_movers` have in common: arguments and pairs. -#}

{#-
    The two ledgers of a comparison, `[champion, challenger]`, or an error that names every wrong
    argument of `macro`.
-#}
{% macro _compared(
    macro, champion, challenger, key, column, about, champion_version, challenger_version,
    taken, numbers_only=false, faults=none
) -%}
    {%- set faults = (faults or [])
        + dbt_onnx._faults_of_predictions(champion, 'champion')
        + dbt_onnx._faults_of_predictions(challenger, 'challenger')
        + dbt_onnx._faults_of_key(key, taken=taken)
        + dbt_onnx._faults_of_text(column, 'column', "an output column, such as 'churn_probability'")
        + (dbt_onnx._faults_of_moment(about, 'about') if about is not none else []) -%}
    {%- set versions = {'champion_version': champion_version, 'challenger_version': challenger_version} -%}
    {%- for argument, version in versions.items() if version is not none -%}
        {%- do faults.extend(dbt_onnx._faults_of_text(version, argument, "a version as text, such as '2'")) -%}
    {%- endfor -%}
    {%- if not faults and champion | string | lower == challenger | string | lower
        and champion_version == challenger_version -%}
        {%- do faults.append("champion and challenger are the same predictions. Hint: to compare two versions in one"
            ~ " ledger, give champion_version and challenger_version") -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, macro, champion) -%}

    {%- set speakers = [
        dbt_onnx._speaker('champion', champion, column, champion_version),
        dbt_onnx._speaker('challenger', challenger, column, challenger_version),
    ] -%}
    {%- set key = dbt_onnx._key(key) -%}
    {%- set kinds = [] -%}
    {%- for speaker in speakers -%}
        {%- for fault in dbt_onnx._faults_of_speaker(speaker, key, numbers_only) if fault not in faults -%}
            {%- do faults.append(fault) -%}
        {%- endfor -%}
        {%- if speaker['columns'] is not none and dbt_onnx._type_of(column, speaker['columns']) -%}
            {%- do kinds.append('numbers' if dbt_onnx._holds_numbers(column, speaker['columns'])
                else dbt_onnx._type_of(column, speaker['columns'])) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if not faults and kinds | unique | list | length > 1 -%}
        {%- do faults.append("column '" ~ column ~ "' holds " ~ (kinds | join(' in the champion and ')) ~ " in the challenger") -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, macro, champion) -%}
    {{ return(speakers) }}
{%- endmacro %}


{#-
    The CTEs up to `paired`: a row per key and moment (`__dbt_onnx_moment`) about which either ledger
    says something, with `<name>_model` (`name/version`), `<name>_value` and `<name>_as_of` of both
    `speakers`, NULL where one says nothing.

    `about` none: the moments are the `as_of` of all scored rows. One says something about a moment by a
    row, or by a run about that very moment; then the version that ran last speaks.
    Else the one moment is `about`, and what counts is the newest scored row up to it, by the version
    that ran last up to it: what was served then.
-#}
{% macro _paired_predictions_ctes(speakers, key, about) -%}
{%- set moment = 'as_of' if about is none else dbt_onnx._moment(about) -%}
with {% for speaker in speakers -%}
{{ dbt_onnx._said_ctes(speaker, key) }},

{{ speaker['name'] }}_statements as (
    select *
    from {{ speaker['name'] }}_said
    {%- if about is not none %}
    where as_of <= {{ moment }} and status = 'scored'
    {%- endif %}
    qualify row_number() over (
        partition by {{ dbt_onnx._columns(key) }}, model_name, model_version, as_of
        order by scored_at desc nulls last, run_id desc nulls last
    ) = 1
),

{% endfor -%}
moments as (
    {%- for speaker in speakers %}
    {%- if not loop.first %}
    union
    {%- endif %}
    select
        {{ dbt_onnx._columns(key) }},
        {{ moment }} as __dbt_onnx_moment
    from {{ speaker['name'] }}_statements
    where status = 'scored'
    {%- endfor %}
),

{% for speaker in speakers -%}
{{ dbt_onnx._in_force_ctes(speaker['name'], key, about) }},

{% endfor -%}
paired as (
    select
        {{ dbt_onnx._columns(key, of='moments') }},
        moments.__dbt_onnx_moment
        {%- for speaker in speakers %},
        {{ speaker['name'] }}_in_force.__dbt_onnx_model as {{ speaker['name'] }}_model,
        {{ speaker['name'] }}_in_force.__dbt_onnx_value as {{ speaker['name'] }}_value,
        {{ speaker['name'] }}_in_force.as_of as {{ speaker['name'] }}_as_of
        {%- endfor %}
    from moments
    {%- for speaker in speakers %}
    left join {{ speaker['name'] }}_in_force
        on {{ dbt_onnx._same_key(key, 'moments', speaker['name'] ~ '_in_force') }}
        and moments.__dbt_onnx_moment = {{ speaker['name'] }}_in_force.__dbt_onnx_moment
    {%- endfor %}
    where
        champion_in_force.__dbt_onnx_model is not null
        or challenger_in_force.__dbt_onnx_model is not null
)
{%- endmacro %}


{#-
    `<name>_in_force`: per key and moment the statement that holds. The version is that of the newest
    run, full runs before backfills, which change nothing that is served; without a run, that of the
    newest row. It matters after a rollback: what did not change since is not scored again, so the
    newest row is by the version that was withdrawn.
-#}
{% macro _in_force_ctes(name, key, about) -%}
{{ name }}_speaking as (
    select
        {{ 'as_of' if about is none else dbt_onnx._moment(about) }} as __dbt_onnx_moment,
        model_name,
        model_version
    from {{ name }}_runs
    {%- if about is not none %}
    where as_of <= {{ dbt_onnx._moment(about) }}
    {%- endif %}
    qualify row_number() over (
        {{ 'partition by as_of ' if about is none }}order by
        is_full desc nulls last, as_of desc nulls last, started_at desc nulls last, run_id desc nulls last
    ) = 1
),

{{ name }}_newest as (
    select
        {{ dbt_onnx._columns(key) }},
        {{ 'as_of' if about is none else dbt_onnx._moment(about) }} as __dbt_onnx_moment,
        model_name,
        model_version
    from {{ name }}_statements
    qualify row_number() over (
        partition by {{ dbt_onnx._columns(key) }}{{ ', as_of' if about is none }}
        order by as_of desc nulls last, scored_at desc nulls last, run_id desc nulls last
    ) = 1
),

{{ name }}_asked as (
    select
        {{ dbt_onnx._columns(key, of='moments') }},
        moments.__dbt_onnx_moment,
        coalesce(speaking.model_name, newest.model_name) as model_name,
        coalesce(speaking.model_version, newest.model_version) as model_version
    from moments
    left join {{ name }}_speaking as speaking
        on moments.__dbt_onnx_moment = speaking.__dbt_onnx_moment
    left join {{ name }}_newest as newest
        on {{ dbt_onnx._same_key(key, 'moments', 'newest') }}
        and moments.__dbt_onnx_moment = newest.__dbt_onnx_moment
),

{{ name }}_in_force as (
    select
        {{ dbt_onnx._columns(key, of='asked') }},
        asked.__dbt_onnx_moment,
        statements.as_of,
        statements.__dbt_onnx_value,
        {{ dbt_onnx._text("(statements.model_name || '/' || statements.model_version)") }} as __dbt_onnx_model
    from {{ name }}_asked as asked
    asof join {{ name }}_statements as statements
        on {{ dbt_onnx._same_key(key, 'asked', 'statements') }}
        and asked.model_name = statements.model_name
        and asked.model_version = statements.model_version
        and asked.__dbt_onnx_moment >= statements.as_of
    where statements.status = 'scored'
)
{%- endmacro %}
