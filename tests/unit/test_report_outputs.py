"""The forms of a report: the page's markup, JSON under its schema, JUnit, Markdown, tables, text and files."""

import html.parser
import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
import xmlschema
from jsonschema import Draft202012Validator

from prefect_flows.errors import ReportError
from prefect_flows.report.facts import Report, RowCounts, json_schema, to_json
from prefect_flows.report.outputs import tests_table as table_of
from prefect_flows.report.outputs import to_junit, to_markdown, to_text, write
from prefect_flows.report.render import MINUS, UNKNOWN, change, layout, money, share, size, to_html
from prefect_flows.settings import load_settings
from tests.unit.report import NOON, ROWS, a_month, a_report, a_sighting, a_test, renamed

ROOT = Path(__file__).parents[2]
MALICIOUS = [
    "<img src=x onerror=alert(1)>",
    "</script><script>alert(1)</script>",
    '" onload="x',
    "=1+1",
    "\0\x1b\u202e",
]


class Tags(html.parser.HTMLParser):
    """The tags of a page with their attributes' names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, tuple[str, ...]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


# --- the page


@pytest.mark.parametrize("text", MALICIOUS)
def test_no_value_adds_a_tag_or_an_attribute_to_the_page(text: str) -> None:
    plain, filled = Tags(to_html(renamed(a_report(), "x"))), Tags(to_html(renamed(a_report(), text)))
    assert filled.found == plain.found
    if text.isprintable():
        assert filled.text.count(text) >= 8
    assert "\0" not in filled.text and "\x1b" not in filled.text and "\u202e" not in filled.text


def test_page_has_no_script_and_no_address_to_load_from() -> None:
    page = to_html(a_report())
    tags = {tag for tag, _ in Tags(page).found}
    assert not tags & {"script", "img", "iframe", "object", "embed", "form", "video", "audio", "base"}
    assert "http:" not in page and "https:" not in page and "url(" not in page
    assert not any({"style", "src", "srcset"} & set(names) for _, names in Tags(page).found)


def test_policy_allows_the_pages_own_style_and_nothing_else() -> None:
    import base64
    import hashlib
    import re

    page = to_html(a_report())
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)
    assert style
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy and policy[1].replace("&#39;", "'").split("; ")[:2] == [
        "default-src 'none'",
        f"style-src 'sha256-{digest}'",
    ]


NOTHING = {"months": [], "tests": [], "runs": [], "volumes": [], "lineage": None, "coverage": None}


@pytest.mark.parametrize(
    "report",
    [
        a_report(**NOTHING),
        a_report(months=[a_month(source=None, published=None, rows=None, columns=[], drift=None, days=[], hours=[])]),
        a_report(months=[a_month(), a_month(month="2021-02")]),
        a_report(tests=[a_test("error", failing_rows=None, message="no"), a_test("skipped", "s", failing_rows=None)]),
        a_report(months=[a_month(rows=RowCounts(0, 0, 0, None, None, None, 0, 0), columns=[])]),
    ],
    ids=["nothing", "not landed", "two months", "could not run", "no rows"],
)
def test_every_section_is_there_whatever_is_known(report: Report) -> None:
    page = to_html(report)
    for section in ("verdict", "run", "rows", "tests", "columns", "trips", "history", "lineage"):
        assert f'id="{section}"' in page


def test_what_is_failing_comes_before_what_is_not_and_has_its_figures() -> None:
    page = to_html(a_report())
    assert page.index("<h3>odd</h3>") < page.index("<h3>sound</h3>")
    assert "<b>2</b> failing rows of 8" in page and "<b>25.0%</b> of the rows" in page
    assert "+1; 1 in the run of 2026-01-01 12:00" in page


def test_lineage_flows_to_the_right_and_no_boxes_overlap() -> None:
    lineage = a_report().lineage
    assert lineage
    picture = layout(lineage)
    at = {box.node.id: box for box in picture.boxes}
    assert all(at[parent].x < at[child].x for parent, child in lineage.edges)
    assert len({(box.x, box.y) for box in picture.boxes}) == 3
    assert max(box.x for box in picture.boxes) < picture.width and len(picture.curves) == 2


def test_figures_in_words() -> None:
    assert [share(x) for x in (None, 0, 1, 0.25, 0.0042, 0.00002, 0.000001)] == [
        UNKNOWN, "0%", "100%", "25.0%", "0.4%", "0.002%", "<0.001%"
    ]  # fmt: skip
    assert [money(x) for x in (None, 12.4, -3_000, 24_551_234)] == [UNKNOWN, "$12", f"{MINUS}$3,000", "$24.55 m"]
    assert [size(x) for x in (12, 1_500, 124_000_000)] == ["12 bytes", "1.5 kB", "124.0 MB"]


def test_change_since_the_run_before() -> None:
    def after(*rows: int) -> str:
        history = [a_sighting(n, day=day) for day, n in enumerate(rows, start=1)]
        return change(a_test(failing_rows=rows[-1], history=history))

    assert after(3) == "first result"
    assert after(3, 3) == "same as 3 in the run of 2026-01-01 12:00"
    assert after(9, 3, 1) == f"{MINUS}2; 3 in the run of 2026-01-02 12:00"
    assert change(a_test("error", failing_rows=None, history=[a_sighting(4)])) == "no result"


# --- JSON


def test_published_schema_is_that_of_the_structure() -> None:
    published = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    assert published == json.loads(json.dumps(json_schema()))


def test_json_follows_the_schema_which_refuses_what_is_not_a_report() -> None:
    validator = Draft202012Validator(json_schema())
    document = json.loads(to_json(a_report()))
    assert list(validator.iter_errors(document)) == []
    assert document["tests"][0]["failing_rows"] == 2
    del document["verdict"]["level"]
    assert [error.message for error in validator.iter_errors(document)] == ["'level' is a required property"]


# --- JUnit


def junit(report: Report) -> ET.Element:
    content = to_junit(report)
    xmlschema.XMLSchema(ROOT / "tests" / "junit.xsd").validate(content.decode())
    return ET.fromstring(content)


def test_junit_has_a_suite_a_model_and_a_case_a_test() -> None:
    root = junit(
        a_report(
            tests=[
                a_test("fail", "bad", model="trip_data", column="fare_amount", failing_rows=3, rule="Why."),
                a_test("error", "broken", model="trip_data", failing_rows=None, message="no such column"),
                a_test("skipped", "later", failing_rows=None),
                a_test("warn", "odd", model="trip_data", failing_rows=2, tested_rows=8),
                a_test("pass", "good", model="stg_yellow_trips"),
            ]
        )
    )
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("6", "1", "1")
    suites = {suite.get("name"): suite for suite in root}
    assert set(suites) == {"trip_data", "stg_yellow_trips", "whole tables", "publication"}
    cases = {case.get("name"): case for case in root.iter("testcase")}
    assert cases["bad"].get("classname") == "trip_data.fare_amount"
    failure = cases["bad"].find("failure")
    assert failure is not None and failure.get("message") == "3 failing rows" and "Why." in (failure.text or "")
    error = cases["broken"].find("error")
    assert error is not None and error.get("message") == "no such column"
    assert cases["later"].find("skipped") is not None
    assert (cases["odd"].findtext("system-out") or "").startswith("WARNING: 2 failing rows of 8 (25.000%)")
    assert list(cases["good"]) == [] == list(cases["2021-01"])


def test_run_that_failed_is_a_failure_in_junit_also_without_a_test() -> None:
    report = a_report(**NOTHING)
    failed = replace(report, run=replace(report.run, error="There is no file."))
    assert junit(failed).get("failures") == "1"
    assert junit(report).get("failures") == "0"


@pytest.mark.parametrize("text", MALICIOUS)
def test_junit_is_xml_whatever_the_values(text: str) -> None:
    root = junit(renamed(a_report(), text))
    (error,) = root.iter("error")
    if text.isprintable():
        assert error.get("message") == text and text in (error.text or "")


# --- Prefect and the terminal


def test_markdown_has_the_verdict_the_rows_and_the_tests() -> None:
    text = to_markdown(a_report())
    assert text.startswith("## 2021-01 is published; all 2 tests passed\n")
    for rows in (ROWS.read, ROWS.landed, 5, 7, ROWS.zero_removed, ROWS.unknown_kept, ROWS.trips):
        assert f"| {rows:,} |" in text
    assert text.endswith("Tests: 1 passed, 1 warned, 0 failed.\n")
    assert "removed: passengers unknown" not in text


def test_markdown_shows_values_as_they_stand() -> None:
    text = to_markdown(renamed(a_report(), "[a](http://b) <img> |`"))
    assert "[a](" not in text.replace("\\[", "") and "<img" not in text.replace("\\<", "")


def test_table_artifact_has_the_tests_in_the_reports_order() -> None:
    table = table_of(a_report())
    assert [row["test"] for row in table] == ["odd", "sound"]
    assert table[0] == {
        "status": "warn", "test": "odd", "months": "2021-01", "model": "trip_data", "column": "fare_amount",
        "severity": "warn",
        "failing rows": 2, "share": "25.000%", "what it says": "Refunds.", "seconds": 0.5,
    }  # fmt: skip


def test_text_says_where_each_row_went(tmp_path: Path) -> None:
    settings = load_settings(target="cratedb", cratedb_schema="taxi", report_dir=tmp_path)
    assert to_text(a_report(), settings).splitlines() == [
        "2021-01 from /data/yellow_tripdata_2021-01.csv",
        "Rows in the file                    1,369,770",
        "  landed                            1,369,765",
        "  rejected: broken rows                     5",
        "  rejected: a value does not cast           7",
        "  removed: zero passengers             26,726",
        "  kept: passengers unknown             98,352",
        "Rows in trip_data                   1,343,032",
        "Tests:  1 passed, 1 warned, 0 failed",
        "Data:   CrateDB at db.example:4200, schema doc",
        f"Report: {tmp_path}/latest.html",
        "Try:    select trip_day, trips, revenue from taxi.daily_trips order by trips desc limit 5",
    ]
    again = a_report(months=[a_month(already_landed=True)])
    assert to_text(again, settings).splitlines()[0].endswith(".csv (already landed: nothing was loaded again)")


# --- files


def test_files_are_named_after_months_and_time_and_latest_is_a_copy(tmp_path: Path) -> None:
    files = write(a_report(), tmp_path / "reports")
    assert files.html.name == "yellow-taxi-2021-01-20260102T120000Z.html"
    assert sorted(path.name for path in (tmp_path / "reports").iterdir()) == sorted(
        f"{stem}.{ending}" for stem in (files.html.stem, "latest") for ending in ("html", "json", "xml")
    )
    assert (tmp_path / "reports" / "latest.xml").read_bytes() == files.junit.read_bytes()
    later = a_report(months=[a_month(), a_month(month="2021-02")])
    assert write(later, tmp_path / "reports").html.name == "yellow-taxi-2021-01-to-2021-02-20260102T120000Z.html"
    assert "2021-02" in (tmp_path / "reports" / "latest.html").read_text()


def test_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportError, match=r"cannot be written to .* \(.*\): correct TAXI_REPORT_DIR\.$"):
        write(a_report(), tmp_path / "file" / "reports")


def test_report_knows_its_months() -> None:
    assert a_report().month("2021-01").month == "2021-01"
    with pytest.raises(KeyError):
        a_report().month("2020-01")
    assert a_report().run.finished_at == NOON
