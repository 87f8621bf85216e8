{{ config(materialized='table') }}

with

purchases as (

    select * from {{ ref('purchases') }}

),

clock as (

    select cast({{ dbt_onnx.clock() }} as date) as feature_date

),

-- the only place that reads purchases, so no later purchase can get into the features
known_purchases as (

    select
        purchases.customer_id,
        purchases.purchased_on,
        purchases.cds,
        purchases.dollars,
        clock.feature_date,
        min(purchases.purchased_on) over (partition by purchases.customer_id) as first_purchased_on
    from purchases
    inner join clock on purchases.purchased_on <= clock.feature_date

),

-- time in whole weeks since the customer's first purchase: the features that depend on the calendar change on
-- one day in seven, so a nightly run scores only a seventh of the customers and those who bought
customer_weeks as (

    select
        customer_id,
        feature_date,
        cds,
        dollars,
        floor({{ dbt.datediff('first_purchased_on', 'purchased_on', 'day') }} / 7) as purchase_week,  -- noqa: LT05
        floor({{ dbt.datediff('first_purchased_on', 'feature_date', 'day') }} / 7) as current_week  -- noqa: LT05
    from known_purchases

),

summed as (

    select
        customer_id,
        feature_date,
        current_week as tenure_weeks,
        current_week - max(purchase_week) as recency_weeks,
        count(*) as frequency,
        count(distinct purchase_week) as active_weeks,
        sum(cds) as cds,
        sum(dollars) as monetary,
        max(dollars) as largest_purchase,
        count(*) filter (where purchase_week > current_week - 13) as purchases_13w,
        coalesce(sum(cds) filter (where purchase_week > current_week - 13), 0) as cds_13w,
        coalesce(sum(dollars) filter (where purchase_week > current_week - 13), 0) as dollars_13w
    from customer_weeks
    group by customer_id, feature_date, current_week

)

-- Amounts stay decimal, because a floating-point sum depends on the order of rows and would change the features hash.
-- The average is divided in whole numbers with half a cent rounded up, because versions of DuckDB round half a cent
-- of a DOUBLE quotient differently.
select
    customer_id,
    feature_date,
    cast(recency_weeks as integer) as recency_weeks,
    cast(tenure_weeks as integer) as tenure_weeks,
    cast(frequency as integer) as frequency,
    cast(active_weeks as integer) as active_weeks,
    cast(monetary as decimal(12, 2)) as monetary,
    cast(
        0.01 * cast(floor((cast(200 * monetary as bigint) + frequency) / (2 * frequency)) as bigint) as decimal(12, 2)
    ) as average_purchase,
    cast(largest_purchase as decimal(12, 2)) as largest_purchase,
    cast(cds as integer) as cds,
    cast(purchases_13w as integer) as purchases_13w,
    cast(dollars_13w as decimal(12, 2)) as dollars_13w,
    cast(cds_13w as integer) as cds_13w
from summed
order by customer_id
