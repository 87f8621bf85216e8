{{ dbt_onnx.current_predictions(
    ref('spend_predictions'),
    registry=ref('model_registry'),
    key=['customer_id'],
    entities=ref('customer_features'),
) }}
