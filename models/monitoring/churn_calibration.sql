{#- on Spark a table, because the SQL is too long for a view in Derby, the metastore of `make spark` -#}
{{ config(materialized='table' if target.type == 'sparkonnx' else 'view') }}

-- made_at is `as_of`, because the history is played long afterwards: no prediction was scored in time
{% set judged = {
    'key': ['customer_id'],
    'column': 'churn_probability',
    'outcome': 'is_churn',
    'known_at': 'known_at',
    'as_of': 'as_of',
    'made_at': 'as_of',
} -%}

select
    'churn_predictions' as scoring_model,
    *
from ({{ dbt_onnx.prediction_calibration(ref('churn_predictions'), ref('churned_customers'), **judged) }})

union all

select
    'churn_challenger_predictions' as scoring_model,
    *
from ({{ dbt_onnx.prediction_calibration(ref('churn_challenger_predictions'), ref('churned_customers'), **judged) }})
