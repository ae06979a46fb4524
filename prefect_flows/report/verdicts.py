"""The verdict in words: where a month stands, what failed, and what its readers see."""

from collections import Counter
from collections.abc import Sequence

from prefect_flows.report.facts import Day, Level, Month, Published, RowCounts, Test, Verdict
from prefect_flows.report.months import MonthLine

_LEVELS: tuple[Level, ...] = ("good", "warning", "bad")


def of_month(
    month: str,
    line: MonthLine | None,
    *,
    landing_error: str | None,
    run_error: str | None,
    tests: Sequence[Test],
    rows: RowCounts | None,
    published: Published | None,
    days: Sequence[Day],
) -> Verdict:
    """The verdict on a month.

    Args:
        month: `YYYY-MM`.
        line: where it stands in the warehouse; None where it was never loaded.
        landing_error: why the run did not land it.
        run_error: why the run failed.
        tests: what the tests said, of all months.
        rows: where the rows of its staged load went.
        published: what readers see.
        days: the trips that they see, by day.
    """
    state = line.state if line else "not loaded"
    why = line.why if line else ""
    names = why.removeprefix("failed ").split(", ")

    def is_of_another_month(test: Test) -> bool:
        """Of several months that a build judged together, the publication knows which failed what."""
        by_its_build = published is not None and _run_of(test) == published.build_id
        return test.status == "fail" and test.name not in names and (state == "refused" or by_its_build)

    mine = [test for test in tests if month in test.months.split(",") and not is_of_another_month(test)]
    failed = [test for test in mine if test.status in ("fail", "error")]
    named = [_in_words(test) for test in failed]
    details = _disagreements(rows, published, days)
    still = _readers_see(published, "still ")
    if landing_error:
        return Verdict("bad", f"{month} was not loaded: {landing_error.rstrip('.')}", [still, *details])
    if state in ("published", "suspect", "untested"):
        return _of_published(month, state, why, mine, _readers_see(published), [*named, *details])
    if state == "refused":
        told = [_in_words(test) for test in failed if test.name in names]
        said = f"{_count(len(told), 'test')} failed before publication" if told else why
        return Verdict("bad", f"{month} was refused: {said}", [still, *told, *details])
    if state in ("loading", "not loaded"):
        sentence = f"{month} is being loaded" if state == "loading" else f"{month} is not loaded"
        return Verdict("warning", sentence, [still])
    if state == "failed":
        return Verdict("bad", f"{month} was not loaded: {why.rstrip('.')}", [still])
    cause = run_error or "; ".join(named)
    sentence = f"{month} is loaded, but not published" + (f": {cause.rstrip('.')}" if cause else "")
    return Verdict("bad" if cause else "warning", sentence, [still, *details])


def _of_published(
    month: str, state: str, why: str, tests: Sequence[Test], readers_see: str, details: list[str]
) -> Verdict:
    failed = sum(test.status in ("fail", "error") for test in tests)
    warned, passed = (sum(test.status == status for test in tests) for status in ("warn", "pass"))
    if failed:
        return Verdict("bad", f"{month} is published, and {_count(failed, 'test')} failed", details)
    if state == "suspect":
        return Verdict("bad", f"{month} is published, but suspect: it {why}", details)
    if state == "untested":
        return Verdict("warning", f"{month} is published, and not all of its tests have run", details)
    if why:
        sentence = f"{month} is published; a newer file of it was not loaded: {why.rstrip('.')}"
        return Verdict("warning", sentence, [readers_see, *details])
    said = f"; {_count(warned, 'warning')}" if warned else f"; all {passed} tests passed" if passed else ""
    level: Level = "bad" if details else "warning" if warned else "good"
    return Verdict(level, f"{month} is published{said}", details)


def _run_of(test: Test) -> str:
    """The dbt run that said it; empty for one that could not run."""
    return test.history[-1].run_id if test.history else ""


def _disagreements(rows: RowCounts | None, published: Published | None, days: Sequence[Day]) -> list[str]:
    """Where figures that were counted by different ways are not the same."""
    said = []
    if rows and rows.trips and rows.adds_up is False:
        said.append("The rows do not add up: what was landed is not what was kept, left out and rejected.")
    if published and days and (by_day := sum(day.trips for day in days)) != published.trips:
        said.append(f"The days add up to {by_day:,} trips, but {published.trips:,} were published.")
    return said


def _in_words(test: Test) -> str:
    return f"{test.name} failed{_how_much(test)}. {test.rule}".strip()


def _how_much(test: Test) -> str:
    if test.failing_rows is None:
        return f" to run ({test.message})" if test.message else " to run"
    return f" with {_count(test.failing_rows, 'row')}" + (f" ({test.share:.3%})" if test.share is not None else "")


def _readers_see(published: Published | None, still: str = "") -> str:
    if published is None:
        return "Readers see nothing of the month yet."
    since = f", published {published.published_at:%Y-%m-%d %H:%M} UTC" if published.published_at else ""
    return f"Readers {still}see load {published.load_id} with {published.trips:,} trips{since}."


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def of_report(months: Sequence[Month], tests: Sequence[Test]) -> Verdict:
    """The verdict on all months together."""
    if not months:
        return Verdict("warning", "No month is loaded yet", [])
    if len(months) == 1:
        return months[0].verdict
    level = max((month.verdict.level for month in months), key=_LEVELS.index)
    states = Counter(
        month.state if month.verdict.level != "bad" or month.state == "refused" else "bad" for month in months
    )
    good = sum(month.state == "published" and month.verdict.level != "bad" for month in months)
    parts = [f"{good} of {len(months)} months are published"]
    if refused := states["refused"]:
        parts.append(f"{refused} {'was' if refused == 1 else 'were'} refused")
    if others := len(months) - good - refused:
        parts.append(f"{others} {'needs' if others == 1 else 'need'} a look")
    if warned := sum(test.status == "warn" for test in tests):
        parts.append(_count(warned, "warning"))
    details = [month.verdict.sentence + "." for month in months if month.verdict.level == "bad"]
    return Verdict(level, "; ".join(parts), details)
