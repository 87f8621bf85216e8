{#-
    A scoring model on Spark; see `predictions`. Iceberg has no transaction across tables, so there is nothing to
    commit here. The run takes effect when the Python code writes its run row.
-#}
{% materialization predictions, adapter='spark', supported_languages=['python'] %}
    {%- set ledger = this.incorporate(type='view') -%}

    {{ run_hooks(pre_hooks) }}
    {% call statement('main', language='python') -%}
{{ compiled_code }}

from dbt_onnx.engines.spark.features import loader
from dbt_onnx.project.dbt_model import run_model
from dbt_onnx.serving.request_log import RequestLogs

run_model(model, dbtObj(loader(spark)), spark, {{ tojson(tojson(dbt_onnx.run_settings(ledger))) }}, RequestLogs)
    {%- endcall %}
    {{ run_hooks(post_hooks) }}
    {% do persist_docs(ledger, model) %}

    {%- set relations = [ledger] -%}
    {%- for identifier in [ledger.identifier ~ '__current', ledger.identifier ~ '__history', ledger.identifier ~ '__inputs',
        ledger.identifier ~ '__rows', ledger.identifier ~ '__superseded', 'dbt_onnx_runs'] -%}
        {%- do relations.append(ledger.incorporate(path={'identifier': identifier}, type='table')) -%}
    {%- endfor -%}
    {{ return({'relations': relations}) }}
{% endmaterialization %}
