"""Gathers a report's facts: from the warehouse, from what dbt left, and from what the run tells of itself.

Every figure is counted by a query of its own, so that a loss shows instead of being subtracted away. Nothing here casts
a whole month: what only staging could tell is told from the raw texts, grouped. What is not there yet, as after a run
that failed before dbt, is left open; a warehouse that does not answer leaves a report of the run's error alone.
"""

import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

import pandas as pd

from prefect_flows.errors import TaxiError
from prefect_flows.report import profile, verdicts
from prefect_flows.report.artifacts import Outcome, TestNode, read_manifest, read_outcomes
from prefect_flows.report.facts import (
    SCHEMA_VERSION,
    Drift,
    Engine,
    Examples,
    Month,
    PastRun,
    Published,
    Report,
    RowCounts,
    Run,
    Sighting,
    Source,
    Test,
    TestStatus,
    Verdict,
    Volume,
)
from prefect_flows.report.months import MonthLine, of_warehouse
from prefect_flows.settings import PROJECT_ROOT, Settings
from prefect_flows.tlc import COLUMN_NAMES, bind
from prefect_flows.transform import NodeResult, target_path
from prefect_flows.warehouses import Load, Warehouse, open_warehouse

RUNS_SHOWN = 20
VOLUMES_SHOWN = 36
EXAMPLES_SHOWN = 5
# A page with the columns and days of more months than these is too long to be read, and to be mailed.
MONTHS_IN_FULL = 12

_WORST_FIRST: tuple[TestStatus, ...] = ("error", "fail", "warn", "skipped", "pass")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass
class Ran:
    """What a run tells of itself while it goes on.

    `months` are what it is about; `results` are dbt's, where dbt ran; `landed` has the months that are staged, and
    whether they were before; `errors` says of each month that did not land why, and `error` why the run failed.
    """

    name: str
    months: list[str]
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    results: list[NodeResult] = field(default_factory=list)
    landed: dict[str, bool] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    error: str | None = None

    def failed_with(self, error: Exception) -> None:
        """Keep what the run failed with: of months that had not landed, that is why."""
        self.error = str(error) if isinstance(error, TaxiError) else f"{type(error).__name__}: {error}"
        if not self.errors:
            self.errors = {month: self.error for month in self.months if month not in self.landed}


def collect(settings: Settings, ran: Ran | None = None, months: Sequence[str] = ()) -> Report:
    """The facts of a run, or, where none is given, of what the warehouse remembers.

    Args:
        settings: which warehouse.
        ran: the run.
        months: the months to report on; left out, those of the run, or of the last run that tested anything.

    Raises:
        WarehouseError, Unavailable: the warehouse does not answer, and there is no run to tell of.
    """
    try:
        with open_warehouse(settings) as warehouse:
            return _Collector(warehouse, settings, ran).report(months or (ran.months if ran else ()))
    except TaxiError as error:
        if ran is None:
            raise
        return _without_warehouse(settings, ran, str(error))


def _without_warehouse(settings: Settings, ran: Ran, why: str) -> Report:
    wanted = ", ".join(ran.months)
    cause = ran.error or "; ".join(ran.errors.values()) or why
    details = ["What readers see of it could not be asked: the warehouse did not answer."]
    verdict = Verdict("bad", f"{wanted} was not published: {cause}", details if cause == why else [*details, why])
    return Report(
        schema_version=SCHEMA_VERSION,
        verdict=verdict,
        run=_run(ran, []),
        engine=_engine(settings, None),
        months=[],
        tests=[],
        runs=[],
        volumes=[],
        lineage=None,
        coverage=None,
    )


def _run(ran: Ran | None, run_ids: list[str], error: str | None = None) -> Run:
    at = datetime.now(UTC)
    return Run(
        ran.name if ran else "taxi-elt report",
        run_ids,
        ran.started_at if ran else None,
        at,
        ran.error if ran else error,
    )


def _engine(settings: Settings, number: str | None) -> Engine:
    adapter = {"duckdb": "dbt-duckdb", "cratedb": "dbt-cratedb2"}[settings.target]
    packages = {name: version(name) for name in ("taxi-elt", "dbt-core", adapter, "prefect")}
    return Engine(settings.target, number, settings.warehouse, packages | {"Python": platform.python_version()})


class _Collector:
    def __init__(self, warehouse: Warehouse, settings: Settings, ran: Ran | None) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._ran = ran
        tables = warehouse.frame(
            "select table_schema, table_name from information_schema.tables"
            " where table_schema in ('{schema}', '{schema}_test_failures')"
        )
        self._tables = {f"{row.table_schema}.{row.table_name}" for row in tables.itertuples()}
        self._schema = settings.cratedb_schema if settings.target == "cratedb" else "main"
        self._loads = warehouse.loads()
        self._publications = self._read_publications()
        # `dbt build` by hand writes straight into the target path, a flow into a folder of each target.
        own = target_path(settings)
        self._folders = [own, PROJECT_ROOT / os.environ.get("DBT_TARGET_PATH", "target")]
        self._manifest = read_manifest(self._folders)

    def _has(self, table: str) -> bool:
        return f"{self._schema}.{table}" in self._tables

    def report(self, months: Sequence[str]) -> Report:
        runs = self._past_runs()
        months = list(months) or self._newest_months(runs)
        run_ids = list(dict.fromkeys(result.run_id for result in self._results() if result.run_id))
        tests, shown = self._tests(months, runs, run_ids)
        outcomes = read_outcomes(self._folders, run_ids or shown)
        tests = [_with_outcome(test, outcomes, self._known_tests()) for test in tests]
        tests.sort(key=lambda test: (_WORST_FIRST.index(test.status), -(test.share or 0), test.name))
        profiles = profile.remembered(self._warehouse) if self._has(profile.TABLE) else None
        lines = {line.month: line for line in of_warehouse(self._warehouse)}
        in_full = months[-MONTHS_IN_FULL:]
        found = [self._month(month, lines.get(month), tests, profiles, month in in_full) for month in months]
        models = {id_: outcome.status for id_, outcome in outcomes.items()}
        models |= {result.unique_id: result.status for result in self._results()}
        return Report(
            schema_version=SCHEMA_VERSION,
            verdict=verdicts.of_report(found, tests),
            run=_run(self._ran, run_ids if self._ran else shown),
            engine=_engine(self._settings, self._engine_version()),
            months=found,
            tests=tests,
            runs=runs[-RUNS_SHOWN:],
            volumes=self._volumes(lines),
            lineage=self._manifest.lineage(models, tests) if self._manifest else None,
            coverage=self._manifest.coverage() if self._manifest else None,
        )

    def _results(self) -> list[NodeResult]:
        return self._ran.results if self._ran else []

    def _known_tests(self) -> dict[str, TestNode]:
        return self._manifest.tests() if self._manifest else {}

    def _engine_version(self) -> str:
        query = (
            "select version['number'] as v from sys.nodes limit 1"
            if self._settings.target == "cratedb"
            else "select version() as v"
        )
        return str(self._warehouse.frame(query)["v"].iloc[0]).removeprefix("v")

    def _newest_months(self, runs: Sequence[PastRun]) -> list[str]:
        for run in reversed(runs):
            if run.months:
                return run.months.split(",")
        return [max(self._loads, key=lambda load: load.started_at).file_month] if self._loads else []

    # --- months

    def _month(
        self, month: str, line: MonthLine | None, tests: Sequence[Test], known: pd.DataFrame | None, in_full: bool
    ) -> Month:
        load = self._staged(month)
        published = self._published(month)
        rows = self._rows(load, published) if load else None
        found = profile.Profile([], [], [])
        if published and in_full:
            found = profile.profile(self._warehouse, month, self._columns(published.load_id))
            if known is None or known[known["build_id"] == published.build_id].empty:
                profile.remember(self._warehouse, month, published.load_id, published.build_id, found.columns)
        columns = found.columns
        if published and known is not None:
            columns = profile.with_before(known, month, published.load_id, columns)
        error = self._ran.errors.get(month) if self._ran else None
        return Month(
            month=month,
            state=line.state if line else "not loaded",
            verdict=verdicts.of_month(
                month,
                line,
                landing_error=error,
                run_error=self._ran.error if self._ran else None,
                tests=tests,
                rows=rows,
                published=published,
                days=found.days,
            ),
            already_landed=self._ran.landed.get(month) if self._ran else None,
            source=_source(load) if load else None,
            published=published,
            rows=rows,
            columns=columns,
            drift=self._drift(load) if load else None,
            days=found.days,
            hours=found.hours,
        )

    def _columns(self, load_id: str) -> list[str]:
        """The columns that a load's file has, in the catalogue's order."""
        header = next((load.header for load in self._loads if load.load_id == load_id), "")
        return [name for name in COLUMN_NAMES if name in _names(header)]

    def _staged(self, month: str) -> Load | None:
        return next((load for load in self._loads if load.file_month == month and load.status == "staged"), None)

    def _read_publications(self) -> dict[str, Any]:
        if not self._has("publications"):
            return {}
        frame = self._warehouse.frame(
            "select part, load_id, build_id, row_count, published_at from {schema}.publications"
            " where model = 'trip_data' and build_id is not null"
        )
        return {str(row.part): row for row in frame.itertuples()}

    def _published(self, month: str) -> Published | None:
        row = self._publications.get(month)
        if row is None or not self._has("trip_data"):
            return None
        return Published(str(row.load_id), str(row.build_id), _moment(row.published_at), int(row.row_count))

    def _count(self, query: str, load_id: str) -> int:
        frame = self._warehouse.frame(f"select count(*) as n from {query}", {"load_id": load_id})
        return int(frame["n"].iloc[0])

    def _rows(self, load: Load, published: Published | None) -> RowCounts:
        passengers = self._warehouse.frame(
            "select passenger_count as value, count(*) as n from {raw}.yellow_trips where _load_id = :load_id"
            " group by passenger_count",
            {"load_id": load.load_id},
        )
        kinds: Counter[str] = Counter()
        for value, n in zip(passengers["value"], passengers["n"], strict=True):
            kinds[_passengers(value)] += int(n)
        kept = {"trips": 0, "unknown": 0}
        if self._has("trip_data"):
            frame = self._warehouse.frame(
                "select count(*) as trips, count(*) - count(passenger_count) as unknown from {schema}.trip_data"
                " where load_id = :load_id",
                {"load_id": load.load_id},
            )
            kept = {name: int(frame[name].iloc[0]) for name in kept}
        wrong: Counter[str] | None = None
        if self._has("stg_wrong_values") and self._was_searched(load.load_id):
            frame = self._warehouse.frame(
                "select reason, passenger_count as value from {schema}.stg_wrong_values where load_id = :load_id",
                {"load_id": load.load_id},
            )
            wrong = Counter(
                # of a passenger_count that does not cast itself there is nothing to tell
                "other" if re.search(r"(^|; )passenger_count: ", reason) else _passengers(value)
                for reason, value in zip(frame["reason"], frame["value"], strict=True)
            )
        return RowCounts(
            read=load.rows_read,
            landed=self._count("{raw}.yellow_trips where _load_id = :load_id", load.load_id),
            rejected=self._count("{raw}.rejected_rows where _load_id = :load_id", load.load_id),
            values_rejected=None if wrong is None else sum(wrong.values()),
            zero_removed=None if wrong is None else kinds["zero"] - wrong["zero"],
            unknown_staged=None if wrong is None else kinds["unknown"] - wrong["unknown"],
            unknown_kept=kept["unknown"],
            trips=kept["trips"],
        )

    def _was_searched(self, load_id: str) -> bool:
        """Whether dbt has looked for values of the load that do not cast: without any there are no rows to see."""
        frame = self._warehouse.frame(
            "select count(*) as n from {schema}.publications where model = 'stg_wrong_values' and load_id = :load_id",
            {"load_id": load_id},
        )
        return bool(frame["n"].iloc[0])

    def _drift(self, load: Load) -> Drift | None:
        staged = [other for other in self._loads if other.status == "staged" and other.file_month < load.file_month]
        if not staged:
            return None
        before = max(staged, key=lambda other: other.file_month)
        now, then = _names(load.header), _names(before.header)
        return Drift(
            month_before=before.file_month,
            added=[now[name] for name in now if name not in then],
            removed=[then[name] for name in then if name not in now],
            renamed=[f"{then[name]} → {now[name]}" for name in now if name in then and now[name] != then[name]],
        )

    def _volumes(self, lines: Mapping[str, MonthLine]) -> list[Volume]:
        unknown: dict[str, int] = {}
        if self._has(profile.TABLE):
            frame = self._warehouse.frame(
                f"select build_id, null_rows from {{schema}}.{profile.TABLE} where column_name = 'passenger_count'"
            )
            unknown = {str(row.build_id): int(cast(Any, row.null_rows)) for row in frame.itertuples()}
        volumes = []
        for load in sorted(self._loads, key=lambda load: load.file_month):
            if load.status == "staged":
                seen = self._published(load.file_month)
                volumes.append(
                    Volume(
                        load.file_month,
                        load.load_id,
                        lines[load.file_month].state,
                        load.rows_read,
                        load.rows_rejected,
                        seen.trips if seen else None,
                        unknown.get(seen.build_id) if seen else None,
                    )
                )
        return volumes[-VOLUMES_SHOWN:]

    # --- tests

    def _past_runs(self) -> list[PastRun]:
        """All runs that tested something, oldest first."""
        if not self._has("test_results"):
            return []
        frame = self._warehouse.frame(
            "select run_id, ran_at, months, status, count(*) as n from {schema}.test_results"
            " where months != '' group by run_id, ran_at, months, status"
        )
        frame["ran_at"] = profile.times(frame["ran_at"])
        runs = []
        for (ran_at, run_id), of_run in frame.groupby(["ran_at", "run_id"]):
            months = sorted({month for text in of_run["months"] for month in text.split(",")})
            counts = of_run.groupby("status")["n"].sum()
            runs.append(
                PastRun(
                    str(run_id),
                    cast(pd.Timestamp, ran_at).to_pydatetime().replace(tzinfo=UTC),
                    ",".join(months),
                    *(int(counts.get(status, 0)) for status in ("pass", "warn", "fail")),
                )
            )
        return runs

    def _sightings(self, run_ids: Sequence[str]) -> pd.DataFrame:
        """What the tests found in these runs, oldest first."""
        chosen = ", ".join(f"'{run_id}'" for run_id in run_ids if re.fullmatch(r"[\w-]+", run_id))
        frame = self._warehouse.frame(
            "select run_id, ran_at, test, model, column_name, severity, status, failing_rows, tested_rows,"
            f" failures_table, months from {{schema}}.test_results where months != '' and run_id in ({chosen})"
        )
        frame["ran_at"] = profile.times(frame["ran_at"])
        return frame.sort_values(["ran_at", "test"], ignore_index=True)

    def _tests(
        self, months: Sequence[str], runs: Sequence[PastRun], run_ids: Sequence[str]
    ) -> tuple[list[Test], list[str]]:
        """What each test last said about these months, and the runs in which it did.

        A run that found nothing new judged nothing: what counts is the run in which the months were judged.
        """
        about = [run for run in runs if set(run.months.split(",")) & set(months)]
        wanted = dict.fromkeys(run.run_id for run in [*runs[-RUNS_SHOWN:], *about[-RUNS_SHOWN:]])
        found: list[Test] = []
        shown: dict[str, None] = {}
        known = self._known_tests()
        if wanted:
            for name, history in self._sightings(list(wanted)).groupby("test"):
                if not known or name in known:
                    found += self._of_test(str(name), history, months)
                    shown |= {test.history[-1].run_id: None for test in found}
        judged = {test.name: test for test in found}
        for result in self._results():
            ran = result.status in ("pass", "warn", "fail")
            if result.kind in ("test", "freshness") and (not ran or result.name not in judged):
                found = [test for test in found if test.name != result.name]
                found.append(_from_result(result, judged.get(result.name), ",".join(months)))
        return found, list(shown)

    def _of_test(self, name: str, history: pd.DataFrame, months: Sequence[str]) -> list[Test]:
        """A test's last word on each of the months: one record for each run that had it."""
        last: dict[int, list[str]] = {}
        for month in months:
            about = history.index[history["months"].map(lambda text, month=month: month in text.split(","))]
            if len(about):
                last.setdefault(int(about[-1]), []).append(month)
        return [self._test(name, history, at, of) for at, of in last.items()]

    def _test(self, name: str, history: pd.DataFrame, at: int, months: Sequence[str]) -> Test:
        row = history.loc[at]
        # the table of failing rows is that of the newest run that had any
        table = row["failures_table"] if history.loc[at:, "failures_table"].notna().sum() == 1 else None
        node = self._known_tests().get(name)
        result = next((r for r in self._results() if r.name == name and r.run_id == row["run_id"]), None)
        return Test(
            name=name,
            model=_or_none(row["model"]) or (node.model if node else None),
            column=_or_none(row["column_name"]),
            severity=_or_none(row["severity"]),
            gate=node.gate if node else bool(result and result.gate),
            status=cast(TestStatus, row["status"]),
            rule=node.rule if node else (result.rule if result else ""),
            months=",".join(months),
            failing_rows=_int_or_none(row["failing_rows"]),
            tested_rows=_int_or_none(row["tested_rows"]),
            seconds=result.seconds if result else None,
            message="",
            sql=result.sql if result else "",
            examples=self._examples(str(table), name) if isinstance(table, str) else None,
            history=[_sighting(past) for _, past in history.loc[:at].iterrows()][-RUNS_SHOWN:],
        )

    def _examples(self, table: str, name: str) -> Examples | None:
        if table not in self._tables or not re.fullmatch(r"\w+\.\w+", table):
            return None
        frame = self._warehouse.frame(f"select * from {table} limit {EXAMPLES_SHOWN}")
        node = self._known_tests().get(name)
        columns = sorted(frame.columns, key=lambda name: name not in ("load_id", "source_row", node and node.column))
        columns = [column for column in columns if frame[column].notna().any()]
        for column in columns:
            if column.endswith(("_datetime", "_at", "_day")) and pd.api.types.is_numeric_dtype(frame[column]):
                frame[column] = profile.times(frame[column])
        rows = [[_cell(value) for value in row] for row in frame[columns].itertuples(index=False)]
        return Examples(table, columns, rows)


def _with_outcome(test: Test, outcomes: Mapping[str, Outcome], known: Mapping[str, TestNode]) -> Test:
    """The test with the SQL and the time of its run, where `run_results.json` is of that run."""
    outcome = outcomes.get(known[test.name].unique_id) if test.name in known else None
    if test.sql or outcome is None:
        return test
    return replace(test, sql=outcome.sql, seconds=outcome.seconds)


def _from_result(result: NodeResult, earlier: Test | None, months: str) -> Test:
    status = "error" if result.status == "runtime error" else result.status
    ran = status in ("pass", "warn", "fail")
    return Test(
        name=result.name,
        model=result.model,
        column=result.column,
        severity=result.severity,
        gate=result.gate,
        status=cast(TestStatus, status),
        rule=result.rule,
        months=months,
        failing_rows=(result.failures if result.failing_rows is None else result.failing_rows) if ran else None,
        tested_rows=result.tested_rows if ran else None,
        seconds=result.seconds,
        message="" if ran or result.kind == "freshness" else " ".join(result.message.split()),
        sql=result.sql,
        examples=None,
        history=earlier.history if earlier else [],
    )


def _sighting(row: "pd.Series[Any]") -> Sighting:
    return Sighting(
        run_id=row["run_id"],
        ran_at=row["ran_at"].to_pydatetime().replace(tzinfo=UTC),
        months=row["months"],
        status=row["status"],
        failing_rows=int(row["failing_rows"]),
        tested_rows=_int_or_none(row["tested_rows"]),
    )


def _passengers(text: Any) -> str:
    """What a published passenger_count means, told without dbt: `zero`, `unknown`, or `other`."""
    value = "" if text is None or pd.isna(text) else str(text).strip(" ")
    if not value:
        return "unknown"
    return "zero" if _NUMBER.fullmatch(value) and float(value) == 0 else "other"


def _names(header: str) -> dict[str, str]:
    """A header's names as written, by the catalogue's."""
    written = [name.strip().strip('"') for name in header.split(",")]
    try:
        binding = bind(written)
    except ValueError:
        return {name.lower(): name for name in written}
    return {
        name: written[at] for name, at in sorted((binding.columns | binding.unknown).items(), key=lambda item: item[1])
    }


def _source(load: Load) -> Source:
    return Source(
        load_id=load.load_id,
        url=load.source_url,
        sha256=load.sha256,
        bytes=load.bytes,
        header=list(_names(load.header).values()),
        unknown_columns=[name for name in load.unknown_columns.split(",") if name],
        landed_at=_moment(load.finished_at),
    )


# --- values


def _moment(value: Any) -> datetime | None:
    """A time of the warehouse, with its zone; CrateDB gives milliseconds since 1970."""
    if value is None or pd.isna(value):
        return None
    moment = pd.Timestamp(value, unit="ms") if isinstance(value, (int, float)) else pd.Timestamp(value)
    return moment.to_pydatetime().replace(tzinfo=UTC)


def _or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _int_or_none(value: Any) -> int | None:
    return None if value is None or pd.isna(value) else int(value)


def _cell(value: Any) -> str | None:
    if value is None or (not isinstance(value, (list, dict)) and pd.isna(value)):
        return None
    return f"{value:.10g}" if isinstance(value, float) else str(value)
