{#-
    Checks of arguments. Each check returns a list of faults, which are texts about wrong arguments, so that one error
    can name all of them. `_raise_faults` raises this error, with the names of the macro and the relation.
-#}

{% macro _raise_faults(faults, macro, relation) -%}
    {%- if faults -%}
        {{ exceptions.raise_compiler_error(
            macro ~ " on " ~ relation ~ " has " ~ (faults | length) ~ " wrong argument"
            ~ ("s" if faults | length > 1) ~ ":\n  - " ~ (faults | join("\n  - "))
        ) }}
    {%- endif -%}
{%- endmacro %}


{#- Faults of optional arguments of one kind. None is not checked, because it stands for the default. -#}
{% macro _faults_of_optional(kind, arguments) -%}
    {%- set check = {
        'relation': dbt_onnx._faults_of_relation, 'period': dbt_onnx._faults_of_period,
        'fraction': dbt_onnx._faults_of_fraction, 'moment': dbt_onnx._faults_of_moment,
        'version': dbt_onnx._faults_of_version,
    }[kind] -%}
    {%- set faults = [] -%}
    {%- for argument, value in arguments.items() if value is not none -%}
        {%- do faults.extend(check(value, argument)) -%}
    {%- endfor -%}
    {{ return(faults) }}
{%- endmacro %}


{#- Columns as a list of names; a text becomes a list of one. Not for `key`, which must be a list, as in `score()`. -#}
{% macro _list_of_names(columns) -%}
    {{ return([columns] if columns is string else columns) }}
{%- endmacro %}


{% macro _faults_of_key(key, taken=none) -%}
    {%- set faults = [] -%}
    {%- if key is string or key is mapping or key is not iterable or key | length == 0 -%}
        {%- do faults.append("key is missing; it takes a list of column names, such as ['customer_id']"
            if key is undefined else "key must be a list of column names; got "
                ~ (("'" ~ key ~ "'") if key is string else key | tojson)) -%}
    {%- else -%}
        {%- for name in key if name is not string or not name -%}
            {%- do faults.append("key has " ~ (name | tojson) ~ ", which is not a column name") -%}
        {%- endfor -%}
        {%- for name in key if name is string and name | lower in (taken or []) -%}
            {%- do faults.append("key column '" ~ name ~ "' has the name of a result column."
                ~ " Hint: rename it in the features") -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{% macro _faults_of_relation(relation, argument) -%}
    {#- not a relation, for example: with a `where` config dbt passes a subquery as text instead of the model -#}
    {%- set is_relation = relation is not none and relation is not string and relation.identifier is defined -%}
    {{ return([] if is_relation else [argument ~ " is " ~ (relation | string | tojson)
        ~ "; it takes a relation, such as ref('...')" ~ (", and no `where` config" if argument == 'model' else "")]) }}
{%- endmacro %}


{#- Faults of a relation that should be a scoring model. A scoring model that has not run yet has no faults. -#}
{% macro _faults_of_predictions(relation, argument) -%}
    {%- set faults = dbt_onnx._faults_of_relation(relation, argument) -%}
    {%- set columns = dbt_onnx._columns_in(relation) if not faults else none -%}
    {%- set found = (columns or []) | map(attribute='name') | map('lower') | list -%}
    {%- set stamps = ['status', 'model_name', 'model_version', 'run_id', 'scored_at', 'features_hash'] -%}
    {%- set missing = stamps | reject('in', found) | list -%}
    {%- if columns is not none and missing -%}
        {%- do faults.append(argument ~ " is " ~ relation ~ ", which is not a scoring model: it has no column "
            ~ (missing | join(', ')) ~ ". Hint: name the model that returns score(...)") -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}


{% macro _faults_of_period(period, argument) -%}
    {%- set periods = ['second', 'minute', 'hour', 'day', 'week'] -%}
    {%- set is_period = period is mapping
        and period.keys() | sort == ['count', 'period']
        and period['count'] is integer and period['count'] >= 1
        and period['period'] in periods -%}
    {{ return([] if is_period else [argument ~ " is " ~ period ~ "; it takes {count: 2, period: day}: a whole number"
        ~ " from 1 and one of " ~ (periods | join(', '))]) }}
{%- endmacro %}


{% macro _faults_of_fraction(fraction, argument) -%}
    {%- set is_fraction = fraction is number and fraction is not boolean and 0 <= fraction <= 1 -%}
    {{ return([] if is_fraction else [argument ~ " is " ~ fraction ~ "; it takes a number from 0 to 1"]) }}
{%- endmacro %}


{#- `least` is the smallest allowed number; `or_none` is appended to the message if none is allowed, too. -#}
{% macro _faults_of_count(value, argument, least=1, or_none='') -%}
    {%- set is_count = value is integer and value >= least -%}
    {{ return([] if is_count else [argument ~ " is " ~ value ~ "; it takes a whole number from " ~ least ~ or_none]) }}
{%- endmacro %}


{% macro _faults_of_text(text, argument, what) -%}
    {{ return([] if text is string and text else [argument ~ " is " ~ text ~ "; it takes " ~ what]) }}
{%- endmacro %}


{% macro _faults_of_version(version, argument) -%}
    {{ return(dbt_onnx._faults_of_text(version, argument, "a version as text, such as '2'")) }}
{%- endmacro %}


{#- Whether a text is an existing ISO date, with or without a time. `zone`: a pattern for what may follow the time. -#}
{% macro _is_moment(text, zone) -%}
    {%- set time = '[T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]{1,6})?)?' -%}
    {%- set day = '(?!0000)([0-9]{4})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])' -%}
    {%- set found = modules.re.fullmatch(day ~ '((' ~ time ~ ')' ~ zone ~ ')?', text | string) -%}
    {%- if found is none -%}
        {{ return(false) }}
    {%- endif -%}
    {%- set year, month, day = found.group(1) | int, found.group(2) | int, found.group(3) | int -%}
    {%- set counted = modules.datetime.date(year, month, 1) + modules.datetime.timedelta(days=day - 1) -%}
    {{ return(counted.month == month) }}
{%- endmacro %}


{% macro _faults_of_moment(value, argument) -%}
    {%- set text = value.isoformat() if value is not string and value.isoformat is defined else value | string -%}
    {%- set is_moment = dbt_onnx._is_moment(text, '(Z|[+-][0-9]{2}(:?[0-9]{2})?)?') -%}
    {{ return([] if is_moment else [argument ~ " is '" ~ text ~ "'; it takes a date or a timestamp"
        ~ " (UTC unless it has an offset), such as '1998-02-03 12:00'"]) }}
{%- endmacro %}


{#- The columns, of `[{'name': ..}]`, that have this name, ignoring case. -#}
{% macro _columns_named(columns, name) -%}
    {%- set called = [] -%}
    {%- for column in columns if column['name'] | lower == name | lower -%}
        {%- do called.append(column) -%}
    {%- endfor -%}
    {{ return(called) }}
{%- endmacro %}


{#- A fault for each name that is not in `columns` (from `_columns_in`); none if the relation does not exist yet. -#}
{% macro _faults_of_columns(names, columns, relation, argument) -%}
    {%- set faults = [] -%}
    {%- for name in names if columns is not none and not dbt_onnx._columns_named(columns, name) -%}
        {%- do faults.append(argument ~ " names column '" ~ name ~ "'; "
            ~ relation ~ " has " ~ (columns | map(attribute='name') | list | tojson)) -%}
    {%- endfor -%}
    {{ return(faults) }}
{%- endmacro %}


{#- Faults of the arguments that `missing_predictions` and `predictions_are_complete` share. -#}
{% macro _faults_of_missing(predictions, entities, key, registry, entity_since, argument, also_returned=[]) -%}
    {%- set returned = ['problem', 'rejected_reason', 'rejected_as_of', 'rejected_at', 'model_version',
        'waiting_since', 'waiting'] + also_returned -%}
    {%- set faults = dbt_onnx._faults_of_predictions(predictions, argument)
        + dbt_onnx._faults_of_relation(entities, 'entities')
        + dbt_onnx._faults_of_key(key, taken=returned)
        + dbt_onnx._faults_of_optional('relation', {'registry': registry})
        + (["entity_since is " ~ entity_since ~ "; it takes the name of a column of entities"]
            if entity_since is not none and entity_since is not string else []) -%}
    {%- if not faults -%}
        {%- set ledger = dbt_onnx._ledger(predictions, key) -%}
        {%- set columns = dbt_onnx._columns_in(entities) -%}
        {%- set faults = dbt_onnx._faults_of_columns(key, ledger['current_columns'], ledger['current'], 'key')
            + dbt_onnx._faults_of_columns(key, columns, entities, 'key')
            + dbt_onnx._faults_of_columns([entity_since] | reject('none'), columns, entities, 'entity_since') -%}
    {%- endif -%}
    {{ return(faults) }}
{%- endmacro %}
