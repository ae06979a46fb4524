{% set cast_columns = [
    'vendorid', 'tpep_pickup_datetime', 'tpep_dropoff_datetime', 'passenger_count', 'trip_distance', 'ratecodeid',
    'pulocationid', 'dolocationid', 'pickup_longitude', 'pickup_latitude', 'dropoff_longitude', 'dropoff_latitude',
    'payment_type', 'fare_amount', 'extra', 'mta_tax', 'tip_amount', 'tolls_amount', 'improvement_surcharge',
    'total_amount', 'congestion_surcharge', 'airport_fee', 'cbd_congestion_fee',
] %}

with

staged_loads as (
    select load_id
    from {{ source('raw', 'loads') }}
    where status = 'staged'
),

source as (
    select *
    from {{ source('raw', 'yellow_trips') }}
    where _load_id in (select staged_loads.load_id from staged_loads)
),

typed as (
    select
        -- the texts as published, to tell a value that does not cast from one that is not there
        {%- for column in cast_columns %}
            {{ column }} as {{ column }}_text,
        {%- endfor %}

        -- where the row comes from
        _file_month as file_month,
        _load_id as load_id,
        _source_row as source_row,

        -- who drove, when, how far
        {{ vendorid('vendorid') }} as vendorid,
        {{ to_timestamp('tpep_pickup_datetime') }} as tpep_pickup_datetime,
        {{ to_timestamp('tpep_dropoff_datetime') }} as tpep_dropoff_datetime,
        {{ to_integer('passenger_count') }} as passenger_count,
        {{ to_double('trip_distance') }} as trip_distance,
        {{ to_integer('ratecodeid') }} as ratecodeid,
        {{ store_and_fwd_flag('store_and_fwd_flag') }} as store_and_fwd_flag,

        -- from where to where: zones since 2016-07, coordinates before
        {{ to_integer('pulocationid') }} as pulocationid,
        {{ to_integer('dolocationid') }} as dolocationid,
        {{ to_double('pickup_longitude') }} as pickup_longitude,
        {{ to_double('pickup_latitude') }} as pickup_latitude,
        {{ to_double('dropoff_longitude') }} as dropoff_longitude,
        {{ to_double('dropoff_latitude') }} as dropoff_latitude,

        -- what was paid
        {{ payment_type('payment_type') }} as payment_type,
        {{ to_double('fare_amount') }} as fare_amount,
        {{ to_double('extra') }} as extra,
        {{ to_double('mta_tax') }} as mta_tax,
        {{ to_double('tip_amount') }} as tip_amount,
        {{ to_double('tolls_amount') }} as tolls_amount,
        {{ to_double('improvement_surcharge') }} as improvement_surcharge,
        {{ to_double('total_amount') }} as total_amount,
        {{ to_double('congestion_surcharge') }} as congestion_surcharge,
        {{ to_double('airport_fee') }} as airport_fee,
        {{ to_double('cbd_congestion_fee') }} as cbd_congestion_fee
    from source
)

select
    file_month,
    load_id,
    source_row,
    vendorid,
    tpep_pickup_datetime,
    tpep_dropoff_datetime,
    passenger_count,
    trip_distance,
    ratecodeid,
    store_and_fwd_flag,
    pulocationid,
    dolocationid,
    -- the files write 0 where the place is not known
    nullif(pickup_longitude, 0) as pickup_longitude,
    nullif(pickup_latitude, 0) as pickup_latitude,
    nullif(dropoff_longitude, 0) as dropoff_longitude,
    nullif(dropoff_latitude, 0) as dropoff_latitude,
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
    {{ cast_failures(cast_columns) }} as reject_reason
from typed
