{#
    A published model: a Python model that returns `dbt_onnx.publish(...)`.

    The publication is written to files or servers. The model's own table records which rows are published, so that
    the next publication writes only rows that changed. `dbt_onnx_publications` records which publication was served
    when.

    Hooks and commits are the same as in `predictions`. The code is repeated here, because dbt runs Python only in a
    materialization, not in a macro that the materialization calls.
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
    {%- set scoring_models = [] -%}
    {%- for node in dbt_onnx._nodes_above(model, 'predictions') -%}
        {%- do scoring_models.append({
            'database': node.database, 'schema': node.schema, 'identifier': node.alias
        }) -%}
    {%- endfor -%}
    {{ return({
        'package_version': dbt_onnx._version(),
        'database': table.database,
        'schema': table.schema,
        'identifier': table.identifier,
        'run_id': invocation_id,
        'clock_sql': dbt_onnx.clock() | trim,
        'full_refresh': should_full_refresh(),
        'empty': flags.EMPTY or false,
        'scoring_models': scoring_models,
    }) }}
{% endmacro %}
