-- all that training and the nightly build may see
{{ config(materialized='view') }}
select user_id, film_id, rating from {{ ref('ratings') }} where held_out = 0
