{#- What `prediction_outcomes` and `prediction_calibration` have in common: arguments, and what is judged. -#}

{#- The ledger to judge, or an error that names every wrong argument of `macro`. -#}
{% macro _judged(
    macro, predictions, outcomes, key, column, outcome, known_at, as_of, task, made_at, version, faults=none
) -%}
    {%- set faults = (faults or [])
        + dbt_onnx._faults_of_predictions(predictions, 'predictions')
        + dbt_onnx._faults_of_relation(outcomes, 'outcomes')
        + dbt_onnx._faults_of_key(key)
        + dbt_onnx._faults_of_text(column, 'column', "an output column, such as 'churn_probability'")
        + dbt_onnx._faults_of_text(outcome, 'outcome', "a column of outcomes, such as 'churned'")
        + dbt_onnx._faults_of_text(known_at, 'known_at', "a date or timestamp column of outcomes")
        + (dbt_onnx._faults_of_text(as_of, 'as_of', "a date or timestamp column of outcomes")
            if as_of is not none else [])
        + (dbt_onnx._faults_of_text(version, 'version', "a version as text, such as '2'")
            if version is not none else []) -%}
    {%- if task not in ['classification', 'regression'] -%}
        {%- do faults.append("task is '" ~ task ~ "'; it takes classification or regression") -%}
    {%- endif -%}
    {%- if made_at not in ['scored_at', 'as_of'] -%}
        {%- do faults.append("made_at is '" ~ made_at ~ "'; it takes scored_at, when the model really said so,"
            ~ " or as_of, to judge a history that was scored afterwards") -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, macro, predictions) -%}

    {%- set key = dbt_onnx._key(key) -%}
    {%- set speaker = dbt_onnx._speaker('predictions', predictions, column, version) -%}
    {%- set columns = dbt_onnx._columns_in(outcomes) -%}
    {%- set moments = {'known_at': known_at, 'as_of': as_of} -%}
    {%- set faults = dbt_onnx._faults_of_speaker(speaker, key, true)
        + dbt_onnx._faults_of_columns(key, columns, outcomes, 'key')
        + dbt_onnx._faults_of_columns([outcome], columns, outcomes, 'outcome') -%}
    {%- if not dbt_onnx._holds_numbers(outcome, columns)
        and not (task == 'classification' and dbt_onnx._is_of_type(outcome, columns, 'BOOLEAN')) -%}
        {%- do faults.append("outcome '" ~ outcome ~ "' is " ~ dbt_onnx._type_of(outcome, columns) ~ "; for a "
            ~ task ~ " it takes " ~ ("booleans, or 0 and 1" if task == 'classification' else "numbers")) -%}
    {%- endif -%}
    {%- for argument, name in moments.items() if name is not none -%}
        {%- do faults.extend(dbt_onnx._faults_of_columns([name], columns, outcomes, argument)) -%}
        {%- if not dbt_onnx._is_of_type(name, columns, 'DATE|TIMESTAMP.*') -%}
            {%- do faults.append(argument ~ " column '" ~ name ~ "' is " ~ dbt_onnx._type_of(name, columns)
                ~ "; it takes a DATE or a TIMESTAMP") -%}
        {%- endif -%}
    {%- endfor -%}
    {%- do dbt_onnx._raise_faults(faults, macro, predictions) -%}
    {{ return(speaker) }}
{%- endmacro %}


{#-
    The CTEs up to `judged`: a row per outcome that is known by the clock and has a prediction that was
    made before, with `model_name`, `model_version`, `month`, `__dbt_onnx_value` and
    `__dbt_onnx_outcome`, both doubles.

    An outcome belongs to the prediction in force at its moment: the newest up to then by the version
    that ran last up to then, full runs before backfills. Rows and runs that were made when the outcome
    was known are out before the newest is chosen: a later correction hides no earlier statement.
-#}
{% macro _judged_predictions_ctes(speaker, outcomes, key, outcome, known_at, as_of, task, made_at) -%}
{%- set columns = dbt_onnx._columns(key) -%}
with {{ dbt_onnx._said_ctes(speaker, key) }},

given_outcomes as (
    select
        {{ columns }},
        {{ dbt_onnx._utc(dbt_onnx._identifier(as_of or known_at)) }} as __dbt_onnx_moment,
        {{ dbt_onnx._utc(dbt_onnx._identifier(known_at)) }} as __dbt_onnx_known_at,
        {{ dbt_onnx._number(dbt_onnx._identifier(outcome)) }} as __dbt_onnx_given
    from {{ dbt_onnx._given(outcomes) }} as outcomes
    where
        {{ dbt_onnx._not_null(key) }}
        and __dbt_onnx_given is not null
        and __dbt_onnx_moment is not null
        and __dbt_onnx_known_at <= {{ dbt_onnx.clock() | trim }}
),

counted_outcomes as (
    select
        *,
        count(*) over (partition by {{ columns }}, __dbt_onnx_moment) as __dbt_onnx_occurrences
    from given_outcomes
),

known_outcomes as (
    select
        {{ columns }},
        __dbt_onnx_moment,
        __dbt_onnx_known_at,
        case
            when __dbt_onnx_occurrences > 1
                then error({{ dbt_onnx._literal(
                    outcomes | string ~ ' has several outcomes for the same key and '
                    ~ (as_of or known_at) ~ '; it takes one. The key is '
                ) }} || cast(({{ columns }}) as varchar))
            {%- if task == 'classification' %}
            when __dbt_onnx_given not in (0, 1)
                then error({{ dbt_onnx._literal(
                    "column '" ~ outcome ~ "' of " ~ outcomes ~ ' takes 0 and 1 for a classification; it has '
                ) }} || cast(__dbt_onnx_given as varchar))
            {%- endif %}
            else __dbt_onnx_given
        end as __dbt_onnx_outcome
    from counted_outcomes
),

moments as (
    select distinct
        __dbt_onnx_moment,
        __dbt_onnx_known_at
    from known_outcomes
    {%- if speaker['version'] is not none and speaker['has_runs'] %}
    -- a version alone is judged as far as it ran
    where __dbt_onnx_moment <= coalesce((select max(as_of) from {{ speaker['name'] }}_runs), __dbt_onnx_moment)
    {%- endif %}
),

speaking as (
    select
        moments.__dbt_onnx_moment,
        moments.__dbt_onnx_known_at,
        arg_max(
            struct_pack(model_name := runs.model_name, model_version := runs.model_version),
            struct_pack(a := runs.is_full, b := runs.as_of, c := runs.started_at, d := runs.run_id)
        ) as __dbt_onnx_speaker
    from moments
    left join {{ speaker['name'] }}_runs as runs
        on moments.__dbt_onnx_moment >= runs.as_of
        and moments.__dbt_onnx_known_at > runs.as_of
        {%- if made_at == 'scored_at' %}
        and moments.__dbt_onnx_known_at > runs.started_at
        {%- endif %}
    group by moments.__dbt_onnx_moment, moments.__dbt_onnx_known_at
),

predicted as (
    select
        {{ dbt_onnx._columns(key, of='known_outcomes') }},
        known_outcomes.__dbt_onnx_moment,
        any_value(known_outcomes.__dbt_onnx_outcome) as __dbt_onnx_outcome,
        arg_max(
            struct_pack(
                model_name := said.model_name,
                model_version := said.model_version,
                as_of := said.as_of,
                output := said.__dbt_onnx_value
            ),
            struct_pack(a := said.as_of, b := said.scored_at, c := said.run_id)
        ) as __dbt_onnx_said
    from known_outcomes
    inner join speaking
        on known_outcomes.__dbt_onnx_moment = speaking.__dbt_onnx_moment
        and known_outcomes.__dbt_onnx_known_at = speaking.__dbt_onnx_known_at
    inner join {{ speaker['name'] }}_said as said
        on {{ dbt_onnx._same_key(key, 'known_outcomes', 'said') }}
        and said.model_name = coalesce(speaking.__dbt_onnx_speaker.model_name, said.model_name)
        and said.model_version = coalesce(speaking.__dbt_onnx_speaker.model_version, said.model_version)
        and known_outcomes.__dbt_onnx_moment >= said.as_of
        and known_outcomes.__dbt_onnx_known_at > said.as_of
        {%- if made_at == 'scored_at' %}
        and known_outcomes.__dbt_onnx_known_at > said.scored_at
        {%- endif %}
    where said.status = 'scored'
    group by {{ dbt_onnx._columns(key, of='known_outcomes') }}, known_outcomes.__dbt_onnx_moment
),

judged as (
    select
        {{ dbt_onnx._text('__dbt_onnx_said.model_name') }} as model_name,
        {{ dbt_onnx._text('__dbt_onnx_said.model_version') }} as model_version,
        cast(date_trunc('month', {{ '__dbt_onnx_moment' if as_of is not none else '__dbt_onnx_said.as_of' }}) as date)
            as month,
        __dbt_onnx_said.output as __dbt_onnx_value,
        __dbt_onnx_outcome
    from predicted
)
{%- endmacro %}
