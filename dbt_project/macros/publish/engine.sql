{#
    What publishing needs of an engine. DuckDB has transactions: what a run does is there when it commits, or not at all,
    and no other process has the file open. CrateDB has none; see docs/decisions.md for why these statements, in this
    order, show its readers one whole version.
#}

{% macro small_table() %}{{ return(adapter.dispatch('small_table')()) }}{% endmacro %}
{% macro duckdb__small_table() %}{{ return('') }}{% endmacro %}
{% macro cratedb__small_table() %}
    {{ return(" clustered into 1 shards with (number_of_replicas = '" ~ replicas() ~ "')") }}
{% endmacro %}

{% macro replicas() %}{{ return(env_var('CRATEDB_REPLICAS', '') or '0-1') }}{% endmacro %}


{# The table with the columns that the model's YAML lists: made, or widened by those it does not have yet. #}
{% macro create_or_widen(table) %}
    {% set wanted = {} %}
    {% for column in model.columns.values() %}{% do wanted.update({column.name: column.data_type}) %}{% endfor %}
    {% set found = load_cached_relation(table) %}
    {% if found and not found.is_table %}
        {% do adapter.drop_relation(found) %}
        {% set found = none %}
    {% endif %}
    {% if not found %}
        {% set columns = [] %}
        {% for name, type in wanted.items() %}{% do columns.append(name ~ ' ' ~ type) %}{% endfor %}
        {% do execute_statement(
            'create table if not exists ' ~ table ~ ' (' ~ (columns | join(', ')) ~ ')' ~ published_table()
        ) %}
        {{ return('') }}
    {% endif %}
    {% set there = {} %}
    {% for column in adapter.get_columns_in_relation(table) %}
        {% do there.update({column.name: column.dtype}) %}
    {% endfor %}
    {% for name, type in wanted.items() %}
        {% if name not in there %}
            {% do execute_statement('alter table ' ~ table ~ ' add column ' ~ name ~ ' ' ~ type) %}
        {% elif spelled(there[name]) != spelled(type) %}
            {% do exceptions.raise_compiler_error(
                "Column " ~ name ~ " of " ~ table.identifier ~ " holds " ~ there[name] ~ ", and the model now says " ~ type
                ~ ": give the column another name, or drop the table and its rows in publications and build anew."
            ) %}
        {% endif %}
    {% endfor %}
{% endmacro %}

{# The engines' names of a type. #}
{% macro spelled(type) %}
    {% set names = {
        'varchar': 'text', 'character varying': 'text', 'string': 'text', 'double': 'double precision', 'int': 'integer',
        'long': 'bigint', 'timestamp': 'timestamp without time zone',
    } %}
    {{ return(names.get(type | lower, type | lower)) }}
{% endmacro %}

{% macro published_table() %}{{ return(adapter.dispatch('published_table')()) }}{% endmacro %}
{% macro duckdb__published_table() %}{{ return('') }}{% endmacro %}
{% macro cratedb__published_table() %}
    {{ return(
        " partitioned by (" ~ config.get('part', 'file_month') ~ ") clustered into 1 shards with (refresh_interval = 0,"
        ~ " number_of_replicas = '" ~ replicas() ~ "')"
    ) }}
{% endmacro %}


{% macro view_definition(name) %}{{ return(adapter.dispatch('view_definition')(name)) }}{% endmacro %}
{% macro duckdb__view_definition(name) %}
    {{ return(query(
        "select sql from duckdb_views() where schema_name = '" ~ target.schema ~ "' and view_name = '" ~ name ~ "'"
    ).rows[0][0]) }}
{% endmacro %}
{% macro cratedb__view_definition(name) %}
    {{ return(query(
        "select view_definition from information_schema.views where table_schema = '" ~ target.schema
        ~ "' and table_name = '" ~ name ~ "'"
    ).rows[0][0]) }}
{% endmacro %}


{# A run tells the server its name, so that others see whether it is still there. #}
{% macro announce_this_run() %}{{ return(adapter.dispatch('announce_this_run')()) }}{% endmacro %}
{% macro duckdb__announce_this_run() %}{% endmacro %}
{% macro cratedb__announce_this_run() %}
    {% do execute_statement("set session application_name = 'taxi-elt " ~ invocation_id ~ "'") %}
{% endmacro %}

{% macro is_alive(run) %}{{ return(adapter.dispatch('is_alive')(run)) }}{% endmacro %}
{% macro duckdb__is_alive(run) %}{{ return(false) }}{% endmacro %}
{% macro cratedb__is_alive(run) %}
    {{ return(query(
        "select count(*) from sys.sessions where settings['application_name'] = 'taxi-elt " ~ run ~ "'"
    ).rows[0][0] > 0) }}
{% endmacro %}

{# An INSERT goes on without its client, and would write behind a clean-up. #}
{% macro end_statements(run) %}{{ return(adapter.dispatch('end_statements')(run)) }}{% endmacro %}
{% macro duckdb__end_statements(run) %}{% endmacro %}
{% macro cratedb__end_statements(run) %}
    {% for attempt in range(60) %}
        {% set jobs = query(
            "select id from sys.jobs where stmt like '%" ~ run ~ "%' and stmt not like '%sys.jobs%'"
        ).rows %}
        {% if not jobs %}{{ return('') }}{% endif %}
        {% for job in jobs %}{% do execute_statement("kill '" ~ job[0] ~ "'") %}{% endfor %}
        {% do pause() %}
    {% endfor %}
    {% do exceptions.raise_compiler_error("CrateDB still runs a statement of run " ~ run ~ ": run again in a minute.") %}
{% endmacro %}

{# About half a second: the server's work, as dbt's templates cannot sleep. #}
{% macro pause() %}{% do query("select count(*) from generate_series(1, 3000000)") %}{% endmacro %}


{# Compare and set: changes a row of `publications` that nobody has changed since it was read, or makes it. #}
{% macro take_row(row, part, changes) %}{{ return(adapter.dispatch('take_row')(row, part, changes)) }}{% endmacro %}
{% macro duckdb__take_row(row, part, changes) %}
    {% if row %}
        {% do set_publication(part.model, part.name, changes) %}
    {% else %}
        {% do insert_row(part, changes) %}
    {% endif %}
    {{ return(true) }}
{% endmacro %}
{% macro cratedb__take_row(row, part, changes) %}
    {% if row %}
        {{ return(set_publication(
            part.model, part.name, changes, "_seq_no = " ~ row._seq_no ~ " and _primary_term = " ~ row._primary_term
        ) == 1) }}
    {% endif %}
    {{ return(insert_row(part, changes) == 1) }}
{% endmacro %}

{% macro insert_row(part, changes) %}
    {{ return(execute_statement(
        "insert into " ~ publications() ~ " (model, part, " ~ (changes.keys() | join(", ")) ~ ") values ('" ~ part.model
        ~ "', '" ~ part.name ~ "', " ~ (changes.values() | join(", ")) ~ ") on conflict do nothing"
    )) }}
{% endmacro %}

{% macro row_version() %}{{ return(adapter.dispatch('row_version')()) }}{% endmacro %}
{% macro duckdb__row_version() %}{{ return('') }}{% endmacro %}
{% macro cratedb__row_version() %}{{ return(', _seq_no, _primary_term') }}{% endmacro %}


{# Inserts the rows of a part, unseen by readers; gives back how many there are. #}
{% macro insert_part(table, part, rows) %}{{ return(adapter.dispatch('insert_part')(table, part, rows)) }}{% endmacro %}
{% macro duckdb__insert_part(table, part, rows) %}
    {% set columns = model.columns | join(', ') %}
    {% do execute_statement('insert into ' ~ table ~ ' (' ~ columns ~ ') select ' ~ columns ~ ' from ' ~ rows) %}
    {{ return(query(
        "select count(*) from " ~ table ~ " where load_id = '" ~ part.load_id ~ "' and build_id = '" ~ invocation_id ~ "'"
    ).rows[0][0] | int) }}
{% endmacro %}
{# The adapter refreshes after a text that starts with INSERT, and would show the rows before they are counted. #}
{% macro cratedb__insert_part(table, part, rows) %}
    {% do assert_shards_are_at_rest(table, part) %}
    {% set columns = model.columns | join(', ') %}
    {% set first = none if has_partition(table, part.name) else cratedb_insert_first_row(table, rows) %}
    {% set others = " and source_row != " ~ first if first else "" %}
    {% set kept = execute_statement(
        'set session insert_select_fail_fast = true; insert into ' ~ table ~ ' (' ~ columns ~ ') select ' ~ columns
        ~ ' from ' ~ rows ~ others
    ) %}
    {{ return(kept + (1 if first else 0)) }}
{% endmacro %}

{# An `INSERT … SELECT` that has to make a partition is suspended for up to ten seconds a page (measured: 52 s instead of
   1.7 s for 98,020 rows); a VALUES row makes it at once. Gives back the row's number. #}
{% macro cratedb_insert_first_row(table, rows) %}
    {% set texts = [] %}
    {# the `=` keeps dbt from guessing types #}
    {% for name in model.columns %}{% do texts.append("'=' || cast(" ~ name ~ " as text) as " ~ name) %}{% endfor %}
    {% set found = query('select ' ~ (texts | join(', ')) ~ ' from ' ~ rows ~ ' limit 1') %}
    {% if not found.rows %}{{ return(none) }}{% endif %}
    {% set values = [] %}
    {% for name, column in model.columns.items() %}
        {% set text = found.rows[0][name] %}
        {% do values.append(
            'null' if text is none
            else "cast('" ~ (text[1:] | replace("'", "''")) ~ "' as " ~ column.data_type ~ ")"
        ) %}
    {% endfor %}
    {% do execute_statement(
        'set session insert_select_fail_fast = true; insert into ' ~ table ~ ' (' ~ (model.columns | join(', '))
        ~ ') values (' ~ (values | join(', ')) ~ ')'
    ) %}
    {{ return(found.rows[0]['source_row'][1:]) }}
{% endmacro %}

{# While a shard starts or moves, its copy would be refreshed at another moment. `sys.shards` says UNASSIGNED of a copy
   that starts, as of one that no node has. #}
{% macro assert_shards_are_at_rest(table, part) %}
    {% for attempt in range(60) %}
        {% set moving = query(
            "select count(*) from sys.allocations where table_schema = '" ~ table.schema ~ "' and table_name = '"
            ~ table.identifier ~ "' and (current_state != 'STARTED' and not (current_state = 'UNASSIGNED' and not"
            ~ " \"primary\"))"
        ).rows[0][0] %}
        {% if not moving %}{{ return('') }}{% endif %}
        {% do pause() %}
    {% endfor %}
    {% do exceptions.raise_compiler_error(
        "Shards of " ~ table.identifier ~ " are starting or moving, so " ~ part.name ~ " is not published: run again"
        ~ " when sys.allocations has them as STARTED."
    ) %}
{% endmacro %}

{% macro undo_insert(table, part) %}{{ return(adapter.dispatch('undo_insert')(table, part)) }}{% endmacro %}
{% macro duckdb__undo_insert(table, part) %}{% endmacro %}
{# Rows that were never refreshed only go with their partition; over an earlier version they stay unseen, until the
   month's next publication removes them. #}
{% macro cratedb__undo_insert(table, part) %}
    {% set row = publication(part.model, part.name) %}
    {% if not row.build_id %}{% do drop_part(table, part.model, part.name) %}{% endif %}
{% endmacro %}


{# From now on readers see the rows of one build only. #}
{% macro swap_part(table, model_name, part, build) %}
    {{ return(adapter.dispatch('swap_part')(table, model_name, part, build)) }}
{% endmacro %}
{% macro duckdb__swap_part(table, model_name, part, build) %}
    {% do execute_statement(
        "delete from " ~ table ~ " where " ~ part_column(model_name) ~ " = '" ~ part ~ "' and build_id != '" ~ build ~ "'"
    ) %}
{% endmacro %}
{# The second round is for rows that a dead run left unrefreshed: the first delete cannot see them. #}
{% macro cratedb__swap_part(table, model_name, part, build) %}
    {% set column = part_column(model_name) %}
    {% if has_partition(table, part) %}
        {% for round in range(2) %}
            {% do execute_statement(
                "set session insert_select_fail_fast = true; delete from " ~ table ~ " where " ~ column ~ " = '" ~ part
                ~ "' and build_id != '" ~ build ~ "'"
            ) %}
            {% do execute_statement("refresh table " ~ table ~ " partition (" ~ column ~ " = '" ~ part ~ "')") %}
        {% endfor %}
    {% endif %}
{% endmacro %}

{% macro has_partition(table, part) %}
    {{ return(query(
        "select count(*) from information_schema.table_partitions where table_schema = '" ~ table.schema
        ~ "' and table_name = '" ~ table.identifier ~ "' and values['" ~ part_column(table.identifier) ~ "'] = '" ~ part
        ~ "'"
    ).rows[0][0] > 0) }}
{% endmacro %}

{# Everything of a part, what was never refreshed too. After a text that starts with DELETE the adapter would refresh the
   whole table, and show what another run has inserted of another part. #}
{% macro drop_part(table, model_name, part) %}
    {{ return(adapter.dispatch('drop_part')(table, model_name, part)) }}
{% endmacro %}
{% macro duckdb__drop_part(table, model_name, part) %}
    {% do execute_statement("delete from " ~ table ~ " where " ~ part_column(model_name) ~ " = '" ~ part ~ "'") %}
{% endmacro %}
{% macro cratedb__drop_part(table, model_name, part) %}
    {% do execute_statement(
        "set session insert_select_fail_fast = true; delete from " ~ table ~ " where " ~ part_column(model_name) ~ " = '"
        ~ part ~ "'"
    ) %}
{% endmacro %}

{% macro part_column(model_name) %}
    {{ return(graph.nodes['model.taxi_elt.' ~ model_name].config.get('part', 'file_month')) }}
{% endmacro %}
