-- each person's last five ratings are held out from the features and from serving.
-- `held_out` numbers them 1 to 5, oldest first; it is 0 for known ratings.
select
    user_id,
    film_id,
    rating,
    rated_at,
    greatest(
        0, 6 - row_number() over (partition by user_id order by rated_at desc, film_id desc)
    ) as held_out
from {{ source('movielens', 'ratings') }}
