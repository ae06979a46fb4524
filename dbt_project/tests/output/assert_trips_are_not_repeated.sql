{#
    A failure means that trips stand in a month more than once: same vendor, times, places, distance and total. Judged by
    the trips that began in some of all seconds; see one_in. How far these lie apart has no divisor in common with a
    minute, as the times of some vendors have no seconds.
#}
{{ config(severity='warn', fail_calc='coalesce(sum(rows_beyond), 0)') }}
{% set columns = [
    'load_id', 'vendorid', 'tpep_pickup_datetime', 'tpep_dropoff_datetime', 'pulocationid', 'dolocationid',
    'trip_distance', 'total_amount'
] %}
{% set minutes = (one_in(ref('trip_data') ~ ' where ' ~ published_now()) + 58) // 60 %}

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
        and mod(cast(extract(epoch from tpep_pickup_datetime) as bigint), {{ 60 * minutes + 1 }}) = 0
    group by {{ columns | join(', ') }}
),

{{ repeated_beyond(0.01) }}
