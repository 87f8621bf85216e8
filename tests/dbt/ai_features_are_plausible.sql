{% set least = {
    'max_staleness_minutes': 0,
    'shortest_batch_minutes': 1,
    'entities': 1,
    'cost_per_1k_inferences_usd': 0,
    'inferences_per_day': 0,
    'monthly_budget_usd': 0,
    'model_p99_ms': 1,
    'allowed_p99_ms': 1,
} %}

with

ai_features as (

    select * from {{ ref('ai_features') }}

),

too_small as (

    {% for column_name, minimum in least.items() %}
        select
            feature,
            '{{ column_name }}' as column_name,
            cast({{ column_name }} as varchar) as got,
            '{{ minimum }} or more' as expected
        from ai_features
        where {{ column_name }} < {{ minimum }}
        {% if not loop.last %}union all{% endif %}
    {% endfor %}

),

-- inputs that cannot be enumerated cannot be scored in advance, so both columns must be empty; otherwise both are set
contradictory as (

    {% for column_name in ['entities', 'shortest_batch_minutes'] %}
        select
            feature,
            '{{ column_name }}' as column_name,
            cast({{ column_name }} as varchar) as got,
            case
                when inputs_enumerable then 'a number, as the inputs can be enumerated'
                else 'nothing, as the inputs cannot be enumerated'
            end as expected
        from ai_features
        where inputs_enumerable = ({{ column_name }} is null)
        {% if not loop.last %}union all{% endif %}
    {% endfor %}

),

validation_errors as (

    select * from too_small
    union all
    select * from contradictory

)

select * from validation_errors
