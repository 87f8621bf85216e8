{#-
    Compares the present values of columns with a reference distribution. Shared by `features_match_training` and
    `predictions_match_baseline`.

    The reference is the CTE `reference`: one row per column with `column_name`, `kind` (numeric or categorical),
    `null_share`, `edges`, `shares`, `categories` and `other_share`, as in `dbt_onnx_references`. The present columns
    are passed as `columns`, `[{'name', 'type', 'kind', 'time_unit', 'is_boolean'}]`.
-#}

{#- A double rounded to single precision (FLOAT). A value outside the range of FLOAT is left unchanged. -#}
{% macro _to_single_precision(value) -%}
    {{ return(adapter.dispatch('_to_single_precision', 'dbt_onnx')(value)) }}
{%- endmacro %}

{#- Spark casts a value outside the range of FLOAT to infinity. -#}
{% macro spark___to_single_precision(value) -%}
    {{ return("case when isinf(cast(" ~ value ~ " as float)) then " ~ value ~ " else cast(cast(" ~ value
        ~ " as float) as double) end") }}
{%- endmacro %}

{% macro default___to_single_precision(value) -%}
    {{ return("coalesce(cast(try_cast(" ~ value ~ " as float) as double), " ~ value ~ ")") }}
{%- endmacro %}


{% macro _is_single(column) -%}
    {{ return(column['is_single'] or dbt_onnx._element_type(column['type']) == 'FLOAT') }}
{%- endmacro %}


{#-
    CTE `reference`: the card's distributions of `columns`. For columns in single precision the edges are rounded to
    single precision, too. Edges that become equal are merged, and their bins with them.
-#}
{% macro _reference_cte(model, run, role, columns) -%}
{%- set singles = [] -%}
{%- for column in columns if dbt_onnx._is_single(column) -%}
    {%- do singles.append(column['name']) -%}
{%- endfor -%}
card as (
    select
        {{ dbt_onnx._text('column_name') }} as column_name,
        kind,
        null_share,
        edges,
        shares,
        categories,
        other_share,
        case
            when list_contains({{ dbt_onnx._list_of_texts(singles) }}, column_name)
                then list_transform(edges, lambda edge: {{ dbt_onnx._to_single_precision('edge') }})
            else edges
        end as seen_edges,
        list_sort(list_distinct(seen_edges), 'asc', 'nulls last') as distinct_edges
    from {{ dbt_onnx._references_of(model, run, role) }}
),

reference as (
    select
        column_name,
        kind,
        null_share,
        distinct_edges as edges,
        case
            when len(distinct_edges) = len(edges) or edges is null then shares
            else list_append(
                list_transform(
                    distinct_edges,
                    lambda seen: list_sum(list_filter(shares, lambda share, bin_number: seen_edges[bin_number] = seen))
                ),
                shares[len(shares)]
            )
        end as shares,
        categories,
        other_share
    from card
)
{%- endmacro %}


{#- The element type of a list, such as `FLOAT` for `FLOAT[3]`, because each element counts; other types unchanged. -#}
{% macro _element_type(type) -%}
    {{ return(modules.re.sub('(\\[[0-9]*\\])+$', '', type)) }}
{%- endmacro %}


{#-
    SQL that converts a value to the form in which the reference counts it, a DOUBLE or a VARCHAR; none if the type
    cannot be converted. NULL and NaN become NULL. As in the model's input, a date becomes the number of `time_unit`s
    since 1970, and a feature's fill value replaces NULL. Booleans become `True` and `False`, as Python writes them in
    the card.
-#}
{% macro _counted_value(value, column) -%}
    {%- set counted = dbt_onnx._counted_known_value(value, column) -%}
    {%- if counted is none -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set is_single = column['kind'] == 'numeric' and dbt_onnx._is_single(column) -%}
    {%- set counted = dbt_onnx._to_single_precision(counted) if is_single else counted -%}
    {%- if column['fill'] is none or column['fill'] is undefined -%}
        {{ return(counted) }}
    {%- endif -%}
    {%- set fill = dbt_onnx._literal(column['fill']) -%}
    {%- set fill = "cast(" ~ fill ~ " as double)" if column['kind'] == 'numeric' else fill -%}
    {%- set fill = dbt_onnx._to_single_precision(fill) if is_single else fill -%}
    {{ return("case when " ~ value ~ " is null then " ~ fill ~ " else " ~ counted ~ " end") }}
{%- endmacro %}


{% macro _counted_known_value(value, column) -%}
    {%- set type = dbt_onnx._element_type(column['type']) -%}
    {%- set is_float = type in ['FLOAT', 'DOUBLE'] -%}
    {%- set is_number = dbt_onnx._kind_of_type(type) in ['number', 'whole number', 'boolean'] -%}
    {%- set microseconds = {
        'day': 86400000000, 'hour': 3600000000, 'minute': 60000000, 'second': 1000000, 'millisecond': 1000,
        'microsecond': 1,
    } -%}
    {%- if column['kind'] == 'categorical' and column['is_boolean'] and is_number -%}
        {{ return("case when " ~ value ~ " <> 0 then 'True' when " ~ value ~ " = 0 then 'False' end"
            if type != 'BOOLEAN' else "case when " ~ value ~ " then 'True' when not " ~ value ~ " then 'False' end") }}
    {%- elif column['kind'] == 'categorical' -%}
        {{ return(dbt_onnx._text("cast(" ~ value ~ " as double)" if is_float else value)) }}
    {%- elif is_float -%}
        {{ return("case when not isnan(" ~ value ~ ") then cast(" ~ value ~ " as double) end") }}
    {%- elif is_number -%}
        {{ return("cast(" ~ value ~ " as double)") }}
    {%- elif column['time_unit'] in microseconds and modules.re.match('DATE|TIMESTAMP', type) -%}
        {%- set moment = value if type.endswith('TIME ZONE') else "cast(" ~ value ~ " as "
            ~ ('timestamptz' if type.startswith('TIMESTAMPTZ') else 'timestamp') ~ ")" -%}
        {{ return(adapter.dispatch('_counted_moment', 'dbt_onnx')(moment, microseconds[column['time_unit']])) }}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}


{% macro default___counted_moment(moment, microseconds) -%}
    {{ return("case when isfinite(" ~ moment ~ ") then epoch_us(" ~ moment ~ ") / " ~ microseconds ~ "e0 when "
        ~ moment ~ " > '1970-01-01' then cast('inf' as double) when " ~ moment ~ " is not null then cast('-inf' as double) end") }}
{%- endmacro %}

{#- Spark has no infinite moments. -#}
{% macro spark___counted_moment(moment, microseconds) -%}
    {{ return("unix_micros(cast(cast(" ~ dbt_onnx._utc(moment) ~ " as varchar) || 'Z' as timestamptz)) / " ~ microseconds ~ "e0") }}
{%- endmacro %}


{#- For a FROM clause: the values of a column, or the elements of its lists, in a column `value`. -#}
{% macro _values_of(population, column) -%}
    {%- set value = dbt_onnx._identifier(column['name']) -%}
    {%- if column['type'].endswith(']') -%}
        {%- set value = 'unnest(coalesce(cast(' ~ value ~ ' as ' ~ dbt_onnx._element_type(column['type']) ~ '[]), [null]))' -%}
    {%- endif -%}
    {{ return('(select ' ~ value ~ ' as value from ' ~ population ~ ')') }}
{%- endmacro %}


{#-
    CTE `measured`: each row of `reference` together with the present column's number of rows (for lists: elements),
    number of known values, and an example value; optionally with histograms by the edges of the reference (`numbers`)
    and by value (`texts`).

    The columns are first unpivoted, in one branch per column that includes its edges, and then aggregated together.
    All branches read one materialized copy; otherwise a view would be computed once per column. A NULL list counts
    as one NULL.
-#}
{% macro _measured_ctes(population, columns, with_histograms) -%}
present as materialized (
    select {{ dbt_onnx._columns(columns | map(attribute='name')) }} from {{ population }}
),

present_values as (
    {%- for column in columns %}
    {%- set counted = dbt_onnx._counted_value('value', column) %}
    {%- set column_name = dbt_onnx._text(dbt_onnx._literal(column['name'])) %}
    select
        {{ column_name }} as column_name,
        {{ counted if column['kind'] == 'numeric' else 'cast(null as double)' }} as number,
        {{ dbt_onnx._text('null') if column['kind'] == 'numeric' else counted }} as text
        {%- if with_histograms %},
        {#- histogram() needs at least one edge; the histogram of a column without known values is never used #}
        (select case when len(edges) > 0 then edges else [0.0] end from reference where column_name = {{ column_name }})
            as edges
        {%- endif %}
    from {{ dbt_onnx._values_of('present', column) }}
    {{- '\n\n    union all\n' if not loop.last }}
    {%- endfor %}
),

measured as (
    select *
    from (
        select
            column_name,
            count(*) as row_count,
            count(number) + count(text) as known,
            min(number) = max(number) or min(text) = max(text) as is_constant,
            coalesce(cast(any_value(number) as varchar), any_value(text)) as example
            {%- if with_histograms %},
            histogram(number, edges) as numbers,
            histogram(text) as texts
            {%- endif %}
        from present_values
        group by column_name
    )
    inner join reference using (column_name)
)
{%- endmacro %}


{% macro default___counted_ctes(population, columns) -%}
{{ dbt_onnx._measured_ctes(population, columns, with_histograms=true) }},

counts_by_value as (
    select
        column_name,
        coalesce(list_position(edges, entry.key), len(shares)) as number,
        entry.value as value_rows,
        {{ dbt_onnx._text('left(cast(entry.key as varchar), 40)') }} as value
    from (select *, unnest(map_entries(numbers)) as entry from measured)

    union all

    select
        column_name,
        coalesce(list_position(categories, {{ dbt_onnx._text('entry.key') }}), len(shares) + 1) as number,
        entry.value as value_rows,
        {{ dbt_onnx._text('left(entry.key, 40)') }} as value
    from (select *, unnest(map_entries(texts)) as entry from measured)
),

counts_by_bin as (
    select
        column_name,
        number,
        sum(value_rows) as bin_rows,
        max({'row_count': value_rows, 'value': value}, 3) as examples
    from counts_by_value
    group by column_name, number
)
{%- endmacro %}

{#- Spark has no histogram(), so this assigns each value to its bin. -#}
{% macro spark___counted_ctes(population, columns) -%}
{{ dbt_onnx._measured_ctes(population, columns, with_histograms=false) }},

values_in_bins as (
    select
        present_values.column_name,
        case
            when text is null then 1 + len(list_filter(edges, lambda edge: edge < number))
            else coalesce(list_position(categories, text), len(shares) + 1)
        end as bin_number,
        text
    from present_values
    inner join reference on present_values.column_name = reference.column_name
    where number is not null or text is not null
),

counts_by_value as (
    select
        column_name,
        bin_number,
        left(text, 40) as value,
        count(*) as value_rows,
        row_number() over (
            partition by column_name, bin_number order by count(*) desc nulls last, left(text, 40) desc nulls last
        ) as value_rank
    from values_in_bins
    group by column_name, bin_number, text
),

counts_by_bin as (
    select
        column_name,
        bin_number as number,
        sum(value_rows) as bin_rows,
        list({'row_count': value_rows, 'value': value} order by value_rank asc nulls last)
            filter (where value_rank <= 3) as examples
    from counts_by_value
    group by column_name, bin_number
)
{%- endmacro %}


{#-
    CTE `compared`: one row per column of `population` that `reference` describes, with

    `psi`       the population stability index, as `test_features_match_training` in macros/_macros.yml defines it.
                Shares below 0.0001 count as 0.0001, because a share of 0 would make the index infinite. NULL if the
                reference or the population has no known values
    `moved`     the bin that contributes most to the index
    `chance`    if all known values are the same: the logarithm of the probability of that under the reference
    `unlisted_share`, `examples`    share and examples of the categories that the reference does not list.
                `other_share` is the share of unlisted categories in the reference itself
-#}
{% macro _compared_ctes(population, columns) -%}
{{ adapter.dispatch('_counted_ctes', 'dbt_onnx')(population, columns) }},

numbered_bins as (
    select
        *,
        unnest(range(1, len(shares) + case kind when 'numeric' then 1 else 2 end)) as number
    from measured
    where known > 0
),

bins as (
    select
        column_name,
        number,
        examples,
        kind = 'categorical' and number > len(shares) as is_other,
        case
            when kind = 'categorical' then coalesce(left(categories[number], 40), 'other values')
            when len(edges) = 0 then 'any number'
            when number = 1 then 'up to ' || {{ dbt_onnx._six_digits('edges[1]') }}
            when number > len(edges) then 'above ' || {{ dbt_onnx._six_digits('edges[number - 1]') }}
            else 'above ' || {{ dbt_onnx._six_digits('edges[number - 1]') }}
                || ' to ' || {{ dbt_onnx._six_digits('edges[number]') }}
        end as bin,
        coalesce(shares[number], other_share) as expected,
        coalesce(bin_rows, 0) / cast(known as double) as actual,
        (greatest(actual, 0.0001) - greatest(expected, 0.0001))
        * ln(greatest(actual, 0.0001) / greatest(expected, 0.0001)) as contribution
    from numbered_bins
    left join counts_by_bin using (column_name, number)
),

summed as (
    select
        column_name,
        sum(contribution) as psi,
        sum(expected) as expected_sum,
        arg_max({'bin': bin, 'expected': expected, 'actual': actual}, contribution) as moved,
        max(expected) filter (where actual = 1) as constant_share,
        max(actual) filter (where is_other) as unlisted_share,
        any_value(examples) filter (where is_other) as examples
    from bins
    group by column_name
),

compared as (
    select
        column_name,
        row_count,
        known,
        example,
        (row_count - known) / cast(row_count as double) as null_share,
        measured.null_share as expected_null_share,
        moved,
        unlisted_share,
        other_share,
        array_to_string(list_transform(examples, lambda shown: shown.value || ' (' || shown.row_count || ')'), ', ')
            as examples,
        case when expected_sum > 0 then psi end as psi,
        case
            when expected_sum > 0 and is_constant then known * ln(greatest(constant_share, 0.0001))
        end as chance
    from measured
    left join summed using (column_name)
)
{%- endmacro %}


{#- A number as text: `_six_digits` (significant digits) for edges, `_four_decimals` (decimal places) for shares. -#}
{% macro _six_digits(number) -%}
    {{ return(adapter.dispatch('_six_digits', 'dbt_onnx')(number)) }}
{%- endmacro %}

{% macro default___six_digits(number) -%}
    {{ return("format('{:.6g}', " ~ number ~ ")") }}
{%- endmacro %}

{#- Java's `%g` keeps trailing zeros. -#}
{% macro spark___six_digits(number) -%}
    {{ return("regexp_replace(regexp_replace(format_string('%.6g', " ~ number
        ~ "), '([.][0-9]*?)0+(e|$)', '$1$2'), '[.](e|$)', '$1')") }}
{%- endmacro %}


{% macro _four_decimals(number) -%}
    {{ return(adapter.dispatch('_four_decimals', 'dbt_onnx')(number)) }}
{%- endmacro %}

{% macro default___four_decimals(number) -%}
    {{ return("round(" ~ number ~ ", 4)") }}
{%- endmacro %}

{#- Java writes 0.0001 as 1.0E-4. -#}
{% macro spark___four_decimals(number) -%}
    {{ return("regexp_replace(format_string('%.4f', round(" ~ number ~ ", 4)), '([.][0-9]+?)0+$', '$1')") }}
{%- endmacro %}


{#-
    SELECTs of the findings `psi` and `constant` in `compared`. A constant column is a finding only if its `chance` is
    below one in a million, so a rare flag that happens to be unset in a small population is not reported.
-#}
{% macro _drift_findings(warn_psi, error_psi, min_rows) -%}
    {%- set thresholds = [error_psi, warn_psi] | reject('none') | list -%}
    {% if thresholds -%}
    select
        column_name,
        'psi' as problem,
        moved.bin || ': ' || {{ dbt_onnx._four_decimals('moved.expected') }} as expected,
        moved.bin || ': ' || {{ dbt_onnx._four_decimals('moved.actual') }} as actual,
        psi as figure,
        case
            {%- for threshold in thresholds %}
            when psi > {{ threshold }} then {{ threshold }}
            {%- endfor %}
        end as threshold,
        {{ "case when psi > " ~ error_psi ~ " then 'error' else 'warn' end" if error_psi is not none else "'warn'" }}
            as severity
    from compared
    where known >= {{ min_rows }} and threshold is not null

    union all by name

    {% endif -%}
    select
        column_name,
        'constant' as problem,
        'different values' as expected,
        example as actual,
        'error' as severity
    from compared
    where known >= {{ min_rows }} and chance < ln(0.000001)
{%- endmacro %}


{#- SELECT of the findings made while rendering, `[[column_name, problem, expected, actual]]`, with all columns. -#}
{% macro _findings(found) -%}
    select
        finding[1] as column_name,
        finding[2] as problem,
        finding[3] as expected,
        finding[4] as actual,
        cast(null as double) as figure,
        cast(null as double) as threshold,
        'error' as severity
    from (select unnest(from_json({{ dbt_onnx._literal(found | tojson) }}, '[["VARCHAR"]]')) as finding)
{%- endmacro %}


{#- The final SELECT of both tests: the rows of `validation_errors`, sorted, with the tested `model_version`. -#}
{% macro _sorted_drift(run) -%}
select
    *,
    {{ dbt_onnx._literal(run['model_version']) if run is not none else 'cast(null as varchar)' }} as model_version
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by severity asc nulls last, figure desc nulls last, column_name asc nulls last
{%- endmacro %}


{#- Faults of the arguments that both tests share. -#}
{% macro _faults_of_drift(model, warn_psi, error_psi, min_rows) -%}
    {%- set faults = dbt_onnx._faults_of_predictions(model, 'model') -%}
    {%- for argument, psi in {'warn_psi': warn_psi, 'error_psi': error_psi}.items() if psi is not none -%}
        {%- if psi is not number or psi is boolean or not psi > 0 -%}
            {%- do faults.append(argument ~ " is " ~ psi ~ "; it takes a number above 0, or none") -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if not faults and warn_psi is not none and error_psi is not none and warn_psi > error_psi -%}
        {%- do faults.append("warn_psi is larger than error_psi, so nothing would ever warn") -%}
    {%- endif -%}
    {{ return(faults + dbt_onnx._faults_of_count(min_rows, 'min_rows')) }}
{%- endmacro %}
