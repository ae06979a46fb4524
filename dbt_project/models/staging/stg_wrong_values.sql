{{ config(materialized='publish_by_month', part='load_id') }}

with

trips as (
    select * from {{ ref('stg_yellow_trips') }}
),

wrong as (
    select *
    from trips
    where reject_reason is not null
)

select
    file_month,
    load_id,
    source_row,
    passenger_count,
    reject_reason as reason,
    '{{ invocation_id }}' as build_id
from wrong
