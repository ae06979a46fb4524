{#
    A failure means that the trips whose number of passengers is not known are not treated as the var
    `drop_unknown_passengers` says: all of a load's are kept where it is false, none where it is true.
#}
{% set share_kept = 0 if var('drop_unknown_passengers') else 1 %}

with

loads as (
    {{ published_loads() }}
),

staged as (
    select
        load_id,
        count(*) as trips
    from {{ ref('stg_yellow_trips') }}
    -- the cheap condition first: CrateDB asks the costly one only of the rows that are left
    where
        {{ published_now('load_id', 'load_id') }}
        and passenger_count is null
        and reject_reason is null
    group by load_id
),

published as (
    select
        load_id,
        count(*) as trips
    from {{ ref('trip_data') }}
    where
        {{ published_now() }}
        and passenger_count is null
    group by load_id
),

counted as (
    select
        loads.load_id,
        coalesce(staged.trips, 0) * {{ share_kept }} as unknown_expected,
        coalesce(published.trips, 0) as unknown_in_trip_data
    from loads
    left join staged on loads.load_id = staged.load_id
    left join published on loads.load_id = published.load_id
),

unequal as (
    select *
    from counted
    where unknown_expected != unknown_in_trip_data
)

select * from unequal
