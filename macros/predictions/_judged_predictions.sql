{#- Shared by `prediction_outcomes` and `prediction_calibration`: argument checks, and the predictions to judge. -#}

{#- Returns the `_history` of the ledger to judge. Raises one error that names every wrong argument of `macro`. -#}
{% macro _checked_history(
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
        + dbt_onnx._faults_of_optional('version', {'version': version}) -%}
    {%- if task not in ['classification', 'regression'] -%}
        {%- do faults.append("task is '" ~ task ~ "'; it takes classification or regression") -%}
    {%- endif -%}
    {%- if made_at not in ['scored_at', 'as_of'] -%}
        {%- do faults.append("made_at is '" ~ made_at ~ "'; it takes scored_at (real time of scoring) or as_of"
            ~ " (for a history that was scored afterwards)") -%}
    {%- endif -%}
    {%- do dbt_onnx._raise_faults(faults, macro, predictions) -%}

    {%- set history = dbt_onnx._history('predictions', predictions, column, version) -%}
    {%- set columns = dbt_onnx._columns_in(outcomes) -%}
    {%- set faults = dbt_onnx._faults_of_history(history, key, true)
        + dbt_onnx._faults_of_columns(key, columns, outcomes, 'key')
        + dbt_onnx._faults_of_columns([outcome], columns, outcomes, 'outcome') -%}
    {%- if not dbt_onnx._holds_numbers(outcome, columns)
        and not (task == 'classification' and dbt_onnx._is_of_kind(outcome, columns, ['boolean'])) -%}
        {%- do faults.append("outcome '" ~ outcome ~ "' is " ~ dbt_onnx._type_of(outcome, columns) ~ "; for a "
            ~ task ~ " it takes " ~ ("booleans, or 0 and 1" if task == 'classification' else "numbers")) -%}
    {%- endif -%}
    {%- for argument, name in {'known_at': known_at, 'as_of': as_of}.items() if name is not none -%}
        {%- do faults.extend(dbt_onnx._faults_of_columns([name], columns, outcomes, argument)) -%}
        {%- if not dbt_onnx._is_of_kind(name, columns, ['moment']) -%}
            {%- do faults.append(argument ~ " column '" ~ name ~ "' is " ~ dbt_onnx._type_of(name, columns)
                ~ "; it takes a DATE or a TIMESTAMP") -%}
        {%- endif -%}
    {%- endfor -%}
    {%- do dbt_onnx._raise_faults(faults, macro, predictions) -%}
    {{ return(history) }}
{%- endmacro %}


{#-
    The CTEs up to `judged`: one row per outcome that is known by the clock and has a prediction made before it was
    known, with `model_name`, `model_version`, `month`, `__dbt_onnx_value` and `__dbt_onnx_outcome` (both doubles).

    An outcome is matched with the prediction that was in force at its moment, among the predictions made before the
    outcome was known. So a later correction does not hide the earlier prediction.
-#}
{% macro _judged_predictions_ctes(history, outcomes, key, outcome, known_at, as_of, task, made_at) -%}
{%- set columns = dbt_onnx._columns(key) -%}
with {{ dbt_onnx._history_ctes(history, key) }},

given_outcomes as (
    select
        {{ columns }},
        {{ dbt_onnx._utc(dbt_onnx._identifier(as_of or known_at)) }} as __dbt_onnx_moment,
        {{ dbt_onnx._utc(dbt_onnx._identifier(known_at)) }} as __dbt_onnx_known_at,
        {{ dbt_onnx._number(dbt_onnx._identifier(outcome)) }} as __dbt_onnx_given
    from {{ dbt_onnx._user_relation(outcomes) }} as outcomes
    where
        {{ dbt_onnx._not_null(key) }}
        and __dbt_onnx_given is not null
        and __dbt_onnx_moment is not null
        and __dbt_onnx_known_at <= {{ dbt_onnx.clock() | trim }}
),

moments as (
    select
        {{ columns }},
        __dbt_onnx_moment,
        __dbt_onnx_known_at,
        case
            when count(*) over (partition by {{ columns }}, __dbt_onnx_moment) > 1
                then error({{ dbt_onnx._literal(
                    outcomes | string ~ ' has more than one outcome for the same key and '
                    ~ (as_of or known_at) ~ '. The key is '
                ) }} || cast(({{ columns }}) as varchar))
            {%- if task == 'classification' %}
            when __dbt_onnx_given not in (0, 1)
                then error({{ dbt_onnx._literal(
                    "column '" ~ outcome ~ "' of " ~ outcomes ~ ' takes 0 and 1 for a classification; it has '
                ) }} || cast(__dbt_onnx_given as varchar))
            {%- endif %}
            else __dbt_onnx_given
        end as __dbt_onnx_outcome
    from given_outcomes
),

{{ dbt_onnx._in_force_ctes('predictions', key, made_at=made_at) }},

judged as (
    select
        {{ dbt_onnx._text('model_name') }} as model_name,
        {{ dbt_onnx._text('model_version') }} as model_version,
        cast(date_trunc('month', {{ '__dbt_onnx_moment' if as_of is not none else 'as_of' }}) as date) as month,
        __dbt_onnx_value,
        __dbt_onnx_outcome
    from predictions_in_force
    {%- if history['version'] is not none %}
    -- a version that is judged alone is judged only up to its last run
    where __dbt_onnx_moment <= coalesce((select max(as_of) from predictions_runs), __dbt_onnx_moment)
    {%- endif %}
)
{%- endmacro %}
