{#-
    Compares the predictions of two scoring models, or of two versions in one ledger. Returns one row per pair of
    versions that were in force at the same time, and one row per version for its predictions without a counterpart.

    Pairs: by default, predictions with the same key and `as_of`, over all of history. If only one ledger has a row
    about a moment, because the features that the other model reads did not change, the other ledger's previous
    prediction is used, provided that one of its runs looked at exactly that moment. Otherwise the prediction has no
    counterpart. This needs moments that both ledgers share: an `as_of` column in `score()`, not the time of each run.
    With `about`, each key counts once, with the predictions that were in force at that moment, however old.
    If a ledger has several rows for a key and moment, the one scored last counts; after a promotion or a rollback,
    the version that ran last. Rejected rows and NULL, NaN or infinite outputs do not count as predictions.

    Columns: `champion` and `challenger` (`churn/2`; NULL if that side has no prediction); `first_moment` and
    `last_moment` of the rows; `paired_rows`, `only_in_champion`, `only_in_challenger`; `agreement`, the share of pairs
    with equal values; `mean_difference` (challenger minus champion), `mean_absolute_difference`; `rank_correlation`
    (Spearman's, ties at their average rank; NULL if one side is constant); `changed_decisions`, the share of pairs in
    which exactly one value is at or above `threshold`. If the column is not numeric, `agreement` is the only statistic.

    Arguments: `compare_predictions` in macros/_macros.yml. Example:
        {{ dbt_onnx.compare_predictions(
            ref('churn_predictions'), ref('churn_challenger_predictions'), key=['customer_id'], column='churn_probability',
            threshold=0.5
        ) }}
-#}
{% macro compare_predictions(
    champion, challenger, key, column, threshold=none, about=none, champion_version=none, challenger_version=none
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('compare_predictions', 'dbt_onnx')(
        champion, challenger, key, column, threshold, about, champion_version, challenger_version
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__compare_predictions(
    champion, challenger, key, column, threshold, about, champion_version, challenger_version
) -%}
{%- set is_valid = threshold is none or threshold is number and threshold is not boolean -%}
{%- set faults = [] if is_valid else ["threshold is '" ~ threshold ~ "'; it takes a number"] -%}
{%- set histories = dbt_onnx._checked_histories(
    'compare_predictions', champion, challenger, key, column, about, champion_version, challenger_version,
    also_taken=['champion_rank', 'challenger_rank'], numbers_only=threshold is not none, faults=faults,
) -%}
{%- set are_numbers = dbt_onnx._holds_numbers(column, histories[0]['columns'] or histories[1]['columns']) %}
{%- set difference = 'challenger_value - champion_value' if are_numbers else 'cast(null as double)' %}
{%- set limit = 'null' if threshold is none else threshold %}

{{ dbt_onnx._paired_predictions_ctes(histories, key, about) }},

ranked as (
    select
        *
        {%- for history in histories if are_numbers %},
        {{ dbt_onnx._average_rank(
            history['name'] ~ '_value', 'champion_model, challenger_model'
        ) | indent(8) }} as {{ history['name'] }}_rank
        {%- endfor %}
    from paired
)

select
    champion_model as champion,
    challenger_model as challenger,
    min(__dbt_onnx_moment) as first_moment,
    max(__dbt_onnx_moment) as last_moment,
    count(*) filter (where champion_model is not null and challenger_model is not null) as paired_rows,
    count(*) filter (where challenger_model is null) as only_in_champion,
    count(*) filter (where champion_model is null) as only_in_challenger,
    avg(cast(champion_value = challenger_value as integer)) as agreement,
    avg({{ difference }}) as mean_difference,
    avg(abs({{ difference }})) as mean_absolute_difference,
    {%- if are_numbers %}
    case
        when min(champion_rank) < max(champion_rank) and min(challenger_rank) < max(challenger_rank)
            then corr(champion_rank, challenger_rank)
    end as rank_correlation,
    {%- else %}
    cast(null as double) as rank_correlation,
    {%- endif %}
    avg(cast((champion_value >= {{ limit }}) <> (challenger_value >= {{ limit }}) as integer)) as changed_decisions
from ranked
group by champion_model, challenger_model
{%- endmacro %}
