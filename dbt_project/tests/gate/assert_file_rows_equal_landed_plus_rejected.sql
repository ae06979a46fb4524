{#
    A failure means that a staged load is not the whole file: lines were lost or doubled between the file and the raw
    tables, or the ledger tells another story than the tables do.
#}
{{ config(tags=['gate']) }}
-- depends_on: {{ ref('stg_yellow_trips') }}
{# Not a source() of its own: dbt keeps a model back only for tests that read nothing but what the model is built of. #}
{% set rejected_rows = source('raw', 'loads').incorporate(path={'identifier': 'rejected_rows'}) %}

with

loads as (
    select
        load_id,
        rows_read,
        rows_landed,
        rows_rejected
    from {{ source('raw', 'loads') }}
    where load_id in ({{ pending_load_ids() }})
),

landed as (
    select
        _load_id as load_id,
        count(*) as rows_found
    from {{ source('raw', 'yellow_trips') }}
    where _load_id in ({{ pending_load_ids() }})
    group by _load_id
),

rejected as (
    select
        _load_id as load_id,
        count(*) as rows_found
    from {{ rejected_rows }}
    where _load_id in ({{ pending_load_ids() }})
    group by _load_id
),

counted as (
    select
        loads.load_id,
        loads.rows_read,
        loads.rows_landed,
        loads.rows_rejected,
        coalesce(landed.rows_found, 0) as rows_in_yellow_trips,
        coalesce(rejected.rows_found, 0) as rows_in_rejected_rows
    from loads
    left join landed on loads.load_id = landed.load_id
    left join rejected on loads.load_id = rejected.load_id
),

unequal as (
    select *
    from counted
    where
        coalesce(rows_read, -1) != rows_in_yellow_trips + rows_in_rejected_rows
        or coalesce(rows_landed, -1) != rows_in_yellow_trips
        or coalesce(rows_rejected, -1) != rows_in_rejected_rows
)

select * from unequal
