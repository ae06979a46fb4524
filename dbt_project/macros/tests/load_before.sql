{#
    What a load is compared with: the month's earlier load where raw still has its rows, otherwise the staged load of the
    latest of the three months before. Pairs of load ids, for those pending loads that have one.
#}
{% macro pending_loads_with_the_one_before() %}
    {% if not runs_tests() %}{{ return([]) }}{% endif %}
    {% set known = query(
        "select load_id, file_month, status, started_at from " ~ raw_loads()
        ~ " where status in ('staged', 'superseded') order by file_month desc, started_at desc"
    ).rows %}
    {% set pairs = [] %}
    {% for load in pending_loads('trip_data', 'file_month', staging_rules(), true) %}
        {% set own = known | selectattr('load_id', 'equalto', load.load_id) | first %}
        {% set found = namespace(id=none) %}
        {% for other in known if not found.id %}
            {% set months = month_number(load.file_month) - month_number(other['file_month']) %}
            {% if (months == 0 and other['started_at'] < own['started_at'])
                or (0 < months <= 3 and other['status'] == 'staged') %}
                {% if query(
                    "select _load_id from " ~ source('raw', 'yellow_trips') ~ " where _load_id = '" ~ other['load_id']
                    ~ "' limit 1"
                ).rows %}
                    {% set found.id = other['load_id'] %}
                {% endif %}
            {% endif %}
        {% endfor %}
        {% if found.id %}{% do pairs.append((load.load_id, found.id)) %}{% endif %}
    {% endfor %}
    {{ return(pairs) }}
{% endmacro %}

{% macro month_number(month) %}{{ return(12 * (month[:4] | int) + (month[5:] | int)) }}{% endmacro %}
