-- the only ratings that training of embeddings and the nightly build may use
{{ config(materialized='view') }}
select user_id, film_id, rating from {{ ref('ratings') }} where held_out = 0
