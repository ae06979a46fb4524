"""A report made by hand, for the tests of what shows one."""

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from prefect_flows.report import facts

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
ROWS = facts.RowCounts(
    read=1_369_770,
    landed=1_369_765,
    rejected=5,
    values_rejected=7,
    zero_removed=26_726,
    unknown_staged=98_352,
    unknown_kept=98_352,
    trips=1_343_032,
)


def a_sighting(failing: int = 0, tested: int | None = None, *, status: Any = "pass", day: int = 1) -> facts.Sighting:
    return facts.Sighting(f"run-{day}", NOON.replace(day=day), "2021-01", status, failing, tested)


def a_test(status: Any = "pass", name: str = "a_test", **changes: Any) -> facts.Test:
    values: dict[str, Any] = {
        "model": None, "column": None, "severity": "error", "gate": False, "rule": "", "months": "2021-01",
        "failing_rows": 0, "tested_rows": None, "seconds": 0.5, "message": "", "sql": "", "examples": None,
        "history": [],
    }  # fmt: skip
    return facts.Test(name=name, status=status, **values | changes)


def a_month(**changes: Any) -> facts.Month:
    values: dict[str, Any] = {
        "month": "2021-01",
        "state": "published",
        "verdict": facts.Verdict("good", "2021-01 is published; all 2 tests passed"),
        "already_landed": False,
        "source": facts.Source(
            "2021-01-0123456789ab", "/data/yellow_tripdata_2021-01.csv", "a" * 64, 1, ["VendorID"], [], NOON
        ),
        "published": facts.Published("2021-01-0123456789ab", "build", NOON, ROWS.trips),
        "rows": ROWS,
        "columns": [
            facts.Column("vendorid", "number", 10, 3, 2, "1", "2", "2", [facts.Bin("1", 3), facts.Bin("2", 4)])
        ],
        "drift": facts.Drift("2020-12", ["new"], ["old"], ["RateCodeID → RatecodeID"]),
        "days": [facts.Day(date(2020, 12, 31), 1, 5.0, False), facts.Day(date(2021, 1, 1), 9, 90.5, True)],
        "hours": [facts.Hour(hour, hour, 2.0 * hour) for hour in range(24)],
    }
    return facts.Month(**values | changes)


def a_report(**changes: Any) -> facts.Report:
    examples = facts.Examples("main_test_failures.odd", ["load_id", "fare_amount"], [["x", "-1"], ["y", None]])
    values: dict[str, Any] = {
        "schema_version": "1",
        "verdict": a_month().verdict,
        "run": facts.Run("yellow-taxi 2021-01", ["run-2"], NOON, NOON),
        "engine": facts.Engine("cratedb", "6.4.3", "CrateDB at db.example:4200, schema doc", {"taxi-elt": "0.1.0"}),
        "months": [a_month()],
        "tests": [
            a_test("warn", "odd", column="fare_amount", model="trip_data", severity="warn", failing_rows=2,
                   tested_rows=8, rule="Refunds.", sql="select 1", examples=examples,
                   history=[a_sighting(1, 8), a_sighting(2, 8, status="warn", day=2)]),
            a_test("pass", "sound", model="stg_yellow_trips", gate=True),
        ],
        "runs": [facts.PastRun("run-2", NOON, "2021-01", 1, 1, 0)],
        "volumes": [facts.Volume("2021-01", "2021-01-0123456789ab", "published", 10, 1, 9, 3)],
        "lineage": facts.Lineage(
            [
                facts.Node("source.t.raw.trips", "raw.trips", "source", "", "good", []),
                facts.Node("model.t.stg", "stg", "model", "", "bad", ["odd"]),
                facts.Node("model.t.trip_data", "trip_data", "model", "", "skipped", []),
            ],
            [("source.t.raw.trips", "model.t.stg"), ("model.t.stg", "model.t.trip_data")],
        ),
        "coverage": facts.Coverage(2, 1, {"trip_data": ["extra"]}),
    }  # fmt: skip
    return facts.Report(**values | changes)


def renamed(report: facts.Report, text: str) -> facts.Report:
    """The report with `text` wherever a file or the data could bring it."""
    (month,) = report.months
    assert month.source and month.drift
    odd, *others = report.tests
    return replace(
        report,
        verdict=replace(report.verdict, sentence=text, details=[text]),
        run=replace(report.run, error=text),
        months=[
            replace(
                month,
                verdict=replace(month.verdict, level="bad", sentence=text, details=[text]),
                source=replace(month.source, url=text, header=[text], unknown_columns=[text]),
                drift=replace(month.drift, added=[text], removed=[text], renamed=[text]),
                columns=[replace(month.columns[0], minimum=text, maximum=text, histogram=[facts.Bin(text, 1)])],
            )
        ],
        tests=[
            replace(
                odd, status="error", failing_rows=None, message=text, examples=facts.Examples("a.b", [text], [[text]])
            ),
            *others,
        ],
    )
