"""Publication on both targets: what a run publishes and what it leaves, the gate, rollback, an analyst's schema."""

import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from dbt.cli.main import dbtRunner

from prefect_flows.fetch import fetch
from prefect_flows.land import land, roll_back
from prefect_flows.sample import SampleFacts, write_sample
from prefect_flows.settings import Settings, in_environment
from prefect_flows.tlc import months_between
from prefect_flows.transform import NodeResult, failures, run_dbt, target_path
from prefect_flows.warehouses import open_warehouse
from tests.conftest import TARGETS, TARGETS_AT_LENGTH
from tests.integration.conftest import PROJECT, records

FIRST, SECOND, THIRD = "2021-01", "2021-02", "2021-03"
POISON = "stg_yellow_trips_vendorid_in_dictionary"


class Project:
    """A warehouse, and a copy of the dbt project whose files a test may edit."""

    def __init__(self, settings: Settings, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        shutil.copytree(PROJECT / "dbt_project", folder / "dbt_project")
        for name in ("dbt_project.yml", "profiles.yml"):
            shutil.copy(PROJECT / name, folder)
        # The forty tests on columns of the marts are about data, and take half of a build's time.
        self.edit("../dbt_project.yml", "+where: __published__", "+where: __published__\n        +enabled: false")

    @property
    def failures(self) -> str:
        """Where the rows that failed are stored."""
        return f"{self.settings.cratedb_schema if self.settings.target == 'cratedb' else 'main'}_test_failures"

    @property
    def dev_schema(self) -> str:
        return f"{self.settings.cratedb_schema}_dev"

    def put(self, month: str, *, seed: int = 1, poisoned: bool = False, wrong: bool = False) -> SampleFacts:
        """Land a small month; a poisoned one has a vendor that the dictionary does not list, a wrong one a distance
        that is no number."""
        path = self.folder / "files" / str(seed) / f"yellow_tripdata_{month}.csv"
        facts = write_sample(path, month, rows=1_000 + seed, broken=0 if poisoned else 2, seed=seed)
        header, first, rest = path.read_bytes().split(b"\n", 2)
        fields = first.split(b",")
        if poisoned:
            fields[0] = b"55"
        if wrong:
            fields[4] = b"far"
            facts = replace(facts, trips=facts.trips - (fields[3] != b"0"))
        path.write_bytes(b"\n".join([header, b",".join(fields), rest]))
        with open_warehouse(self.settings) as warehouse:
            land(warehouse, fetch(str(path), path), month, max_reject_share=0.1, keep_loads=1)
        return facts

    def build(self, *months: str) -> list[NodeResult]:
        """What a flow does after landing."""
        return run_dbt(self._invoke, self.settings, months)

    def dbt(self, command: str, *arguments: str, target: str | None = None, **variables: str) -> Any:
        """What an analyst calls."""
        where = ("--target", target or self.settings.target, "--target-path", str(target_path(self.settings)))
        with in_environment(self.settings, **variables):
            return self._invoke([command, *where, *arguments])

    def _invoke(self, arguments: list[str]) -> Any:
        arguments = [argument for argument in arguments if argument != str(PROJECT)]
        arguments = [argument for argument in arguments if argument not in ("--project-dir", "--profiles-dir")]
        where = ["--project-dir", str(self.folder), "--profiles-dir", str(self.folder)]
        # Nobody reads dbt's artifacts here, and they take a third of its time.
        return dbtRunner().invoke([*arguments, *where, "--no-write-json"])

    def edit(self, name: str, old: str, new: str) -> None:
        path = self.folder / "dbt_project" / name
        text = path.read_text()
        assert text.count(old) == 1
        path.write_text(text.replace(old, new))

    def frame(self, query: str) -> list[dict[str, Any]]:
        with open_warehouse(self.settings) as warehouse:
            return records(warehouse, query)

    @property
    def trips(self) -> dict[str, int]:
        found = self.frame("select file_month, count(*) as n from {schema}.trip_data group by file_month")
        return {row["file_month"]: row["n"] for row in found}

    @property
    def builds(self) -> dict[str, str]:
        """The build that each month's rows come from; all of a month come from one."""
        found = self.frame("select distinct file_month, build_id from {schema}.trip_data")
        builds = {row["file_month"]: row["build_id"] for row in found}
        assert len(builds) == len(found), "a month has rows of two builds"
        return builds

    @property
    def states(self) -> dict[str, str]:
        found = self.frame("select file_month, state from {schema}.publications where model = 'trip_data'")
        return {row["file_month"]: row["state"] for row in found}


@pytest.fixture(scope="module")
def parsed_projects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where dbt keeps what it has read of the project as it is, by target: that takes longer than a build."""
    return tmp_path_factory.mktemp("parsed")


@pytest.fixture
def project(
    request: pytest.FixtureRequest,
    settings: Settings,
    parsed_projects: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Project]:
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    project = Project(settings, tmp_path / "project")
    parsed = parsed_projects / settings.target / "partial_parse.msgpack"
    if parsed.exists():
        copy = target_path(settings) / parsed.name
        copy.parent.mkdir(parents=True)
        shutil.copy(parsed, copy)
    else:
        assert project.dbt("parse", "--target-path", str(parsed.parent)).success
    yield project
    if settings.target == "cratedb":
        dev = project.dev_schema
        request.getfixturevalue("cratedb").drop_schemas(dev, f"{dev}_test_failures")


def ok(results: list[NodeResult]) -> None:
    assert failures(results) == ""


def said(outcome: Any) -> str:
    """What dbt says of the nodes that failed."""
    failed = [result for result in outcome.result.results if result.status in ("error", "fail")]
    return "\n".join(f"{result.node.name}: {result.message}" for result in failed)


@TARGETS
def test_only_what_is_new_is_published(project: Project) -> None:
    facts = {month: project.put(month) for month in (FIRST, SECOND)}
    ok(project.build())
    before = project.builds
    assert set(before.values()) == {before[FIRST]}

    ok(project.build())
    assert project.builds == before

    facts[THIRD] = project.put(THIRD)
    facts[FIRST] = project.put(FIRST, seed=2)
    ok(project.build())
    assert project.trips == {month: fact.trips for month, fact in facts.items()}
    assert project.builds[SECOND] == before[SECOND]
    assert project.builds[FIRST] == project.builds[THIRD] != before[FIRST]
    assert project.states == dict.fromkeys(facts, "published")


@TARGETS_AT_LENGTH
def test_a_flow_publishes_its_own_months_only(project: Project) -> None:
    facts = {month: project.put(month) for month in (FIRST, SECOND)}
    ok(project.build(SECOND))
    assert project.trips == {SECOND: facts[SECOND].trips}


@TARGETS_AT_LENGTH
def test_edited_rules_publish_every_month_anew(project: Project) -> None:
    facts = {month: project.put(month) for month in (FIRST, SECOND)}
    ok(project.build())
    before = project.builds

    # A macro that the model calls, a macro that staging calls, a var: each is part of the rules.
    project.edit("macros/tlc/columns.sql", "passenger_count != 0 or passenger_count is null", "passenger_count > 1")
    ok([result for result in project.build() if not result.failed])
    after = project.builds
    assert set(after) == set(before) and after[FIRST] != before[FIRST] and after[SECOND] != before[SECOND]
    found = project.frame("select min(passenger_count) as n from {schema}.trip_data")
    assert found == [{"n": 2}]

    project.edit("macros/tlc/columns.sql", "when 'cmt' then 1", "when 'cmt' then 1 when 'cmt inc' then 1")
    project.build()
    assert not set(project.builds.values()) & set(after.values())

    project.edit("macros/tlc/columns.sql", "passenger_count > 1", "passenger_count != 0 or passenger_count is null")
    build_known = ("build", "--vars", "{drop_unknown_passengers: true}")
    assert project.dbt(*build_known).success
    before = project.builds
    assert project.dbt(*build_known, "--full-refresh").success
    assert project.trips == {month: fact.trips - fact.unknown_passengers for month, fact in facts.items()}
    assert not set(project.builds.values()) & set(before.values())


@TARGETS_AT_LENGTH
def test_a_new_column_is_added_and_a_changed_type_is_refused(project: Project) -> None:
    facts = project.put(FIRST)
    ok(project.build())

    project.edit(
        "models/marts/trip_data.sql", "as build_id\nfrom kept", "as build_id,\n    fare_amount * 2 as twice\nfrom kept"
    )
    project.edit(
        "models/marts/trip_data.yml",
        "    columns:\n",
        "    columns:\n      - name: twice\n        data_type: double precision\n",
    )
    ok(project.build())
    found = project.frame("select count(twice) as n, sum(twice - 2 * fare_amount) as d from {schema}.trip_data")
    assert found == [{"n": facts.trips, "d": 0}]

    before = project.builds
    project.edit(
        "models/marts/trip_data.yml",
        "name: twice\n        data_type: double precision",
        "name: twice\n        data_type: text",
    )
    sentence = failures(project.build())
    assert "Column twice of trip_data holds" in sentence and "another name" in sentence
    assert project.builds == before


@TARGETS
def test_a_month_that_fails_the_gate_is_refused_and_the_others_are_published(project: Project) -> None:
    facts = {FIRST: project.put(FIRST)}
    ok(project.build())
    before = project.builds
    poisoned = project.put(FIRST, seed=3, poisoned=True)
    facts[SECOND] = project.put(SECOND)

    sentence = failures(project.build())

    assert POISON in sentence and "1 failing row" in sentence
    assert project.trips == {month: fact.trips for month, fact in facts.items()}
    assert project.builds[FIRST] == before[FIRST]
    assert project.states == {FIRST: "refused", SECOND: "published"}
    (row,) = project.frame(
        "select failed_tests, row_count from {schema}.publications where model = 'trip_data' and file_month = '2021-01'"
    )
    assert row == {"failed_tests": POISON, "row_count": facts[FIRST].trips}
    # dbt has run again for the other month, which the test passes
    failed_rows = f"select file_month, vendorid from {project.failures}.{POISON}"
    assert project.frame(failed_rows) == [{"file_month": FIRST, "vendorid": 55}]

    # It is left alone, until its rules change: the vendor is listed.
    ok(project.build())
    assert project.builds[FIRST] == before[FIRST] and project.states[FIRST] == "refused"
    project.edit("models/staging/stg_yellow_trips.yml", "not in (1, 2, 3, 4, 6, 7)", "not in (1, 2, 3, 4, 6, 7, 55)")
    assert project.dbt("build", "--full-refresh").success
    assert project.trips[FIRST] == poisoned.trips
    assert project.states[FIRST] == "published"
    stored = f"select table_name from information_schema.tables where table_schema = '{project.failures}'"
    assert POISON not in [row["table_name"] for row in project.frame(stored)]


@TARGETS_AT_LENGTH
def test_a_gate_test_that_cannot_run_leaves_the_month_pending(project: Project) -> None:
    """A failure means that a month is left alone, as if it were bad, because a test could not be asked."""
    facts = project.put(FIRST)
    last, broken = "select * from without_a_time", "select no_such_column from without_a_time"
    project.edit("tests/gate/assert_pickup_and_dropoff_are_given.sql", last, broken)
    assert "could not run the test assert_pickup_and_dropoff_are_given" in failures(project.build())
    assert project.states == {}

    project.edit("tests/gate/assert_pickup_and_dropoff_are_given.sql", broken, last)
    ok(project.build())
    assert project.trips == {FIRST: facts.trips}


@TARGETS_AT_LENGTH
def test_a_month_that_was_never_published_stays_unseen_when_it_is_refused(project: Project) -> None:
    project.put(FIRST, poisoned=True)
    assert POISON in failures(project.build())
    assert project.states == {FIRST: "refused"}
    corrected = project.put(FIRST, seed=2)
    ok(project.build())
    assert project.trips == {FIRST: corrected.trips}
    assert project.states == {FIRST: "published"}
    # And it does not come in by the back door.
    with open_warehouse(project.settings) as warehouse:
        roll_back(warehouse, FIRST)
    assert POISON in failures(project.build(FIRST))
    assert project.trips == {FIRST: corrected.trips}
    assert project.states == {FIRST: "refused"}


@TARGETS_AT_LENGTH
def test_rows_that_are_lost_on_the_way_stop_a_publication(project: Project) -> None:
    """A failure means that a month which the engine kept in part only takes the place of a whole one."""
    facts = project.put(FIRST)
    ok(project.build())
    before = project.builds
    project.edit("models/marts/trip_data.sql", "{{ has_passengers() }}", "{{ has_passengers() }} and source_row > 9")
    lost = project.put(FIRST, seed=2)
    assert f"rows instead of {lost.trips}" in failures(project.build())
    assert (project.builds, project.trips) == (before, {FIRST: facts.trips})

    project.edit("models/marts/trip_data.sql", " and source_row > 9", "")
    ok(project.build())
    assert project.trips == {FIRST: lost.trips}


@TARGETS_AT_LENGTH
def test_nothing_is_published_without_the_gate(project: Project) -> None:
    facts = project.put(FIRST)
    ok(project.build())
    before = project.builds
    project.put(FIRST, seed=2)

    # everything but the tests; the model alone; all but one test
    for command in (("run",), ("build", "--select", "trip_data"), ("build", "--exclude", POISON)):
        outcome = project.dbt(*command)
        assert not outcome.success, command
        assert f"dbt build --target {project.settings.target}" in said(outcome)
        assert (project.builds, project.trips) == (before, {FIRST: facts.trips}), command


@TARGETS_AT_LENGTH
def test_a_failed_output_test_makes_the_publication_suspect_and_no_other(project: Project) -> None:
    project.put(FIRST)
    project.put(SECOND)
    project.edit(
        "tests/output/assert_no_zero_passenger_trips.sql",
        "and passenger_count = 0",
        f"and passenger_count = 1 and file_month = '{FIRST}'",
    )

    assert "assert_no_zero_passenger_trips" in failures(project.build())

    # dbt has run again for the other: it skips the tests of what is built from a model whose test failed
    assert project.states == {FIRST: "suspect", SECOND: "published"}
    # It is not built again for that, and does not turn sound by itself.
    before = project.builds
    ok(project.build())
    assert (project.builds, project.states) == (before, {FIRST: "suspect", SECOND: "published"})


@TARGETS_AT_LENGTH
def test_a_publication_whose_tests_did_not_run_is_tested_by_the_next_build(project: Project) -> None:
    """A failure means that a month which was published before its run broke off is never tested, and all look green."""
    project.put(FIRST)
    test = "tests/output/assert_no_zero_passenger_trips.sql"
    project.edit(test, "and passenger_count = 0", "and no_such_column = 0")
    assert "assert_no_zero_passenger_trips" in failures(project.build())
    assert project.states == {FIRST: "untested"}
    before = project.builds

    project.edit(test, "and no_such_column = 0", "and passenger_count = 0")
    ok(project.build())
    assert (project.builds, project.states) == (before, {FIRST: "published"})

    project.edit(test, "and passenger_count = 0", "and no_such_column = 0")
    project.put(FIRST, seed=2)
    project.build()
    project.edit(test, "and no_such_column = 0", "and passenger_count = 1")
    assert "failed with" in failures(project.build())
    assert project.states == {FIRST: "suspect"}


@TARGETS_AT_LENGTH
def test_rollback_publishes_the_load_before_through_the_gate(project: Project) -> None:
    old, new = project.put(FIRST, wrong=True), project.put(FIRST, seed=2, wrong=True)
    ok(project.build())
    assert project.trips == {FIRST: new.trips}
    with open_warehouse(project.settings) as warehouse:
        roll_back(warehouse, FIRST)
    ok(project.build(FIRST))
    assert project.trips == {FIRST: old.trips}
    # And forth: A, B, A by loading.
    project.put(FIRST, seed=2, wrong=True)
    ok(project.build(FIRST))
    project.put(FIRST, wrong=True)
    ok(project.build(FIRST))
    assert project.trips == {FIRST: old.trips}
    # Nothing is kept of the loads in between.
    (load,) = project.frame("select distinct load_id from {schema}.trip_data")
    assert project.frame("select load_id from {schema}.stg_wrong_values") == [load]
    assert project.frame("select load_id from {schema}.publications where model = 'stg_wrong_values'") == [load]


@TARGETS_AT_LENGTH
def test_an_analysts_schema_touches_nothing_that_is_published(project: Project) -> None:
    facts = {month: project.put(month) for month in (FIRST, SECOND)}
    ok(project.build())
    before = (project.builds, project.frame("select * from {schema}.publications order by model, part"))
    loads = project.frame("select * from {raw}.loads order by load_id")
    own = {"target": "dev", "TAXI_DEV_SCHEMA": project.dev_schema}

    # An analyst may build without the gate, and gets the newest month, or the ones that are named.
    assert project.dbt("run", **own).success
    assert counted(project) == {SECOND: facts[SECOND].trips}
    assert project.dbt("build", **own, TAXI_MONTHS=f"{FIRST},{SECOND}").success
    assert counted(project) == {month: fact.trips for month, fact in facts.items()}

    assert (project.builds, project.frame("select * from {schema}.publications order by model, part")) == before
    assert project.frame("select * from {raw}.loads order by load_id") == loads


def counted(project: Project) -> dict[str, int]:
    """The trips of each month in the analyst's schema."""
    found = project.frame(f"select file_month, count(*) as n from {project.dev_schema}.trip_data group by file_month")
    return {row["file_month"]: row["n"] for row in found}


@TARGETS
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_last_of_two_years_takes_no_longer_than_the_second_month(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """24 months of 100,000 rows, published one after the other; the times are printed."""
    seconds = []
    for number, month in enumerate(months_between("2020-01", "2021-12")):
        path = project.folder / f"yellow_tripdata_{month}.csv"
        write_sample(path, month, rows=100_000, seed=number)
        with open_warehouse(project.settings) as warehouse:
            land(warehouse, fetch(str(path), path), month, max_reject_share=0.01, keep_loads=1)
        started = time.monotonic()
        ok(project.build(month))
        seconds.append(time.monotonic() - started)
    with capsys.disabled():
        print(f"\n{project.settings.target}: " + " ".join(f"{second:.1f}" for second in seconds))
    assert len(project.trips) == 24
