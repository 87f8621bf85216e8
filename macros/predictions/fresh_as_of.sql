{#-
    The one definition of how fresh a scored prediction is, as a SQL expression: the later of its own
    `as_of` and of the last full run that confirmed it.

    A run confirms what it saw and did not score again. So a prediction whose entity has left the
    features is as fresh as the last run that saw it, and one whose entity was rejected since is as
    fresh as it was when it was made: what the features say now could not be scored.

    Arguments, all SQL expressions: `fresh_as_of` in macros/_macros.yml. Example:
        select {{ dbt_onnx.fresh_as_of('as_of', 'last_seen_as_of', "timestamp '2024-02-01'", 'false') }} as fresh_as_of
        from churn_predictions__current left join churn_predictions__presence using (customer_id, run_no)
-#}
{% macro fresh_as_of(as_of, last_seen_as_of, confirmed_as_of, is_rejected_since) -%}
    case
        when {{ is_rejected_since }} then {{ as_of }}
        else greatest({{ as_of }}, coalesce({{ last_seen_as_of }}, {{ confirmed_as_of }}, {{ as_of }}))
    end
{%- endmacro %}
