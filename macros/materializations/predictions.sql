{#
    A scoring model: a Python model that returns `dbt_onnx.score(...)`.

    The Python code writes the predictions and the run row in a separate transaction, on separate cursors; dbt's
    connection only receives the outcome. Therefore the pre-hooks are committed before the run, which could not see
    their effects otherwise, and the post-hooks see the run's result. A post-hook that fails does not roll back the
    run; running the model again scores only rows that have not been scored yet.
#}
{% materialization predictions, adapter='duckdb', supported_languages=['python'] %}
    {%- set ledger = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}
    {% do dbt_onnx._commit() %}

    {% call statement('main', language='python') -%}
{{ compiled_code }}

def model(dbt, session, model=model):
    from dbt_onnx.project.dbt_model import run_model
    from dbt_onnx.serving.request_log import RequestLogs

    run_model(model, dbt, session, {{ tojson(tojson(dbt_onnx.run_settings(ledger))) }}, RequestLogs)

def materialize(result, connection):
    pass
    {%- endcall %}
    {% do dbt_onnx._store_outcome() %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {% do persist_docs(ledger, model) %}
    {% do dbt_onnx._commit() %}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {%- set relations = [ledger] -%}
    {%- for identifier in [ledger.identifier ~ '__current', ledger.identifier ~ '__history', ledger.identifier ~ '__presence',
        ledger.identifier ~ '__inputs', 'dbt_onnx_runs'] -%}
        {%- do relations.append(ledger.incorporate(path={'identifier': identifier}, type='table')) -%}
    {%- endfor -%}
    {{ return({'relations': relations}) }}
{% endmaterialization %}


{#- Gives dbt the outcome that the Python code left in a variable: the result of the node, or its error. -#}
{% macro _store_outcome() %}
    {%- set outcome = fromjson(run_query("select getvariable('dbt_onnx_outcome')").columns[0].values()[0]) -%}
    {%- if not outcome.ok -%}
        {% do exceptions.raise_compiler_error(outcome.message) %}
    {%- endif -%}
    {% do store_raw_result(
        'main', message=outcome.message, code='OK', rows_affected=outcome.rows_written
    ) %}
{% endmacro %}


{#- Opens a transaction before the commit, because dbt-duckdb before 1.11 logs a traceback for a commit without one. -#}
{% macro _commit() %}
    {% call statement('transaction') -%} select 1 {%- endcall %}
    {% do adapter.commit() %}
{% endmacro %}


{#-
    The settings that dbt passes to the Python code. The variable `dbt_onnx_model` maps scoring models to the version
    to backfill with instead of their own: `{scoring model: 'churn/1'}`.
-#}
{% macro run_settings(ledger) %}
    {%- set version_by_model = var('dbt_onnx_model', none) or {} -%}
    {%- set retry_rejected = var('dbt_onnx_retry_rejected', false) -%}
    {%- set faults = [] -%}
    {%- if version_by_model is not mapping -%}
        {%- do faults.append(
            "variable dbt_onnx_model is '" ~ version_by_model ~ "'; it maps scoring models to model versions."
            ~ " Hint: --vars '{dbt_onnx_model: {" ~ model.name ~ ": churn/1}}'"
        ) -%}
    {%- endif -%}
    {%- if retry_rejected is not boolean -%}
        {%- do faults.append(
            "variable dbt_onnx_retry_rejected is '" ~ retry_rejected ~ "'; it takes true or false."
            ~ " Hint: --vars '{dbt_onnx_retry_rejected: true}'"
        ) -%}
    {%- endif -%}
    {%- if faults -%}
        {{ exceptions.raise_compiler_error(faults | join('\n')) }}
    {%- endif -%}
    {#- seed files by relation name; paths of the project's own seeds are relative to its folder. With `--empty` dbt
        1.12 loads no rows into seeds, and the registry is a seed, so the run has to read the file -#}
    {%- set seeds = {} -%}
    {%- for seed in (dbt_onnx._nodes_above(model, 'seed') if flags.EMPTY else []) -%}
        {#- root_path of the project's own seeds may be the folder of an earlier parse -#}
        {%- set folder = '' if seed.package_name == project_name else seed.root_path ~ '/' -%}
        {%- do seeds.update({seed.relation_name: folder ~ seed.original_file_path}) -%}
    {%- endfor -%}
    {{ return({
        'package_version': dbt_onnx._version(),
        'database': ledger.database,
        'schema': ledger.schema,
        'identifier': ledger.identifier,
        'run_id': invocation_id,
        'clock_sql': dbt_onnx.clock(),
        'full_refresh': should_full_refresh(),
        'empty': flags.EMPTY or false,
        'seeds': seeds,
        'retry_rejected': retry_rejected,
        'model': version_by_model.get(model.name),
        'dbt_version': dbt_version,
    }) }}
{% endmacro %}


{#- The nearest upstream nodes with the materialization `materialized`: the first such node on each path. -#}
{% macro _nodes_above(node, materialized, found=none, seen=none) %}
    {%- set found, seen = ([], []) if found is none else (found, seen) -%}
    {%- for unique_id in node.depends_on.nodes if unique_id in graph.nodes and unique_id not in seen -%}
        {%- do seen.append(unique_id) -%}
        {%- set above = graph.nodes[unique_id] -%}
        {%- if above.config.materialized == materialized -%}
            {%- do found.append(above) -%}
        {%- else -%}
            {%- do dbt_onnx._nodes_above(above, materialized, found, seen) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}
