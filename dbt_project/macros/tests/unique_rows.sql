{# Combinations of `columns` that more than one row has. A failure counts the rows concerned, not the combinations. #}
{% test unique_rows(model, columns) %}
    {{ config(fail_calc="coalesce(sum(n_records), 0)") }}

select
    {{ columns | join(",\n    ") }},
    count(*) as n_records
from {{ model }}
group by {{ columns | join(", ") }}
having count(*) > 1

{% endtest %}
