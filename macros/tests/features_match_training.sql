{#-
    Purpose: the features that the model reads are distributed as in training. So a change upstream (a column filled
    with zeros, another unit, a join that finds nothing) or in the world is found before the outcomes are known.

    Passes if no feature differs by more than a threshold, or if no run ever succeeded.
    Warns or fails if the index is above `warn_psi` or `error_psi` (`problem`: `psi`, with the bin that moved most).
    Fails if the share of NULLs increased (`nulls`); if there are new categories (`unseen_categories`, with the most
    frequent ones); if all values are the same and the reference gives that a chance below one in a million
    (`constant`); if the relation does not have the column (`missing_column`) or has it with a type that cannot be
    compared (`wrong_type`); if the card describes no features (`no_reference`).

    Arguments, and the rows that it returns: `test_features_match_training` in macros/_macros.yml. Example:
        data_tests:
            - dbt_onnx.features_match_training:
                arguments: {features: ref('customer_features'), max_null_increase: 0.02}
-#}
{% test features_match_training(
    model, features, columns=none, warn_psi=0.1, error_psi=0.25, max_null_increase=0.05, max_unseen_fraction=0.01,
    min_rows=1000
) %}
{{ dbt_onnx._fails_on_an_error() }}
{% call dbt_onnx._compiled() -%}
{%- set faults = dbt_onnx._faults_of_drift(model, warn_psi, error_psi, min_rows)
    + dbt_onnx._faults_of_relation(features, 'features')
    + dbt_onnx._faults_of_fraction(max_null_increase, 'max_null_increase')
    + dbt_onnx._faults_of_fraction(max_unseen_fraction, 'max_unseen_fraction')
    + (dbt_onnx._faults_of_key(dbt_onnx._list_of_names(columns)) | map('replace', 'key', 'columns', 1) | list
        if columns is not none else []) -%}
{%- do dbt_onnx._raise_faults(faults, 'features_match_training', model) -%}

{%- set run = dbt_onnx._last_full_run(model) -%}
{%- set tested = dbt_onnx._tested_features(model, run, features, dbt_onnx._list_of_names(columns)) -%}
{%- do dbt_onnx._raise_faults(tested['faults'], 'features_match_training', model) -%}

with {% if tested['columns'] -%}
{{ dbt_onnx._reference_cte(model, run, 'feature', tested['columns']) }},

{{ dbt_onnx._compared_ctes(dbt_onnx._table(features), tested['columns']) }},

{% endif -%}
validation_errors as (
    {{ dbt_onnx._findings(tested['findings']) }}
    {%- if tested['columns'] %}

    union all by name

    {{ dbt_onnx._drift_findings(warn_psi, error_psi, min_rows) }}

    union all by name

    select
        column_name,
        'nulls' as problem,
        'NULL: ' || {{ dbt_onnx._four_decimals('expected_null_share') }} as expected,
        'NULL: ' || {{ dbt_onnx._four_decimals('null_share') }} as actual,
        null_share - expected_null_share as figure,
        {{ max_null_increase }} as threshold,
        'error' as severity
    from compared
    where row_count >= {{ min_rows }} and figure > threshold

    union all by name

    select
        column_name,
        'unseen_categories' as problem,
        'other values: ' || {{ dbt_onnx._four_decimals('other_share') }} as expected,
        examples as actual,
        unlisted_share - other_share as figure,
        {{ max_unseen_fraction }} as threshold,
        'error' as severity
    from compared
    where known >= {{ min_rows }} and figure > threshold
    {%- endif %}
)

{{ dbt_onnx._sorted_drift(run) }}
{%- endcall %}
{% endtest %}
