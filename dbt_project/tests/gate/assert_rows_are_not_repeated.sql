{#
    A failure means that a file holds the same rows twice, as when it was concatenated to itself or a part of it was sent
    twice. Judged by the trips that began in one second of each minute, or where the times have no seconds in one minute
    of each hour, as a group for every trip of a month is more than CrateDB holds in memory: a copy began when its
    original did. Of very many months, as after an edit of the rules, between 18:30 and 18:39 only. The texts are
    compared, so nothing is cast.
#}
{{ config(tags=['gate'], fail_calc='coalesce(sum(rows_beyond), 0)') }}
-- depends_on: {{ ref('stg_yellow_trips') }}
{% set pending = source('raw', 'yellow_trips') ~ ' where _load_id in (' ~ pending_load_ids() ~ ')' %}
{% set patterns = ['%:30', '%:30:00'] if one_in(pending) < 600 else ['% 18:3_:30', '% 18:30:00'] %}

-- the materialization of tests reads `failing`
-- noqa: disable=ST03
with

trips as (
    select
        _load_id as load_id,
        tpep_pickup_datetime,
        tpep_dropoff_datetime,
        trip_distance,
        total_amount,
        count(*) as times,
        min(_source_row) as first_source_row
    from {{ source('raw', 'yellow_trips') }}
    where
        _load_id in ({{ pending_load_ids() }})
        and (tpep_pickup_datetime like '{{ patterns[0] }}' or tpep_pickup_datetime like '{{ patterns[1] }}')
    group by _load_id, tpep_pickup_datetime, tpep_dropoff_datetime, trip_distance, total_amount
),

{{ repeated_beyond(0.05) }}
