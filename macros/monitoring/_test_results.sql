{#- Finds the tests of each scoring model, and writes their results to the table `dbt_onnx_test_results`. -#}

{#-
    The nodes of the scoring models that a test is about: the scoring model that the test is attached to, directly or
    through a current view. If the test is attached to no scoring model: the scoring models that it reads.
-#}
{% macro _scoring_models_of(test) -%}
    {%- set of_attached = dbt_onnx._scoring_models_among([test.attached_node] if test.attached_node else []) -%}
    {{ return(of_attached or dbt_onnx._scoring_models_among(test.depends_on.nodes)) }}
{%- endmacro %}


{% macro _scoring_models_among(unique_ids) -%}
    {%- set found = {} -%}
    {%- for unique_id in unique_ids if unique_id in graph.nodes -%}
        {%- set node = graph.nodes[unique_id] -%}
        {%- set is_view = 'macro.dbt_onnx.current_predictions' in node.depends_on.macros -%}
        {%- for read in (node.depends_on.nodes if is_view else [unique_id])
            if read in graph.nodes and graph.nodes[read].config.materialized == 'predictions' -%}
            {%- do found.update({read: graph.nodes[read]}) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(found.values() | list) }}
{%- endmacro %}


{#- The names of the project's tests of a scoring model; none if the relation is no scoring model of this project. -#}
{% macro _names_of_tests(relation) -%}
    {%- set own = [relation.database, relation.schema, relation.identifier] | map('lower') | list -%}
    {%- set ids = [] -%}
    {%- for node in graph.nodes.values() if node.config.materialized == 'predictions'
        and [node.database, node.schema, node.alias] | map('lower') | list == own -%}
        {%- do ids.append(node.unique_id) -%}
    {%- endfor -%}
    {%- set names = [] -%}
    {%- for test in graph.nodes.values() if test.resource_type == 'test'
        and dbt_onnx._scoring_models_of(test) | selectattr('unique_id', 'in', ids) | list -%}
        {%- do names.append(test.name) -%}
    {%- endfor -%}
    {{ return(names if ids else none) }}
{%- endmacro %}


{#- `[{'ledger': relation, 'rows': [..]}, ..]`, one entry for each schema with tested scoring models. -#}
{% macro _outcomes_by_schema(results) -%}
    {%- set by_schema = {} -%}
    {%- for result in results
        if result.node.resource_type == 'test' and result.status in ['pass', 'warn', 'fail', 'error'] -%}
        {%- set test = result.node -%}
        {%- set ended_at = (result.timing | last).completed_at if result.timing else none -%}
        {%- for model in dbt_onnx._scoring_models_of(test) -%}
            {%- set ledger = api.Relation.create(
                database=model.database, schema=model.schema, identifier=model.alias
            ) -%}
            {%- set outcomes = by_schema.setdefault((model.database, model.schema), {'ledger': ledger, 'rows': []}) -%}
            {%- do outcomes['rows'].append({
                'scoring_model': model.alias,
                'test_name': test.name,
                'generic_test': test.test_metadata.name if test.test_metadata else none,
                'status': result.status | string,
                'failures': result.failures,
                'message': result.message,
                'executed_at': (ended_at or run_started_at) | string,
            }) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(by_schema.values() | list) }}
{%- endmacro %}


{#- Whether the ledger's schema has a `dbt_onnx_runs` (a table, or a view of a lake) and its database is writable. -#}
{% macro _is_writable(ledger) -%}
    {{ return(adapter.dispatch('_is_writable', 'dbt_onnx')(ledger)) }}
{%- endmacro %}

{#- Checks for the runs only, because Spark does not report whether a catalog is writable. -#}
{% macro spark___is_writable(ledger) -%}
    {{ return(dbt_onnx._columns_in(dbt_onnx._in_same_schema(ledger, 'dbt_onnx_runs')) is not none) }}
{%- endmacro %}

{% macro default___is_writable(ledger) -%}
    {%- set found = run_query(
        "select 1 from (select database_name, schema_name, table_name from duckdb_tables() union all"
        ~ " select database_name, schema_name, view_name from duckdb_views()) as relations"
        ~ " inner join duckdb_databases() using (database_name)"
        ~ " where table_name = 'dbt_onnx_runs' and not readonly"
        ~ " and " ~ dbt_onnx._name_equals('database_name', ledger.database)
        ~ " and " ~ dbt_onnx._name_equals('schema_name', ledger.schema)
    ) -%}
    {{ return(found.rows | length > 0) }}
{%- endmacro %}


{% macro _create_test_results(ledger) -%}
    {{ return(adapter.dispatch('_create_test_results', 'dbt_onnx')(ledger)) }}
{%- endmacro %}

{% macro default___create_test_results(ledger) -%}
create table if not exists {{ dbt_onnx._table(dbt_onnx._in_same_schema(ledger, 'dbt_onnx_test_results')) }} (
    run_id varchar,
    scoring_model varchar,
    test_name varchar,
    generic_test varchar,
    status varchar,
    failures bigint,
    message varchar,
    clock timestamp,
    executed_at timestamp
)
{%- endmacro %}

{% macro spark___create_test_results(ledger) -%}
    {{ return(dbt_onnx._in_dialect(dbt_onnx.default___create_test_results(ledger)) ~ ' using iceberg') }}
{%- endmacro %}


{#- One INSERT for all tests. The rows are passed as JSON, which DuckDB reads faster than a long VALUES list. -#}
{% macro _insert_outcomes(outcomes) -%}
insert into {{ dbt_onnx._table(dbt_onnx._in_same_schema(outcomes['ledger'], 'dbt_onnx_test_results')) }} by name
select
    {{ dbt_onnx._literal(invocation_id) }} as run_id,
    {{ dbt_onnx.clock() | trim }} as clock,
    outcome.scoring_model as scoring_model,
    outcome.test_name as test_name,
    outcome.generic_test as generic_test,
    outcome.status as status,
    outcome.failures as failures,
    outcome.message as message,
    cast(outcome.executed_at as timestamp) as executed_at
from (
    select
        unnest(from_json(
            {{ dbt_onnx._literal(outcomes['rows'] | tojson) }},
            '[{"scoring_model": "VARCHAR", "test_name": "VARCHAR", "generic_test": "VARCHAR", "status": "VARCHAR",
                "failures": "BIGINT", "message": "VARCHAR", "executed_at": "VARCHAR"}]'
        )) as outcome
)
{%- endmacro %}


{#- SQL of a list of texts, such as `['a', 'b']`. -#}
{% macro _list_of_texts(texts) -%}
    {{ return('from_json(' ~ dbt_onnx._literal(texts | tojson) ~ ', \'["VARCHAR"]\')') }}
{%- endmacro %}
