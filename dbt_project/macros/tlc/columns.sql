{#
    The expressions that give the trip columns one meaning over all years: files before 2015 spell the TLC's codes
    as words (data dictionary of yellow taxi trip records, and the published files of 2009 to 2014).
#}

{% macro vendorid(column) -%}
    case lower(trim({{ column }}))
        when 'cmt' then 1
        when 'vts' then 2
        when 'dds' then 3
        else {{ to_integer(column) }}
    end
{%- endmacro %}

{% macro payment_type(column) -%}
    case lower(trim({{ column }}))
        when 'credit' then 1 when 'cre' then 1 when 'crd' then 1
        when 'cash' then 2 when 'cas' then 2 when 'csh' then 2
        when 'no charge' then 3 when 'no' then 3 when 'noc' then 3
        when 'dispute' then 4 when 'dis' then 4
        when 'unk' then 5 when 'na' then 5
        else {{ to_integer(column) }}
    end
{%- endmacro %}

{% macro store_and_fwd_flag(column) -%}
    case upper(trim({{ column }}))
        when '1' then 'Y' when '1.0' then 'Y'
        when '0' then 'N' when '0.0' then 'N'
        when '' then null
        else upper(trim({{ column }}))
    end
{%- endmacro %}


{# The values of a row that are not what their column holds, as `column: value; …`; NULL where there are none.
   Each column comes with its published text as `<column>_text`. #}
{% macro cast_failures(columns) -%}
    nullif(
        concat_ws(
            '; '
            {%- for column in columns %},
            case
                when {{ column }} is null and trim({{ column }}_text) <> ''
                    then '{{ column }}: ' || {{ column }}_text
            end
            {%- endfor %}
        ),
        ''
    )
{%- endmacro %}


{# The filter this project is for: trips without a passenger are left out, and those whose number of passengers is
   not known stay, as in pandas' `df[df['passenger_count'] != 0]`. #}
{% macro has_passengers() -%}
    {%- if var('drop_unknown_passengers') -%}
    passenger_count != 0
    {%- else -%}
    (passenger_count != 0 or passenger_count is null)
    {%- endif -%}
{%- endmacro %}

{# How many rows of a load `trip_data` must hold: told without casting more than one column. #}
{% macro rows_to_keep(load_id) -%}
    select staged.n - wrong.n
    from
        (
            select count(*) as n from {{ ref('stg_yellow_trips') }}
            where load_id = '{{ load_id }}' and {{ has_passengers() }}
        ) as staged,
        (
            select count(*) as n from {{ ref('stg_wrong_values') }}
            where load_id = '{{ load_id }}' and {{ has_passengers() }}
        ) as wrong
{%- endmacro %}
