{{ dbt_onnx.prediction_movers(
    ref('churn_predictions'),
    ref('churn_challenger_predictions'),
    key=['customer_id'],
    column='churn_probability',
    about=var('dbt_onnx_clock', none),
) }}
