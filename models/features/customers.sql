with

purchases as (

    select * from {{ ref('purchases') }}

),

first_purchases as (

    select
        customer_id,
        min(purchased_on) as first_purchased_on,
        min_by(cds, purchase_id) as first_cds
    from purchases
    where purchased_on <= cast({{ dbt_onnx.clock() }} as date)
    group by customer_id

)

select
    customer_id,
    first_purchased_on,
    substr(cast(first_purchased_on as string), 1, 7) as first_month,
    first_cds
from first_purchases
