{# The end of a test by shares for repeated rows, after `trips`: `load_id`, and how many `times` a trip is there. #}
{% macro repeated_beyond(max_share) -%}
failing as (
    select *
    from trips
    where times > 1
),

judged as (
    select
        load_id,
        sum(times - 1) as failing_rows,
        sum(times) as tested_rows
    from trips
    group by load_id
)

{{ rows_beyond(max_share) }}
{%- endmacro %}
