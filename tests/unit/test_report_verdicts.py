"""The verdict's words."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from prefect_flows.report import facts, verdicts
from prefect_flows.report.facts import Published, Verdict
from prefect_flows.report.months import MonthLine
from tests.unit.report import NOON, ROWS, a_month, a_sighting, a_test

READERS = Published("2021-01-old", "build", NOON, 1_343_032)
SEE = "Readers {}see load 2021-01-old with 1,343,032 trips, published 2026-01-02 12:00 UTC."
BAD = a_test("fail", "bad", gate=True, failing_rows=3, tested_rows=1_000, rule="It hurts.")


def verdict(state: str | None, *tests: facts.Test, why: str = "", **more: Any) -> Verdict:
    line = MonthLine("2021-01", state, 1, 0, datetime(2026, 1, 2), why) if state else None
    given: dict[str, Any] = {
        "landing_error": None, "run_error": None, "tests": tests, "rows": None, "published": READERS, "days": []
    }  # fmt: skip
    return verdicts.of_month("2021-01", line, **given | more)


@pytest.mark.parametrize(
    ("found", "level", "sentence"),
    [
        (verdict("published", a_test(), a_test()), "good", "2021-01 is published; all 2 tests passed"),
        (verdict("published", a_test(), a_test("warn")), "warning", "2021-01 is published; 1 warning"),
        (verdict("published", *[a_test("warn")] * 3), "warning", "2021-01 is published; 3 warnings"),
        (verdict("published"), "good", "2021-01 is published"),
        (verdict("published", BAD), "bad", "2021-01 is published, and 1 test failed"),
        (verdict("published", a_test("fail", months="2021-02")), "good", "2021-01 is published"),
        (verdict("suspect", why="failed x"), "bad", "2021-01 is published, but suspect: it failed x"),
        (
            verdict("published", why="It is empty."),
            "warning",
            "2021-01 is published; a newer file of it was not loaded: It is empty",
        ),
        (verdict("untested"), "warning", "2021-01 is published, and not all of its tests have run"),
        (verdict("refused", BAD, why="failed bad"), "bad", "2021-01 was refused: 1 test failed before publication"),
        (verdict("refused", why="failed x, y"), "bad", "2021-01 was refused: failed x, y"),
        (verdict("staged"), "warning", "2021-01 is loaded, but not published"),
        (
            verdict("staged", run_error="dbt could not run."),
            "bad",
            "2021-01 is loaded, but not published: dbt could not run",
        ),
        (verdict("failed", why="It is torn."), "bad", "2021-01 was not loaded: It is torn"),
        (verdict("loading"), "warning", "2021-01 is being loaded"),
        (verdict(None, published=None), "warning", "2021-01 is not loaded"),
        (verdict("published", landing_error="There is no file."), "bad", "2021-01 was not loaded: There is no file"),
    ],
)
def test_the_sentence_says_where_the_month_stands(found: Verdict, level: str, sentence: str) -> None:
    assert (found.level, found.sentence) == (level, sentence)


def test_a_refusal_says_what_readers_see_and_what_failed() -> None:
    others = a_test("fail", "of_another_month", gate=True)
    assert verdict("refused", others, BAD, why="failed bad").details == [
        SEE.format("still "), "bad failed with 3 rows (0.300%). It hurts."
    ]  # fmt: skip
    assert verdict("refused", published=None).details == ["Readers see nothing of the month yet."]
    broken = a_test("error", "broken", failing_rows=None, message="no such column")
    assert verdict("published", broken).details == ["broken failed to run (no such column)."]


def test_a_failure_is_told_of_the_months_that_failed() -> None:
    failed = replace(BAD, months="2021-01,2021-02", gate=False, history=[replace(a_sighting(3), run_id="build")])
    suspect = verdict("suspect", failed, why="failed bad")
    assert (suspect.level, suspect.sentence) == ("bad", "2021-01 is published, and 1 test failed")
    assert verdict("published", failed, a_test(), a_test()).sentence == "2021-01 is published; all 2 tests passed"
    assert verdict("untested", failed).sentence == "2021-01 is published, and not all of its tests have run"
    # The daily run, which is none that publishes, does not say which.
    daily = replace(failed, history=[replace(a_sighting(3), run_id="daily")])
    assert verdict("published", daily).sentence == "2021-01 is published, and 1 test failed"


def test_figures_that_disagree_are_told() -> None:
    lost = replace(ROWS, trips=ROWS.trips - 1)
    assert ROWS.adds_up and lost.adds_up is False
    found = verdict("published", a_test(), rows=lost)
    assert (found.level, len(found.details)) == ("bad", 1)
    (told,) = verdict("published", days=a_month().days).details
    assert told == "The days add up to 10 trips, but 1,343,032 were published."


def test_several_months_in_a_sentence() -> None:
    good = a_month()
    refused = a_month(month="2021-02", state="refused", verdict=Verdict("bad", "2021-02 was refused: why"))
    lost = a_month(month="2021-03", state="failed", verdict=Verdict("bad", "2021-03 was not loaded: why"))
    found = verdicts.of_report([good, refused, lost], [a_test("warn")])
    assert found.sentence == "1 of 3 months are published; 1 was refused; 1 needs a look; 1 warning"
    assert found.details == ["2021-02 was refused: why.", "2021-03 was not loaded: why."]
    assert verdicts.of_report([good, good], []).sentence == "2 of 2 months are published"
    assert verdicts.of_report([good], []) == good.verdict
    assert verdicts.of_report([], []).sentence == "No month is loaded yet"
