{#
    A failure means that rows have no pick-up or no drop-off time at all: a file that was cut, shifted or exported
    wrongly. An empty value casts to NULL without being a reject, so nothing else would keep these rows back.
#}
{{ config(tags=['gate']) }}
-- depends_on: {{ ref('stg_yellow_trips') }}

with

trips as (
    select
        _load_id as load_id,
        _source_row as source_row,
        tpep_pickup_datetime,
        tpep_dropoff_datetime
    from {{ source('raw', 'yellow_trips') }}
    where _load_id in ({{ pending_load_ids() }})
),

without_a_time as (
    select *
    from trips
    where
        coalesce(trim(tpep_pickup_datetime), '') = ''
        or coalesce(trim(tpep_dropoff_datetime), '') = ''
)

select * from without_a_time
