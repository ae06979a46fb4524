{# A failure means that two versions of a month's file are valid at once: all models would hold its trips twice. #}
{{ config(tags=['gate']) }}
-- depends_on: {{ ref('stg_yellow_trips') }}

with

staged as (
    select
        file_month,
        count(*) as staged_loads
    from {{ source('raw', 'loads') }}
    where status = 'staged'
    group by file_month
),

doubled as (
    select *
    from staged
    where staged_loads > 1
)

select doubled.*
from doubled
inner join {{ source('raw', 'loads') }} as loads on doubled.file_month = loads.file_month
where loads.load_id in ({{ pending_load_ids() }})
