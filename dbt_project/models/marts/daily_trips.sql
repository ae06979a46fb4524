with

trips as (
    select * from {{ ref('trip_data') }}
)

select
    file_month,
    date_trunc('day', tpep_pickup_datetime) as trip_day,
    count(*) as trips,
    sum(passenger_count) as passengers,
    sum(trip_distance) as distance_miles,
    sum(total_amount) as revenue
from trips
group by file_month, date_trunc('day', tpep_pickup_datetime)
