{#-
    The artifact files of the serving versions: `[{'version', 'path', 'expected', 'exists'}]`.

    `path` is relative to the project, where dbt works. A path that leaves `artifacts/` counts as a
    file that is not there. Empty where the warehouse is closed to files (`enable_external_access`).
-#}
{% macro _artifact_files(ledger, registry) -%}
    {%- set opened = run_query("select cast(current_setting('enable_external_access') as boolean)") -%}
    {%- if not opened.rows[0][0] -%}
        {{ return([]) }}
    {%- endif -%}
    {%- set registered -%}
        with {{ dbt_onnx._served_versions_ctes(ledger, registry) }}

        select distinct
            served_versions.model_version,
            'artifacts/' || cast(entries.artifact as varchar) as artifact,
            served_versions.sha256
        from served_versions
        inner join {{ registry }} as entries
            on served_versions.model_name = cast(entries.model_name as varchar)
            and served_versions.model_version = cast(entries.model_version as varchar)
        where served_versions.versions_back = 0
    {%- endset -%}
    {%- set files = [] -%}
    {%- for row in run_query(registered).rows -%}
        {#- a pattern would read other files than the one that is named -#}
        {%- set is_plain = modules.re.search('[*?[{]', row[1]) is none and '..' not in row[1] -%}
        {%- set found = is_plain and run_query(
            "select count(*) from glob(" ~ dbt_onnx._literal(row[1]) ~ ")"
        ).rows[0][0] > 0 -%}
        {%- do files.append({'version': row[0], 'path': row[1], 'expected': row[2], 'exists': found}) -%}
    {%- endfor -%}
    {{ return(files) }}
{%- endmacro %}


{#- A finding about one of these files if it is gone or has other bytes, as a SELECT. -#}
{% macro _altered_file(file) -%}
    select
        case when actual is null then 'artifact_missing' else 'artifact_altered' end as problem,
        {{ dbt_onnx._literal(file['path'] ~ ' with sha256 ' ~ file['expected']) }} as expected,
        actual,
        {{ dbt_onnx._literal(file['version']) }} as model_version
    from (
        select
            {%- if file['exists'] %} sha256(content) as actual from read_blob({{ dbt_onnx._literal(file['path']) }})
            {%- else %} cast(null as varchar) as actual
            {%- endif %}
    )
    where actual is distinct from lower({{ dbt_onnx._literal(file['expected']) }})
{%- endmacro %}
