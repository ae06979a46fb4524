{# A failure means that a trip ends before it begins: the vehicle's clock was set, or the file has the times swapped. #}
{{ config(severity='warn') }}

with

backward_trips as (
    select
        load_id,
        source_row,
        tpep_pickup_datetime,
        tpep_dropoff_datetime
    from {{ ref('trip_data') }}
    where
        {{ published_now() }}
        and tpep_dropoff_datetime < tpep_pickup_datetime
)

select * from backward_trips
