{#
    Rows whose value the column `field` of the lookup `to` does not have. Passes while the lookup is empty, as one that
    was not loaded, and for an unknown value. The lookup's column is text.
#}
{% test in_lookup(model, column_name, to, field) %}
    {{ config(fail_calc="coalesce(sum(n_records), 0)") }}

with

counted as (
    select
        load_id,
        {{ column_name }},
        count(*) as n_records
    from {{ model }}
    where {{ column_name }} is not null
    group by load_id, {{ column_name }}
),

known as (
    select cast({{ field }} as integer) as {{ field }}
    from {{ to }}
)

select counted.*
from counted
left join known on counted.{{ column_name }} = known.{{ field }}
where
    known.{{ field }} is null
    and (select count(*) from known) > 0

{% endtest %}
