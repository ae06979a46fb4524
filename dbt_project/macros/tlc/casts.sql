{#
    Text as published -> a typed value, or NULL when it is not one. Surrounding spaces do not count, an empty text is
    NULL, and both engines take and refuse the same spellings:

    to_integer    digits with a sign, also written as a decimal or with an exponent (`1`, `1.0`, `1e0`), but no fraction
    to_double     a decimal number (`8`, `.20`, `-3.5`, `1e3`); not NaN, Infinity, or what only one engine knows (`1d`)
    to_timestamp  `2021-01-01 00:30:10`, also with a `T` or a fraction of a second; a day and a time that exist
#}

{% macro to_integer(column) %}{{ return(adapter.dispatch('to_integer')(column)) }}{% endmacro %}
{% macro to_double(column) %}{{ return(adapter.dispatch('to_double')(column)) }}{% endmacro %}
{% macro to_timestamp(column) %}{{ return(adapter.dispatch('to_timestamp')(column)) }}{% endmacro %}


{# CrateDB compiles a pattern anew for each row (71 s for a month): NUMERIC, which knows decimal numbers only, is as
   strict and costs nothing. #}
{% macro cratedb__to_double(column) -%}
    try_cast(try_cast(trim({{ column }}) as numeric) as double precision)
{%- endmacro %}

{# As in DuckDB, a whole number is told from a fraction as a double: as NUMERIC, `1e99999999` would keep the server busy
   for minutes, and `1e2147483648` would fail the statement. #}
{% macro cratedb__to_integer(column) -%}
    {%- set number = cratedb__to_double(column) -%}
    coalesce(
        try_cast(trim({{ column }}) as integer),
        case when {{ number }} = floor({{ number }}) then try_cast({{ number }} as integer) end
    )
{%- endmacro %}

{# The usual spelling is told by a plain LIKE, so that the pattern is met by the unusual ones only. #}
{% macro cratedb__to_timestamp(column) -%}
    case
        when {{ column }} like '____-__-__ __:__:__' then try_cast({{ column }} as timestamp without time zone)
        when trim({{ column }}) ~ '[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?'
            then try_cast(trim({{ column }}) as timestamp without time zone)
    end
{%- endmacro %}


{% macro _duckdb_number(column) -%}
    case
        when regexp_full_match(trim({{ column }}), '[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?')
            then try_cast(trim({{ column }}) as double)
    end
{%- endmacro %}

{% macro duckdb__to_integer(column) -%}
    {%- set number = _duckdb_number(column) -%}
    case when {{ number }} = trunc({{ number }}) then try_cast({{ number }} as integer) end
{%- endmacro %}

{% macro duckdb__to_double(column) -%}
    {%- set number = _duckdb_number(column) -%}
    case when isfinite({{ number }}) then {{ number }} end
{%- endmacro %}

{% macro duckdb__to_timestamp(column) -%}
    case
        when
            regexp_full_match(
                trim({{ column }}),
                '[0-9]{4}-[0-9]{2}-[0-9]{2}[ T]([01][0-9]|2[0-3]):[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?'
            )
            then try_cast(trim({{ column }}) as timestamp)
    end
{%- endmacro %}
