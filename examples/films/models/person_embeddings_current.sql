{{ config(materialized='view') }}
{{ dbt_onnx.current_predictions(
    ref('person_embeddings'), registry=ref('model_registry'), key=['user_id'], entities=ref('person_vectors'),
) }}
