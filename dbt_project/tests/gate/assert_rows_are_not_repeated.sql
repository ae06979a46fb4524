{#
    A failure means that a file holds the same rows twice, as when it was concatenated to itself or a part of it was sent
    twice. Told by the text of the columns that make a trip its own, so that nothing has to be cast.
#}
{{ config(tags=['gate'], fail_calc='coalesce(sum(rows_beyond), 0)') }}
-- depends_on: {{ ref('stg_yellow_trips') }}
{% set trip = [
    'tpep_pickup_datetime', 'tpep_dropoff_datetime', 'trip_distance', 'pulocationid', 'dolocationid', 'total_amount',
] %}

with

failing as (
    select
        _load_id as load_id,
        {{ trip | join(',\n        ') }},
        count(*) as times,
        min(_source_row) as first_source_row
    from {{ source('raw', 'yellow_trips') }}
    where _load_id in ({{ pending_load_ids() }})
    group by
        _load_id,
        {{ trip | join(',\n        ') }}
    having count(*) > 1
),

repeated as (
    select
        load_id,
        sum(times - 1) as failing_rows
    from failing
    group by load_id
),

judged as (
    select
        loads.load_id,
        coalesce(repeated.failing_rows, 0) as failing_rows,
        loads.rows_landed as tested_rows
    from {{ source('raw', 'loads') }} as loads
    left join repeated on loads.load_id = repeated.load_id
    where loads.load_id in ({{ pending_load_ids() }})
)

{{ judged_by_load() }}
select
    load_id,
    failing_rows,
    tested_rows,
    case when failing_rows > 0.05 * tested_rows then failing_rows else 0 end as rows_beyond
from judged
