{#
    A failure means that more rows of a load than TAXI_MAX_REJECT_SHARE allows hold a value which does not cast: the
    file is damaged, its columns are shifted, or the TLC changed how it writes a value.
#}
{{ config(tags=['gate'], fail_calc='coalesce(sum(rows_that_do_not_cast), 0)') }}
{% set allowed = (env_var('TAXI_MAX_REJECT_SHARE', '') or '0.01') | float %}

-- depends_on: {{ ref('stg_yellow_trips') }}

with

loads as (
    select
        load_id,
        rows_landed
    from {{ source('raw', 'loads') }}
    where load_id in ({{ pending_load_ids() }})
),

wrong as (
    select
        load_id,
        count(*) as rows_that_do_not_cast,
        min(reason) as example
    from {{ ref('stg_wrong_values') }}
    where load_id in ({{ pending_load_ids() }})
    group by load_id
),

above as (
    select
        loads.load_id,
        loads.rows_landed,
        wrong.rows_that_do_not_cast,
        wrong.example,
        {{ allowed }} as allowed_share
    from loads
    inner join wrong on loads.load_id = wrong.load_id
    where wrong.rows_that_do_not_cast > {{ allowed }} * loads.rows_landed
)

select * from above
