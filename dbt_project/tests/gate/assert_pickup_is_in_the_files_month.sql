{#
    A failure means that more than three of four trips began in another month than the file is of: it is another month's
    file. Told by the text of the times, as the TLC writes them; see assert_dropoff_is_not_before_pickup.
#}
{{ config(tags=['gate']) }}
-- depends_on: {{ ref('stg_yellow_trips') }}
-- the materialization of tests reads `failing`
-- noqa: disable=ST03
{% set condition -%}
    case
        when substr(tpep_pickup_datetime, 5, 1) = '-' then substr(tpep_pickup_datetime, 1, 7) != file_month
        else
            date_trunc('month', {{ to_timestamp('tpep_pickup_datetime') }})
            != cast(file_month || '-01 00:00:00' as timestamp)
    end
{%- endset %}
{{ test_max_share(pending_times(), condition, max_share=0.75) }}
