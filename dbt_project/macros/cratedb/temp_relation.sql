{# The adapter would put a unit test's scratch table into `doc`, whatever the target's schema is. #}
{% macro cratedb__make_temp_relation(base_relation, suffix) %}
    {{ return(postgres__make_relation_with_suffix(base_relation, suffix, dstring=True)) }}
{% endmacro %}
