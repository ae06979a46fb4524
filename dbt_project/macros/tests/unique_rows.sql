{#
    Combinations of `columns` that more than one row has. A failure counts the rows concerned, not the combinations. With
    `one_in` a share of a file's lines is looked at: a group for each of a month's 15 million is more than CrateDB holds
    in memory, and what doubles rows, a request or a build that was sent twice, doubles thousands.
#}
{% test unique_rows(model, columns, one_in=none) %}
    {{ config(fail_calc="coalesce(sum(n_records), 0)") }}

select
    {{ columns | join(",\n    ") }},
    count(*) as n_records
from {{ model }}
{% if one_in -%}
where source_row % {{ one_in }} = 0
{% endif -%}
group by {{ columns | join(", ") }}
having count(*) > 1

{% endtest %}
