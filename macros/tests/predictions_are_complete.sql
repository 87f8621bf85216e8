{#-
    Purpose: exactly the entities that should have a prediction have one.

    Passes if every entity has a scored prediction, and every scored prediction belongs to an entity.
    Warns if entities have departed (`problem`: `departed`): they are not in `entities`, and the last full run did not
    see them either.
    Fails if an entity has no prediction, because it was never tried (`missing`), because it could not be
    scored (`rejected`), or because its key is NULL (`null_key`); or if the scoring model still scores a key
    that is not in `entities` (`no_entity`).

    Arguments, and the rows that it returns: `test_predictions_are_complete` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.predictions_are_complete:
                arguments: {key: [customer_id], entities: ref('customers'), max_missing_fraction: 0.01}
-#}
{% test predictions_are_complete(
    model, key, entities, grace=none, entity_since=none, max_missing_fraction=0, max_unknown_fraction=none,
    registry=none, tell_departures_for={'count': 7, 'period': 'day'}
) %}
{{ dbt_onnx._fails_on_an_error() }}
{% call dbt_onnx._compiled() -%}
{%- set faults = dbt_onnx._faults_of_missing(
    model, entities, key, registry, entity_since, 'model', also_returned=['severity', 'last_seen_as_of']
)
    + dbt_onnx._faults_of_fraction(max_missing_fraction, 'max_missing_fraction')
    + dbt_onnx._faults_of_optional('fraction', {'max_unknown_fraction': max_unknown_fraction})
    + dbt_onnx._faults_of_optional('period', {'tell_departures_for': tell_departures_for, 'grace': grace}) -%}
{%- if (grace is none) != (entity_since is none) -%}
    {%- do faults.append("grace needs entity_since, and entity_since needs grace") -%}
{%- endif -%}
{%- set ledger = dbt_onnx._ledger_of_test('predictions_are_complete', model, key, faults) -%}
{%- set clock = dbt_onnx.clock() | trim -%}

with {{ dbt_onnx._missing_entities_ctes(ledger, registry, entities, entity_since) }},

unknown as (
    select
        {{ dbt_onnx._columns(key) }},
        case when __dbt_onnx_is_present then 'no_entity' else 'departed' end as problem,
        __dbt_onnx_prediction.scored_at as scored_at,
        __dbt_onnx_prediction.model_version as model_version,
        __dbt_onnx_prediction.as_of as as_of,
        case when not __dbt_onnx_is_present then last_seen_as_of end as last_seen_as_of
    from known_entities
    anti join entities on {{ dbt_onnx._same_key(key, 'known_entities', 'entities') }}
    where __dbt_onnx_prediction is not null
),

{#- for each last_seen_as_of of departed entities, the first full run that did not see them #}
missed as (
    select
        departed.last_seen_as_of,
        min(runs.as_of) as as_of
    from (select distinct last_seen_as_of from unknown) as departed
    inner join runs on departed.last_seen_as_of < runs.as_of
    where runs.status = 'success' and runs.scope = 'full'
    group by departed.last_seen_as_of
),

validation_errors as (
    select
        {{ dbt_onnx._columns(key + ['problem', 'rejected_reason', 'model_version']) }},
        rejected_as_of as as_of,
        rejected_at as scored_at,
        waiting_since,
        waiting,
        'error' as severity
    from missing_entities
    where not coalesce(problem = 'missing' and waiting_since >= {{ clock }} - {{ dbt_onnx._interval(grace) }}, false)
    qualify count(*) over () > {{ max_missing_fraction }} * (select count(*) from entities)

    union all by name
    {% if max_unknown_fraction is not none %}
    select
        *,
        'error' as severity
    from unknown
    qualify count(*) over () > {{ max_unknown_fraction }} * (select count(__dbt_onnx_prediction) from known_entities)
    {%- else %}
    select
        unknown.*,
        case unknown.problem when 'departed' then 'warn' else 'error' end as severity
    from unknown
    left join missed on unknown.last_seen_as_of = missed.last_seen_as_of
    where
        unknown.problem = 'no_entity'
        or coalesce(missed.as_of, {{ clock }}) >= {{ clock }} - {{ dbt_onnx._interval(tell_departures_for) }}
    {%- endif %}
)

{{ dbt_onnx._sorted_findings('severity asc nulls last, problem asc nulls last', key) }}
{%- endcall %}
{% endtest %}
