{#
    A failure means that a month has less than half or more than twice as many rows as the months before it had on
    average: of the three before, those that are staged. A part is missing or is there twice, or the city has changed, as
    in March 2020.
#}
{{ config(severity='warn') }}
-- depends_on: {{ ref('trip_data') }}

with

loads as (
    select
        load_id,
        file_month,
        12 * cast(substr(file_month, 1, 4) as integer) + cast(substr(file_month, 6, 2) as integer) as month_number,
        rows_read
    from {{ source('raw', 'loads') }}
    where status = 'staged'
),

published as (
    select load_id
    from {{ source('published', 'publications') }}
    where
        model = 'trip_data'
        and {{ published_now() }}
),

compared as (
    select
        loads.load_id,
        loads.file_month,
        loads.rows_read,
        avg(earlier.rows_read) as rows_a_month_before
    from loads
    inner join published on loads.load_id = published.load_id
    inner join loads as earlier on earlier.month_number between loads.month_number - 3 and loads.month_number - 1
    group by loads.load_id, loads.file_month, loads.rows_read
),

unlike as (
    select *
    from compared
    where
        rows_read < 0.5 * rows_a_month_before
        or rows_read > 2 * rows_a_month_before
)

select * from unlike
