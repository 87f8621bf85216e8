{{ config(materialized='view') }}
{{ dbt_onnx.current_predictions(
    ref('film_embeddings'), registry=ref('model_registry'), key=['film_id'], entities=ref('film_vectors'),
) }}
