"""A report as files and as what Prefect shows: HTML, JSON, JUnit XML, and the artifacts' Markdown and tables.

Comes in: a `Report`. Goes out: one file of each kind for the run and a copy of each as `latest`; nothing is written
half. What can go wrong: a folder that cannot be written.
"""

import os
import re
import sys
import tempfile
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from xml.etree import ElementTree as ET

from prefect_flows.errors import ReportError
from prefect_flows.report.facts import Month, Report, Test, to_json
from prefect_flows.report.render import number, to_html
from prefect_flows.settings import Settings

Cell = str | int | float | None

# What XML 1.0 has no way to write.
_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Files:
    """Where a report was written."""

    html: Path
    json: Path
    junit: Path


def write(report: Report, folder: Path) -> Files:
    """Write the report's files, named after its months and its time, and `latest` beside them.

    Raises:
        ReportError: the folder cannot be written.
    """
    name = f"yellow-taxi-{_title(report).replace(' ', '-')}-{report.run.finished_at:%Y%m%dT%H%M%SZ}"
    contents = {"html": to_html(report).encode(), "json": to_json(report), "xml": to_junit(report)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = {}
        for ending, content in contents.items():
            paths[ending] = _write(folder / f"{name}.{ending}", content)
            _write(folder / f"latest.{ending}", content)
    except OSError as error:
        raise ReportError(
            f"The report cannot be written to {folder} ({error.strerror}): correct TAXI_REPORT_DIR."
        ) from None
    return Files(paths["html"], paths["json"], paths["xml"])


def _write(path: Path, content: bytes) -> Path:
    """All of it, or what was there before."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise
    return path


def _title(report: Report) -> str:
    months = [month.month for month in report.months] or re.findall(r"\d{4}-\d{2}", report.run.name)
    return " to ".join(dict.fromkeys([months[0], months[-1]])) if months else "report"


# --- JUnit


def to_junit(report: Report) -> bytes:
    """The tests as JUnit XML: a suite for each model, a case for each test.

    A failure and a test that could not run are what CI systems show as such. They know no warnings: a test that warns
    passes, and says what it found in its output. Where a month did not come to be tested, a suite `publication` says
    so; so a run that failed is never a file without a failure.
    """
    at = (report.run.started_at or report.run.finished_at).replace(tzinfo=None)
    root = ET.Element("testsuites", {"name": f"taxi-elt {_title(report)}"})
    suites: dict[str, list[Test]] = defaultdict(list)
    for test in report.tests:
        suites[test.model or "whole tables"].append(test)
    for name, tests in sorted(suites.items()):
        suite = _suite(root, name, at)
        for test in sorted(tests, key=lambda test: (test.name, test.months)):
            _case(suite, test, is_alone=sum(other.name == test.name for other in tests) == 1)
        _count(suite)
    suite = _suite(root, "publication", at)
    for month in report.months:
        _month_case(suite, month)
    if report.run.error and not any(month.verdict.level == "bad" for month in report.months):
        case = ET.SubElement(suite, "testcase", {"name": "run", "classname": "publication", "time": "0"})
        _said(ET.SubElement(case, "failure", {"type": "run", "message": _xml(report.run.error)}), report.run.error)
    _count(suite)
    for total in ("tests", "failures", "errors"):
        root.set(total, str(sum(int(suite.get(total, "0")) for suite in root)))
    root.set("time", f"{sum(float(suite.get('time', '0')) for suite in root):.3f}")
    ET.indent(root)
    document: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def _suite(root: ET.Element, name: str, at: datetime) -> ET.Element:
    return ET.SubElement(
        root, "testsuite", {"name": name, "timestamp": at.isoformat(timespec="seconds"), "hostname": "localhost"}
    )


def _case(suite: ET.Element, test: Test, *, is_alone: bool) -> None:
    place = ".".join(part for part in (test.model or "whole tables", test.column) if part)
    case = ET.SubElement(suite, "testcase", {"name": test.name, "classname": place, "time": f"{test.seconds or 0:.3f}"})
    found = _found(test)
    if test.status == "skipped":
        ET.SubElement(case, "skipped", {"message": "something before it failed"})
    elif test.status in ("fail", "error"):
        kind = "failure" if test.status == "fail" else "error"
        text = "\n".join(part for part in (test.rule, found, _examples(test)) if part)
        _said(ET.SubElement(case, kind, {"type": test.severity or kind, "message": _xml(found)}), text)
    if test.failing_rows and test.status in ("pass", "warn"):
        _said(ET.SubElement(case, "system-out"), f"{'WARNING: ' if test.status == 'warn' else ''}{found}\n{test.rule}")


def _month_case(suite: ET.Element, month: Month) -> None:
    case = ET.SubElement(suite, "testcase", {"name": month.month, "classname": "publication", "time": "0"})
    if month.verdict.level == "bad":
        failure = ET.SubElement(case, "failure", {"type": month.state, "message": _xml(month.verdict.sentence)})
        _said(failure, "\n".join([month.verdict.sentence, *month.verdict.details]))


def _found(test: Test) -> str:
    if test.failing_rows is None:
        return test.message or test.rule or "it could not run"
    share = f" of {test.tested_rows:,} ({test.share:.3%})" if test.tested_rows and test.share is not None else ""
    return f"{test.failing_rows:,} failing row{'s' * (test.failing_rows != 1)}{share}"


def _examples(test: Test) -> str:
    if not test.examples:
        return ""
    return "\n".join(
        "; ".join(
            f"{name}: {value}" for name, value in zip(test.examples.columns, row, strict=True) if value is not None
        )
        for row in test.examples.rows
    )


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for kind, name in (("failure", "failures"), ("error", "errors"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(kind) is not None for case in cases)))
    suite.set("time", f"{sum(float(case.get('time', '0')) for case in cases):.3f}")


def _said(element: ET.Element, text: str) -> None:
    element.text = _xml(text)


def _xml(text: str) -> str:
    return _NOT_IN_XML.sub("\N{REPLACEMENT CHARACTER}", text)


# --- Prefect's artifacts, and the terminal


def tests_table(report: Report) -> list[dict[str, Cell]]:
    """The tests as the rows of a table artifact, failures first."""
    return [
        {
            "status": test.status,
            "test": test.name,
            "months": test.months,
            "model": test.model,
            "column": test.column,
            "severity": test.severity,
            "failing rows": test.failing_rows,
            "share": None if test.share is None else f"{test.share:.3%}",
            "what it says": test.rule,
            "seconds": test.seconds,
        }
        for test in report.tests
    ]


def _rows(month: Month) -> list[tuple[str, int | None]]:
    """The way of the rows, from the file to the table."""
    if month.rows is None:
        return []
    rows = [
        ("Rows in the file", month.rows.read),
        ("landed", month.rows.landed),
        ("rejected: broken rows", month.rows.rejected),
        ("rejected: a value does not cast", month.rows.values_rejected),
        ("removed: zero passengers", month.rows.zero_removed),
        ("removed: passengers unknown", month.rows.unknown_removed),
        ("kept: passengers unknown", month.rows.unknown_kept),
        ("Rows in trip_data", month.rows.trips),
    ]
    return [(label, value) for label, value in rows if value or label != "removed: passengers unknown"]


def _tests(report: Report) -> str:
    counts = (len(report.tests_that(*of)) for of in (("pass",), ("warn",), ("fail", "error")))
    return "{} passed, {} warned, {} failed".format(*counts)


def to_markdown(report: Report) -> str:
    """The report in short, as a Markdown artifact."""
    parts = [f"## {_md(report.verdict.sentence)}", *(f"- {_md(detail)}" for detail in report.verdict.details)]
    for month in report.months:
        if month.source:
            parts.append(
                f"\n`{_md(month.source.url)}`, load `{month.source.load_id}`, into {_md(report.engine.warehouse)}\n"
            )
            parts.append(f"| {month.month} | rows |\n| --- | ---: |")
            parts += [f"| {label} | {number(rows)} |" for label, rows in _rows(month)]
    parts.append(f"\nTests: {_tests(report)}.\n")
    return "\n".join(parts)


def _md(text: str) -> str:
    """Text that Markdown shows as it stands, on one line and without a link or a tag."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(text.split()))


def to_text(report: Report, settings: Settings) -> str:
    """The report in short, for a terminal, with where it is and a query to try."""
    lines = []
    for month in report.months:
        landed = " (already landed: nothing was loaded again)" if month.already_landed else ""
        lines.append(f"{month.month} from {month.source.url if month.source else 'nowhere'}{landed}")
        rows = _rows(month)
        width = max((len(label) for label, _ in rows), default=0) + 2
        lines += [f"{label if label[0].isupper() else '  ' + label:<{width}}{number(n):>12}" for label, n in rows]
    return "\n".join(
        [
            *lines,
            f"Tests:  {_tests(report)}",
            f"Data:   {report.engine.warehouse}",
            f"Report: {settings.report_dir / 'latest.html'}",
            f"Try:    {_example_query(settings)}",
        ]
    )


def _example_query(settings: Settings) -> str:
    query = "select trip_day, trips, revenue from {}daily_trips order by trips desc limit 5"
    if settings.target == "cratedb":
        return query.format(f"{settings.cratedb_schema}.")
    python = os.path.relpath(sys.executable)
    return (
        f"""{python} -c "import duckdb; print(duckdb.connect('{settings.duckdb_path}').sql('{query.format("")}'))\""""
    )
