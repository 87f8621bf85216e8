{#- on Spark a table, because the SQL is too long for a view in Derby, the metastore of `make spark` -#}
{{ config(materialized='table' if target.type == 'sparkonnx' else 'view') }}

{{ dbt_onnx.prediction_health(
    ref('churn_predictions'),
    registry=ref('model_registry'),
    key=['customer_id'],
    view=ref('churn_current'),
) }}

union all

{{ dbt_onnx.prediction_health(
    ref('spend_predictions'),
    registry=ref('model_registry'),
    key=['customer_id'],
    view=ref('spend_current'),
) }}

union all

{{ dbt_onnx.prediction_health(
    ref('churn_challenger_predictions'),
    registry=ref('model_registry'),
    key=['customer_id'],
    entities=ref('customer_features'),
) }}
