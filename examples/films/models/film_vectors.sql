-- the input of the model `film`: a film's ratings, one position for each person, 0 where there is no rating
select films.film_id, list(cast(coalesce(known.rating, 0) as float) order by people.place) as ratings
from {{ ref('rated_films') }} as films
cross join {{ ref('person_positions') }} as people
left join {{ ref('known_ratings') }} as known
    on films.film_id = known.film_id and people.user_id = known.user_id
group by films.film_id
