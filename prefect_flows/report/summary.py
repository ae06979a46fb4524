"""The short summary of a run: where each row of the file went, and what the tests said.

`collect` counts in the warehouse, with a query for each figure, so that a loss shows instead of being subtracted
away; `as_text` is what the command line prints, `as_markdown` and `as_table` are the artifacts in Prefect.
"""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from prefect_flows.settings import Settings
from prefect_flows.transform import NodeResult
from prefect_flows.warehouses import Load, Warehouse


@dataclass(frozen=True)
class Summary:
    """The figures of a run over one month's load; all counts are rows of this load."""

    month: str
    load_id: str
    source_url: str
    warehouse: str
    already_landed: bool
    rows_read: int
    rows_landed: int
    rows_rejected: int
    values_rejected: int
    zero_removed: int
    unknown_kept: int
    trips: int
    tests_passed: int
    tests_warned: int
    tests_failed: int
    query: str

    @property
    def rows(self) -> list[tuple[str, int]]:
        """The way of the rows, from the file to the table."""
        return [
            ("Rows in the file", self.rows_read),
            ("landed", self.rows_landed),
            ("rejected: broken rows", self.rows_rejected),
            ("rejected: a value does not cast", self.values_rejected),
            ("removed: zero passengers", self.zero_removed),
            ("kept: passengers unknown", self.unknown_kept),
            ("Rows in trip_data", self.trips),
        ]

    @property
    def tests(self) -> str:
        """The tests in a few words."""
        return f"{self.tests_passed} passed, {self.tests_warned} warned, {self.tests_failed} failed"


def collect(
    warehouse: Warehouse, settings: Settings, load: Load, already_landed: bool, results: Sequence[NodeResult]
) -> Summary:
    """Count what became of a load, after dbt has run.

    Raises:
        WarehouseError, Unavailable: a table is missing, or the warehouse does not answer.
    """

    def count(query: str) -> int:
        frame = warehouse.frame(f"select count(*) as n from {query}", {"load_id": load.load_id})
        return int(frame["n"].iloc[0])

    tests = Counter(result.status for result in results if result.kind == "test")
    return Summary(
        month=load.file_month,
        load_id=load.load_id,
        source_url=load.source_url,
        warehouse=settings.warehouse,
        already_landed=already_landed,
        rows_read=load.rows_read,
        rows_landed=count("{raw}.yellow_trips where _load_id = :load_id"),
        rows_rejected=count("{raw}.rejected_rows where _load_id = :load_id"),
        values_rejected=count("{schema}.trip_rejects where load_id = :load_id and kind = 'wrong value'"),
        zero_removed=count(
            "{schema}.stg_yellow_trips where load_id = :load_id and passenger_count = 0 and reject_reason is null"
        ),
        unknown_kept=count("{schema}.trip_data where load_id = :load_id and passenger_count is null"),
        trips=count("{schema}.trip_data where load_id = :load_id"),
        tests_passed=tests["pass"],
        tests_warned=tests["warn"],
        tests_failed=tests["fail"] + tests["error"],
        query=_example_query(settings),
    )


def _example_query(settings: Settings) -> str:
    query = "select trip_day, trips, revenue from {}daily_trips order by trips desc limit 5"
    if settings.target == "cratedb":
        return query.format(f"{settings.cratedb_schema}.")
    python = os.path.relpath(sys.executable)
    return (
        f"""{python} -c "import duckdb; print(duckdb.connect('{settings.duckdb_path}').sql('{query.format("")}'))\""""
    )


def as_text(summary: Summary) -> str:
    """The summary as lines of plain text, for a terminal."""
    width = max(len(label) for label, _ in summary.rows) + 2
    lines = [f"{label if label[0].isupper() else '  ' + label:<{width}}{rows:>12,}" for label, rows in summary.rows]
    landed = " (already landed: nothing was loaded again)" if summary.already_landed else ""
    return "\n".join(
        [
            f"{summary.month} from {summary.source_url}{landed}",
            *lines,
            f"Tests: {summary.tests}",
            f"Data:  {summary.warehouse}",
            f"Try:   {summary.query}",
        ]
    )


def as_markdown(summary: Summary) -> str:
    """The summary as a Markdown artifact."""
    rows = "\n".join(f"| {label} | {rows:,} |" for label, rows in summary.rows)
    return (
        f"## Yellow taxi {summary.month}\n\n"
        f"`{summary.source_url}`, load `{summary.load_id}`, into {summary.warehouse}\n\n"
        f"| | rows |\n| --- | ---: |\n{rows}\n\nTests: {summary.tests}.\n"
    )


def as_table(results: Sequence[NodeResult]) -> list[dict[str, str | int | float | None]]:
    """The tests, and how fresh the data is, as the rows of a table artifact, failures first."""
    order = {"error": 0, "fail": 0, "warn": 1, "skipped": 2}
    tests = sorted(
        (r for r in results if r.kind in ("test", "freshness")), key=lambda r: (order.get(r.status, 3), r.name)
    )
    return [
        {
            "status": result.status,
            "test": result.name,
            "model": result.model,
            "column": result.column,
            "failing rows": result.failures,
            "what it says": result.rule,
            "seconds": result.seconds,
        }
        for result in tests
    ]
