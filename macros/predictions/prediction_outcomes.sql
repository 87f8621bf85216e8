{#-
    Compares predictions with observed outcomes, per version and month: how good the model really was.

    Each outcome that is not NULL and is known by the clock counts once, with the prediction that was in force at its
    moment: the newest one about that moment or earlier, by the version that ran last. So an entity also counts in
    months in which its features did not change and it was not scored. The moment of an outcome is its `as_of`; without
    `as_of` it is `known_at`, and the last prediction before `known_at` counts.
    Only predictions made before `known_at` count: both `as_of` and `scored_at` must be earlier. A history that was
    scored or backfilled afterwards has a later `scored_at`. `made_at='as_of'` drops this second condition, and shows
    how good the model would have been.
    The query fails if a key has two outcomes at one moment, or if a classification has an outcome other than 0 and 1.

    Columns: `model_name`, `model_version`, `month` (the first day of the month of the outcome's `as_of`, or else of the
    prediction's `as_of`), `rows`; for a classification `positives`; `auc` (NULL if all outcomes are the
    same), `log_loss` (natural logarithm, clipped to the output type's precision as scikit-learn does)
    and `brier_score` (both NULL if an output lies outside 0 to 1); for a regression
    `mean_absolute_error` and `root_mean_squared_error`.

    Arguments: `prediction_outcomes` in macros/_macros.yml. Example:
        {{ dbt_onnx.prediction_outcomes(
            ref('churn_predictions'), outcomes=ref('churn_outcomes'), key=['customer_id'], column='churn_probability',
            outcome='churned', known_at='known_at', as_of='as_of'
        ) }}
-#}
{% macro prediction_outcomes(
    predictions, outcomes, key, column, outcome, known_at, as_of=none, task='classification', made_at='scored_at',
    version=none
) -%}
    {{ return(dbt_onnx._in_dialect(adapter.dispatch('prediction_outcomes', 'dbt_onnx')(
        predictions, outcomes, key, column, outcome, known_at, as_of, task, made_at, version
    )) if execute else 'select 1 as not_yet_compiled') }}
{%- endmacro %}

{% macro default__prediction_outcomes(
    predictions, outcomes, key, column, outcome, known_at, as_of, task, made_at, version
) -%}
{%- set history = dbt_onnx._checked_history(
    'prediction_outcomes', predictions, outcomes, key, column, outcome, known_at, as_of, task, made_at, version
) -%}
{%- set precision = '1.1920928955078125e-07' if dbt_onnx._type_of(column, history['columns']) == 'FLOAT'
    else '2.220446049250313e-16' -%}

{{ dbt_onnx._judged_predictions_ctes(
    history, outcomes, key, outcome, known_at, as_of, task, made_at
) }}
{%- if task == 'classification' %},

ranked as (
    select
        *,
        __dbt_onnx_value between 0 and 1 as __dbt_onnx_is_probability,
        {{ dbt_onnx._average_rank('__dbt_onnx_value', 'model_name, model_version, month') | indent(8) }}
            as __dbt_onnx_rank,
        -ln(greatest(
            least(
                case when __dbt_onnx_outcome = 1 then __dbt_onnx_value else 1 - __dbt_onnx_value end,
                1 - {{ precision }}
            ),
            {{ precision }}
        )) as __dbt_onnx_loss
    from judged
)
{%- endif %}

select
    model_name,
    model_version,
    month,
    count(*) as rows,
    {%- if task == 'regression' %}
    avg(abs(__dbt_onnx_value - __dbt_onnx_outcome)) as mean_absolute_error,
    sqrt(avg(power(__dbt_onnx_value - __dbt_onnx_outcome, 2))) as root_mean_squared_error
    {%- else %}
    count(*) filter (where __dbt_onnx_outcome = 1) as positives,
    -- the share of pairs of a positive and a negative in which the positive ranks higher, where ties count half:
    -- Mann and Whitney's U, computed from the sum of ranks
    case
        when positives between 1 and rows - 1
            then (sum(__dbt_onnx_rank) filter (where __dbt_onnx_outcome = 1) - positives * (positives + 1) / 2e0)
                / (cast(positives as double) * (rows - positives))
    end as auc,
    case when bool_and(__dbt_onnx_is_probability) then avg(__dbt_onnx_loss) end as log_loss,
    case
        when bool_and(__dbt_onnx_is_probability) then avg(power(__dbt_onnx_value - __dbt_onnx_outcome, 2))
    end as brier_score
    {%- endif %}
from {{ 'judged' if task == 'regression' else 'ranked' }}
group by model_name, model_version, month
{%- endmacro %}
