{{ dbt_onnx.current_predictions(
    ref('churn_predictions'),
    registry=ref('model_registry'),
    key=['customer_id'],
    entities=ref('customers'),
    stale_after={'count': 7, 'period': 'day'},
    fallback={
        'allow_stale': {'count': 14, 'period': 'day'},
        'segment': ['first_month', 'first_cds'],
        'constant': {'churn_probability': 0.78, 'is_churn': 1},
    },
) }}
