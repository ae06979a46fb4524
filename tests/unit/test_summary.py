"""The summary: its figures, each counted by a query of its own, and the three forms that it is shown in."""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.errors import WarehouseError
from prefect_flows.report.summary import Summary, as_markdown, as_table, as_text, collect
from prefect_flows.settings import Settings, load_settings
from prefect_flows.transform import NodeResult
from prefect_flows.warehouses import Load
from prefect_flows.warehouses.duck import DuckWarehouse

SUMMARY = Summary(
    month="2021-01",
    load_id="2021-01-0123456789ab",
    source_url="https://example.org/yellow_tripdata_2021-01.csv",
    warehouse="CrateDB at db.example:4200, schema doc",
    already_landed=False,
    rows_read=1_369_770,
    rows_landed=1_369_765,
    rows_rejected=5,
    values_rejected=7,
    zero_removed=26_726,
    unknown_kept=98_352,
    trips=1_343_032,
    tests_passed=40,
    tests_warned=2,
    tests_failed=0,
    query="select 1",
)


def a_test(status: str, name: str = "a_test", *, kind: Any = "test", **changes: Any) -> NodeResult:
    values: dict[str, Any] = {"failures": 0, "message": "", "column": None, "model": None, "rule": "", "seconds": 0.5}
    return NodeResult(name=name, kind=kind, status=status, **values | changes)


# --- the forms


def test_the_text_says_where_each_row_went() -> None:
    assert as_text(SUMMARY).splitlines() == [
        "2021-01 from https://example.org/yellow_tripdata_2021-01.csv",
        "Rows in the file                    1,369,770",
        "  landed                            1,369,765",
        "  rejected: broken rows                     5",
        "  rejected: a value does not cast           7",
        "  removed: zero passengers             26,726",
        "  kept: passengers unknown             98,352",
        "Rows in trip_data                   1,343,032",
        "Tests: 40 passed, 2 warned, 0 failed",
        "Data:  CrateDB at db.example:4200, schema doc",
        "Try:   select 1",
    ]


def test_the_text_says_that_nothing_was_loaded_again() -> None:
    again = Summary(**vars(SUMMARY) | {"already_landed": True})
    first, *rest = as_text(again).splitlines()
    assert first == f"2021-01 from {SUMMARY.source_url} (already landed: nothing was loaded again)"
    assert rest == as_text(SUMMARY).splitlines()[1:]


def test_the_markdown_is_a_heading_the_source_a_table_and_the_tests() -> None:
    assert as_markdown(SUMMARY) == (
        "## Yellow taxi 2021-01\n\n"
        "`https://example.org/yellow_tripdata_2021-01.csv`, load `2021-01-0123456789ab`, "
        "into CrateDB at db.example:4200, schema doc\n\n"
        "| | rows |\n"
        "| --- | ---: |\n"
        "| Rows in the file | 1,369,770 |\n"
        "| landed | 1,369,765 |\n"
        "| rejected: broken rows | 5 |\n"
        "| rejected: a value does not cast | 7 |\n"
        "| removed: zero passengers | 26,726 |\n"
        "| kept: passengers unknown | 98,352 |\n"
        "| Rows in trip_data | 1,343,032 |\n\n"
        "Tests: 40 passed, 2 warned, 0 failed.\n"
    )


def test_the_table_has_the_tests_and_what_failed_first() -> None:
    table = as_table(
        [
            a_test("pass", "b"),
            a_test("skipped", "left_out"),
            a_test("pass", "a"),
            a_test("success", "a_model", kind="model"),
            a_test("pass", "a_unit_test", kind="unit test"),
            a_test("warn", "odd", failures=3),
            a_test("fail", "broken", failures=2, column="vendorid", model="trip_data", rule="Never empty."),
            a_test("error", "wrong"),
        ]
    )
    assert [(row["status"], row["test"]) for row in table] == [
        ("fail", "broken"),
        ("error", "wrong"),
        ("warn", "odd"),
        ("skipped", "left_out"),
        ("pass", "a"),
        ("pass", "b"),
    ]
    assert table[0] == {
        "status": "fail",
        "test": "broken",
        "model": "trip_data",
        "column": "vendorid",
        "failing rows": 2,
        "what it says": "Never empty.",
        "seconds": 0.5,
    }


def test_no_tests_make_an_empty_table() -> None:
    assert as_table([]) == []


# --- the figures

LOAD_ID, OTHER = "2021-01-aaaaaaaaaaaa", "2021-01-bbbbbbbbbbbb"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(target="duckdb", duckdb_path=str(tmp_path / "warehouse.duckdb"))


@pytest.fixture
def warehouse(settings: Settings) -> Iterator[DuckWarehouse]:
    """Tables as dbt leaves them, with another number of rows for each figure and rows of another load in all."""
    with DuckWarehouse(settings) as connected:

        def table(name: str, *numbers: tuple[int, str]) -> None:
            rows = " union all ".join(
                f"select {row} from range({number * times}), (select '{load_id}' as load_id)"
                for number, row in numbers
                for load_id, times in ((LOAD_ID, 1), (OTHER, 100))
            )
            connected.frame(f"create table {name} as {rows}")

        connected.frame("drop table raw.yellow_trips; drop table raw.rejected_rows")
        table("raw.yellow_trips", (31, "load_id as _load_id"))
        table("raw.rejected_rows", (2, "load_id as _load_id"))
        table("trip_rejects", (3, "load_id, 'wrong value' as kind"), (2, "load_id, 'broken row' as kind"))
        table(
            "stg_yellow_trips",
            (5, "load_id, 0 as passenger_count, null as reject_reason"),
            (1, "load_id, 0 as passenger_count, 'why' as reject_reason"),
            (7, "load_id, null as passenger_count, null as reject_reason"),
            (18, "load_id, 2 as passenger_count, null as reject_reason"),
        )
        table("trip_data", (6, "load_id, null as passenger_count"), (17, "load_id, 2 as passenger_count"))
        yield connected


def a_load() -> Load:
    return Load(
        load_id=LOAD_ID,
        file_month="2021-01",
        source_url="/data/yellow_tripdata_2021-01.csv",
        sha256="a" * 64,
        bytes=1,
        header="",
        unknown_columns="",
        rows_read=33,
        rows_landed=1000,
        rows_rejected=1000,
        started_at=datetime(2021, 2, 1),
        finished_at=None,
        status="staged",
    )


RESULTS = [
    *(a_test("pass", f"p{n}") for n in range(4)),
    *(a_test("warn", f"w{n}") for n in range(3)),
    a_test("fail"),
    a_test("error"),
    a_test("skipped"),
    a_test("pass", kind="unit test"),
    a_test("error", kind="model"),
]


def test_each_figure_is_counted_in_the_warehouse_for_this_load(warehouse: DuckWarehouse, settings: Settings) -> None:
    summary = collect(warehouse, settings, a_load(), True, RESULTS)
    assert summary.rows == [
        ("Rows in the file", 33),
        ("landed", 31),
        ("rejected: broken rows", 2),
        ("rejected: a value does not cast", 3),
        ("removed: zero passengers", 5),
        ("kept: passengers unknown", 6),
        ("Rows in trip_data", 23),
    ]
    assert (summary.month, summary.load_id, summary.source_url, summary.already_landed, summary.warehouse) == (
        "2021-01",
        LOAD_ID,
        "/data/yellow_tripdata_2021-01.csv",
        True,
        str(settings.duckdb_path),
    )
    assert summary.tests == "4 passed, 3 warned, 2 failed"


def test_the_query_to_try_names_the_table_where_it_is(warehouse: DuckWarehouse, settings: Settings) -> None:
    in_duckdb = collect(warehouse, settings, a_load(), False, []).query
    assert f"duckdb.connect('{settings.duckdb_path}')" in in_duckdb and "from daily_trips" in in_duckdb
    crate = settings.model_copy(update={"target": "cratedb", "cratedb_schema": "taxi"})
    in_crate = collect(warehouse, crate, a_load(), False, []).query
    assert in_crate == "select trip_day, trips, revenue from taxi.daily_trips order by trips desc limit 5"


def test_a_missing_table_is_an_error_and_not_a_zero(warehouse: DuckWarehouse, settings: Settings) -> None:
    warehouse.frame("drop table trip_data")
    with pytest.raises(WarehouseError, match="trip_data"):
        collect(warehouse, settings, a_load(), False, [])
