{#
    A failure means that a month's newer file has fewer rows than the one that readers see now, by more than
    TAXI_MAX_LOST_SHARE: it was cut, or a part of it was left out. An older load, as in a rollback, may have fewer.
#}
{{ config(tags=['gate'], fail_calc='coalesce(sum(rows_beyond), 0)') }}
-- depends_on: {{ ref('stg_yellow_trips') }}
{% set allowed = allowed_share('TAXI_MAX_LOST_SHARE', '0.05') %}

-- the materialization of tests reads `failing`
-- noqa: disable=ST03
with

loads as (
    select
        load_id,
        file_month,
        rows_read,
        started_at
    from {{ source('raw', 'loads') }}
),

published as (
    select load_id
    {# not a source(): see assert_file_rows_equal_landed_plus_rejected #}
    from {{ publications() }}
    where model = 'trip_data'
),

judged as (
    select
        loads.load_id,
        published_loads.load_id as published_load_id,
        loads.rows_read,
        published_loads.rows_read as tested_rows,
        greatest(published_loads.rows_read - loads.rows_read, 0) as failing_rows
    from loads
    inner join loads as published_loads
        on
            loads.file_month = published_loads.file_month
            and loads.started_at > published_loads.started_at
    inner join published on published_loads.load_id = published.load_id
    where loads.load_id in ({{ pending_load_ids() }})
),

failing as (
    select *
    from judged
    where failing_rows > 0
)

{{ rows_beyond(allowed) }}
