{#
    A failure means that more rows of a load than TAXI_MAX_REJECT_SHARE allows hold a value which does not cast: the
    file is damaged, its columns are shifted, or the TLC changed how it writes a value.
#}
{{ config(tags=['gate'], fail_calc='coalesce(sum(rows_that_do_not_cast), 0)') }}
{% set allowed = (env_var('TAXI_MAX_REJECT_SHARE', '') or '0.01') | float %}

with

loads as (
    select
        load_id,
        count(*) as rows_landed,
        count(reject_reason) as rows_that_do_not_cast,
        min(reject_reason) as example
    from {{ ref('stg_yellow_trips') }}
    group by load_id
),

above as (
    select
        load_id,
        rows_landed,
        rows_that_do_not_cast,
        example,
        {{ allowed }} as allowed_share
    from loads
    where rows_that_do_not_cast > {{ allowed }} * rows_landed
)

select * from above
