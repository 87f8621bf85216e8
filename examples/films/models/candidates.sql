-- the published row of a person: 200 films, in the order of the dot product
{{ config(materialized='view') }}
with ranks as (
    select user_id, film_id, next_probability from {{ ref('candidate_ranks_current') }}
)

select
    features.user_id,
    list(features.film_id order by features.place) as films,
    list(features.score order by features.place) as scores,
    list(ranks.next_probability order by features.place) as next_probabilities
from {{ ref('candidate_features') }} as features
inner join ranks on features.user_id = ranks.user_id and features.film_id = ranks.film_id
group by features.user_id
