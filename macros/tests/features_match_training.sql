{#-
    Purpose: the features that the model reads look as they did in training. What changes upstream (a
    column filled with zeros, a unit, a join that finds nothing) or in the world is seen here before
    the outcomes are known. Compared is the present feature relation, all of its rows, with the
    reference that the card of the version in force holds: that of the last successful full run.

    Arguments: `features`, the relation that the scoring model reads; `columns`, the features to judge
    (default: all that the card describes; those that this version does not read are passed over); `warn_psi` (default 0.1) and `error_psi` (default 0.25), of the
    population stability index, none for never; `max_null_increase` (default 0.05), of the share of NULL and
    NaN, in absolute terms; `max_unseen_fraction` (default 0.01), of the known values: categories that
    training did not have; `min_rows` (default 1000): with fewer known values there is no verdict (for
    NULLs: fewer rows), because by chance alone the index is about (bins - 1) * (1 / rows + 1 / training rows)
    (Yurdakul, Statistical Properties of Population Stability Index, 2018).

    Population stability index: the sum over the bins of (actual - expected) * ln(actual / expected), with
    shares of the values that are neither NULL nor NaN (Siddiqi, Credit Risk Scorecards, 2006, with the
    usual thresholds). The bins are those of the card: tenths of the training values, or the 100 most
    frequent categories and one for all others. A share below 0.0001 counts as 0.0001, for an empty bin
    would make the index infinite. A list counts by element; a date is counted in the feature's `time_unit`.

    Passes if no feature differs by more than a threshold; a figure exactly at its threshold passes. Passes
    where no run ever succeeded, of which `predictions_are_fresh` tells.
    Warns or fails beyond `warn_psi` or `error_psi` (`problem`: `psi`, with the bin that moved most).
    Fails if the NULLs increased (`nulls`); if there are new categories (`unseen_categories`, with the most
    frequent; where training had more than 100, only what exceeds their share of old is new); if all values
    are the same and by the reference the chance of that is below one in a million (`constant`); if the
    relation has not the column (`missing_column`) or has it in a type that cannot be compared (`wrong_type`);
    if the card describes no feature (`no_reference`): one that `dbt-onnx register` wrote does not.

    Returns a row per finding: `column_name`, `problem`, `expected`, `actual`, `figure`, `threshold`,
    `severity`, `model_version`.

    Time zone: none of it depends on one; dates are counted in UTC.

    Example:
        data_tests:
            - dbt_onnx.features_match_training:
                arguments: {features: ref('customer_features'), max_null_increase: 0.02}

-#}
{% test features_match_training(
    model, features, columns=none, warn_psi=0.1, error_psi=0.25, max_null_increase=0.05, max_unseen_fraction=0.01,
    min_rows=1000
) %}
{{ dbt_onnx._fails_on_an_error() }}
{%- if execute -%}
{%- set faults = dbt_onnx._faults_of_drift(model, warn_psi, error_psi, min_rows)
    + dbt_onnx._faults_of_relation(features, 'features')
    + dbt_onnx._faults_of_fraction(max_null_increase, 'max_null_increase')
    + dbt_onnx._faults_of_fraction(max_unseen_fraction, 'max_unseen_fraction')
    + (dbt_onnx._faults_of_key(dbt_onnx._key(columns)) | map('replace', 'key', 'columns', 1) | list if columns is not none else []) -%}
{%- do dbt_onnx._raise_faults(faults, 'features_match_training', model) -%}

{%- set run = dbt_onnx._last_full_run(model) -%}
{%- set described = dbt_onnx._described_columns(model, run, 'feature') if run is not none else [] -%}
{%- set present = dbt_onnx._columns_in(features) -%}
{%- set wanted = dbt_onnx._key(columns) if columns is not none else described | map(attribute='name') | list -%}
{%- if present is none -%}
    {%- do faults.append("features is " ~ features ~ ", which the warehouse does not have") -%}
{%- endif -%}
{#- a column of the relation may be a feature of another version -#}
{%- set known = described | map(attribute='name') | list + (present or []) | map(attribute='name') | list -%}
{%- for name in wanted if described and name not in known -%}
    {%- do faults.append("columns names '" ~ name ~ "'; the card of " ~ run['model_name'] ~ "/" ~ run['model_version']
        ~ " describes " ~ (described | map(attribute='name') | list | tojson)) -%}
{%- endfor -%}
{%- do dbt_onnx._raise_faults(faults, 'features_match_training', model) -%}

{%- set found = [] -%}
{%- set compared = [] -%}
{%- if run is not none and not described -%}
    {%- do found.append({
        'name': none, 'problem': 'no_reference', 'actual': 'none',
        'expected': 'distributions of the features in the card of ' ~ run['model_name'] ~ '/' ~ run['model_version']
            ~ ', as dbt_onnx.export writes them',
    }) -%}
{%- endif -%}
{%- for column in described if column['name'] in wanted -%}
    {%- set types = present | selectattr('name', 'eq', column['name']) | map(attribute='type') | list -%}
    {%- if not types -%}
        {%- do found.append({
            'name': column['name'], 'problem': 'missing_column', 'expected': 'a column of ' ~ features, 'actual': 'none'
        }) -%}
    {%- else -%}
        {%- do column.update({'type': types[0]}) -%}
        {%- if dbt_onnx._counted_value('x', column) is none -%}
            {%- do found.append({
                'name': column['name'], 'problem': 'wrong_type', 'expected': 'numbers', 'actual': types[0]
            }) -%}
        {%- else -%}
            {%- do compared.append(column) -%}
        {%- endif -%}
    {%- endif -%}
{%- endfor -%}

with {% if compared -%}
{{ dbt_onnx._reference_cte(model, run, 'feature', compared) }},

{{ dbt_onnx._measured_ctes(dbt_onnx._table(features), compared) }},

{{ dbt_onnx._compared_ctes() }},

{% endif -%}
validation_errors as (
    {{ dbt_onnx._no_findings() }}
    {%- for finding in found %}

    union all by name

    select
        {{ dbt_onnx._literal(finding['name']) if finding['name'] is not none else 'cast(null as varchar)' }} as column_name,
        {{ dbt_onnx._literal(finding['problem']) }} as problem,
        {{ dbt_onnx._literal(finding['expected']) }} as expected,
        {{ dbt_onnx._literal(finding['actual']) }} as actual,
        'error' as severity
    {%- endfor %}
    {%- if compared %}

    union all by name

{{ dbt_onnx._drift_findings(warn_psi, error_psi, min_rows) }}

    union all by name

    select
        column_name,
        'nulls' as problem,
        'NULL: ' || round(expected_null_share, 4) as expected,
        'NULL: ' || round(null_share, 4) as actual,
        null_share - expected_null_share as figure,
        {{ max_null_increase }} as threshold,
        'error' as severity
    from compared
    where row_count >= {{ min_rows }} and null_share - expected_null_share > {{ max_null_increase }}

    union all by name

    select
        column_name,
        'unseen_categories' as problem,
        'other values: ' || round(other_share, 4) as expected,
        examples as actual,
        unlisted_share - other_share as figure,
        {{ max_unseen_fraction }} as threshold,
        'error' as severity
    from compared
    where known >= {{ min_rows }} and unlisted_share - other_share > {{ max_unseen_fraction }}
    {%- endif %}
)

select
    *,
    {{ dbt_onnx._literal(run['model_version']) if run is not none else 'cast(null as varchar)' }} as model_version
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by severity asc nulls last, figure desc nulls last, column_name asc nulls last
{%- endif -%}
{% endtest %}
