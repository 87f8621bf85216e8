{#-
    Purpose: the entities that ought to have a prediction are exactly those that have one.

    Arguments: `key`, a list of columns; `entities`, a relation with the key columns; `grace`,
    `{count, period}`, how long a new entity may wait, counted from `entity_since`, a date or timestamp
    column of `entities` (both or neither); `max_missing_fraction` (default 0), of the entities;
    `max_unknown_fraction` (default 0), of the entities that have a prediction: 1 where it is usual that
    entities leave; `registry`: count only predictions that `current_predictions` would serve (default:
    by any version).

    Passes if every entity has a scored prediction, and every scored prediction is of an entity, up to
    the tolerated fractions. An entity exactly as old as `grace` may still wait; one that was rejected
    may not, nor one whose `entity_since` is NULL.
    Fails if an entity has none, because it was never tried (`problem`: `missing`), because it could
    not be scored (`rejected`), because its key is NULL (`null_key`); or if there is a prediction for
    something that is no entity (`no_entity`).

    Returns a row per entity: key, `problem`, `rejected_reason`, `model_version`, `as_of` and
    `scored_at` of the prediction or of the rejection, `waiting_since`, `waiting`.

    Time zone: `dbt_onnx.clock()`, and all columns, are UTC; `entity_since` without a zone is taken as UTC.
-#}
{% test predictions_are_complete(
    model, key, entities, grace=none, entity_since=none, max_missing_fraction=0, max_unknown_fraction=0,
    registry=none
) %}
{%- if execute -%}
{%- set faults = dbt_onnx._faults_of_missing(model, entities, key, registry, entity_since, 'model')
    + dbt_onnx._faults_of_fraction(max_missing_fraction, 'max_missing_fraction')
    + dbt_onnx._faults_of_fraction(max_unknown_fraction, 'max_unknown_fraction')
    + (dbt_onnx._faults_of_period(grace, 'grace') if grace is not none else []) -%}
{%- if (grace is none) != (entity_since is none) -%}
    {%- do faults.append("grace and entity_since go together: since when is an entity waiting, and how long may it") -%}
{%- endif -%}
{%- do dbt_onnx._raise_faults(faults, 'predictions_are_complete', model) -%}

{%- set key = dbt_onnx._key(key) -%}
with {{ dbt_onnx._missing_entities_ctes(dbt_onnx._ledger(model, key), registry, entities, entity_since) }},

missing as (
    select *
    from missing_entities
    {%- if grace is not none %}
    where
        problem <> 'missing'
        or waiting_since is null
        or waiting_since < {{ dbt_onnx.clock() | trim }} - {{ dbt_onnx._interval(grace) }}
    {%- endif %}
),

predicted as (
    select
        {{ dbt_onnx._columns(key) }},
        arg_max(model_version, scored_at) as model_version,
        arg_max(as_of, scored_at) as as_of,
        max(scored_at) as scored_at
    from attempts
    where status = 'scored'
    group by {{ dbt_onnx._columns(key) }}
),

unknown as (
    select predicted.*
    from predicted
    anti join entities on {{ dbt_onnx._same_key(key, 'predicted', 'entities') }}
),

validation_errors as (
    select
        {{ dbt_onnx._columns(key) }},
        problem,
        rejected_reason,
        model_version,
        rejected_as_of as as_of,
        rejected_at as scored_at,
        waiting_since,
        waiting
    from missing
    where (select count(*) from missing) > {{ max_missing_fraction }} * (select count(*) from entities)

    union all by name

    select
        *,
        'no_entity' as problem
    from unknown
    where (select count(*) from unknown) > {{ max_unknown_fraction }} * (select count(*) from predicted)
)

select *
from validation_errors
order by problem asc nulls last, {{ dbt_onnx._ascending(key) }}
{%- endif -%}
{% endtest %}
