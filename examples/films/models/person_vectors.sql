-- the input of the model `person`: a person's ratings, one position for each film, 0 where there is no rating.
-- Person 0 has the average vector of all people, and is used for unknown people.
with people as (
    select distinct user_id from {{ ref('known_ratings') }}
),

cells as (
    select people.user_id, films.place, coalesce(known.rating, 0) as rating
    from people
    cross join {{ ref('film_positions') }} as films
    left join {{ ref('known_ratings') }} as known
        on people.user_id = known.user_id and films.film_id = known.film_id
),

everybody as (
    select 0 as user_id, place, avg(rating) as rating from cells group by place
)

select user_id, list(cast(rating as float) order by place) as ratings
from (select * from cells union all select * from everybody)
group by user_id
