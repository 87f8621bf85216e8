{#-
    Quotes names, literals, timestamps and periods from outside, so that they are safe in a statement.
    dbt's own quoting does not double quotes, so a name like `a"b` would end an identifier early.
-#}

{% macro _identifier(name) -%}
    {{ return('"' ~ (name | string | replace('"', '""')) ~ '"') }}
{%- endmacro %}


{% macro _literal(text) -%}
    {{ return("'" ~ (text | string | replace("'", "''")) ~ "'") }}
{%- endmacro %}


{#- The relation `identifier` in the database and schema of `relation`. -#}
{% macro _in_same_schema(relation, identifier) -%}
    {{ return(api.Relation.create(
        database=relation.database, schema=relation.schema, identifier=identifier
    )) }}
{%- endmacro %}


{#- A relation quoted for a FROM clause, whatever characters the parts of its name have. -#}
{% macro _table(relation) -%}
    {{ return(dbt_onnx._each([relation.database, relation.schema, relation.identifier] | select, '{0}', '.')) }}
{%- endmacro %}


{#- SQL condition: a column equals a name, ignoring case. -#}
{% macro _name_equals(column, name) -%}
    {{ return('lower(' ~ column ~ ') = ' ~ dbt_onnx._text('lower(' ~ dbt_onnx._literal(name) ~ ')')) }}
{%- endmacro %}


{#-
    The columns of a relation, `[{'name': .., 'type': ..}]`, or none if the relation does not exist.
    Queries the warehouse, because dbt's relation cache lacks tables that a scoring model created during this run.
-#}
{% macro _columns_in(relation) -%}
    {{ return(adapter.dispatch('_columns_in', 'dbt_onnx')(relation)) }}
{%- endmacro %}

{% macro default___columns_in(relation) -%}
    {%- set found = run_query(
        "select table_name from system.information_schema.tables"
        ~ " where " ~ dbt_onnx._name_equals('table_catalog', relation.database)
        ~ " and " ~ dbt_onnx._name_equals('table_schema', relation.schema)
        ~ " and " ~ dbt_onnx._name_equals('table_name', relation.identifier)
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

{#- The types have DuckDB's names. -#}
{% macro spark___columns_in(relation) -%}
    {{ return(adapter.columns_of(relation)) }}
{%- endmacro %}


{#-
    For a FROM clause: `_user_relation`, a relation that the user names, and `_own_relation`, a table that a run wrote.
    Both compare texts by their bytes. The collation of a column or of the session might treat the keys 'A' and 'a' as
    equal. `columns`: the result of `_columns_in`.
-#}
{% macro _user_relation(relation) -%}
    {{ return(dbt_onnx._by_bytes(relation, dbt_onnx._columns_in(relation))) }}
{%- endmacro %}


{% macro _own_relation(relation, columns=none) -%}
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


{#- A text that is compared by its bytes. -#}
{% macro _text(expression) -%}
    {{ return('cast(' ~ expression ~ ' as varchar) collate "binary"') }}
{%- endmacro %}


{#- Columns as texts that are compared by their bytes. -#}
{% macro _texts(names) -%}
    {{ return(dbt_onnx._each(names, dbt_onnx._text('{0}') ~ ' as {0}')) }}
{%- endmacro %}


{#- The kind of a type: `number`, `whole number`, `moment`, `boolean` or `list`; `text` for all other types. -#}
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


{#- The list type of an array type, such as `FLOAT[]` for `FLOAT[3]`; other types unchanged. -#}
{% macro _list_type(type) -%}
    {{ return(modules.re.sub('\\[[0-9]+\\]', '[]', type)) }}
{%- endmacro %}


{#-
    A column that is safe in joins: casts arrays of a fixed size to lists. If the right side of a left join has a NULL
    array, duckdb 2.0.0 reads uninitialized memory. The current view casts the list back to the array type.
-#}
{% macro _joinable(expression, type) -%}
    {%- set list_type = dbt_onnx._list_type(type) -%}
    {{ return(expression if list_type == type else 'cast(' ~ expression ~ ' as ' ~ list_type ~ ')') }}
{%- endmacro %}


{#- `"a" asc nulls last, "b" asc nulls last`: explicit, because session settings can change the default order. -#}
{% macro _ascending(names) -%}
    {{ return(dbt_onnx._each(names, '{0} asc nulls last')) }}
{%- endmacro %}


{#- For a FROM clause: an empty relation that replaces a table of this package that does not exist yet. -#}
{% macro _no_rows(names, key=[]) -%}
    {%- set moments = ['as_of', 'scored_at', 'started_at', 'executed_at', 'clock', 'last_seen_as_of'] -%}
    {{ return(
        '(select ' ~ dbt_onnx._each(key + names | reject('in', moments) | list, 'cast(null as varchar) as {0}')
        ~ ', ' ~ dbt_onnx._each(names | select('in', moments), 'cast(null as timestamp) as {0}') ~ ' where false)'
    ) }}
{%- endmacro %}


{#- `{count: 2, period: day}` as an interval. None gives NULL, so that no age exceeds it. -#}
{% macro _interval(period) -%}
    {{ return("cast(null as interval)" if period is none else "interval '" ~ period['count'] ~ "' " ~ period['period']) }}
{%- endmacro %}


{#- A period as the value of a column. On Spark in seconds, because Iceberg tables and views cannot hold intervals. -#}
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
    Any date or timestamp as a timestamp in UTC without time zone. A plain cast would convert a timestamp with time
    zone to the session's local time. The microseconds since 1970 do not depend on the session.
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


{#- The SQL type of a timestamp without time zone. -#}
{% macro default___moment_type() -%}
    {{ return('timestamp') }}
{%- endmacro %}

{% macro spark___moment_type() -%}
    {{ return('timestamp_ntz') }}
{%- endmacro %}


{#- A date, a datetime or ISO text (with or without an offset) as a UTC timestamp without time zone. -#}
{% macro _moment(value) -%}
    {%- set text = value.isoformat() if value is not string and value.isoformat is defined else value | string -%}
    {#- adds seconds, because Spark parses an offset only after seconds -#}
    {%- set text = modules.re.sub('^(.{10}[T ][0-9]{2}:[0-9]{2})(?!:)', '\\1:00', text) -%}
    {%- if modules.re.search('(Z|[+-][0-9]{2}(:?[0-9]{2})?)$', text[10:]) -%}
        {{ return(dbt_onnx._utc("cast(" ~ dbt_onnx._literal(text) ~ " as timestamptz)")) }}
    {%- endif -%}
    {{ return("cast(" ~ dbt_onnx._literal(text) ~ " as timestamp)") }}
{%- endmacro %}


{#- One copy of `text` for each name, with `{0}` replaced by the quoted name. -#}
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
