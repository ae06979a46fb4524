{# A failure means that the filter which makes `trip_data` does not work: trips without a passenger are in it. #}

with

empty_trips as (
    select
        load_id,
        source_row,
        passenger_count
    from {{ ref('trip_data') }}
    where
        {{ published_now() }}
        and passenger_count = 0
)

select * from empty_trips
