"""The report in a real browser, of the real head, a month with planted faults and a run that failed: all of it is
there, nothing of it is loaded from anywhere, values stay text, and its figures are those of separate queries."""

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import xmlschema
from dbt.cli.main import dbtRunner
from jsonschema import Draft202012Validator
from playwright.sync_api import Browser, Page
from typer.testing import CliRunner

from prefect_flows.cli import app
from prefect_flows.errors import FileRefused, TransformError
from prefect_flows.flows import yellow_taxi
from prefect_flows.report.collect import collect
from prefect_flows.report.facts import Report
from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings, load_settings
from prefect_flows.transform import target_path
from prefect_flows.warehouses import open_warehouse
from tests.conftest import CRATEDB_AT_LENGTH, HEAD, own_warehouse
from tests.integration import browser as chrome
from tests.integration.conftest import PROJECT

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("flow_settings")]

SECTIONS = ["verdict", "run", "rows", "tests", "columns", "trips", "history", "lineage"]
IMAGE, SCRIPT, FORMULA = "<img src=x onerror=alert(1)>", "</script><script>alert(2)</script>", "=1+1"


@pytest.fixture(
    scope="module", params=[pytest.param("duckdb", marks=pytest.mark.xdist_group("report")), CRATEDB_AT_LENGTH]
)
def settings(request: pytest.FixtureRequest, flow_settings: None) -> Iterator[Settings]:
    """A warehouse for the reports of this module, made in this order."""
    if not chrome.chromium():
        pytest.skip(chrome.MISSING)
    with own_warehouse(request, request.param) as settings:
        yield settings


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not chrome.chromium():
        pytest.skip(chrome.MISSING)
    with chrome.started() as started:
        yield started


def reported(folder: Path, source: Path, error: type[Exception] | None = None) -> Path:
    """Run the flow with a report folder of its own; gives that folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_REPORT_DIR", str(folder))
        if error is None:
            yellow_taxi(str(source))
        else:
            with pytest.raises(error):
                yellow_taxi(str(source))
    return folder


@pytest.fixture(scope="module")
def sound(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a month that is published: the real head, or a sample where it is not at hand."""
    folder = tmp_path_factory.mktemp("sound")
    source = HEAD
    if not source.exists():
        source = write_sample(folder / "yellow_tripdata_2021-01.csv", "2021-01", rows=20_000).path
    return reported(folder / "reports", source)


@pytest.fixture(scope="module")
def faulty(settings: Settings, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a month whose file has a name, a column and values that would be tags in a page."""
    folder = tmp_path_factory.mktemp("faulty")
    plain = write_sample(folder / "plain.csv", "2021-02", rows=3_000).path
    header, *rows = plain.read_bytes().split(b"\n")
    names = header.split(b",")
    at = {name: names.index(name) for name in (b"VendorID", b"store_and_fwd_flag")}
    rows = [row + b",1" if row and row.count(b",") == len(names) - 1 else row for row in rows]
    planted = [(b"store_and_fwd_flag", value) for value in (IMAGE, SCRIPT, FORMULA) * 2]
    planted += [(b"VendorID", value) for value in ("55",) * 4 + (IMAGE,)]
    for row, (name, value) in enumerate(planted, start=3):
        cells = rows[row].split(b",")
        cells[at[name]] = value.encode()
        rows[row] = b",".join(cells)
    path = folder / f"{IMAGE.replace('/', '')} yellow_tripdata_2021-02.csv"
    path.write_bytes(b"\n".join([header + b"," + IMAGE.encode(), *rows]))
    return reported(folder / "reports", path, TransformError)


@pytest.fixture(scope="module")
def failed(settings: Settings, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run that failed before dbt, for a month that is published from another file."""
    folder = tmp_path_factory.mktemp("failed")
    path = folder / "yellow_tripdata_2021-01.csv"
    path.write_text("<!DOCTYPE html><html><body>Sorry</body></html>\n")
    return reported(folder / "reports", path, FileRefused)


@pytest.fixture(params=["sound", "faulty", "failed"])
def folder(request: pytest.FixtureRequest, sound: Path, faulty: Path, failed: Path) -> Path:
    return {"sound": sound, "faulty": faulty, "failed": failed}[request.param]


def facts(folder: Path) -> dict:
    return json.loads((folder / "latest.json").read_bytes())


# --- what holds of every report


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [chrome.PHONE, chrome.DESKTOP])
def test_page_is_whole_quiet_and_accessible(browser: Browser, folder: Path, width: int, dark: bool) -> None:
    with chrome.opened(browser, folder / "latest.html", width=width, dark=dark) as page:
        assert page.evaluate(
            "[...document.querySelectorAll('[id]')].map(e => e.id).filter(id => !id.includes('-'))"
        ) == (SECTIONS)
        assert page.evaluate("document.querySelectorAll('script').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert chrome.violations(page) == []


def test_page_is_small_and_stands_alone_beside_the_other_forms(folder: Path) -> None:
    (page,) = folder.glob("yellow-taxi-*.html")
    assert page.stat().st_size < 2_000_000
    assert {path.suffix for path in folder.glob(f"{page.stem}.*")} == {".html", ".json", ".xml"}
    for path in folder.glob(f"{page.stem}.*"):
        assert (folder / f"latest{path.suffix}").read_bytes() == path.read_bytes()


def test_json_is_valid_under_the_published_schema(folder: Path) -> None:
    schema = json.loads((PROJECT / "docs" / "report.schema.json").read_text())
    Draft202012Validator.check_schema(schema)
    assert list(Draft202012Validator(schema).iter_errors(facts(folder))) == []


def test_junit_has_its_usual_shape(folder: Path) -> None:
    xmlschema.XMLSchema(PROJECT / "tests" / "junit.xsd").validate(folder / "latest.xml")


# --- what each of them says


def test_sound_month_says_that_it_is_published(browser: Browser, sound: Path) -> None:
    with chrome.opened(browser, sound / "latest.html") as page:
        assert page.locator("h1").inner_text().startswith("2021-01 is published")
        assert page.locator("article .badge.bad").count() == 0


def test_refused_month_says_what_failed_and_what_readers_see(browser: Browser, faulty: Path) -> None:
    with chrome.opened(browser, faulty / "latest.html") as page:
        assert page.locator("h1").inner_text() == "2021-02 was refused: 2 tests failed before publication"
        verdict = page.locator("#verdict").inner_text()
        assert "Readers see nothing of the month yet." in verdict
        first = page.locator("article").first
        assert first.locator(".badge").inner_text() == "failed"
        names = page.locator("article:has(.badge.bad) h3").all_inner_texts()
        assert sorted(names) == [
            "stg_yellow_trips_store_and_fwd_flag_is_y_or_n",
            "stg_yellow_trips_vendorid_in_dictionary",
        ]
        flagged = page.locator("article", has_text="stg_yellow_trips_store_and_fwd_flag_is_y_or_n")
        assert "6 failing rows" in flagged.locator(".figures").inner_text()
        assert page.locator(".lineage .bad text").first.inner_html() == "stg_yellow_trips"


def test_failed_run_says_why_and_what_readers_still_see(browser: Browser, sound: Path, failed: Path) -> None:
    published = facts(sound)["months"][0]["published"]
    with chrome.opened(browser, failed / "latest.html") as page:
        verdict = page.locator("#verdict").inner_text()
        assert (
            page.locator("h1").inner_text().startswith("2021-01 was not loaded: yellow_tripdata_2021-01.csv is an HTML")
        )
        assert f"Readers still see load {published['load_id']} with {published['trips']:,} trips" in verdict
        assert "did not run" in page.locator("#run").inner_text()


def test_values_stay_text(browser: Browser, faulty: Path) -> None:
    with chrome.opened(browser, faulty / "latest.html") as page:
        assert page.locator("img, script, iframe, object, embed, [onerror]").count() == 0
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        text = page.locator("body").inner_text()
    assert IMAGE in text  # the name of the file, and of its column
    assert all(value.upper() in text for value in (IMAGE, SCRIPT, FORMULA))  # the flags, as staging has them


def test_failed_tests_fail_in_junit_and_a_failed_run_is_never_green(sound: Path, faulty: Path, failed: Path) -> None:
    import xml.etree.ElementTree as ET

    def totals(folder: Path) -> tuple[str | None, str | None]:
        root = ET.parse(folder / "latest.xml").getroot()
        return root.get("failures"), root.get("errors")

    assert totals(sound) == ("0", "0")
    assert totals(faulty) == ("3", "0")  # two tests, and the publication
    assert totals(failed) == ("1", "0")


# --- figures against separate queries


def query(settings: Settings, sql: str) -> pd.DataFrame:
    with open_warehouse(settings) as warehouse:
        return warehouse.frame(sql)


def test_figures_are_those_of_separate_queries(settings: Settings, browser: Browser, sound: Path) -> None:
    month = facts(sound)["months"][0]
    columns = {column["name"]: column for column in month["columns"]}
    for name, column in columns.items():
        found = query(
            settings,
            f"select count(*) as n, count({name}) as given, count(distinct {name}) as d, min({name}) as low,"
            f" max({name}) as high from {{schema}}.trip_data where file_month = '2021-01'",
        ).iloc[0]
        assert (column["rows"], column["nulls"]) == (found["n"], found["n"] - found["given"]), name
        assert sum(bar["rows"] for bar in column["histogram"]) == found["given"], name
        if column["type"] == "number":
            assert column["distinct"] == found["d"], name
            assert (float(column["minimum"]), float(column["maximum"])) == (found["low"], found["high"]), name
    if settings.target == "duckdb":
        for name in ("fare_amount", "pulocationid", "trip_distance"):
            middle = query(settings, f"select quantile_disc({name}, 0.5) as m from trip_data")["m"].iloc[0]
            assert float(columns[name]["median"]) == middle

    days = query(settings, "select * from {schema}.daily_trips where file_month = '2021-01'")
    days["trip_day"] = pd.to_datetime(
        days["trip_day"], unit="ms" if pd.api.types.is_numeric_dtype(days["trip_day"]) else None
    )
    expected = {str(row.trip_day.date()): (row.trips, round(row.revenue, 2)) for row in days.itertuples()}
    assert {day["day"]: (day["trips"], day["revenue"]) for day in month["days"] if day["trips"]} == expected
    assert {day["in_month"] for day in month["days"] if day["day"].startswith("2021-01")} == {True}
    assert {day["in_month"] for day in month["days"] if not day["day"].startswith("2021-01")} <= {False}
    assert sum(hour["trips"] for hour in month["hours"]) == days["trips"].sum()

    with chrome.opened(browser, sound / "latest.html") as page:
        tiles = page.locator(".tiles").inner_text()
        assert f"{days['trips'].sum():,}" in tiles
        assert f"${days['revenue'].sum():,.0f}" in tiles
        steps = dict(cells(page, "#rows tbody tr"))
    zero = query(settings, "select count(*) as n from {schema}.stg_yellow_trips where passenger_count = 0"
                 " and file_month = '2021-01'")["n"].iloc[0]  # fmt: skip
    landed = query(settings, "select count(*) as n from {raw}.yellow_trips where _file_month = '2021-01'")["n"].iloc[0]
    assert steps["removed: zero passengers"] == f"{zero:,}"
    assert steps["Landed"] == f"{landed:,}"
    assert steps["Rows in trip_data"] == f"{landed - zero:,}"


def cells(page: Page, rows: str) -> list[tuple[str, str]]:
    """The first two cells of each row."""
    return [
        (row.locator("th, td").nth(0).inner_text(), row.locator("th, td").nth(1).inner_text())
        for row in page.locator(rows).all()
    ]


def test_tests_are_as_the_warehouse_remembers_them(settings: Settings, sound: Path, faulty: Path) -> None:
    for folder, month in ((sound, "2021-01"), (faulty, "2021-02")):
        stored = query(
            settings,
            "select test, status, failing_rows, tested_rows from {schema}.test_results"
            f" where months = '{month}' and run_id = '{facts(folder)['run']['run_ids'][0]}'",
        )
        told = {test["name"]: test for test in facts(folder)["tests"]}
        assert len(stored) > 10
        for row in stored.itertuples():
            test = told[row.test]
            assert (test["status"], test["failing_rows"]) == (row.status, row.failing_rows)
            assert test["rule"] and test["sql"], row.test
            assert test["tested_rows"] == (None if pd.isna(row.tested_rows) else row.tested_rows)


def test_head_has_the_figures_that_are_known_of_it(settings: Settings, head: Path, sound: Path) -> None:
    month = facts(sound)["months"][0]
    assert (month["rows"]["zero_removed"], month["rows"]["trips"]) == (489, 22_302)
    assert round(sum(day["revenue"] for day in month["days"]), 2) == 393_538.30
    assert sum(day["trips"] for day in month["days"] if not day["in_month"]) == 16


# --- the command, and dbt's traps


def test_report_without_a_run_says_the_same(settings: Settings, sound: Path, faulty: Path) -> None:
    of_run = {test["name"]: test for test in facts(faulty)["tests"]}
    again = collect(load_settings(), months=["2021-02"])
    assert again.verdict.sentence == facts(faulty)["verdict"]["sentence"]
    for test in again.tests:
        seen = of_run[test.name]
        assert (test.status, test.failing_rows, test.rule) == (seen["status"], seen["failing_rows"], seen["rule"])


def test_docs_generate_does_not_turn_failures_into_passes(settings: Settings, faulty: Path) -> None:
    def failing(report: Report) -> list[tuple[str, int | None]]:
        return [(test.name, test.failing_rows) for test in report.tests_that("fail", "error")]

    before = failing(collect(load_settings(), months=["2021-02"]))
    # in this process, whose dbt has DuckDB's file open
    options = ["--project-dir", str(PROJECT), "--profiles-dir", str(PROJECT), "--target", settings.target]
    generated = dbtRunner().invoke(["docs", "generate", *options, "--target-path", str(target_path(settings))])
    assert generated.success
    results = json.loads((target_path(settings) / "run_results.json").read_bytes())
    assert results["args"]["which"] == "generate"
    assert {result["status"] for result in results["results"]} == {"success"}
    assert failing(collect(load_settings(), months=["2021-02"])) == before != []


def test_command_writes_the_report_of_a_month(
    settings: Settings, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAXI_REPORT_DIR", str(tmp_path / "elsewhere"))
    answer = CliRunner().invoke(app, ["report", "--month", "2021-01"])
    assert answer.exit_code == 0, answer.output
    assert answer.stdout.startswith("2021-01 is published")
    written = Path(answer.stdout.split("Report: ")[1].strip())
    assert written.read_bytes() == (tmp_path / "elsewhere" / "latest.html").read_bytes()
    unknown = CliRunner().invoke(app, ["report", "--month", "2020-05"])
    assert unknown.stdout.startswith("2020-05 is not loaded.")


def test_profile_is_kept_once_a_build(settings: Settings, sound: Path, faulty: Path) -> None:
    for _ in range(2):
        collect(load_settings(), months=["2021-01"])
    kept = query(settings, "select load_id, build_id, column_name, count(*) as n from {schema}.column_profiles"
                 " group by load_id, build_id, column_name")  # fmt: skip
    assert set(kept["n"]) == {1}
    assert set(kept["load_id"]) == {facts(sound)["months"][0]["published"]["load_id"]}
