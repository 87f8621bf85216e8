{#-
    How the present values of columns differ from a reference: what `features_match_training` and
    `predictions_match_baseline` have in common.

    The reference is a CTE `reference`: a row per column with `column_name`, `kind` (numeric or
    categorical), `rows`, `null_share`, `edges`, `shares`, `categories` and `other_share`, as in
    `dbt_onnx_references`. The present columns are `[{'name', 'type', 'kind', 'time_unit', 'is_boolean'}]`.
-#}

{#- A double in the precision of a FLOAT; beyond its range as it is. -#}
{% macro _single(value) -%}
    {{ return("coalesce(cast(try_cast(" ~ value ~ " as float) as double), " ~ value ~ ")") }}
{%- endmacro %}


{% macro _is_single(column) -%}
    {{ return(column['is_single'] or dbt_onnx._element_type(column['type']) == 'FLOAT') }}
{%- endmacro %}


{#-
    The CTE `reference`: what the card says about `columns`. The edges of those in single precision are such numbers, too;
    edges that then are one are one, and so are their bins.
-#}
{% macro _reference_cte(model, run, role, columns) -%}
{%- set singles = [] -%}
{%- for column in columns if dbt_onnx._is_single(column) -%}
    {%- do singles.append(column['name']) -%}
{%- endfor -%}
card as (
    select
        * replace ({{ dbt_onnx._text('column_name') }} as column_name),
        case
            when list_contains({{ dbt_onnx._list_of_texts(singles) }}, column_name)
                then list_transform(edges, lambda edge: {{ dbt_onnx._single('edge') }})
            else edges
        end as seen_edges
    from {{ dbt_onnx._references_of(model, run, role) }}
),

reference as (
    select
        * exclude (seen_edges) replace (
            list_sort(list_distinct(seen_edges), 'asc', 'nulls last') as edges,
            case
                when len(list_distinct(seen_edges)) = len(edges) or edges is null then shares
                else list_append(
                    list_transform(
                        list_sort(list_distinct(seen_edges), 'asc', 'nulls last'),
                        lambda seen: list_sum(list_filter(shares, lambda share, place: seen_edges[place] = seen))
                    ),
                    shares[len(shares)]
                )
            end as shares
        )
    from card
)
{%- endmacro %}


{#- `FLOAT` of `FLOAT[3]`: a list counts by element. -#}
{% macro _element_type(type) -%}
    {{ return(modules.re.sub('(\\[[0-9]*\\])+$', '', type)) }}
{%- endmacro %}


{#-
    A value as the reference counts it, as a SQL expression: a DOUBLE or a VARCHAR; none if the type does not
    allow it. NULL and NaN are NULL. A date is the number of `time_unit` since 1970, as the model reads it.
    The card has Python's texts: True and False. A feature's fill counts in the place of NULL, as the model reads it.
-#}
{% macro _counted_value(value, column) -%}
    {%- set counted = dbt_onnx._counted_known_value(value, column) -%}
    {%- if counted is none -%}
        {{ return(none) }}
    {%- endif -%}
    {%- if column['kind'] == 'numeric' and dbt_onnx._is_single(column) -%}
        {%- set counted = dbt_onnx._single(counted) -%}
    {%- endif -%}
    {%- if column['fill'] is none or column['fill'] is undefined -%}
        {{ return(counted) }}
    {%- endif -%}
    {%- set fill = dbt_onnx._literal(column['fill']) -%}
    {%- if column['kind'] == 'numeric' -%}
        {%- set fill = "cast(" ~ fill ~ " as double)" -%}
        {%- set fill = dbt_onnx._single(fill) if dbt_onnx._is_single(column) else fill -%}
    {%- endif -%}
    {{ return("case when " ~ value ~ " is null then " ~ fill ~ " else " ~ counted ~ " end") }}
{%- endmacro %}


{% macro _counted_known_value(value, column) -%}
    {%- set type = dbt_onnx._element_type(column['type']) -%}
    {%- set is_float = type in ['FLOAT', 'DOUBLE'] -%}
    {%- set is_number = is_float
        or modules.re.fullmatch('U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BOOLEAN|DECIMAL\\(.*\\)', type) is not none -%}
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
        {{ return("case when isfinite(" ~ moment ~ ") then epoch_us(" ~ moment ~ ") / "
            ~ microseconds[column['time_unit']] ~ "e0 when " ~ moment ~ " > '1970-01-01' then cast('inf' as double)"
            ~ " when " ~ moment ~ " is not null then cast('-inf' as double) end") }}
    {%- endif -%}
    {{ return(none) }}
{%- endmacro %}


{#-
    The CTE `measured`: per column the rows (elements of a list), those that are known, and a histogram, by the
    edges of `reference` (`numbers`) or by value (`texts`). All scalar columns are read in one pass, each list
    column in one of its own; to unpivot the
    values first takes twice as long, as each column has its own edges. A NULL list counts as one NULL.
-#}
{% macro _measured_ctes(population, columns) -%}
{%- set scalars = [] -%}
{%- set sources = [] -%}
{%- for column in columns -%}
    {%- if not column['type'].endswith(']') -%}
        {%- do scalars.append(column) -%}
    {%- else -%}
        {%- do sources.append({'name': 'list_' ~ loop.index0, 'columns': [column]}) -%}
list_{{ loop.index0 }}_values as (
    select {{ dbt_onnx._counted_value('element', column) }} as value_0
    from (
        select unnest(coalesce(
            cast({{ dbt_onnx._identifier(column['name']) }} as {{ dbt_onnx._element_type(column['type']) }}[]), [null]
        )) as element
        from {{ population }}
    )
),

    {% endif -%}
{%- endfor -%}
{%- if scalars -%}
    {%- do sources.append({'name': 'scalar', 'columns': scalars}) -%}
scalar_values as (
    select
        {%- for column in scalars %}
        {{ dbt_onnx._counted_value(dbt_onnx._identifier(column['name']), column) }} as value_{{ loop.index0 }},
        {%- endfor %}
    from {{ population }}
),

{% endif -%}
measured as (
    {#- a list forgets the collation of the texts in it #}
    select * replace ({{ dbt_onnx._text('column_name') }} as column_name)
    from (
        {%- for source in sources %}
        select unnest([
            {%- for column in source['columns'] %}
            {{ dbt_onnx._measures('value_' ~ loop.index0, column) | indent(12) }}{{ ',' if not loop.last }}
            {%- endfor %}
        ], max_depth := 2)
        from {{ source['name'] }}_values
        {{- '\n        union all' if not loop.last }}
        {%- endfor %}
    )
)
{%- endmacro %}


{#- The row of `measured` about one column, a struct of aggregates. -#}
{% macro _measures(value, column) -%}
struct_pack(
    column_name := {{ dbt_onnx._literal(column['name']) }},
    row_count := count(*),
    known := count({{ value }}),
    is_constant := min({{ value }}) = max({{ value }}),
    example := cast(any_value({{ value }}) as varchar),
    {%- if column['kind'] == 'numeric' %}
    numbers := histogram({{ value }}, (
        {#- no histogram is without edges; that of a column without known values is never looked at #}
        select case when len(edges) > 0 then edges else [0.0] end from reference
        where column_name = {{ dbt_onnx._text(dbt_onnx._literal(column['name'])) }}
    )),
    texts := cast(null as map(varchar, ubigint))
    {%- else %}
    numbers := cast(null as map(double, ubigint)),
    texts := histogram({{ value }})
    {%- endif %}
)
{%- endmacro %}


{#-
    The CTE `compared` over `reference` and `measured`: a row per column, with

    `psi`       the population stability index: the sum over the bins of (actual - expected) * ln(actual / expected),
                with shares of the known values (Siddiqi, Credit Risk Scorecards, 2006). A share below 0.0001 counts
                as 0.0001, for an empty bin would make it infinite. NULL where either side knows no value
    `moved`     the bin that adds most to it
    `chance`    where all known values are the same: how probable that is by the reference, as a logarithm
    `unlisted_share`, `examples`    of the categories that the reference does not list; its own share of those that
                it had no room for is `other_share`
-#}
{% macro _compared_ctes(population, columns) -%}
{%- if not columns -%}
compared as (
    {{ dbt_onnx._no_rows({
        'column_name': 'varchar', 'row_count': 'bigint', 'known': 'bigint', 'example': 'varchar', 'null_share': 'double',
        'expected_null_share': 'double', 'moved': 'struct(bin varchar, expected double, actual double)',
        'unlisted_share': 'double', 'other_share': 'double', 'examples': 'varchar', 'psi': 'double', 'chance': 'double'
    }) }}
)
{%- else -%}
{{ dbt_onnx._measured_ctes(population, columns) }},

counts_by_value as (
    select
        measured.column_name,
        entry.value as row_count,
        {{ dbt_onnx._text('left(cast(entry.key as varchar), 40)') }} as value,
        coalesce(list_position(reference.edges, entry.key), len(reference.shares)) as number
    from (select column_name, unnest(map_entries(numbers)) as entry from measured) as measured
    inner join reference on measured.column_name = reference.column_name

    union all

    select
        measured.column_name,
        entry.value as row_count,
        {{ dbt_onnx._text('left(entry.key, 40)') }} as value,
        coalesce(list_position(reference.categories, {{ dbt_onnx._text('entry.key') }}), len(reference.shares) + 1) as number
    from (select column_name, unnest(map_entries(texts)) as entry from measured) as measured
    inner join reference on measured.column_name = reference.column_name
),

counts_by_bin as (
    select
        column_name,
        number,
        sum(row_count) as row_count,
        max({'row_count': row_count, 'value': value}, 3) as examples
    from counts_by_value
    group by column_name, number
),

numbered_bins as (
    select
        *,
        unnest(range(1, len(shares) + case kind when 'numeric' then 1 else 2 end)) as number
    from reference
),

bins as (
    select
        numbered_bins.column_name,
        numbered_bins.kind = 'categorical' and numbered_bins.number > len(numbered_bins.shares) as is_other,
        case
            when numbered_bins.kind = 'categorical'
                then coalesce(left(numbered_bins.categories[numbered_bins.number], 40), 'other values')
            when len(numbered_bins.edges) = 0 then 'any number'
            when numbered_bins.number = 1 then format('up to {:.6g}', numbered_bins.edges[1])
            when numbered_bins.number > len(numbered_bins.edges)
                then format('above {:.6g}', numbered_bins.edges[numbered_bins.number - 1])
            else
                format(
                    'above {:.6g} to {:.6g}',
                    numbered_bins.edges[numbered_bins.number - 1],
                    numbered_bins.edges[numbered_bins.number]
                )
        end as bin,
        coalesce(numbered_bins.shares[numbered_bins.number], numbered_bins.other_share) as expected_share,
        coalesce(counts_by_bin.row_count, 0) / cast(nullif(measured.known, 0) as double) as actual_share,
        counts_by_bin.examples
    from numbered_bins
    inner join measured on numbered_bins.column_name = measured.column_name
    left join counts_by_bin
        on numbered_bins.column_name = counts_by_bin.column_name
        and numbered_bins.number = counts_by_bin.number
),

contributions as (
    select
        *,
        (greatest(actual_share, 0.0001) - greatest(expected_share, 0.0001))
        * ln(greatest(actual_share, 0.0001) / greatest(expected_share, 0.0001)) as contribution
    from bins
    -- greatest() would pass over the NULL of a column without known values
    where actual_share is not null
),

summed as (
    select
        column_name,
        sum(contribution) as psi,
        sum(expected_share) as expected_sum,
        arg_max({'bin': bin, 'expected': expected_share, 'actual': actual_share}, contribution) as moved,
        max(expected_share) filter (where actual_share = 1) as constant_share,
        max(actual_share) filter (where is_other) as unlisted_share,
        any_value(examples) filter (where is_other) as examples
    from contributions
    group by column_name
),

compared as (
    select
        measured.column_name,
        measured.row_count,
        measured.known,
        measured.example,
        (measured.row_count - measured.known) / cast(measured.row_count as double) as null_share,
        reference.null_share as expected_null_share,
        summed.moved,
        summed.unlisted_share,
        reference.other_share,
        array_to_string(
            list_transform(summed.examples, lambda shown: shown.value || ' (' || shown.row_count || ')'), ', '
        ) as examples,
        case when summed.expected_sum > 0 then summed.psi end as psi,
        case
            when summed.expected_sum > 0 and measured.is_constant
                then measured.known * ln(greatest(summed.constant_share, 0.0001))
        end as chance
    from measured
    inner join reference on measured.column_name = reference.column_name
    left join summed on measured.column_name = summed.column_name
)
{%- endif -%}
{%- endmacro %}


{#-
    The findings about `psi` and `constant` in `compared`, as two SELECTs. `chance` of less than one in a million
    makes a constant a finding: a rare flag that happens to be unset in a small population is none.
-#}
{% macro _drift_findings(warn_psi, error_psi, min_rows) -%}
    {% if warn_psi is not none or error_psi is not none -%}
    select
        column_name,
        'psi' as problem,
        moved.bin || ': ' || round(moved.expected, 4) as expected,
        moved.bin || ': ' || round(moved.actual, 4) as actual,
        psi as figure,
        case
            {%- if error_psi is not none %}
            when psi > {{ error_psi }} then {{ error_psi }}
            {%- endif %}
            {%- if warn_psi is not none %}
            when psi > {{ warn_psi }} then {{ warn_psi }}
            {%- endif %}
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


{#- What was found while rendering, `[[column_name, problem, expected, actual]]`, as a SELECT with all columns of a finding. -#}
{% macro _findings(found) -%}
    {{ dbt_onnx._no_rows({
        'column_name': 'varchar', 'problem': 'varchar', 'expected': 'varchar', 'actual': 'varchar',
        'figure': 'double', 'threshold': 'double', 'severity': 'varchar'
    }) }}
    {%- for column_name, problem, expected, actual in found %}

    union all by name

    select
        {{ dbt_onnx._literal(column_name) if column_name is not none else 'cast(null as varchar)' }} as column_name,
        {{ dbt_onnx._literal(problem) }} as problem,
        {{ dbt_onnx._literal(expected) }} as expected,
        {{ dbt_onnx._literal(actual) }} as actual,
        'error' as severity
    {%- endfor %}
{%- endmacro %}


{#- What both tests return: the CTE `validation_errors` with the version that was judged. -#}
{% macro _sorted_findings(run) -%}
select
    *,
    {{ dbt_onnx._literal(run['model_version']) if run is not none else 'cast(null as varchar)' }} as model_version
from validation_errors
{{ dbt_onnx._none_if_empty() }}
order by severity asc nulls last, figure desc nulls last, column_name asc nulls last
{%- endmacro %}


{#- Faults of the arguments that both tests have. -#}
{% macro _faults_of_drift(model, warn_psi, error_psi, min_rows) -%}
    {%- set faults = dbt_onnx._faults_of_predictions(model, 'model')
        + dbt_onnx._faults_of_psi(warn_psi, 'warn_psi')
        + dbt_onnx._faults_of_psi(error_psi, 'error_psi') -%}
    {%- if not faults and warn_psi is not none and error_psi is not none and warn_psi > error_psi -%}
        {%- do faults.append("warn_psi is larger than error_psi, so nothing would ever warn") -%}
    {%- endif -%}
    {{ return(faults + dbt_onnx._faults_of_count(min_rows, 'min_rows')) }}
{%- endmacro %}


{% macro _faults_of_psi(psi, argument) -%}
    {%- if psi is not none and (psi is not number or psi is boolean or not psi > 0) -%}
        {{ return([argument ~ " is " ~ psi ~ "; it takes a number above 0, or none"]) }}
    {%- endif -%}
    {{ return([]) }}
{%- endmacro %}
