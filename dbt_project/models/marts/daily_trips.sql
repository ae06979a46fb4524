with

trips as (
    select * from {{ ref('trip_data') }}
),

days as (
    select
        file_month,
        date_trunc('day', tpep_pickup_datetime) as trip_day,
        count(*) as trips,
        sum(passenger_count) as passengers,
        sum(trip_distance) as distance_miles,
        sum(total_amount) as revenue
    from trips
    group by file_month, date_trunc('day', tpep_pickup_datetime)
)

-- CrateDB gives a truncated time a zone, and DuckDB sums integers into 128 bits
select
    file_month,
    cast(trip_day as timestamp without time zone) as trip_day,
    trips,
    cast(passengers as bigint) as passengers,
    distance_miles,
    revenue
from days
