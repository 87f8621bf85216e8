{#-
    Writes the results of dbt tests on scoring models into the table `dbt_onnx_test_results` in each ledger's schema.

    Call it in your own project: `on-run-end: "{{ dbt_onnx.record_test_results(results) }}"`. dbt passes test results
    to `on-run-end` hooks only.

    Records every test, of this package or not, that is attached to a scoring model or to a view made by
    `current_predictions`, and every other test that reads one of them. One row per test and scoring model:
    `run_id` (dbt's invocation id), `scoring_model`, `test_name`, `generic_test`, `status` (`pass`, `warn`, `fail` or
    `error`), `failures`, `message`, `clock`, `executed_at` (UTC). Skipped tests are not recorded.

    Returns one `create` and one `insert` per schema for dbt to run. Returns nothing if there are no such tests, with
    `--empty`, if no scoring model ever ran, or if the database is read-only.
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

{#- Spark accepts one statement at a time, so this macro runs them itself and returns nothing to dbt. -#}
{% macro spark___run_at_the_end(statements) -%}
    {%- for statement in statements -%}
        {%- do run_query(statement) -%}
    {%- endfor -%}
{%- endmacro %}
