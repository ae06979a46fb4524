-- what is published, trip_data writes
-- depends_on: {{ ref('trip_data') }}

with

published_loads as (
    select load_id
    from {{ source('published', 'publications') }}
    where model = 'trip_data'
),

broken_rows as (
    select
        _file_month as file_month,
        _load_id as load_id,
        line_no as source_row,
        'broken row' as kind,
        reason,
        line_text
    from {{ source('raw', 'rejected_rows') }}
    where _load_id in (select published_loads.load_id from published_loads)
),

wrong_values as (
    select
        file_month,
        load_id,
        source_row,
        'wrong value' as kind,
        reason,
        cast(null as text) as line_text
    from {{ ref('stg_wrong_values') }}
    where load_id in (select published_loads.load_id from published_loads)
)

select * from broken_rows
union all
select * from wrong_values
