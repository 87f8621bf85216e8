-- Computes every feature that counts or sums again from the purchases, by dates instead of customer weeks. Proves that
-- the features contain no purchase from after the clock's day, and miss none up to that day.
with

customer_features as (

    select * from {{ ref('customer_features') }}

),

known_purchases as (

    select *
    from {{ ref('purchases') }}
    where purchased_on <= cast({{ dbt_onnx.clock() }} as date)

),

first_purchases as (

    select
        customer_id,
        min(purchased_on) as first_purchased_on
    from known_purchases
    group by customer_id

),

customer_weeks as (

    select
        customer_id,
        first_purchased_on,
        {{ dbt.datediff('first_purchased_on', 'cast(' ~ dbt_onnx.clock() ~ ' as date)', 'day') }} / 7 as weeks  -- noqa: LT05
    from first_purchases

),

windows as (

    select
        customer_id,
        -- the first day of the 13th customer week, counted back from the current one
        cast({{ dbt.dateadd('day', '7 * (cast(floor(weeks) as integer) - 12)', 'first_purchased_on') }} as date)
            as window_from
    from customer_weeks

),

expected as (

    select
        known_purchases.customer_id,
        count(*) as frequency,
        sum(known_purchases.dollars) as monetary,
        max(known_purchases.dollars) as largest_purchase,
        sum(known_purchases.cds) as cds,
        sum(
            case when known_purchases.purchased_on >= windows.window_from then 1 else 0 end
        ) as purchases_13w,
        sum(
            case when known_purchases.purchased_on >= windows.window_from then known_purchases.dollars else 0 end
        ) as dollars_13w,
        sum(
            case when known_purchases.purchased_on >= windows.window_from then known_purchases.cds else 0 end
        ) as cds_13w
    from known_purchases
    inner join windows on known_purchases.customer_id = windows.customer_id
    group by known_purchases.customer_id

),

validation_errors as (

    select
        coalesce(customer_features.customer_id, expected.customer_id) as customer_id,
        customer_features.feature_date,
        customer_features.frequency,
        expected.frequency as expected_frequency,
        customer_features.monetary,
        expected.monetary as expected_monetary,
        customer_features.purchases_13w,
        expected.purchases_13w as expected_purchases_13w
    from customer_features
    full outer join expected on customer_features.customer_id = expected.customer_id
    where
        customer_features.feature_date is distinct from cast({{ dbt_onnx.clock() }} as date)
        or customer_features.frequency is distinct from expected.frequency
        or customer_features.monetary is distinct from expected.monetary
        or customer_features.largest_purchase is distinct from expected.largest_purchase
        or customer_features.cds is distinct from expected.cds
        or customer_features.purchases_13w is distinct from expected.purchases_13w
        or customer_features.dollars_13w is distinct from expected.dollars_13w
        or customer_features.cds_13w is distinct from expected.cds_13w

)

select * from validation_errors
