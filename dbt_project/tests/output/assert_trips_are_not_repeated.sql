{#
    A failure means that trips stand in a month more than once: same vendor, times, places, distance and total. Judged by
    the trips that began in one second of each minute, as in assert_rows_are_not_repeated.
#}
{{ config(severity='warn', fail_calc='coalesce(sum(rows_beyond), 0)') }}
{% set columns = [
    'load_id', 'vendorid', 'tpep_pickup_datetime', 'tpep_dropoff_datetime', 'pulocationid', 'dolocationid',
    'trip_distance', 'total_amount'
] %}

-- the materialization of tests reads `failing`
-- noqa: disable=ST03
with

trips as (
    select
        {{ columns | join(',\n        ') }},
        count(*) as times,
        min(source_row) as first_source_row
    from {{ ref('trip_data') }}
    where
        {{ published_now() }}
        and extract(second from tpep_pickup_datetime) = 30
    group by {{ columns | join(', ') }}
),

{{ repeated_beyond(0.01) }}
