{#-
    Purpose: the entities that ought to have a prediction are exactly those that have one.

    Arguments: `key`, a list of columns; `entities`, a relation with the key columns; `grace`,
    `{count, period}`, how long a new entity may wait, counted from `entity_since`, a date or timestamp
    column of `entities` (both or neither); `max_missing_fraction` (default 0), of the entities;
    `tell_departures_for`, `{count, period}` (default 7 days, none for never): how long it is told that an
    entity has left; `max_unknown_fraction`, of the entities that have a prediction: with it, more
    predictions without an entity than that are an error, whether those have left or not, and up to that
    many are passed over; `registry`: count only predictions that `current_predictions` would serve
    (default: by any version).

    Passes if every entity has a scored prediction, and every scored prediction is of an entity, up to
    the tolerated fractions. An entity exactly as old as `grace` may still wait; one that was rejected
    may not, nor one whose `entity_since` is NULL.
    Warns if entities have left (`problem`: `departed`): they are none of `entities`, and the last full run no
    longer saw them either. It is told from the first full run without them on.
    Fails if an entity has no prediction, because it was never tried (`missing`), because it could
    not be scored (`rejected`), because its key is NULL (`null_key`); or if the scoring model still scores
    something that is no entity (`no_entity`).

    Returns a row per entity: key, `problem`, `rejected_reason`, `model_version`, `as_of` and
    `scored_at` of the prediction or of the rejection, `last_seen_as_of`, of the last full run that saw who
    has left, `waiting_since`, `waiting`, `severity`.

    Time zone: `dbt_onnx.clock()`, and all columns, are UTC; `entity_since` without a zone is taken as UTC.

    Example:
        data_tests:
            - dbt_onnx.predictions_are_complete:
                arguments:
                    key: [customer_id]
                    entities: ref('customers')
                    grace: {count: 1, period: day}
                    entity_since: signed_up_at
-#}
{% test predictions_are_complete(
    model, key, entities, grace=none, entity_since=none, max_missing_fraction=0, max_unknown_fraction=none,
    registry=none, tell_departures_for={'count': 7, 'period': 'day'}
) %}
{{ dbt_onnx._fails_on_an_error() }}
{%- if execute -%}
{%- set faults = dbt_onnx._faults_of_missing(
    model, entities, key, registry, entity_since, 'model', also_returned=['severity', 'last_seen_as_of']
)
    + dbt_onnx._faults_of_fraction(max_missing_fraction, 'max_missing_fraction')
    + dbt_onnx._faults_of_given('fraction', {'max_unknown_fraction': max_unknown_fraction})
    + dbt_onnx._faults_of_given('period', {'tell_departures_for': tell_departures_for, 'grace': grace}) -%}
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

presence as (
    select
        {{ dbt_onnx._columns(key, of='latest') }},
        coalesce(bool_or(served_versions.tells_presence and latest.last_seen_as_of is null), false) as is_present,
        max(coalesce(latest.last_seen_as_of, served_versions.confirmed_as_of, latest.as_of)) as last_seen_as_of
    from latest
    left join served_versions
        on latest.model_name = served_versions.model_name
        and latest.model_version = served_versions.model_version
    group by {{ dbt_onnx._columns(key, of='latest') }}
),

unknown as (
    select
        predicted.*,
        case when presence.is_present then 'no_entity' else 'departed' end as problem,
        case when not presence.is_present then presence.last_seen_as_of end as last_seen_as_of
    from predicted
    inner join presence on {{ dbt_onnx._same_key(key, 'predicted', 'presence') }}
    anti join entities on {{ dbt_onnx._same_key(key, 'predicted', 'entities') }}
),

missed as (
    select distinct as_of
    from runs
    where status = 'success' and scope = 'full'
),

told as (
    select
        {{ dbt_onnx._columns(key, of='unknown') }},
        unknown.problem,
        unknown.model_version,
        unknown.as_of,
        unknown.scored_at,
        unknown.last_seen_as_of,
        {%- if max_unknown_fraction is not none %}
        'error' as severity
    from unknown
    where (select count(*) from unknown) > {{ max_unknown_fraction }} * (select count(*) from predicted)
        {%- else %}
        case unknown.problem when 'departed' then 'warn' else 'error' end as severity
    from unknown
    {#- the first full run without them #}
    asof left join missed on unknown.last_seen_as_of < missed.as_of
    where
        unknown.problem = 'no_entity'
        {%- if tell_departures_for is not none %}
        or coalesce(missed.as_of, {{ dbt_onnx.clock() | trim }})
            >= {{ dbt_onnx.clock() | trim }} - {{ dbt_onnx._interval(tell_departures_for) }}
        {%- endif %}
        {%- endif %}
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
        waiting,
        'error' as severity
    from missing
    where (select count(*) from missing) > {{ max_missing_fraction }} * (select count(*) from entities)

    union all by name

    select * from told
)

select *
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by severity asc nulls last, problem asc nulls last, {{ dbt_onnx._ascending(key) }}
{%- endif -%}
{% endtest %}
