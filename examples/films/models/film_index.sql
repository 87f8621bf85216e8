-- the published row of a film
{{ config(materialized='view') }}
select films.*, current.embedding
from {{ ref('rated_films') }} as films
inner join {{ ref('film_embeddings_current') }} as current on films.film_id = current.film_id
where current.embedding is not null
