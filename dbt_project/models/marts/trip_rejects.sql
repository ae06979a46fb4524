with

staged_loads as (
    select load_id
    from {{ source('raw', 'loads') }}
    where status = 'staged'
),

broken_lines as (
    select
        _file_month as file_month,
        _load_id as load_id,
        line_no as source_row,
        'broken row' as kind,
        reason,
        line_text
    from {{ source('raw', 'rejected_rows') }}
    where _load_id in (select staged_loads.load_id from staged_loads)
),

wrong_values as (
    select
        file_month,
        load_id,
        source_row,
        'wrong value' as kind,
        reject_reason as reason,
        cast(null as text) as line_text
    from {{ ref('stg_yellow_trips') }}
    where reject_reason is not null
)

select * from broken_lines
union all
select * from wrong_values
