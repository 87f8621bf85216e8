{#-
    Selects the run and the columns that `features_match_training` and `predictions_match_baseline` test. A column is
    `{'name', 'type', 'kind', 'time_unit', 'is_boolean', 'is_single', 'fill'}`.
-#}

{#-
    The newest successful full run of a scoring model; none if there is no such run. With `before`, a run: the newest
    full run by the same model version that is older than `before`.
-#}
{% macro _last_full_run(model, before=none) -%}
    {%- set runs = dbt_onnx._rows_about(model, [
        'status', 'scope', 'model_name', 'model_version', 'artifact_sha256', 'scored_at', 'as_of', 'key_columns',
    ]) -%}
    {%- set found = dbt_onnx._query(
        "select model_name, model_version, artifact_sha256, cast(scored_at as varchar) as scored_at,"
        ~ " cast(as_of as varchar) as as_of, to_json(key_columns) as key"
        ~ " from " ~ runs ~ " as runs where status = 'success' and scope = 'full'"
        ~ ((" and " ~ dbt_onnx._is_version(before)
            ~ " and runs.scored_at < cast(" ~ dbt_onnx._literal(before['scored_at']) ~ " as timestamp)")
            if before is not none else "")
        ~ " order by runs.scored_at desc nulls last limit 1"
    ).rows -%}
    {%- if found | length == 0 -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return(dict(found[0].dict(), key=fromjson(found[0]['key']))) }}
{%- endmacro %}


{#- Table and WHERE condition of the card's distributions of the features or outputs, for the version of a run. -#}
{% macro _references_of(model, run, role) -%}
    {{ return(
        dbt_onnx._table(dbt_onnx._in_same_schema(model, 'dbt_onnx_references'))
        ~ " where " ~ dbt_onnx._name_equals('scoring_model', model.identifier)
        ~ " and " ~ dbt_onnx._is_version(run)
        ~ " and artifact_sha256 = " ~ dbt_onnx._literal(run['artifact_sha256'])
        ~ " and role = " ~ dbt_onnx._literal(role)
    ) }}
{%- endmacro %}


{#-
    `[{'name', 'kind', 'time_unit', 'is_boolean', 'is_single', 'fill'}]`: the columns that the card of a run's version
    describes. `is_single`: the model reads the column in single precision, or its training data were in single
    precision, where 0.1 is a different number than in double precision. Training data are taken to be in single
    precision if all edges are single-precision numbers and at least one edge prints differently as a DOUBLE than as
    a FLOAT.
-#}
{% macro _described_columns(model, run, role) -%}
    {%- set described = [] -%}
    {%- set columns = dbt_onnx._columns_in(dbt_onnx._in_same_schema(model, 'dbt_onnx_references')) -%}
    {%- if columns is not none -%}
        {#- a table made by an older dbt_onnx has no column `dtype` until the next run -#}
        {%- set is_older = 'dtype' not in columns | map(attribute='name') -%}
        {%- set is_single = "coalesce(list_bool_and(list_transform(edges, lambda edge: edge = "
            ~ dbt_onnx._to_single_precision('edge') ~ ")) and list_bool_or("
            ~ "list_transform(edges, lambda edge: cast(edge as varchar) <> cast(try_cast(edge as float) as varchar))"
            ~ "), false)" -%}
        {%- for row in dbt_onnx._query(
            "select column_name as name, kind, time_unit,"
            ~ " coalesce(list_has_all(['False', 'True'], categories), false) as is_boolean, "
            ~ (is_single ~ " as is_single, null as fill" if is_older
                else "coalesce(dtype in ('float16', 'float32'), false) or " ~ is_single ~ " as is_single, fill")
            ~ " from " ~ dbt_onnx._references_of(model, run, role) ~ " order by "
            ~ adapter.dispatch('_write_order_column', 'dbt_onnx')() ~ " asc"
        ).rows -%}
            {%- do described.append(dict(row.dict())) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(described) }}
{%- endmacro %}


{#- The column that sorts the rows of a table in the order in which they were written. -#}
{% macro default___write_order_column() -%}
    {{ return('rowid') }}
{%- endmacro %}

{#- Iceberg does not keep the order of rows. -#}
{% macro spark___write_order_column() -%}
    {{ return('column_name') }}
{%- endmacro %}


{#- The version of a run as text, such as `churn/2`. -#}
{% macro _version_of(run) -%}
    {{ return(run['model_name'] ~ '/' ~ run['model_version']) }}
{%- endmacro %}


{#-
    Returns the `columns` of `features` that can be compared with the card of a run, `findings` (for `_findings`) about
    columns that cannot be compared, and `faults` of the arguments. `wanted`: a list of names, or none for all columns
    that the card describes.
-#}
{% macro _tested_features(model, run, features, wanted) -%}
    {%- set tested = {'columns': [], 'findings': [], 'faults': []} -%}
    {%- set types = {} -%}
    {%- for column in dbt_onnx._columns_in(features) or [] -%}
        {%- do types.update({column['name']: column['type']}) -%}
    {%- endfor -%}
    {%- if not types -%}
        {%- do tested['faults'].append("features is " ~ features ~ ", which does not exist in the warehouse") -%}
    {%- endif -%}
    {%- if run is none -%}
        {{ return(tested) }}
    {%- endif -%}
    {%- set described = dbt_onnx._described_columns(model, run, 'feature') -%}
    {%- set names = described | map(attribute='name') | list -%}
    {%- if not described -%}
        {%- do tested['findings'].append([none, 'no_reference', 'distributions of the features in the card of '
            ~ dbt_onnx._version_of(run) ~ ', as dbt_onnx.export writes them', 'none']) -%}
    {%- endif -%}
    {#- a name in the relation but not on the card is no fault: it may be a feature of another version -#}
    {%- for name in wanted or [] if described and name not in names and name not in types -%}
        {%- do tested['faults'].append("columns names '" ~ name ~ "'; the card of " ~ dbt_onnx._version_of(run)
            ~ " describes " ~ (names | tojson)) -%}
    {%- endfor -%}
    {%- for column in described if wanted is none or column['name'] in wanted -%}
        {%- do column.update({'type': types.get(column['name'])}) -%}
        {%- if column['type'] is none -%}
            {%- do tested['findings'].append([column['name'], 'missing_column', 'a column of ' ~ features, 'none']) -%}
        {%- elif dbt_onnx._counted_value('x', column) is none -%}
            {%- do tested['findings'].append([column['name'], 'wrong_type', 'numbers', column['type']]) -%}
        {%- else -%}
            {%- do tested['columns'].append(column) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(tested) }}
{%- endmacro %}


{#- One output of a scoring model. Has no `kind` if the card or the run `previous` has no values to compare with. -#}
{% macro _tested_output(model, run, column, baseline, previous) -%}
    {%- set outputs = dbt_onnx._ledger(model, run['key'])['outputs'] -%}
    {%- do dbt_onnx._raise_faults(dbt_onnx._faults_of_output(column, outputs), 'predictions_match_baseline', model) -%}
    {%- set output = dbt_onnx._columns_named(outputs, column)[0] -%}
    {%- if baseline == 'training' -%}
        {%- for reference in dbt_onnx._columns_named(dbt_onnx._described_columns(model, run, 'output'), column) -%}
            {%- do output.update(reference) -%}
        {%- endfor -%}
    {%- elif previous is not none -%}
        {%- set is_float = dbt_onnx._element_type(output['type']) in ['FLOAT', 'DOUBLE'] -%}
        {%- do output.update({'kind': 'numeric' if is_float else 'categorical', 'is_boolean': false}) -%}
    {%- endif -%}
    {{ return(output) }}
{%- endmacro %}
