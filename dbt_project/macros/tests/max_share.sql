{#
    Rows for which `condition` holds, where they are more than `max_share` of a load's tested rows: of all, or of those
    for which `of` holds, as a column that a file did not have cannot be wrong in it. Each load is judged by itself, so
    that a bad month does not hide among good ones; a failure counts the rows of the loads that are beyond the share.
#}
{% test max_share(model, condition, max_share=0, of=none, column_name=none) %}
    {{ config(fail_calc="coalesce(sum(rows_beyond), 0)") }}

with

tested as (
    select *
    from {{ model }}
    {% if of %}where {{ of }}{% endif %}
),

failing as (
    select *
    from tested
    where {{ condition }}
),

judged as (
    select
        load_id,
        sum(case when {{ condition }} then 1 else 0 end) as failing_rows,
        count(*) as tested_rows
    from tested
    group by load_id
)

{{ rows_beyond(max_share) }}

{% endtest %}


{# The times of the pending loads' rows as texts, for tests that need no cast. #}
{% macro pending_times() %}
    {% set rows %}
(
        select
            _load_id as load_id,
            _file_month as file_month,
            _source_row as source_row,
            tpep_pickup_datetime,
            tpep_dropoff_datetime
        from {{ source('raw', 'yellow_trips') }}
        where _load_id in ({{ pending_load_ids() }})
    ) as trips
    {%- endset %}
    {{ return(rows | trim) }}
{% endmacro %}
