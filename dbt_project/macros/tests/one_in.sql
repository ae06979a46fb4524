{#
    Of how many of `rows` a test looks at one, where it has to remember what it saw: a group for each of a month's 15
    million, or of all months in the daily run, is more than CrateDB holds in memory. All of up to 100,000, and about as
    many of more: what doubles rows doubles thousands.
#}
{% macro one_in(rows) %}
    {% if not runs_tests() %}{{ return(1) }}{% endif %}
    {% set counted = query("select count(*) from " ~ rows).rows[0][0] | int %}
    {{ return([(counted + 99999) // 100000, 1] | max) }}
{% endmacro %}
