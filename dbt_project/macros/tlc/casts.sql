{#
    Text as published -> a typed value, or NULL when it is not one. Surrounding spaces do not count, an empty text is
    NULL, and both engines take and refuse the same spellings:

    to_integer    digits with a sign, also written as a decimal or with an exponent (`1`, `1.0`, `1e0`), but no fraction
    to_double     a decimal number (`8`, `.20`, `-3.5`, `1e3`); not NaN, Infinity, or what only one engine knows (`1d`)
    to_timestamp  `2021-01-01 00:30:10`, also with a `T`, without seconds or with a fraction of them, and what
                  spreadsheets and portals make of it: month/day/year, `1/1/2021 0:30`, `01/01/2021 12:30:10 AM`;
                  a day and a time that exist, without a zone. CrateDB keeps milliseconds, DuckDB microseconds
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
        when {{ column }} like '%/%/% %:%' then {{ _cratedb_us_timestamp("trim(" ~ column ~ ")") }}
        when
            trim({{ column }})
            ~ '[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?'
            then try_cast(trim({{ column }}) as timestamp without time zone)
    end
{%- endmacro %}

{# CrateDB has no function that parses a time by a format: the parts are put in ISO order, and its cast is strict. #}
{% macro _cratedb_us_timestamp(value) -%}
    {%- set day, time = "split_part(" ~ value ~ ", ' ', 1)", "split_part(" ~ value ~ ", ' ', 2)" -%}
    {%- set half = "upper(substr(" ~ value ~ ", length(" ~ day ~ ") + length(" ~ time ~ ") + 3))" -%}
    {%- set m, d = "split_part(" ~ day ~ ", '/', 1)", "split_part(" ~ day ~ ", '/', 2)" -%}
    {%- set hour = "split_part(" ~ time ~ ", ':', 1)" -%}
    {%- set minutes = "substr(" ~ time ~ ", length(" ~ hour ~ ") + 1)" -%}
    {%- set date = "substr(" ~ day ~ ", length(" ~ m ~ ") + length(" ~ d ~ ") + 3) || '-' || "
        ~ _two_digits(m) ~ " || '-' || " ~ _two_digits(d) -%}
    {%- set noon = "cast(mod(try_cast(" ~ hour ~ " as integer), 12) + case " ~ half ~ " when 'PM' then 12 else 0 end"
        ~ " as text)" -%}
    case
        when {{ day }} like '%-%' or not ({{ minutes }} like ':__' or {{ minutes }} like ':__:__') then null
        when {{ half }} = ''
            then try_cast({{ date }} || ' ' || {{ _two_digits(hour) }} || {{ minutes }} as timestamp without time zone)
        when
            {{ half }} in ('AM', 'PM')
            and ({{ hour }} like '_' or {{ hour }} like '__') and {{ hour }} not like '+%'
            and try_cast({{ hour }} as integer) between 1 and 12
            then try_cast({{ date }} || ' ' || {{ _two_digits(noon) }} || {{ minutes }} as timestamp without time zone)
    end
{%- endmacro %}

{% macro _two_digits(text) -%}
    case when length({{ text }}) = 1 then '0' || {{ text }} else {{ text }} end
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
                '[0-9]{4}-[0-9]{2}-[0-9]{2}[ T]([01][0-9]|2[0-3]):[0-9]{2}(:[0-9]{2}([.][0-9]{1,9})?)?'
            )
            then try_cast(trim({{ column }}) as timestamp)
        when
            regexp_full_match(
                trim({{ column }}), '[0-9]{1,2}/[0-9]{1,2}/[0-9]{4} [0-9]{1,2}:[0-9]{2}(:[0-9]{2})?( [AaPp][Mm])?'
            )
            then try_strptime(
                trim({{ column }}),
                ['%m/%d/%Y %H:%M', '%m/%d/%Y %H:%M:%S', '%m/%d/%Y %I:%M %p', '%m/%d/%Y %I:%M:%S %p']
            )
    end
{%- endmacro %}
