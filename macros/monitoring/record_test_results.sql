{#-
    Write what dbt's tests said of scoring models into `dbt_onnx_test_results`, a table beside each ledger.

    For the `on-run-end` of your own project: `on-run-end: "{{ dbt_onnx.record_test_results(results) }}"`. dbt
    hands a test's outcome to such a hook and nowhere else in the warehouse.

    Recorded is every test, of this package or not, that is attached to a scoring model or to a view made by
    `current_predictions`; of the others those that read one. A row per test and scoring model: `run_id` (dbt's
    invocation id), `scoring_model`, `test_name`, `generic_test`, `status` (`pass`, `warn`, `fail` or `error`),
    `failures`, `message`, `clock`, `executed_at` (UTC). A test that was skipped says nothing.

    Returns one `create` and one `insert` per schema for dbt to run, or nothing: without such tests, with
    `--empty`, where no scoring model ever ran, and in a database that is read-only.
-#}
{% macro record_test_results(results) -%}
    {%- set statements = [] -%}
    {%- if execute and not flags.EMPTY -%}
        {%- for outcomes in dbt_onnx._outcomes_by_schema(results) if dbt_onnx._is_writable(outcomes['ledger']) -%}
            {%- do statements.append(dbt_onnx._create_test_results(outcomes['ledger'])) -%}
            {%- do statements.append(dbt_onnx._in_dialect(dbt_onnx._insert_outcomes(outcomes))) -%}
        {%- endfor -%}
    {%- endif -%}
    {{ return(adapter.dispatch('_run_at_the_end', 'dbt_onnx')(statements)) }}
{%- endmacro %}


{% macro default___run_at_the_end(statements) -%}
    {{ return(statements | join(';\n\n')) }}
{%- endmacro %}

{#- Spark runs one statement at a time, so they are run here. -#}
{% macro spark___run_at_the_end(statements) -%}
    {%- for statement in statements -%}
        {%- do run_query(statement) -%}
    {%- endfor -%}
{%- endmacro %}
