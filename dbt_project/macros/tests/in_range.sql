{# Rows whose value lies below `min` or above `max`; the bounds themselves are allowed, and an unknown value passes. #}
{% test in_range(model, column_name, min=none, max=none) %}
    {%- if min is none and max is none -%}
        {{ exceptions.raise_compiler_error("in_range on " ~ column_name ~ " needs min, max or both") }}
    {%- endif %}

select *
from {{ model }}
where
    {{ column_name ~ " < " ~ min if min is not none }}
    {{ "or" if min is not none and max is not none }}
    {{ column_name ~ " > " ~ max if max is not none }}

{% endtest %}
