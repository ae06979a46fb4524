{#
    `test_results`: what each test found, run by run, beside `publications`. It is only ever added to: one row a test and
    run, under the test's own name, so that a change of its arguments does not break its history.
#}

{% macro test_results() %}{{ return(target.schema ~ '.test_results') }}{% endmacro %}

{% macro create_test_results() %}
    {% do execute_statement(
        "create table if not exists " ~ test_results() ~ " (run_id text, ran_at timestamp, test text, model text,"
        ~ " column_name text, severity text, status text, failing_rows bigint, tested_rows bigint, failures_table text,"
        ~ " months text, primary key (run_id, test))" ~ small_table()
    ) %}
{% endmacro %}


{# At the run's end, in one statement. A test that could not run found nothing, and has no row. #}
{% macro record_test_results(results) %}
    {% if execute and flags.WHICH in ('build', 'test', 'retry') %}
        {% set ran = [] %}
        {% for result in results if result.node.resource_type == 'test' and result.status in ('pass', 'warn', 'fail') %}
            {% do ran.append(result) %}
        {% endfor %}
        {% if ran %}
            {% set months, rows = judged_months(), [] %}
            {% for result in ran %}
                {% do rows.append(test_result(result, months['gate' if 'gate' in result.node.tags else 'output'])) %}
            {% endfor %}
            {% do execute_statement(
                "insert into " ~ test_results() ~ " (run_id, ran_at, test, model, column_name, severity, status,"
                ~ " failing_rows, tested_rows, failures_table, months) values " ~ (rows | join(", "))
                ~ " on conflict do nothing"
            ) %}
            {% do adapter.commit() %}
        {% endif %}
    {% endif %}
{% endmacro %}

{% macro test_result(result, months) %}
    {% set node, found = result.node, result.adapter_response %}
    {# `12 of 100 rows`, as the materialization says it, or `12 rows` #}
    {% set words = found['_message'].split(' ') %}
    {% set is_stored = found['rows_affected'] and (node.config.store_failures or flags.STORE_FAILURES) %}
    {{ return("(" ~ [
        literal(invocation_id),
        "cast('" ~ run_started_at.strftime('%Y-%m-%d %H:%M:%S.%f') ~ "' as timestamp)",
        literal(node.name),
        literal(node.attached_node.split('.')[-1] if node.attached_node else none),
        literal(node.column_name or none),
        literal(node.config.severity | lower),
        literal(result.status | string),
        found['rows_affected'],
        words[2] if words[1] == 'of' else 'null',
        literal(node.schema ~ '.' ~ node.alias if is_stored else none),
        literal(months),
    ] | join(", ") ~ ")") }}
{% endmacro %}

{% macro literal(text) %}
    {{ return("'" ~ (text | replace("'", "''")) ~ "'" if text is not none else 'null') }}
{% endmacro %}


{# The months that this run's tests looked at, with commas between them: the gate's were pending when it began, and those
   on `trip_data` look at what the run published or, where it does not publish, at all there is. #}
{% macro judged_months() %}
    {% set months = "select file_month from " ~ publications() ~ " where " %}
    {% set all = query(months ~ "model = 'trip_data' and build_id is not null").columns[0].values() | list %}
    {% set published = query(months ~ is_to_be_tested()).columns[0].values() | list %}
    {% set pending = published | list %}
    {% for load in pending_loads('trip_data', 'file_month', staging_rules(), true) %}
        {% do pending.append(load.file_month) %}
    {% endfor %}
    {% set publishes = 'model.taxi_elt.trip_data' in selected_resources %}
    {{ return({
        'gate': pending | unique | sort | join(','),
        'output': (published if publishes else all) | unique | sort | join(','),
    }) }}
{% endmacro %}
