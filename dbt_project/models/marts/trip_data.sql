{{ config(materialized='publish_by_month', gated=true, counted_by='rows_to_keep') }}
-- depends_on: {{ ref('stg_wrong_values') }}

with

trips as (
    select *
    from {{ ref('stg_yellow_trips') }}
    where reject_reason is null
),

kept as (
    select *
    from trips
    where {{ has_passengers() }}
)

select
    vendorid,
    tpep_pickup_datetime,
    tpep_dropoff_datetime,
    passenger_count,
    trip_distance,
    ratecodeid,
    store_and_fwd_flag,
    pulocationid,
    dolocationid,
    pickup_longitude,
    pickup_latitude,
    dropoff_longitude,
    dropoff_latitude,
    payment_type,
    fare_amount,
    extra,
    mta_tax,
    tip_amount,
    tolls_amount,
    improvement_surcharge,
    total_amount,
    congestion_surcharge,
    airport_fee,
    cbd_congestion_fee,
    file_month,
    load_id,
    source_row,
    '{{ invocation_id }}' as build_id
from kept
