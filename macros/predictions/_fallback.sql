{#- The argument `fallback` of `current_predictions`: its checks, and the SQL that it adds to the view. -#}

{#- Faults that can be found without a query to the warehouse. -#}
{% macro _faults_of_fallback(fallback, entities, stale_after) -%}
    {%- set links = ['allow_stale', 'segment', 'segment_averages', 'min_segment_size', 'constant'] -%}
    {%- if fallback is not mapping or not fallback or fallback.keys() | reject('in', links) | list -%}
        {{ return(["fallback is " ~ fallback ~ "; it takes a mapping with one or more of " ~ (links | join(', '))]) }}
    {%- endif -%}
    {%- set faults = [] -%}
    {%- if entities is none -%}
        {%- do faults.append("fallback needs entities, a relation with one row per entity to serve") -%}
    {%- endif -%}
    {%- if 'allow_stale' in fallback -%}
        {%- do faults.extend(dbt_onnx._faults_of_allow_stale(fallback['allow_stale'], stale_after)) -%}
    {%- endif -%}
    {%- if 'segment' in fallback -%}
        {%- do faults.extend(dbt_onnx._faults_of_segment(fallback['segment'], 'fallback.segment')) -%}
    {%- endif -%}
    {%- for name in ['segment_averages', 'min_segment_size'] if name in fallback and 'segment' not in fallback -%}
        {%- do faults.append("fallback." ~ name ~ " needs fallback.segment, the columns of entities"
            ~ " that define an entity's segment") -%}
    {%- endfor -%}
    {%- set size = fallback.get('min_segment_size', 1) -%}
    {%- do faults.extend(dbt_onnx._faults_of_count(size, 'fallback.min_segment_size')) -%}
    {%- if 'segment_averages' in fallback -%}
        {%- set averages = fallback['segment_averages'] -%}
        {%- do faults.extend(dbt_onnx._faults_of_relation(averages, 'fallback.segment_averages')) -%}
        {%- if 'min_segment_size' in fallback -%}
            {%- do faults.append("fallback.min_segment_size has no effect with fallback.segment_averages."
                ~ " Hint: give min_segment_size to the macro segment_averages instead") -%}
        {%- endif -%}
    {%- endif -%}
    {%- set constant = fallback.get('constant', {'output': 0}) -%}
    {%- if constant is not mapping or not constant -%}
        {%- do faults.append("fallback.constant is " ~ constant
            ~ "; it takes output columns and their values, such as {churn_probability: 0.5}") -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{% macro _faults_of_allow_stale(allow_stale, stale_after) -%}
    {%- set faults = dbt_onnx._faults_of_period(allow_stale, 'fallback.allow_stale') -%}
    {%- if not faults and stale_after is none -%}
        {%- do faults.append("fallback.allow_stale needs stale_after: without it no prediction is stale") -%}
    {%- elif not faults and not dbt_onnx._faults_of_period(stale_after, 'stale_after')
        and dbt_onnx._seconds(allow_stale) < dbt_onnx._seconds(stale_after) -%}
        {%- do faults.append("fallback.allow_stale is " ~ allow_stale ~ ", which is less than stale_after, "
            ~ stale_after ~ ". Hint: set it to stale_after to serve no stale predictions") -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{#- Faults of the columns that `fallback` names. Constants are not checked before the first run has made outputs. -#}
{% macro _faults_of_fallback_columns(fallback, ledger, entities) -%}
    {%- set segment = dbt_onnx._list_of_names(fallback.get('segment', [])) -%}
    {%- set faults = dbt_onnx._faults_of_columns(
        segment, dbt_onnx._columns_in(entities), entities, 'fallback.segment'
    ) -%}
    {%- if 'segment_averages' in fallback -%}
        {%- set averages = fallback['segment_averages'] -%}
        {%- do faults.extend(dbt_onnx._faults_of_columns(
            segment + (ledger['outputs'] | map(attribute='name') | list),
            dbt_onnx._columns_in(averages), averages, 'fallback.segment_averages',
        )) -%}
    {%- endif -%}
    {%- for name, value in fallback.get('constant', {}).items() if ledger['current_columns'] is not none -%}
        {%- do faults.extend(dbt_onnx._faults_of_constant(name, value, ledger)) -%}
    {%- endfor -%}
    {{ return(faults) }}
{%- endmacro %}


{% macro _faults_of_constant(name, value, ledger) -%}
    {%- set type = dbt_onnx._type_of(name, ledger['outputs']) -%}
    {%- if type is none -%}
        {{ return(["fallback.constant has '" ~ name ~ "', which is not an output column; "
            ~ ledger['relation'] ~ " has " ~ (ledger['outputs'] | map(attribute='name') | list | tojson)]) }}
    {%- endif -%}
    {%- set kind = dbt_onnx._kind_of_type(type) -%}
    {%- set is_of_kind = {
        'number': value is number and value is not boolean,
        'whole number': value is integer,
        'boolean': value is boolean,
        'moment': value is string,
        'text': value is string,
        'list': value is not string and value is not mapping and value is iterable
            and value | reject('number') | list | length == 0 and value | select('boolean') | list | length == 0,
    }[kind] -%}
    {%- if not is_of_kind or not dbt_onnx._can_be_cast(value, type, kind) -%}
        {{ return(["fallback.constant." ~ name ~ " is " ~ (value | tojson if value is string else value)
            ~ "; the output column is " ~ type]) }}
    {%- endif -%}
    {{ return([]) }}
{%- endmacro %}


{#- Whether a column of the type can hold the value: a number may be out of range, a list may have a wrong length. -#}
{% macro _can_be_cast(value, type, kind) -%}
    {%- set cast_value = "try_cast(" ~ dbt_onnx._constant_text(value) ~ " as " ~ type ~ ")" -%}
    {%- set is_finite = "isfinite(cast(" ~ cast_value ~ " as double))" if kind == 'number' else 'true' -%}
    {{ return(dbt_onnx._query("select " ~ cast_value ~ " is not null and " ~ is_finite).rows[0][0]) }}
{%- endmacro %}


{#- A value as a text literal that DuckDB casts to the column's type. -#}
{% macro _constant_text(value) -%}
    {{ return(dbt_onnx._literal(value if value is string or value is not iterable else value | list)) }}
{%- endmacro %}


{#-
    The links of the fallback chain: `oldest`, a SQL expression or none; `segment`, a list of columns or none;
    `constant`, a mapping of outputs to literals or none. `segment` and `constant` are none before the first run,
    because there are no outputs yet.
-#}
{% macro _fallback_links(fallback, ledger) -%}
    {%- set given = fallback or {} -%}
    {%- set has_outputs = ledger['current_columns'] is not none -%}
    {%- set constant = {} -%}
    {%- for name, value in given.get('constant', {}).items() -%}
        {%- do constant.setdefault(name | lower, dbt_onnx._constant_text(value)) -%}
    {%- endfor -%}
    {{ return({
        'oldest': (dbt_onnx.clock() | trim) ~ ' - ' ~ dbt_onnx._interval(given['allow_stale'])
            if 'allow_stale' in given else none,
        'segment': dbt_onnx._list_of_names(given['segment']) if 'segment' in given and has_outputs else none,
        'constant': constant if 'constant' in given and has_outputs else none,
    }) }}
{%- endmacro %}


{#- CTEs, the last of which is `segment_averages`: read from the model that the user names, or computed. -#}
{% macro _fallback_averages_ctes(fallback, ledger, stale_after) -%}
{% if 'segment_averages' in fallback -%}
segment_averages as (
    select
        {{ dbt_onnx._struct(dbt_onnx._list_of_names(fallback['segment'])) }} as __dbt_onnx_segment,
        {%- for output in dbt_onnx._averaged_outputs(ledger) %}
        {{ dbt_onnx._identifier(output['name']) }},
        {%- endfor %}
    from {{ dbt_onnx._user_relation(fallback['segment_averages']) }} as averages
)
{%- else -%}
{{ dbt_onnx._segment_averages_ctes(ledger, stale_after, fallback['min_segment_size'] or 20) }}
{%- endif %}
{%- endmacro %}


{#- SQL of one output column of the view, with the column's type: the prediction, or the value from the fallback. -#}
{% macro _served_output(output, links) -%}
{%- set name = dbt_onnx._identifier(output['name']) -%}
{%- set list_type = dbt_onnx._list_type(output['type']) -%}
{%- set is_array = list_type != output['type'] -%}
{{ 'cast(' if is_array }}
{%- if links['segment'] is none and links['constant'] is none -%}
current_rows.{{ name }}
{%- else -%}
case
    when current_rows.__dbt_onnx_versions_back is not null then current_rows.{{ name }}
    {%- if links['segment'] is not none %}
    when segment_averages.__dbt_onnx_segment is not null then {{
        'null' if dbt_onnx._kind_of_type(output['type']) == 'list' else 'segment_averages.' ~ name }}
    {%- endif %}
    {%- if links['constant'] is not none %}
    else cast({{ links['constant'].get(output['name'] | lower, 'null') }} as {{ list_type }})
    {%- endif %}
end
{%- endif -%}
{{ ' as ' ~ output['type'] ~ ')' if is_array }} as {{ name }}
{%- endmacro %}
