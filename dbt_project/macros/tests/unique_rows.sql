{#
    Combinations of `columns` that more than one row has. A failure counts the rows concerned, not the combinations. Lines
    of files are judged by a share of them; see one_in.
#}
{% test unique_rows(model, columns) %}
    {{ config(fail_calc="coalesce(sum(n_records), 0)") }}

select
    {{ columns | join(",\n    ") }},
    count(*) as n_records
from {{ model }}
{% if 'source_row' in columns -%}
where mod(source_row, {{ one_in(model) }}) = 0
{% endif -%}
group by {{ columns | join(", ") }}
having count(*) > 1

{% endtest %}
