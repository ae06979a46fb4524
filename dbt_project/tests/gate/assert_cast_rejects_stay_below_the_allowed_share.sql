{#
    A failure means that more rows of a load than TAXI_MAX_REJECT_SHARE allows hold a value which does not cast: the
    file is damaged, its columns are shifted, or the TLC changed how it writes a value.
#}
{{ config(tags=['gate'], fail_calc='coalesce(sum(rows_beyond), 0)') }}
{% set allowed = allowed_share('TAXI_MAX_REJECT_SHARE', '0.01') %}

-- depends_on: {{ ref('stg_yellow_trips') }}

with

failing as (
    select *
    from {{ ref('stg_wrong_values') }}
    where load_id in ({{ pending_load_ids() }})
),

wrong as (
    select
        load_id,
        count(*) as failing_rows
    from failing
    group by load_id
),

judged as (
    select
        loads.load_id,
        coalesce(wrong.failing_rows, 0) as failing_rows,
        loads.rows_landed as tested_rows
    from {{ source('raw', 'loads') }} as loads
    left join wrong on loads.load_id = wrong.load_id
    where loads.load_id in ({{ pending_load_ids() }})
)

{{ rows_beyond(allowed) }}
