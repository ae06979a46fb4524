{#
    A failure means that days of a month have no trips, or less than a twentieth of its average day: a part of the file is
    missing, as where it was cut.
#}
{{ config(severity='warn', fail_calc='coalesce(sum(days_missing), 0)') }}

with

days as (
    select
        file_month,
        trip_day,
        trips,
        cast(file_month || '-01 00:00:00' as timestamp without time zone) as first_day
    from {{ ref('daily_trips') }}
    where {{ published_now() }}
),

counted as (
    select
        file_month,
        trips,
        extract(day from first_day + interval '1 month' - interval '1 day') as days_of_month,
        sum(trips) over (partition by file_month) as trips_of_month
    from days
    where
        trip_day >= first_day
        and trip_day < first_day + interval '1 month'
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
