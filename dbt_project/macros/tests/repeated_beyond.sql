{# The end of a test by shares for repeated rows, after `trips`: `load_id`, and how many `times` a trip is there. Of few
   that were looked at, a pair or two may be alike by chance. #}
{% macro repeated_beyond(max_share) -%}
failing as (
    select *
    from trips
    where times > 1
),

judged as (
    select
        load_id,
        case when sum(times - 1) > 2 then sum(times - 1) else 0 end as failing_rows,
        sum(times) as tested_rows
    from trips
    group by load_id
)

{{ rows_beyond(max_share) }}
{%- endmacro %}
