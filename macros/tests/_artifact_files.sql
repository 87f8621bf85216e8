{#-
    The artifact files of the serving versions: `[{'version', 'path', 'expected', 'actual'}]`. `actual` is SQL of the
    file's sha256, or none if the file does not exist.

    `path` is relative to the project folder. A path that leaves `artifacts/` counts as a missing file.
    The list is empty if the warehouse may not read files (`enable_external_access`).
-#}
{% macro _artifact_files(ledger, registry) -%}
    {%- if not adapter.dispatch('_can_read_files', 'dbt_onnx')() -%}
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
    {%- for row in dbt_onnx._query(registered).rows -%}
        {#- a glob pattern could match files other than the registered one -#}
        {%- set is_plain = modules.re.search('[*?[{]', row[1]) is none and '..' not in row[1] -%}
        {%- set actual = adapter.dispatch('_digest_of_file', 'dbt_onnx')(row[1]) if is_plain else none -%}
        {%- do files.append({'version': row[0], 'path': row[1], 'expected': row[2], 'actual': actual}) -%}
    {%- endfor -%}
    {{ return(files) }}
{%- endmacro %}


{% macro default___can_read_files() -%}
    {{ return(run_query("select cast(current_setting('enable_external_access') as boolean)").rows[0][0]) }}
{%- endmacro %}

{#- The dbt process reads the files itself. -#}
{% macro spark___can_read_files() -%}
    {{ return(true) }}
{%- endmacro %}


{#- SQL of the sha256 of a file; none if the file does not exist. -#}
{% macro default___digest_of_file(path) -%}
    {#- dbt need not run in the project's folder, which may have a name like `shop [1]` -#}
    {%- set folder = modules.re.sub('([*?[{])', '[\\1]', invocation_args_dict['project_dir'] | string) -%}
    {%- set path = dbt_onnx._literal(folder ~ '/' ~ path) -%}
    {%- if run_query("select count(*) from glob(" ~ path ~ ")").rows[0][0] == 0 -%}
        {{ return(none) }}
    {%- endif -%}
    {{ return("(select sha256(content) from read_blob(" ~ path ~ "))") }}
{%- endmacro %}

{% macro spark___digest_of_file(path) -%}
    {%- set digest = adapter.sha256_of_file(path) -%}
    {{ return(dbt_onnx._literal(digest) if digest is not none else none) }}
{%- endmacro %}


{#- SELECT that returns a finding if the file does not exist or has another sha256. -#}
{% macro _altered_file(file) -%}
    select
        case when actual is null then 'artifact_missing' else 'artifact_altered' end as problem,
        {{ dbt_onnx._literal(file['path'] ~ ' with sha256 ' ~ file['expected']) }} as expected,
        actual,
        {{ dbt_onnx._literal(file['version']) }} as model_version
    from (select {{ file['actual'] or 'cast(null as varchar)' }} as actual)
    where actual is distinct from lower({{ dbt_onnx._literal(file['expected']) }})
{%- endmacro %}
