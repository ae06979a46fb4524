"""A report's facts: each figure counted by itself in the warehouse, each test's last word on a month, and a report of
whatever is there, be it nothing."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from prefect_flows.errors import FileRefused, WarehouseError
from prefect_flows.report import collect as module
from prefect_flows.report.collect import Ran, collect
from prefect_flows.settings import Settings, load_settings
from prefect_flows.transform import NodeResult
from prefect_flows.warehouses import Load
from prefect_flows.warehouses.duck import DuckWarehouse

LOAD_ID, OTHER = "2021-01-aaaaaaaaaaaa", "2021-02-bbbbbbbbbbbb"


def a_load(load_id: str = LOAD_ID, **changes: Any) -> Load:
    return Load(
        load_id=load_id, file_month=load_id[:7], source_url="/data/month.csv", sha256="a" * 64, bytes=1,
        header="VendorID,tpep_pickup_datetime,passenger_count,total_amount", unknown_columns="", rows_read=33,
        rows_landed=1000, rows_rejected=1000, started_at=datetime(2021, 2, 1), finished_at=datetime(2021, 2, 1),
        status="staged",
    ).with_(**changes)  # fmt: skip


def a_result(status: str, name: str = "a_test", **changes: Any) -> NodeResult:
    values: dict[str, Any] = {"failures": 0, "message": "", "column": None, "model": None, "rule": "", "seconds": 0.5}
    return NodeResult(name=name, kind="test", status=status, **values | changes)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
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

        connected.save(a_load())
        connected.save(a_load(OTHER))
        connected.frame("drop table raw.yellow_trips; drop table raw.rejected_rows")
        texts = (3, "'0'"), (2, "' 0.0'"), (1, "'0e5'"), (4, "null"), (5, "' '"), (16, "'2'"), (1, "'x'"), (1, "'0x0'")
        table("raw.yellow_trips", *((n, f"load_id as _load_id, {text} as passenger_count") for n, text in texts))
        table("raw.rejected_rows", (2, "load_id as _load_id"))
        table(
            "stg_wrong_values",
            (1, "load_id, 0 as passenger_count, 'fare_amount: NaN' as reason, 'b' as build_id"),
            (2, "load_id, null as passenger_count, 'fare_amount: NaN' as reason, 'b' as build_id"),
            (2, "load_id, null as passenger_count, 'vendorid: y; passenger_count: x' as reason, 'b' as build_id"),
        )
        shown = "timestamp '2021-01-01' as tpep_pickup_datetime, timestamp '2021-01-01' as tpep_dropoff_datetime,"
        shown += " 2.0 as total_amount, load_id, substr(load_id, 1, 7) as file_month, 1 as vendorid"
        table("trip_data", (7, f"{shown}, null::int as passenger_count"), (16, f"{shown}, 2 as passenger_count"))
        connected.frame(
            "create table publications as select"
            " model, part, file_month, load_id, 'build' as build_id, 23 as row_count,"
            " 'published' as state, null::text as refused_load_id, null::text as failed_tests,"
            " timestamp '2021-02-02' as published_at from (values"
            f" ('trip_data', '2021-01', '2021-01', '{LOAD_ID}'),"
            f" ('stg_wrong_values', '{LOAD_ID}', '2021-01', '{LOAD_ID}')"
            " ) as p (model, part, file_month, load_id)"
        )
        connected.frame(
            "create table test_results (run_id text, ran_at timestamp, test text, model text, column_name text,"
            " severity text, status text, failing_rows bigint, tested_rows bigint, failures_table text, months text)"
        )
        yield connected


def saw(warehouse: DuckWarehouse, day: int, status: str, rows: int, months: str, test: str = "a_test") -> None:
    warehouse.frame(
        f"insert into test_results values ('run-{day}', timestamp '2021-03-01' + interval {day} day, '{test}',"
        f" 'trip_data', null, 'error', '{status}', {rows}, 100, 'main_test_failures.{test}', '{months}')"
    )


def test_each_figure_is_counted_in_the_warehouse_for_this_load(warehouse: DuckWarehouse, settings: Settings) -> None:
    (month,) = collect(settings, months=["2021-01"]).months
    rows = month.rows
    assert rows
    assert (rows.read, rows.landed, rows.rejected, rows.values_rejected) == (33, 33, 2, 5)
    assert (rows.zero_removed, rows.unknown_staged, rows.unknown_kept, rows.trips) == (5, 7, 7, 23)
    assert rows.adds_up is False  # 33 rows were read, and 33 + 2 are there
    assert replace(rows, read=35).adds_up
    assert month.verdict.level == "bad"
    assert month.published and (month.published.load_id, month.published.trips) == (LOAD_ID, 23)
    assert [column.name for column in month.columns] == [
        "vendorid", "tpep_pickup_datetime", "passenger_count", "total_amount"
    ]  # fmt: skip


def test_what_dbt_has_not_counted_is_left_open(warehouse: DuckWarehouse, settings: Settings) -> None:
    warehouse.frame("delete from publications where model = 'stg_wrong_values'")
    (month,) = collect(settings, months=["2021-01"]).months
    assert month.rows and (month.rows.values_rejected, month.rows.zero_removed, month.rows.adds_up) == (
        None,
        None,
        None,
    )


def test_a_test_is_shown_as_it_last_judged_the_month(warehouse: DuckWarehouse, settings: Settings) -> None:
    saw(warehouse, 1, "pass", 3, "2020-12")
    saw(warehouse, 2, "fail", 9, "2021-01")
    saw(warehouse, 3, "pass", 0, "")  # a run with nothing new judges nothing
    saw(warehouse, 4, "pass", 1, "2021-02")
    (test,) = collect(settings, months=["2021-01"]).tests
    assert (test.status, test.failing_rows, test.months) == ("fail", 9, "2021-01")
    assert [seen.failing_rows for seen in test.history] == [3, 9]
    assert test.before and (test.before.failing_rows, test.before.share) == (3, 0.03)
    assert [run.run_id for run in collect(settings, months=["2021-01"]).runs] == ["run-1", "run-2", "run-4"]


def test_months_that_were_judged_in_different_runs_have_a_line_each(
    warehouse: DuckWarehouse, settings: Settings
) -> None:
    saw(warehouse, 1, "fail", 9, "2021-01,2021-02")
    saw(warehouse, 2, "pass", 1, "2021-02")
    tests = collect(settings, months=["2021-01", "2021-02"]).tests
    assert [(test.status, test.months) for test in tests] == [("fail", "2021-01"), ("pass", "2021-02")]


def test_what_could_not_run_takes_the_place_of_what_was_found_before(
    warehouse: DuckWarehouse, settings: Settings
) -> None:
    saw(warehouse, 1, "pass", 3, "2021-01")
    ran = Ran("a run", ["2021-01"], results=[a_result("error", message="no such\ncolumn")], landed={"2021-01": True})
    (test,) = collect(settings, ran).tests
    assert (test.status, test.message, test.failing_rows) == ("error", "no such column", None)
    assert test.before and test.before.failing_rows == 3


def test_last_months_that_were_tested_are_reported_on(warehouse: DuckWarehouse, settings: Settings) -> None:
    saw(warehouse, 1, "pass", 3, "2021-01")
    assert [month.month for month in collect(settings).months] == ["2021-01"]
    saw(warehouse, 2, "pass", 3, "2021-01,2021-02")
    assert [month.month for month in collect(settings).months] == ["2021-01", "2021-02"]


def test_failing_rows_are_shown_while_they_are_there(warehouse: DuckWarehouse, settings: Settings) -> None:
    saw(warehouse, 1, "fail", 9, "2021-01")
    assert collect(settings, months=["2021-01"]).tests[0].examples is None
    warehouse.frame(
        "create schema main_test_failures; create table main_test_failures.a_test as select null::int as nothing,"
        f" '=1+1' as flag, i as source_row, '{LOAD_ID}' as load_id from range(9) as r (i)"
    )
    examples = collect(settings, months=["2021-01"]).tests[0].examples
    assert examples and examples.columns == ["source_row", "load_id", "flag"]
    assert examples.rows[0] == ["0", LOAD_ID, "=1+1"] and len(examples.rows) == 5


def test_header_is_compared_with_that_of_the_month_before(warehouse: DuckWarehouse, settings: Settings) -> None:
    warehouse.save(a_load("2020-11-x", header="VendorID,passenger_count"))
    warehouse.save(a_load("2020-12-x", header="vendor_id, Passenger_Count ,odd"))
    (month,) = collect(settings, months=["2021-01"]).months
    drift = month.drift
    assert drift and drift.month_before == "2020-12"
    assert (drift.added, drift.removed) == (["tpep_pickup_datetime", "total_amount"], ["odd"])
    assert drift.renamed == ["vendor_id → VendorID", "Passenger_Count → passenger_count"]


def test_an_empty_warehouse_has_a_report(settings: Settings) -> None:
    assert collect(settings).verdict.sentence == "No month is loaded yet"
    ran = Ran("yellow-taxi 2021-01", ["2021-01"])
    ran.failed_with(FileRefused("month.csv is empty."))
    report = collect(settings, ran)
    assert report.verdict.sentence == "2021-01 was not loaded: month.csv is empty"
    assert report.verdict.details == ["Readers see nothing of the month yet."]


def test_a_run_without_a_warehouse_has_a_report_of_its_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_: Settings) -> DuckWarehouse:
        raise WarehouseError("It is in use.")

    monkeypatch.setattr(module, "open_warehouse", closed)
    ran = Ran("yellow-taxi 2021-01", ["2021-01"])
    ran.failed_with(ValueError("boom"))
    report = collect(settings, ran)
    assert report.verdict.sentence == "2021-01 was not published: ValueError: boom"
    assert "It is in use." in report.verdict.details
    with pytest.raises(WarehouseError):
        collect(settings)


def test_what_landed_did_not_fail_to_land() -> None:
    ran = Ran("a backfill", ["2021-01", "2021-02"], landed={"2021-01": False})
    ran.failed_with(ValueError("boom"))
    assert ran.errors == {"2021-02": "ValueError: boom"}
