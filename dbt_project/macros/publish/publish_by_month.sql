{#
    A table that changes month by month, each month in one step for its readers.

    A month is pending when its staged load, or the rules that make it, are not those that `publications` records. Each
    pending month is taken, so that no other run writes it; inserted beside what readers see; counted; swapped in; and
    recorded. docs/decisions.md has the reasons; `engine.sql` has what differs between the engines.

    Config:
        part        the column by whose values the table is published: `file_month`, or `load_id`
        gated       whether only loads that passed the tests tagged `gate` may be published
        counted_by  a macro that takes a load's id and gives the query of how many rows it must come to
#}
{% materialization publish_by_month, default %}
    {%- set table = this.incorporate(type='table') -%}
    {{ run_hooks(pre_hooks) }}
    {% do create_or_widen(table) %}
    {% set parts = pending_parts(sql) %}
    {% if parts and config.get('gated') %}{% do assert_the_gate_is_part_of_the_run() %}{% endif %}
    {% set taken = [] %}
    {% for part in parts %}
        {% set holder = take_part(part) %}
        {% if holder %}
            {% do taken.append(part.name ~ " by run " ~ holder) %}
        {% else %}
            {% do publish_part(table, part, sql) %}
        {% endif %}
    {% endfor %}
    {% if taken %}
        {% do adapter.commit() %}
        {% do exceptions.raise_compiler_error(
            "Of " ~ table.identifier ~ ", " ~ (taken | join(", ")) ~ " is being published at this moment: wait until that"
            ~ " has ended, then run again."
        ) %}
    {% endif %}
    {% if config.get('gated') %}{% do forget_superseded_loads() %}{% endif %}
    {% call noop_statement('main', message=(parts | length) ~ ' published') %}{{ sql }}{% endcall %}
    {{ run_hooks(post_hooks) }}
    {# DuckDB keeps nothing without it #}
    {% do adapter.commit() %}
    {{ return({'relations': [table]}) }}
{% endmaterialization %}


{% macro publish_part(table, part, sql) %}
    {% set kept = insert_part(table, part, "(" ~ sql ~ ") as trips where load_id = '" ~ part.load_id ~ "'") %}
    {% if config.get('counted_by') %}
        {% set expected = query(context[config.get('counted_by')](part.load_id)).rows[0][0] | int %}
        {% if kept != expected %}
            {% do undo_insert(table, part) %}
            {% do exceptions.raise_compiler_error(
                part.name ~ " of " ~ table.identifier ~ " came to " ~ kept ~ " rows instead of " ~ expected
                ~ ": look at the server's log and the free space on its disk, then run again. What was published stays."
            ) %}
        {% endif %}
    {% endif %}
    {% do assert_is_staged(table, part) %}
    {% do set_publication(part.model, part.name, {'state': "'swapping'", 'next_rows': kept}) %}
    {% do swap_part(table, part.model, part.name, invocation_id) %}
    {% do record_publication(part.model, part.name, kept) %}
    {% do log(part.name ~ " of " ~ table.identifier ~ ": " ~ kept ~ " rows published", info=true) %}
{% endmacro %}


{# Staging has the rows of staged loads only: of one that was superseded meanwhile there would be none to publish. #}
{% macro assert_is_staged(table, part) %}
    {% if not query(
        "select count(*) from " ~ raw_loads() ~ " where load_id = '" ~ part.load_id ~ "' and status = 'staged'"
    ).rows[0][0] %}
        {% do undo_insert(table, part) %}
        {% do exceptions.raise_compiler_error(
            "Load " ~ part.load_id ~ " of " ~ table.identifier ~ " was superseded while it was being published: run again."
            ~ " What was published stays."
        ) %}
    {% endif %}
{% endmacro %}

{% macro query(sql) %}
    {% call statement('query', fetch_result=true) %}{{ sql }}{% endcall %}
    {{ return(load_result('query').table) }}
{% endmacro %}

{# Runs a statement; gives back how many rows it wrote, where the engine says so. #}
{% macro execute_statement(sql) %}
    {% call statement('execute') %}{{ sql }}{% endcall %}
    {{ return((load_result('execute').response | string).split(' ') | last | int(-1)) }}
{% endmacro %}

{% macro utc_now() %}
    {{ return("cast('" ~ modules.datetime.datetime.now(modules.pytz.utc).strftime('%Y-%m-%d %H:%M:%S') ~ "' as timestamp)") }}
{% endmacro %}
