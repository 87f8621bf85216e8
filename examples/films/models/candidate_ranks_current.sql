{{ config(materialized='view') }}
{{ dbt_onnx.current_predictions(
    ref('candidate_ranks'), registry=ref('model_registry'), key=['user_id', 'film_id'], entities=ref('candidate_features'),
) }}
