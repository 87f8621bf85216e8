{#- on Spark a table: its text is longer than the metastore of `make spark`, which is Derby, lets a view's be -#}
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
