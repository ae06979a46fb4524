{# A share that a setting allows. dbt would parse a test anew for another value, and forget its description, so it is read
   only when the test runs. #}
{% macro allowed_share(setting, default) %}
    {{ return(((env_var(setting, '') if execute else '') or default) | float) }}
{% endmacro %}
