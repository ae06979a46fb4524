{#
    A failure means that `daily_trips` was not built from the `trip_data` that stands beside it, or loses trips. The
    revenue may differ by 0.01 %: the order in which doubles are added changes their sum a little.
#}

with

by_day as (
    select
        file_month,
        sum(trips) as trips,
        sum(revenue) as revenue
    from {{ ref('daily_trips') }}
    where {{ published_now() }}
    group by file_month
),

by_trip as (
    select
        file_month,
        count(*) as trips,
        sum(total_amount) as revenue
    from {{ ref('trip_data') }}
    where {{ published_now() }}
    group by file_month
),

compared as (
    select
        coalesce(by_day.file_month, by_trip.file_month) as file_month,
        coalesce(by_day.trips, 0) as trips_by_day,
        coalesce(by_trip.trips, 0) as trips_in_trip_data,
        coalesce(by_day.revenue, 0) as revenue_by_day,
        coalesce(by_trip.revenue, 0) as revenue_in_trip_data
    from by_day
    full outer join by_trip on by_day.file_month = by_trip.file_month
),

unequal as (
    select *
    from compared
    where
        trips_by_day != trips_in_trip_data
        -- half a cent more, for a month whose refunds leave next to nothing
        or abs(revenue_by_day - revenue_in_trip_data) > 0.0001 * abs(revenue_in_trip_data) + 0.005
)

select * from unequal
