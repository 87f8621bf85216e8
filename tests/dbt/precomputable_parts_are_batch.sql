with

ai_features as (

    select * from {{ ref('ai_features') }}

),

serving_decisions as (

    select * from {{ ref('serving_decisions') }}

),

validation_errors as (

    select
        ai_features.feature,
        ai_features.precomputable_part,
        serving_decisions.pattern as pattern_of_the_part,
        serving_decisions.reason
    from ai_features
    inner join serving_decisions on ai_features.precomputable_part = serving_decisions.feature
    where serving_decisions.pattern <> 'batch'

)

select * from validation_errors
