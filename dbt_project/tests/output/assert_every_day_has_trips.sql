{#
    A failure means that days of a month have no trips, or less than a twentieth of its average day: a part of the file is
    missing, as where it was cut.
#}
{{ config(severity='warn', fail_calc='coalesce(sum(days_missing), 0)') }}

with

days as (
    select
        file_month,
        date_trunc('day', tpep_pickup_datetime) as trip_day,
        count(*) as trips
    from {{ ref('trip_data') }}
    where
        {{ published_now() }}
        and 100 * extract(year from tpep_pickup_datetime) + extract(month from tpep_pickup_datetime)
        = cast(replace(file_month, '-', '') as integer)
    group by file_month, date_trunc('day', tpep_pickup_datetime)
),

counted as (
    select
        file_month,
        trips,
        extract(
            day from cast(file_month || '-01 00:00:00' as timestamp) + interval '1 month' - interval '1 day'
        ) as days_of_month,
        sum(trips) over (partition by file_month) as trips_of_month
    from days
),

months as (
    select
        file_month,
        max(days_of_month) as days_of_month,
        sum(case when 20 * trips * days_of_month >= trips_of_month then 1 else 0 end) as days_with_trips
    from counted
    group by file_month
),

incomplete as (
    select
        file_month,
        days_of_month - days_with_trips as days_missing
    from months
    where days_with_trips < days_of_month
)

select * from incomplete
