{#
    How a data test runs, in place of dbt's own materialization. The count comes first, over all rows; only where rows
    failed are they stored, at most 1,000 of them, in a table of the test's name: a month without faults costs no table.
    A table that an earlier run left goes once its test looks at something and finds nothing, and no month is refused or
    suspect for it any more.

    The rows are all that the test found, also those that its threshold tolerates, which dbt counts as 0 `failures`. How
    many there are, of how many, goes with the result: as its `adapter_response`, to the run's end hook, which writes it
    into `test_results`, and into `run_results.json`.
#}
{% materialization test, default %}
    {% set counted = query(test_counts(sql)) %}
    {% set found, tested = counted.rows[0]['failing_rows'] | int, counted.rows[0]['tested_rows'] %}
    {% set relations = [] %}
    {% if should_store_failures() %}
        {% set table = api.Relation.create(database=database, schema=schema, identifier=model.alias, type='table') %}
        {% set old = adapter.get_relation(database=database, schema=schema, identifier=model.alias) %}
        {% if old and (found or (looks_at_something() and not is_held_against_a_month())) %}
            {% do adapter.drop_relation(old) %}
        {% endif %}
        {% if found %}
            {% do store_rows(table, failing_rows(sql), config.get('limit') or 1000) %}
            {% do relations.append(table) %}
        {% endif %}
        {# DuckDB keeps nothing without it #}
        {% do adapter.commit() %}
    {% endif %}
    {% call noop_statement(
        'main', message=found ~ (' of ' ~ tested if tested is not none else '') ~ ' rows', code='SELECT',
        rows_affected=found, res=counted.select(['failures', 'should_warn', 'should_error'])
    ) %}{{ sql }}{% endcall %}
    {{ return({'relations': relations}) }}
{% endmaterialization %}


{# A run with nothing new has no month to look at. #}
{% macro looks_at_something() %}
    {% if 'gate' in config.get('tags') %}{{ return(pending_load_ids() != quoted_ids([])) }}{% endif %}
    {{ return("''" not in published_now()) }}
{% endmacro %}

{# Of months that are judged anew, only what is found now counts. #}
{% macro is_held_against_a_month() %}
    {% set pending = pending_loads('trip_data', 'file_month', staging_rules(), true) | map(attribute='file_month') %}
    {{ return(query(
        "select count(*) from " ~ publications() ~ " where state in ('refused', 'suspect') and part not in ("
        ~ quoted(pending) ~ ") and model = 'trip_data'"
        ~ " and ', ' || failed_tests || ',' like '%, " ~ model.name ~ ",%'"
    ).rows[0][0] > 0) }}
{% endmacro %}

{# A test by shares, as `max_share`, gives one row a load with `failing_rows` and `tested_rows`; the rows themselves are
   what its part before this line calls `failing`. #}
{% macro judged_by_load() %}{{ return('-- judged by load') }}{% endmacro %}

{# The end of such a test, after `failing` and `judged`, which has `load_id`, `failing_rows` and `tested_rows`. #}
{% macro rows_beyond(max_share) -%}
{{ judged_by_load() }}
select
    load_id,
    failing_rows,
    tested_rows,
    case when failing_rows > {{ max_share }} * tested_rows then failing_rows else 0 end as rows_beyond
from judged
{%- endmacro %}

{% macro test_counts(sql) %}
    {% set by_load = judged_by_load() in sql %}
    {% set failures = config.get('fail_calc') %}
    select
        {{ failures }} as failures,
        {{ failures }} {{ config.get('warn_if') }} as should_warn,
        {{ failures }} {{ config.get('error_if') }} as should_error,
        {{ 'coalesce(sum(failing_rows), 0)' if by_load else failures }} as failing_rows,
        {{ 'coalesce(sum(tested_rows), 0)' if by_load else 'cast(null as bigint)' }} as tested_rows
    from (
        {{ sql }}
    ) as dbt_internal_test
{% endmacro %}

{% macro failing_rows(sql) %}
    {% if judged_by_load() not in sql %}{{ return('select * from (' ~ sql ~ '\n) as failing') }}{% endif %}
    {{ return(sql.split(judged_by_load())[0] ~ 'select * from failing') }}
{% endmacro %}


{% macro store_rows(table, rows, limit) %}
    {{ return(adapter.dispatch('store_rows')(table, rows, limit)) }}
{% endmacro %}
{% macro duckdb__store_rows(table, rows, limit) %}
    {% do execute_statement('create table ' ~ table ~ ' as ' ~ rows ~ ' limit ' ~ limit) %}
{% endmacro %}
{# `create table … as` takes the server's number of shards, and a node has at most 1,000. #}
{% macro cratedb__store_rows(table, rows, limit) %}
    {% set columns = [] %}
    {% for column in adapter.get_column_schema_from_query(get_empty_subquery_sql(rows)) %}
        {% do columns.append(column.name ~ ' ' ~ cratedb_type(column.dtype)) %}
    {% endfor %}
    {% do execute_statement('create table ' ~ table ~ ' (' ~ (columns | join(', ')) ~ ')' ~ small_table()) %}
    {% do execute_statement('insert into ' ~ table ~ ' ' ~ rows ~ ' limit ' ~ limit) %}
{% endmacro %}

{# Of the driver's name of a column's type. #}
{% macro cratedb_type(name) %}
    {% set types = {
        'BOOLEAN': 'boolean', 'INTEGER': 'integer', 'LONGINTEGER': 'bigint', 'FLOAT': 'double precision',
        'DECIMAL': 'double precision', 'DATETIME': 'timestamp without time zone',
        'DATETIMETZ': 'timestamp with time zone',
    } %}
    {{ return(types.get(name, 'text')) }}
{% endmacro %}
