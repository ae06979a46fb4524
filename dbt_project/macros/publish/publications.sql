{#
    `publications`: what readers see of each month, and what is being done about it; one row a model and part. It stands
    in the schema that the models are built in, so that an analyst's own schema publishes on its own.

    state       untested    readers see the load of this row, and the tests on it have not all run: the next build runs them
                published   readers see the load of this row, and it passed them
                suspect     readers see the load of this row, and a test on it failed
                refused     the staged load failed the gate: readers see the load of this row, if it has one
                publishing  a run inserts: readers see the load of this row, if it has one
                swapping    the next rows are there and counted: whoever finds this state finishes the swap
                withdrawn   what a run that died had begun was removed, and there was nothing before
#}

{% macro publications() %}{{ return(target.schema ~ '.publications') }}{% endmacro %}

{% macro create_publications() %}
    {% do execute_statement(
        "create table if not exists " ~ publications() ~ " (model text, part text, file_month text, load_id text,"
        ~ " rules text, build_id text, row_count bigint, state text, started_at timestamp, published_at timestamp,"
        ~ " taken_by text, next_load_id text, next_rules text, next_build_id text, next_rows bigint,"
        ~ " refused_load_id text, refused_rules text, failed_tests text, primary key (model, part))" ~ small_table()
    ) %}
{% endmacro %}


{# One row as a dictionary, with what the engine needs to take it; none where there is none. #}
{% macro publication(model, part) %}
    {% set found = query(
        "select *" ~ row_version() ~ " from " ~ publications() ~ " where model = '" ~ model ~ "' and part = '" ~ part
        ~ "'"
    ) %}
    {% if not found.rows %}{{ return(none) }}{% endif %}
    {% set row = {} %}
    {% for name in found.column_names %}{% do row.update({name: found.rows[0][name]}) %}{% endfor %}
    {{ return(row) }}
{% endmacro %}


{# Makes this run the one that writes the part; gives back the run that holds it, where another one does. #}
{% macro take_part(part) %}
    {% set row = publication(part.model, part.name) %}
    {% if row and row.state in ('publishing', 'swapping') %}
        {% if is_alive(row.taken_by) %}{{ return(row.taken_by) }}{% endif %}
        {% do heal(row) %}
        {% set row = publication(part.model, part.name) %}
    {% endif %}
    {% do announce_this_run() %}
    {% set changes = {
        'state': "'publishing'", 'taken_by': "'" ~ invocation_id ~ "'", 'started_at': utc_now(),
        'file_month': "'" ~ part.file_month ~ "'", 'next_load_id': "'" ~ part.load_id ~ "'",
        'next_rules': "'" ~ part.rules ~ "'", 'next_build_id': "'" ~ invocation_id ~ "'", 'next_rows': 'null',
    } %}
    {% if take_row(row, part, changes) %}{{ return(none) }}{% endif %}
    {# another run has changed the row meanwhile: it holds the part, or has ended already #}
    {% set row = publication(part.model, part.name) %}
    {{ return(row.taken_by or 'that has just ended') }}
{% endmacro %}


{% macro record_publication(model, part, row_count) %}
    {% do set_publication(model, part, {
        'state': state_of_new(model), 'load_id': 'next_load_id', 'rules': 'next_rules', 'build_id': 'next_build_id',
        'row_count': row_count, 'published_at': utc_now(), 'taken_by': 'null', 'next_load_id': 'null',
        'next_rules': 'null', 'next_build_id': 'null', 'next_rows': 'null', 'refused_load_id': 'null',
        'refused_rules': 'null', 'failed_tests': 'null',
    }) %}
{% endmacro %}

{# What is tested once it is published is `untested` until then; the run's end knows. #}
{% macro state_of_new(model) %}
    {{ return("'untested'" if graph.nodes['model.taxi_elt.' ~ model].config.get('gated') else "'published'") }}
{% endmacro %}

{% macro set_publication(model, part, changes, condition='true') %}
    {{ return(execute_statement(
        "update " ~ publications() ~ " set " ~ assignments(changes) ~ " where model = '" ~ model ~ "' and part = '"
        ~ part ~ "' and " ~ condition
    )) }}
{% endmacro %}

{% macro assignments(changes) %}
    {% set pairs = [] %}
    {% for name, value in changes.items() %}{% do pairs.append(name ~ " = " ~ value) %}{% endfor %}
    {{ return(pairs | join(", ")) }}
{% endmacro %}


{# What runs that died left behind: it goes, or, where all of it was there, it takes the part's place. #}
{% macro heal_publications() %}
    {% if execute %}
        {% do create_publications() %}
        {% do create_test_results() %}
        {% set begun = query(
            "select model, part from " ~ publications() ~ " where state in ('publishing', 'swapping')"
        ) %}
        {% for found in begun.rows %}
            {% set row = publication(found[0], found[1]) %}
            {% if not is_alive(row.taken_by) %}{% do heal(row) %}{% endif %}
        {% endfor %}
        {% do adapter.commit() %}
    {% endif %}
{% endmacro %}

{% macro heal(row) %}
    {% set table = table_of(row.model) %}
    {% do announce_this_run() %}
    {% if take_row(row, {'model': row.model, 'name': row.part}, {'taken_by': "'" ~ invocation_id ~ "'"}) %}
        {% do end_statements(row.next_build_id) %}
        {% if row.state == 'swapping' %}
            {% do swap_part(table, row.model, row.part, row.next_build_id) %}
            {% do record_publication(row.model, row.part, row.next_rows) %}
        {% elif row.build_id %}
            {% do swap_part(table, row.model, row.part, row.build_id) %}
            {% do set_publication(row.model, row.part, {'state': state_of_new(row.model), 'taken_by': 'null'}) %}
        {% else %}
            {% do drop_part(table, row.model, row.part) %}
            {% do set_publication(row.model, row.part, {'state': "'withdrawn'", 'taken_by': 'null'}) %}
        {% endif %}
        {% do log(
            row.part ~ " of " ~ row.model ~ ": set right what run " ~ row.next_build_id ~ " had left behind", info=true
        ) %}
    {% endif %}
{% endmacro %}


{# The parts that are kept by load, as soon as nobody needs them: their load is not staged any more, and it is neither
   published nor about to be. A run that dies halfway leaves what `heal` takes for a part that was never whole. #}
{% macro forget_superseded_loads() %}
    {% set of_trips = " from " ~ publications() ~ " where model = 'trip_data' and " %}
    {% set superseded = query(
        "select model, part from " ~ publications() ~ " where part != file_month and state in ('published', 'withdrawn')"
        ~ " and part not in (select load_id from " ~ raw_loads() ~ " where status = 'staged')"
        ~ " and part not in (select load_id" ~ of_trips ~ "load_id is not null)"
        ~ " and part not in (select next_load_id" ~ of_trips ~ "next_load_id is not null)"
    ) %}
    {% if superseded.rows %}{% do announce_this_run() %}{% endif %}
    {% for found in superseded.rows %}
        {% set row = publication(found[0], found[1]) %}
        {% if row and row.state in ('published', 'withdrawn') and take_row(row, {'model': row.model, 'name': row.part}, {
            'state': "'publishing'", 'taken_by': "'" ~ invocation_id ~ "'", 'load_id': 'null', 'build_id': 'null',
            'next_build_id': "'" ~ invocation_id ~ "'",
        }) %}
            {% do drop_part(table_of(row.model), row.model, row.part) %}
            {% do execute_statement(
                "delete from " ~ publications() ~ " where model = '" ~ row.model ~ "' and part = '" ~ row.part ~ "'"
            ) %}
        {% endif %}
    {% endfor %}
{% endmacro %}

{% macro table_of(model_name) %}
    {{ return(api.Relation.create(target.database, target.schema, model_name, type='table')) }}
{% endmacro %}
