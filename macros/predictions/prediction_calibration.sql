{#-
    Compares predicted probabilities with observed frequencies, per version, month and bin of equal width: whether a
    probability of 0.7 came true seven times in ten. The same predictions and outcomes count as in
    `prediction_outcomes`.

    Columns: `model_name`, `model_version`, `month`; `bin` from 1, `bin_from` (exclusive, except in the first bin) and
    `bin_to` (inclusive), all three NULL for outputs outside 0 to 1; `rows`, `positives`, `mean_prediction`,
    `share_positive`. Bins without rows are left out.

    Arguments: `prediction_calibration` in macros/_macros.yml. Example:
        {{ dbt_onnx.prediction_calibration(
            ref('churn_predictions'), outcomes=ref('churn_outcomes'), key=['customer_id'], column='churn_probability',
            outcome='churned', known_at='known_at', as_of='as_of'
        ) }}
-#}
{% macro prediction_calibration(
    predictions, outcomes, key, column, outcome, known_at, as_of=none, bins=10, made_at='scored_at', version=none
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('prediction_calibration', 'dbt_onnx')(
        predictions, outcomes, key, column, outcome, known_at, as_of, bins, made_at, version
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__prediction_calibration(
    predictions, outcomes, key, column, outcome, known_at, as_of, bins, made_at, version
) -%}
{%- set is_valid = bins is integer and 1 <= bins <= 1000 -%}
{%- set faults = [] if is_valid else ["bins is '" ~ bins ~ "'; it takes a whole number from 1 to 1000"] -%}
{%- set history = dbt_onnx._checked_history(
    'prediction_calibration', predictions, outcomes, key, column, outcome, known_at, as_of, 'classification',
    made_at, version, faults=faults
) -%}

{{ dbt_onnx._judged_predictions_ctes(
    history, outcomes, key, outcome, known_at, as_of, 'classification', made_at
) }},

binned as (
    select
        *,
        case
            when __dbt_onnx_value between 0 and 1
                -- computes the edges as scikit-learn does, because an output may be equal to an edge
                then 1 + len(list_filter(
                    range(1, {{ bins }}), lambda edge: edge * (1e0 / {{ bins }}) < __dbt_onnx_value
                ))
        end as bin
    from judged
)

select
    model_name,
    model_version,
    month,
    bin,
    (bin - 1) * (1e0 / {{ bins }}) as bin_from,
    bin * (1e0 / {{ bins }}) as bin_to,
    count(*) as rows,
    count(*) filter (where __dbt_onnx_outcome = 1) as positives,
    avg(__dbt_onnx_value) as mean_prediction,
    avg(__dbt_onnx_outcome) as share_positive
from binned
group by model_name, model_version, month, bin
{%- endmacro %}
