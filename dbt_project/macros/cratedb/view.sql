{# CrateDB replaces a view in one step; the adapter would rename twice, and readers would meet a missing view. #}
{% materialization view, adapter='cratedb' %}
    {{ return(create_or_replace_view()) }}
{% endmaterialization %}

{% macro cratedb__create_view_as(relation, sql) -%}
    create or replace view {{ relation }} as
    {{ sql }}
{%- endmacro %}
