-- each person's last five ratings are held out: nothing learns from them, nothing is served from them.
-- They are numbered 1 to 5 in the order of time; 0 is known.
select
    user_id,
    film_id,
    rating,
    rated_at,
    greatest(
        0, 6 - row_number() over (partition by user_id order by rated_at desc, film_id desc)
    ) as held_out
from {{ source('movielens', 'ratings') }}
