{{ config(materialized='table') }}

{# inputs that cannot be enumerated: real time if the model is faster than this, otherwise asynchronous #}
{% set waiting_limit_ms = 500 %}
{% set days_per_month = 30 %}

with

ai_features as (

    select * from {{ ref('ai_features') }}

),

priced as (

    -- rounded to the cent, so that the last digits of a floating-point product cannot decide
    select
        *,
        cast(
            inferences_per_day * cost_per_1k_inferences_usd / 1000 * {{ days_per_month }} as decimal(18, 2)
        ) as real_time_usd_per_month
    from ai_features

),

judged as (

    select
        *,
        max_staleness_minutes < shortest_batch_minutes as is_stale_in_batch,
        model_p99_ms > allowed_p99_ms as is_too_slow,
        real_time_usd_per_month > monthly_budget_usd as is_too_dear
    from priced

),

-- the first rule that applies decides
ruled as (

    select
        *,
        case
            when not inputs_enumerable then 'unbounded_input'
            when is_stale_in_batch then 'staleness'
            when is_too_slow or is_too_dear then 'too_slow_or_too_dear'
            else 'until_scale'
        end as deciding_rule
    from judged

),

decided as (

    select
        *,
        case
            when deciding_rule = 'too_slow_or_too_dear' then 'batch'
            when deciding_rule = 'unbounded_input' and model_p99_ms >= {{ waiting_limit_ms }} then 'asynchronous'
            else 'real_time'
        end as pattern
    from ruled

),

-- batches run as rarely as the decision allows; the cost is an upper bound, because it assumes that each batch scores
-- every entity
scheduled as (

    select
        *,
        case when pattern = 'batch' then max_staleness_minutes end as batch_every_minutes,
        case
            when pattern = 'batch'
                then cast(
                    entities * cost_per_1k_inferences_usd / 1000
                    * {{ days_per_month }} * 1440 / max_staleness_minutes as decimal(18, 2)
                )
        end as batch_usd_per_month
    from decided

),

worded as (

    select
        *,
        format('an answer takes {:,} ms at p99, {:,} ms are allowed', model_p99_ms, allowed_p99_ms) as speed,
        format(
            '{:,} inferences a day cost {:,.2f} USD a month, {:,.2f} USD are allowed',
            inferences_per_day, real_time_usd_per_month, monthly_budget_usd
        ) as price,
        -- the volume at which the budget is used up; NULL (no limit) if inferences cost nothing
        cast(
            floor(
                round(monthly_budget_usd * 1000 / {{ days_per_month }} / nullif(cost_per_1k_inferences_usd, 0), 6)
            ) as bigint
        ) as affordable_inferences_per_day
    from scheduled

)

select
    feature,
    pattern,
    deciding_rule,
    case
        when pattern = 'asynchronous'
            then format(
                'inputs cannot be listed beforehand; the model takes {:,} ms at p99, {{ waiting_limit_ms }} ms or more',
                model_p99_ms
            )
        when deciding_rule = 'unbounded_input'
            then format(
                'inputs cannot be listed beforehand; the model takes {:,} ms at p99, under {{ waiting_limit_ms }} ms',
                model_p99_ms
            )
        when deciding_rule = 'staleness'
            then format(
                'a prediction older than {:,} min worsens the decision; a batch replaces it every {:,} min at best',
                max_staleness_minutes, shortest_batch_minutes
            )
        when deciding_rule = 'too_slow_or_too_dear'
            then concat_ws('; ', case when is_too_slow then speed end, case when is_too_dear then price end)
        else concat_ws('; ', speed, price, coalesce(
            format('real time until about {:,} inferences a day', affordable_inferences_per_day),
            'real time at any volume'
        ))
    end as reason,
    case
        when pattern = 'real_time' and precomputable_part is not null
            then format('batch precomputes {}, real time combines it with the request', precomputable_part)
    end as hybrid,
    batch_every_minutes,
    batch_usd_per_month,
    real_time_usd_per_month,
    -- the decided pattern may exceed an allowed value; the rules win, and this column reports it
    nullif(concat_ws(
        '; ',
        case when pattern <> 'batch' and is_too_slow then speed end,
        case when pattern <> 'batch' and is_too_dear then price end,
        case when pattern <> 'batch' and when_down = 'blocks' then 'blocks when the model is down: add a fallback' end,
        case
            when batch_usd_per_month > monthly_budget_usd
                then format(
                    'the batch costs {:,.2f} USD a month, {:,.2f} USD are allowed: score only changed rows',
                    batch_usd_per_month, monthly_budget_usd
                )
        end
    ), '') as caution
from worded
