{{ config(materialized='table') }}

with

predictions as (

    select
        customer_id,
        as_of
    from {{ ref('churn_predictions') }}
    where status = 'scored'

    union

    select
        customer_id,
        as_of
    from {{ ref('churn_challenger_predictions') }}
    where status = 'scored'

),

purchases as (

    select * from {{ ref('purchases') }}

),

-- the models predict the next 90 days
horizons as (

    select
        customer_id,
        as_of,
        as_of + interval '90' day as known_at
    from predictions
    where as_of + interval '90' day <= {{ dbt_onnx.clock() }}

)

select
    horizons.customer_id,
    horizons.as_of,
    horizons.known_at,
    count(purchases.customer_id) = 0 as is_churn
from horizons
left join purchases
    on
        horizons.customer_id = purchases.customer_id
        and horizons.as_of < purchases.purchased_on
        and horizons.known_at >= purchases.purchased_on
group by horizons.customer_id, horizons.as_of, horizons.known_at
