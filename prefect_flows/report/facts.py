"""What a report says, as one plain structure: the page, the JSON and JUnit files and Prefect's artifacts all show it.

The JSON file holds it as it stands here; `json_schema` gives the schema that is published in docs/report.schema.json.
All times are in UTC, all shares lie between 0 and 1, all sums of money are US dollars; None is what is not known.
"""

from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cache
from typing import Any, Literal

from pydantic import TypeAdapter

SCHEMA_VERSION: Literal["1"] = "1"

Level = Literal["good", "warning", "bad"]
TestStatus = Literal["pass", "warn", "fail", "error", "skipped"]
NodeStatus = Literal["good", "warning", "bad", "skipped", "not run"]


@dataclass(frozen=True)
class Verdict:
    """The report in a sentence, and what more there is to say; the worse of its months decides the level."""

    level: Level
    sentence: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Run:
    """What the report is of: a flow run, or the last run that the warehouse remembers.

    `run_ids` are dbt's invocations, none where dbt did not run; `error` is the sentence that the run failed with.
    """

    name: str
    run_ids: list[str]
    started_at: datetime | None
    finished_at: datetime
    error: str | None = None


@dataclass(frozen=True)
class Engine:
    """The database, and the versions of what worked on it."""

    target: str
    version: str | None
    warehouse: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Source:
    """The file of a load, as the ledger has it; `header` are the names in its first line."""

    load_id: str
    url: str
    sha256: str
    bytes: int
    header: list[str]
    unknown_columns: list[str]
    landed_at: datetime | None


@dataclass(frozen=True)
class Published:
    """What readers of `trip_data` see of a month."""

    load_id: str
    build_id: str
    published_at: datetime | None
    trips: int


@dataclass(frozen=True)
class RowCounts:
    """Where each row of a load went, each figure counted by itself.

    `values_rejected` is None where dbt did not get as far, `zero_removed` and `unknown_staged` where they could not be
    told without it; the counts of `trip_data` are 0 where nothing of the load is published.
    """

    read: int
    landed: int
    rejected: int
    values_rejected: int | None
    zero_removed: int | None
    unknown_staged: int | None
    unknown_kept: int
    trips: int

    @property
    def unknown_removed(self) -> int | None:
        """Trips left out because their number of passengers is unknown: none, unless the dbt var says so."""
        return None if self.unknown_staged is None else self.unknown_staged - self.unknown_kept

    @property
    def adds_up(self) -> bool | None:
        """Whether the rows that landed are all accounted for; None where they were not all counted."""
        if self.values_rejected is None or self.zero_removed is None or self.unknown_removed is None:
            return None
        return (
            self.read == self.landed + self.rejected
            and self.landed == self.values_rejected + self.zero_removed + self.unknown_removed + self.trips
        )


@dataclass(frozen=True)
class Bin:
    """A bar of a histogram: its label (a value, or where it begins and ends) and its rows."""

    label: str
    rows: int


@dataclass(frozen=True)
class Before:
    """The same column in the load it is compared with."""

    load_id: str
    rows: int
    nulls: int

    @property
    def null_share(self) -> float | None:
        """Share of rows without a value."""
        return self.nulls / self.rows if self.rows else None


@dataclass(frozen=True)
class Column:
    """A column of the published trips, exact; minimum, median (the middle row) and maximum are text.

    Of times `distinct` counts hours and the median is one; places count in thousandths of a degree.
    """

    name: str
    type: str
    rows: int
    nulls: int
    distinct: int
    minimum: str | None
    median: str | None
    maximum: str | None
    histogram: list[Bin]
    before: Before | None = None

    @property
    def null_share(self) -> float | None:
        """Share of rows without a value."""
        return self.nulls / self.rows if self.rows else None


@dataclass(frozen=True)
class Drift:
    """How a file's header differs from that of the month before which is loaded, by the catalogue's names."""

    month_before: str
    added: list[str]
    removed: list[str]
    renamed: list[str]


@dataclass(frozen=True)
class Day:
    """The trips picked up on a day; `in_month` says whether the day belongs to the file's month."""

    day: date
    trips: int
    revenue: float
    in_month: bool


@dataclass(frozen=True)
class Hour:
    """The month's trips picked up in an hour of the day, 0 to 23."""

    hour: int
    trips: int
    revenue: float


@dataclass(frozen=True)
class Month:
    """A month of the report. `columns`, `days` and `hours` are of what readers see, which `published` names.

    `already_landed` says that the run found the file landed; None where the report is of no run.
    """

    month: str
    state: str
    verdict: Verdict
    already_landed: bool | None
    source: Source | None
    published: Published | None
    rows: RowCounts | None
    columns: list[Column]
    drift: Drift | None
    days: list[Day]
    hours: list[Hour]


@dataclass(frozen=True)
class Sighting:
    """What a test found in a run."""

    run_id: str
    ran_at: datetime
    months: str
    status: TestStatus
    failing_rows: int
    tested_rows: int | None

    @property
    def share(self) -> float | None:
        """Share of the tested rows that failed."""
        return self.failing_rows / self.tested_rows if self.tested_rows else None


@dataclass(frozen=True)
class Examples:
    """Some of the rows that failed a test, their values as text."""

    table: str
    columns: list[str]
    rows: list[list[str | None]]


@dataclass(frozen=True)
class Test:
    """What a test last said about some of the report's months, which `months` names with commas between them.

    `rule` says in words what a failure means; `history` is oldest first, this run last. Where a run judged some months
    and a later one the others, a test stands twice.
    """

    name: str
    model: str | None
    column: str | None
    severity: str | None
    gate: bool
    status: TestStatus
    rule: str
    months: str
    failing_rows: int | None
    tested_rows: int | None
    seconds: float | None
    message: str
    sql: str
    examples: Examples | None
    history: list[Sighting]

    @property
    def share(self) -> float | None:
        """Share of the tested rows that failed."""
        return self.failing_rows / self.tested_rows if self.failing_rows is not None and self.tested_rows else None

    @property
    def before(self) -> Sighting | None:
        """What the test found in the run before this one."""
        earlier = self.history if self.failing_rows is None else self.history[:-1]
        return earlier[-1] if earlier else None


@dataclass(frozen=True)
class PastRun:
    """How the tests of a run came out."""

    run_id: str
    ran_at: datetime
    months: str
    passed: int
    warned: int
    failed: int


@dataclass(frozen=True)
class Volume:
    """A load that is staged now: its rows, and how many of its trips have no number of passengers."""

    month: str
    load_id: str
    state: str
    read: int
    rejected: int
    trips: int | None
    unknown_passengers: int | None


@dataclass(frozen=True)
class Node:
    """A source or a model, with how it and its tests came out."""

    id: str
    name: str
    kind: Literal["source", "model"]
    description: str
    status: NodeStatus
    failed_tests: list[str]


@dataclass(frozen=True)
class Lineage:
    """What is made of what: `edges` go from a node's id to that of one which reads it."""

    nodes: list[Node]
    edges: list[tuple[str, str]]


@dataclass(frozen=True)
class Coverage:
    """How many of the models' documented columns have a test of their own, and which have none, by model."""

    columns: int
    tested: int
    untested: dict[str, list[str]]


@dataclass(frozen=True)
class Report:
    """One run, told to people."""

    schema_version: Literal["1"]
    verdict: Verdict
    run: Run
    engine: Engine
    months: list[Month]
    tests: list[Test]
    runs: list[PastRun]
    volumes: list[Volume]
    lineage: Lineage | None
    coverage: Coverage | None

    def tests_that(self, *statuses: TestStatus) -> list[Test]:
        """The tests with one of these statuses."""
        return [test for test in self.tests if test.status in statuses]

    def month(self, month: str) -> Month:
        """The month of that name.

        Raises:
            KeyError: the report has no such month.
        """
        return {found.month: found for found in self.months}[month]


@cache
def _adapter() -> TypeAdapter[Report]:
    return TypeAdapter(Report)


def to_json(report: Report) -> bytes:
    """The report as a JSON document."""
    return _adapter().dump_json(report, indent=1)


def json_schema() -> dict[str, Any]:
    """The schema of `to_json`'s documents."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A quality report of taxi-elt",
        **_adapter().json_schema(mode="serialization"),
    }
