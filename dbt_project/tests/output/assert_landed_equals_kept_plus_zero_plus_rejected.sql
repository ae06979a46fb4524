{#
    A failure means that rows of a load vanished or were doubled on the way from the raw table to `trip_data`: each row
    has to be kept, left out by the filter on passengers, or listed in `trip_rejects`.
#}
{% set condition = "passenger_count = 0" %}
{% if var('drop_unknown_passengers') %}
    {% set condition = "(passenger_count = 0 or passenger_count is null)" %}
{% endif %}

with

loads as (
    {{ published_loads() }}
),

landed as (
    select
        _load_id as load_id,
        count(*) as trips
    from {{ source('raw', 'yellow_trips') }}
    where {{ published_now('_load_id', 'load_id') }}
    group by _load_id
),

kept as (
    select
        load_id,
        count(*) as trips
    from {{ ref('trip_data') }}
    where {{ published_now() }}
    group by load_id
),

left_out as (
    select
        load_id,
        count(*) as trips
    from {{ ref('stg_yellow_trips') }}
    -- the cheap condition first: CrateDB asks the costly one only of the rows that are left
    where
        {{ published_now('load_id', 'load_id') }}
        and {{ condition }}
        and reject_reason is null
    group by load_id
),

rejected as (
    select
        load_id,
        count(*) as trips
    from {{ ref('trip_rejects') }}
    where
        kind = 'wrong value'
        and {{ published_now() }}
    group by load_id
),

counted as (
    select
        loads.load_id,
        coalesce(landed.trips, 0) as rows_landed,
        coalesce(kept.trips, 0) as rows_kept,
        coalesce(left_out.trips, 0) as rows_left_out,
        coalesce(rejected.trips, 0) as rows_rejected
    from loads
    left join landed on loads.load_id = landed.load_id
    left join kept on loads.load_id = kept.load_id
    left join left_out on loads.load_id = left_out.load_id
    left join rejected on loads.load_id = rejected.load_id
),

unequal as (
    select *
    from counted
    where rows_landed != rows_kept + rows_left_out + rows_rejected
)

select * from unequal
