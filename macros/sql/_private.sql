{#-
    Names, literals, moments and periods from outside, made safe to stand in a statement.
    dbt's own quoting doubles no quotes, so `a"b` would end an identifier early.
-#}

{% macro _identifier(name) -%}
    {{ return('"' ~ (name | string | replace('"', '""')) ~ '"') }}
{%- endmacro %}


{% macro _literal(text) -%}
    {{ return("'" ~ (text | string | replace("'", "''")) ~ "'") }}
{%- endmacro %}


{#- The relation beside `relation` (same database and schema) that is called `identifier`. -#}
{% macro _beside(relation, identifier) -%}
    {{ return(api.Relation.create(
        database=relation.database, schema=relation.schema, identifier=identifier
    )) }}
{%- endmacro %}


{#- A relation as it stands in a FROM clause, whatever characters its parts have. -#}
{% macro _table(relation) -%}
    {{ return(dbt_onnx._each([relation.database, relation.schema, relation.identifier] | select, '{0}', '.')) }}
{%- endmacro %}


{#- Whether a column has a name, in whatever case. -#}
{% macro _is_called(column, name) -%}
    {{ return('lower(' ~ column ~ ') = ' ~ dbt_onnx._text('lower(' ~ dbt_onnx._literal(name) ~ ')')) }}
{%- endmacro %}


{#-
    `[{'name': .., 'type': ..}]` of a relation, or none if the warehouse has no such relation.
    The relation cache is not asked: a table that the scoring model made in this very run is not in it.
-#}
{% macro _columns_in(relation) -%}
    {{ return(adapter.dispatch('_columns_in', 'dbt_onnx')(relation)) }}
{%- endmacro %}

{% macro default___columns_in(relation) -%}
    {%- set found = run_query(
        "select table_name from system.information_schema.tables"
        ~ " where " ~ dbt_onnx._is_called('table_catalog', relation.database)
        ~ " and " ~ dbt_onnx._is_called('table_schema', relation.schema)
        ~ " and " ~ dbt_onnx._is_called('table_name', relation.identifier)
    ) -%}
    {%- if found.rows | length == 0 -%}
        {{ return(none) }}
    {%- endif -%}
    {%- set described = run_query(
        "select column_name as name, column_type as type from (describe " ~ dbt_onnx._table(relation) ~ ")"
    ) -%}
    {%- set columns = [] -%}
    {%- for row in described.rows -%}
        {%- do columns.append(dict(row.dict())) -%}
    {%- endfor -%}
    {{ return(columns) }}
{%- endmacro %}

{#- The types as DuckDB calls them. -#}
{% macro spark___columns_in(relation) -%}
    {{ return(adapter.columns_of(relation)) }}
{%- endmacro %}


{#-
    What a FROM clause reads: `_given`, a relation that the user names, and `_written`, a table that a run wrote. Texts in
    it are equal if their bytes are, not as the collation of a column or of the session has it, by which the keys 'A'
    and 'a' may be one. `columns`: what `_columns_in` finds.
-#}
{% macro _given(relation) -%}
    {{ return(dbt_onnx._by_bytes(relation, dbt_onnx._columns_in(relation))) }}
{%- endmacro %}


{% macro _written(relation, columns=none) -%}
    {{ return(dbt_onnx._by_bytes(dbt_onnx._table(relation), columns or dbt_onnx._columns_in(relation))) }}
{%- endmacro %}


{% macro _by_bytes(relation, columns) -%}
    {{ return(adapter.dispatch('_by_bytes', 'dbt_onnx')(relation, columns)) }}
{%- endmacro %}

{% macro default___by_bytes(relation, columns) -%}
    {%- set names = (columns or []) | selectattr('type', 'equalto', 'VARCHAR') | map(attribute='name') -%}
    {%- set texts = dbt_onnx._texts(names) -%}
    {{ return('(select *' ~ (' replace (' ~ texts ~ ')' if texts) ~ ' from ' ~ relation ~ ')') }}
{%- endmacro %}

{#- Spark 3.5 has no collations. -#}
{% macro spark___by_bytes(relation, columns) -%}
    {{ return('(select * from ' ~ relation ~ ')') }}
{%- endmacro %}


{#- A text that is equal to another if their bytes are. -#}
{% macro _text(expression) -%}
    {{ return('cast(' ~ expression ~ ' as varchar) collate "binary"') }}
{%- endmacro %}


{#- Columns as such texts. -#}
{% macro _texts(names) -%}
    {{ return(dbt_onnx._each(names, dbt_onnx._text('{0}') ~ ' as {0}')) }}
{%- endmacro %}


{#- `number`, `whole number`, `moment`, `boolean`, `list`; `text` is all else. -#}
{% macro _kind_of_type(type) -%}
    {%- if type.endswith(']') -%}
        {{ return('list') }}
    {%- elif modules.re.fullmatch('FLOAT|DOUBLE|DECIMAL.*', type) -%}
        {{ return('number') }}
    {%- elif modules.re.fullmatch('U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER', type) -%}
        {{ return('whole number') }}
    {%- elif modules.re.fullmatch('DATE|TIMESTAMP.*', type) -%}
        {{ return('moment') }}
    {%- endif -%}
    {{ return('boolean' if type == 'BOOLEAN' else 'text') }}
{%- endmacro %}


{#- `FLOAT[]` of `FLOAT[3]`. -#}
{% macro _list_type(type) -%}
    {{ return(modules.re.sub('\\[[0-9]+\\]', '[]', type)) }}
{%- endmacro %}


{#-
    A column as it goes through joins: arrays of a fixed size as lists. Where the right side of a left join has a
    NULL array, duckdb 2.0.0 reads memory that was never written. Cast back to its type, the list is an array again.
-#}
{% macro _joinable(expression, type) -%}
    {%- set list_type = dbt_onnx._list_type(type) -%}
    {{ return(expression if list_type == type else 'cast(' ~ expression ~ ' as ' ~ list_type ~ ')') }}
{%- endmacro %}


{#- `"a" asc nulls last, "b" asc nulls last`: the session has an order and a place for NULL of its own. -#}
{% macro _ascending(names) -%}
    {{ return(dbt_onnx._each(names, '{0} asc nulls last')) }}
{%- endmacro %}


{#- What a FROM clause reads in the place of a table of ours that does not exist yet. -#}
{% macro _no_rows(names, key=[]) -%}
    {%- set moments = ['as_of', 'scored_at', 'started_at', 'executed_at', 'clock', 'last_seen_as_of'] -%}
    {{ return(
        '(select ' ~ dbt_onnx._each(key + names | reject('in', moments) | list, 'cast(null as varchar) as {0}')
        ~ ', ' ~ dbt_onnx._each(names | select('in', moments), 'cast(null as timestamp) as {0}') ~ ' where false)'
    ) }}
{%- endmacro %}


{#- `{count: 2, period: day}` as an interval; of none NULL, which no age is beyond. -#}
{% macro _interval(period) -%}
    {{ return("cast(null as interval)" if period is none else "interval '" ~ period['count'] ~ "' " ~ period['period']) }}
{%- endmacro %}


{#- The same as what a column says: on Spark the seconds, since neither tables nor views of Iceberg hold intervals. -#}
{% macro _duration(period) -%}
    {{ return(adapter.dispatch('_duration', 'dbt_onnx')(period)) }}
{%- endmacro %}

{% macro default___duration(period) -%}
    {{ return(dbt_onnx._interval(period)) }}
{%- endmacro %}

{% macro spark___duration(period) -%}
    {{ return('cast(' ~ ('null' if period is none else dbt_onnx._seconds(period)) ~ ' as double)') }}
{%- endmacro %}


{#- `{count: 2, period: day}` in seconds, to compare two thresholds while rendering. -#}
{% macro _seconds(period) -%}
    {%- set unit = {'second': 1, 'minute': 60, 'hour': 3600, 'day': 86400, 'week': 604800} -%}
    {{ return(period['count'] * unit[period['period']]) }}
{%- endmacro %}


{#-
    Any date or timestamp as a naive timestamp in UTC. A plain cast would turn a timestamp with time
    zone into the session's local time; the microseconds since 1970 are the same everywhere.
-#}
{% macro _utc(expression) -%}
    {{ return(adapter.dispatch('_utc', 'dbt_onnx')(expression)) }}
{%- endmacro %}

{% macro default___utc(expression) -%}
    {{ return("make_timestamp(epoch_us(" ~ expression ~ "))") }}
{%- endmacro %}

{% macro spark___utc(expression) -%}
    {{ return("case when typeof(" ~ expression ~ ") = 'timestamp' then cast(to_utc_timestamp(" ~ expression
        ~ ", current_timezone()) as timestamp_ntz) else cast(" ~ expression ~ " as timestamp_ntz) end") }}
{%- endmacro %}


{#- The type of such a moment. -#}
{% macro default___moment_type() -%}
    {{ return('timestamp') }}
{%- endmacro %}

{% macro spark___moment_type() -%}
    {{ return('timestamp_ntz') }}
{%- endmacro %}


{#- A date, a timestamp, their ISO text (with or without an offset) or a datetime, as a naive UTC timestamp. -#}
{% macro _moment(value) -%}
    {%- set text = value.isoformat() if value is not string and value.isoformat is defined else value | string -%}
    {#- Spark reads an offset after seconds only -#}
    {%- set text = modules.re.sub('^(.{10}[T ][0-9]{2}:[0-9]{2})(?!:)', '\\1:00', text) -%}
    {%- if modules.re.search('(Z|[+-][0-9]{2}(:?[0-9]{2})?)$', text[10:]) -%}
        {{ return(dbt_onnx._utc("cast(" ~ dbt_onnx._literal(text) ~ " as timestamptz)")) }}
    {%- endif -%}
    {{ return("cast(" ~ dbt_onnx._literal(text) ~ " as timestamp)") }}
{%- endmacro %}


{#- A text for each name, with the name as an identifier in the place of `{0}`. -#}
{% macro _each(names, text, between=', ') -%}
    {%- set listed = [] -%}
    {%- for name in names -%}
        {%- do listed.append(text.format(dbt_onnx._identifier(name))) -%}
    {%- endfor -%}
    {{ return(listed | join(between)) }}
{%- endmacro %}


{#- `"a", "b"`, or with a table alias `l."a", l."b"`. -#}
{% macro _columns(names, of=none) -%}
    {{ return(dbt_onnx._each(names, (of ~ '.' if of else '') ~ '{0}')) }}
{%- endmacro %}


{#- `struct_pack("a" := "a", "b" := "b")` -#}
{% macro _struct(names) -%}
    {{ return('struct_pack(' ~ dbt_onnx._each(names, '{0} := {0}') ~ ')') }}
{%- endmacro %}


{#- `l."a" = r."a" and l."b" = r."b"` -#}
{% macro _same_key(key, left, right) -%}
    {{ return(dbt_onnx._each(key, left ~ '.{0} = ' ~ right ~ '.{0}', ' and ')) }}
{%- endmacro %}
