-- the films with at least three known ratings; `genres` has a 1 or a 0 for each genre
with popularity as (
    select film_id, count(*) as ratings
    from {{ ref('known_ratings') }}
    group by film_id
    having count(*) >= 3
),

described as (
    select * replace (coalesce(year, median(year) over ()) as year)
    from {{ source('movielens', 'films') }}
),

genres as (
    select list(distinct genre order by genre) as names
    from (select unnest(string_split(genres, '|')) as genre from {{ source('movielens', 'films') }})
)

select
    described.film_id,
    described.title,
    described.year,
    popularity.ratings,
    list_transform(
        genres.names, lambda genre: cast(list_contains(string_split(described.genres, '|'), genre) as float)
    ) as genres
from described
inner join popularity on described.film_id = popularity.film_id
cross join genres
