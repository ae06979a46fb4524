"""Months as lines: what the ledger and `trip_data` make of each, and the sentence about those that failed."""

from datetime import datetime
from pathlib import Path

import pytest

from prefect_flows.errors import FileRefused
from prefect_flows.land import Landed
from prefect_flows.report import months
from prefect_flows.report.months import MonthLine, MonthsFailed, as_table, as_text, of_landing, of_warehouse
from prefect_flows.settings import load_settings
from prefect_flows.warehouses import Load
from prefect_flows.warehouses.duck import DuckWarehouse

NOON = datetime(2026, 1, 2, 12)


def a_load(month: str, status: str, hour: int = 1, error: str | None = None) -> Load:
    return Load(
        load_id=f"{month}-{status}-{hour}", file_month=month, source_url="x", sha256="", bytes=0, header="",
        unknown_columns="", rows_read=12, rows_landed=10, rows_rejected=2, started_at=NOON.replace(hour=hour),
        finished_at=None if status == "loading" else NOON.replace(hour=hour, minute=5), status=status, error=error,
    )  # fmt: skip


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckWarehouse:
    return DuckWarehouse(load_settings(duckdb_path=tmp_path / "warehouse.duckdb"))


@pytest.mark.parametrize(
    ("loads", "state", "why"),
    [
        ([a_load("2021-01", "staged")], "staged", ""),
        ([a_load("2021-01", "superseded"), a_load("2021-01", "staged", 2)], "staged", ""),
        ([a_load("2021-01", "staged"), a_load("2021-01", "failed", 2, "torn")], "staged", "torn"),
        ([a_load("2021-01", "failed", 1, "torn"), a_load("2021-01", "staged", 2)], "staged", ""),
        ([a_load("2021-01", "failed", 1, "torn")], "failed", "torn"),
        ([a_load("2021-01", "failed", 1, "torn"), a_load("2021-01", "loading", 2)], "loading", "torn"),
    ],
)
def test_a_month_stands_where_its_newest_load_puts_it(
    warehouse: DuckWarehouse, loads: list[Load], state: str, why: str
) -> None:
    with warehouse:
        for load in loads:
            warehouse.save(load)
        (line,) = of_warehouse(warehouse)
    assert (line.month, line.state, line.why) == ("2021-01", state, why)
    assert (line.rows, line.rejected) == ((10, 2) if state == "staged" else (None, None))


@pytest.mark.parametrize(
    ("publication", "state", "why"),
    [
        (("2021-01-staged-1", "published", None, None), "published", ""),
        (("2021-01-staged-1", "suspect", None, "t"), "suspect", "failed t"),
        (("2021-01-superseded-0", "refused", "2021-01-staged-1", "t, u"), "refused", "failed t, u"),
        ((None, "refused", "2021-01-staged-1", "t"), "refused", "failed t"),
        (("2021-01-superseded-0", "published", None, None), "staged", ""),
        (("2021-01-superseded-0", "refused", "2021-01-superseded-1", "t"), "staged", ""),
    ],
)
def test_a_staged_month_stands_where_its_publication_says(
    warehouse: DuckWarehouse, publication: tuple[str | None, ...], state: str, why: str
) -> None:
    with warehouse:
        warehouse.save(a_load("2021-01", "staged"))
        values = ", ".join("null::text" if value is None else f"'{value}'" for value in publication)
        warehouse.frame(
            "create table {schema}.publications as select 'trip_data' as model, '2021-01' as file_month, *"
            f" from (values ({values})) as p (load_id, state, refused_load_id, failed_tests)"
        )
        (line,) = of_warehouse(warehouse)
    assert (line.state, line.why) == (state, why)


def test_an_empty_ledger_has_no_months(warehouse: DuckWarehouse) -> None:
    with warehouse:
        assert of_warehouse(warehouse) == []


LINES = [
    MonthLine("2021-01", "landed", 1_369_765, 5, NOON),
    MonthLine("2021-02", "failed", None, None, None, "2021-02.csv is an HTML page: check the address [b]."),
]


def test_the_text_has_a_line_a_month() -> None:
    assert as_text(LINES).splitlines() == [
        " month    state        rows  rejected  when (UTC)        why",
        " 2021-01  landed  1,369,765         5  2026-01-02 12:00",
        " 2021-02  failed                                         2021-02.csv is an HTML page: check the address [b].",
    ]


def test_the_text_fits_a_terminal_and_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(months.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    header, *rows = as_text(LINES).splitlines()
    assert max(map(len, rows)) <= 70
    told = "".join(row[header.index("why") :].replace(" ", "") for row in rows)
    assert told == LINES[1].why.replace(" ", "")


def test_the_artifact_has_failures_first() -> None:
    table = as_table(LINES)
    assert [row["month"] for row in table] == ["2021-02", "2021-01"]
    assert table[1]["when"] == "2026-01-02 12:00"


def test_what_a_landing_came_to() -> None:
    load = a_load("2021-01", "staged")
    assert of_landing("2021-01", Landed(load, was_there=False)) == MonthLine(
        "2021-01", "landed", 10, 2, load.finished_at
    )
    assert of_landing("2021-01", Landed(load, was_there=True)).state == "already there"
    assert of_landing("2021-01", FileRefused("It is empty.")).why == "It is empty."
    assert of_landing("2021-01", MemoryError("no room")).why == "MemoryError: no room"


def test_the_failure_names_each_month_and_what_else_failed() -> None:
    assert str(MonthsFailed(LINES, "the test t failed.")) == (
        "1 of 2 months failed. 2021-02: 2021-02.csv is an HTML page: check the address [b]. the test t failed."
    )
    assert str(MonthsFailed(LINES[:1], "The test t failed.")) == "The test t failed."
