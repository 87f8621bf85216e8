{#
    A published model: a Python model that returns `dbt_onnx.publish(...)`.

    What is published goes to files or servers; the model's own table says which rows are there, so that
    the next publication writes only what changed. `dbt_onnx_publications` says what was served when.

    Hooks and commits are as in `predictions`, and stand here again: dbt runs Python for a materialization
    only, not for a macro that it calls.
#}
{% materialization published, adapter='duckdb', supported_languages=['python'] %}
    {%- set table = this.incorporate(type='table') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% do dbt_onnx._commit() %}

    {% call statement('main', language='python') -%}
{{ compiled_code }}

def model(dbt, session, model=model):
    from dbt_onnx.serving.publish import publish_model

    publish_model(model, dbt, session, {{ tojson(tojson(dbt_onnx._publication_settings(table))) }})

def materialize(result, connection):
    pass
    {%- endcall %}
    {% do dbt_onnx._store_outcome() %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do persist_docs(table, model) %}
    {% do dbt_onnx._commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [table]}) }}
{% endmaterialization %}


{% macro _publication_settings(table) %}
    {{ return({
        'database': table.database,
        'schema': table.schema,
        'identifier': table.identifier,
        'run_id': invocation_id,
        'clock_sql': dbt_onnx.clock() | trim,
        'full_refresh': should_full_refresh(),
        'empty': flags.EMPTY or false,
        'scoring_models': dbt_onnx._scoring_models_above(model),
    }) }}
{% endmacro %}


{#- The ledgers that a node stands on. -#}
{% macro _scoring_models_above(node, found=none, seen=none) %}
    {%- set found, seen = ([], []) if found is none else (found, seen) -%}
    {%- for unique_id in node.depends_on.nodes if unique_id in graph.nodes and unique_id not in seen -%}
        {%- do seen.append(unique_id) -%}
        {%- set above = graph.nodes[unique_id] -%}
        {%- if above.config.materialized == 'predictions' -%}
            {%- do found.append({
                'database': above.database, 'schema': above.schema, 'identifier': above.alias
            }) -%}
        {%- else -%}
            {%- do dbt_onnx._scoring_models_above(above, found, seen) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}
