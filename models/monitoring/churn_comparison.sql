{{ dbt_onnx.compare_predictions(
    ref('churn_predictions'),
    ref('churn_challenger_predictions'),
    key=['customer_id'],
    column='churn_probability',
    threshold=0.5,
) }}
