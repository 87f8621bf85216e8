{#-
    The pairs of `compare_predictions` that differ most, the largest difference first: the entities that a promotion
    affects most. Pairs are formed as in that macro, so an entity may appear at several moments; with `about` it
    appears once.

    Columns: the key; `moment`, the moment of the comparison; `champion`, `challenger` (`churn/2`); `champion_value`,
    `challenger_value`, `difference` (challenger minus champion); `champion_as_of`, `challenger_as_of`, to find the
    rows in their ledgers.

    Arguments: `prediction_movers` in macros/_macros.yml. Example:
        {{ dbt_onnx.prediction_movers(
            ref('churn_predictions'), ref('churn_challenger_predictions'), key=['customer_id'], column='churn_probability', limit=50
        ) }}
-#}
{% macro prediction_movers(
    champion, challenger, key, column, limit=20, about=none, champion_version=none, challenger_version=none
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('prediction_movers', 'dbt_onnx')(
        champion, challenger, key, column, limit, about, champion_version, challenger_version
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__prediction_movers(
    champion, challenger, key, column, limit, about, champion_version, challenger_version
) -%}
{%- set is_valid = limit is none or limit is integer and limit >= 1 -%}
{%- set faults = [] if is_valid else ["limit is '" ~ limit ~ "'; it takes a whole number from 1, or none"] -%}
{%- set histories = dbt_onnx._checked_histories(
    'prediction_movers', champion, challenger, key, column, about, champion_version, challenger_version,
    also_taken=['moment', 'difference'], numbers_only=true, faults=faults,
) %}

{{ dbt_onnx._paired_predictions_ctes(histories, key, about) }}

select
    {{ dbt_onnx._columns(key) }},
    __dbt_onnx_moment as moment,
    champion_model as champion,
    challenger_model as challenger,
    champion_value,
    challenger_value,
    challenger_value - champion_value as difference,
    champion_as_of,
    challenger_as_of
from paired
where champion_model is not null and challenger_model is not null
{%- set order = 'abs(difference) desc nulls last, ' ~ dbt_onnx._ascending(key) ~ ', moment asc nulls last' %}
{%- if limit is not none %}
{#- not a LIMIT clause, because `dbt show` adds one #}
qualify row_number() over (order by {{ order }}) <= {{ limit }}
{%- endif %}
order by {{ order }}
{%- endmacro %}
