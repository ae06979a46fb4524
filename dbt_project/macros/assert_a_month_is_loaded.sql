{# Stops a run before its first model when there is nothing to build from, with the sentence that says what to do. #}
{% macro assert_a_month_is_loaded() %}
    {% if execute %}
        {% set raw = env_var('TAXI_RAW_SCHEMA', '') or 'raw' %}
        {% set loads = adapter.get_relation(target.database, raw, 'loads') %}
        {% set staged = run_query("select count(*) from " ~ loads ~ " where status = 'staged'").rows[0][0] if loads else 0 %}
        {% if not staged %}
            {% do exceptions.raise_compiler_error(
                "No month is loaded yet in " ~ target.name ~ ": load one first, with"
                ~ " `taxi-elt run --target " ~ target.name ~ " --source <URL or path of a month's file>`."
            ) %}
        {% endif %}
    {% endif %}
{% endmacro %}
