-- for each person the 200 films with the largest dot product of the two embeddings, without films that the person
-- has rated, and the reranker's features. Features that need a session are 0 here: the nightly build has no session.
with people as (
    select user_id, cast(embedding as double[]) as embedding
    from {{ ref('person_embeddings_current') }}
    where embedding is not null
),

films as (
    select films.film_id, films.ratings, cast(current.embedding as double[]) as embedding
    from {{ ref('film_embeddings_current') }} as current
    inner join {{ ref('rated_films') }} as films on current.film_id = films.film_id
    where current.embedding is not null
),

scored as (
    select
        people.user_id,
        films.film_id,
        films.ratings,
        list_dot_product(people.embedding, films.embedding) as score
    from people
    cross join films
    anti join {{ ref('known_ratings') }} as known
        on people.user_id = known.user_id and films.film_id = known.film_id
),

ranked as (
    select *, row_number() over (partition by user_id order by score desc, film_id asc) as place
    from scored
    qualify place <= 200
)

select
    user_id,
    film_id,
    place,
    score,
    ln(place) as log_place,
    ln(1 + ratings) as log_ratings,
    cast(0 as double) as similarity,
    cast(0 as double) as genre_overlap,
    cast(0 as double) as log_years
from ranked
