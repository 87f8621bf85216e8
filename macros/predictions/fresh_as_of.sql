{#-
    How fresh a scored prediction is, as a SQL expression; the only definition in this package. It is the prediction's
    own `as_of`, or the `as_of` of the last full run that confirmed it, whichever is later.

    A run confirms the predictions of entities that it saw and did not score again. So if the entity has left the
    features, its prediction is as fresh as the last run that saw it. If the entity was rejected since, the prediction
    is as fresh as when it was made, because the present features could not be scored.

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
