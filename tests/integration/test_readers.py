"""Readers of trip_data never notice a publication on CrateDB: every answer is one whole version, and none is an error.

Two readers ask without a pause while months are landed and published beside them. What they may see is known from the
files: the state before a step, then the state after it, and where a step publishes several months, those in between, in
order. The same check has to fail for dbt's own `table` materialization, or it would prove nothing.
"""

import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psycopg
import pytest

from prefect_flows.fetch import fetch
from prefect_flows.land import land, load_id_of
from prefect_flows.sample import write_sample
from prefect_flows.settings import PROJECT_ROOT, Settings
from prefect_flows.transform import failures, run_dbt
from prefect_flows.warehouses import open_warehouse
from tests.conftest import own_warehouse
from tests.cratedb_server import CrateServer
from tests.integration.conftest import build

pytestmark = [pytest.mark.cratedb, pytest.mark.slow, pytest.mark.timeout(3600)]

TINY, MONTH, LATER = "2021-01", "2021-02", "2021-03"
ROWS = int(os.environ.get("TEST_READERS_ROWS", "300_000"))  # of the month that readers watch
PAUSE = 0.005  # seconds between two questions of a reader
AROUND = 20  # answers of each reader before and after a step

# --- what there is to see


@dataclass(frozen=True)
class Version:
    """A month as it is published: what counts its trips, and adds up their line numbers."""

    load_id: str
    trips: int
    lines: int


State = Mapping[str, Version]  # by month
Rows = list[tuple[Any, ...]]


def published(load_id: str, path: Path, *, drop_unknown: bool = False) -> Version:
    """The version that the rules make of a file, counted without them."""
    passengers = pd.read_csv(path, usecols=["passenger_count"])["passenger_count"]
    kept = passengers.dropna() if drop_unknown else passengers
    lines = kept.index[kept != 0] + 2
    return Version(load_id, len(lines), sum(lines.tolist()))


def total(state: State) -> Rows:
    return [(sum(version.trips for version in state.values()), sum(version.lines for version in state.values()))]


def by_load(state: State) -> Rows:
    return sorted((version.load_id, version.trips, version.lines) for version in state.values())


def of_month(state: State) -> Rows:
    return [(state[MONTH].trips, state[MONTH].lines)] if MONTH in state else [(0, None)]


@dataclass(frozen=True)
class Question:
    """A query, and the answer that a state gives."""

    sql: str
    answer: Callable[[State], Rows]
    arguments: tuple[str, ...] = ()


def questions(schema: str) -> list[Question]:
    select = "select count(*), sum(source_row) from"
    return [
        Question(f"{select} {schema}.trip_data", total),
        Question(f"{select} {schema}.trip_data where file_month = ?", of_month, (MONTH,)),
        Question(
            f"select load_id, count(*), sum(source_row) from {schema}.trip_data group by load_id order by load_id",
            by_load,
        ),
    ]


# --- who looks

Ask = Callable[[Question], Rows]


@contextmanager
def over_postgres(server: CrateServer) -> Iterator[Ask]:
    """One connection, on which each statement is prepared on the server once, when it is first asked."""
    with psycopg.connect(
        host=server.host,
        port=server.pg_port,
        user=server.user,
        password=server.password,
        dbname="crate",
        sslmode="require" if server.tls else "prefer",
        autocommit=True,
        prepare_threshold=0,
    ) as connection:
        yield lambda question: connection.execute(question.sql.replace("?", "%s"), question.arguments).fetchall()


@contextmanager
def over_http(server: CrateServer) -> Iterator[Ask]:
    with httpx.Client(
        base_url=f"{'https' if server.tls else 'http'}://{server.address}",
        auth=(server.user, server.password),
        verify=str(server.ca_file) if server.ca_file else True,
        trust_env=server.origin == "TEST_CRATEDB_URL",  # a proxy cannot reach this machine's loopback
        timeout=60,
    ) as client:

        def ask(question: Question) -> Rows:
            answer = client.post("/_sql", json={"stmt": question.sql, "args": question.arguments}).json()
            if "error" in answer:
                raise RuntimeError(answer["error"]["message"])
            return [tuple(row) for row in answer["rows"]]

        yield ask


WAYS = {"prepared statements": over_postgres, "HTTP": over_http}


class Reader(threading.Thread):
    """Asks the questions in turn until told to end; keeps every answer, and every error as one."""

    def __init__(self, ask: Ask, questions: Sequence[Question]) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[Question, Rows | Exception]] = []
        self._ask, self._questions = ask, questions
        self._end = threading.Event()

    def run(self) -> None:
        while True:
            for question in self._questions:
                try:
                    self.answers.append((question, self._ask(question)))
                except Exception as error:
                    self.answers.append((question, error))
                if self._end.wait(PAUSE):
                    return

    def end(self) -> None:
        self._end.set()
        self.join()

    def wait_for(self, more: int) -> None:
        wanted, deadline = len(self.answers) + more, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert self.is_alive() and time.monotonic() < deadline, f"{len(self.answers)} answers, not {wanted}"
            time.sleep(PAUSE)


@dataclass(frozen=True)
class Seen:
    """What one reader saw of a step: how many answers it took meanwhile, and those that it should not have got."""

    reader: str
    meanwhile: int
    violations: list[str]


class Readers:
    """The readers of a schema, and the check of what they see of a step."""

    def __init__(self, readers: Mapping[str, Reader]) -> None:
        self._readers = readers

    def watch(self, states: Sequence[State], step: Callable[[], None]) -> list[Seen]:
        """Take the step; `states` are those that readers may see, in order, from before it to after it."""
        marks: list[dict[str, int]] = []
        for act in (lambda: None, self._look, step, self._look):
            act()
            marks.append({name: len(reader.answers) for name, reader in self._readers.items()})
        seen = []
        for name, reader in self._readers.items():
            first, begin, done, last = (mark[name] for mark in marks)
            done += 1  # the one that was under way
            violations = [
                *strangers(reader.answers[first:begin], states[:1]),
                *strangers(reader.answers[begin:done], states),
                *strangers(reader.answers[done:last], states[-1:]),
            ]
            seen.append(Seen(name, done - begin, violations))
        return seen

    def _look(self) -> None:
        for reader in self._readers.values():
            reader.wait_for(AROUND)


def strangers(answers: Sequence[tuple[Question, Rows | Exception]], states: Sequence[State]) -> Iterator[str]:
    """The answers that are no state's, or that go back to an earlier state than one that was seen."""
    at = 0
    for question, answer in answers:
        expected = [question.answer(state) for state in states]
        if answer in expected[at:]:
            at = expected.index(answer, at)
        else:
            yield f"{question.sql}: {answer!r:.300} instead of {expected[at:]}"


@contextmanager
def reading(server: CrateServer, schema: str) -> Iterator[Readers]:
    with ExitStack() as stack:
        readers = {}
        for name, connect in WAYS.items():
            readers[name] = Reader(stack.enter_context(connect(server)), questions(schema))
            readers[name].start()
            stack.callback(readers[name].end)
        yield Readers(readers)


# --- what is done meanwhile


def id_of(path: Path, month: str) -> str:
    return load_id_of(month, fetch(str(path), path.parent).sha256)


def load(settings: Settings, path: Path, month: str, *, force: bool = False) -> str:
    """Land the file; gives the load's id."""
    with open_warehouse(settings) as warehouse:
        file = fetch(str(path), path.parent)
        return land(warehouse, file, month, max_reject_share=0, keep_loads=1, force=force).load.load_id


def build_otherwise(settings: Settings, *more: str, project: Path = PROJECT_ROOT) -> str:
    """`build` with more arguments, or of a copy of the project."""
    from dbt.cli.main import dbtRunner

    def invoke(arguments: list[str]) -> Any:
        here = [str(project) if argument == str(PROJECT_ROOT) else argument for argument in arguments]
        return dbtRunner().invoke([*here, *more])

    return failures(run_dbt(invoke, settings))


# --- the publications, one after the other, under the eyes of the same readers


@pytest.fixture(scope="module")
def settings(request: pytest.FixtureRequest) -> Iterator[Settings]:
    with own_warehouse(request, "cratedb") as settings:
        yield settings


@pytest.fixture(scope="module")
def seen(settings: Settings, cratedb: CrateServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Seen]]:
    """What the readers saw of each step."""
    folder = tmp_path_factory.mktemp("files")
    tiny, first, other, later = (folder / f"{name}.csv" for name in ("tiny", "first", "other", "later"))
    write_sample(tiny, TINY, rows=1_000, broken=0)
    write_sample(first, MONTH, rows=ROWS, broken=0)
    write_sample(other, MONTH, rows=ROWS - 1_234, broken=0, seed=7)
    write_sample(later, LATER, rows=20_000, broken=0)

    state = {TINY: published(load(settings, tiny, TINY), tiny)}
    assert build(settings) == ""

    def publish(path: Path, month: str, *, force: bool = False) -> list[Seen]:
        nonlocal state
        load_id = id_of(path, month) + ("-2" if force else "")
        before, state = state, state | {month: published(load_id, path)}

        def step() -> None:
            assert load(settings, path, month, force=force) == load_id
            assert build(settings) == ""

        return readers.watch([before, state], step)

    def edit_the_rules() -> list[Seen]:
        states = [state]
        for month, path in ((TINY, tiny), (MONTH, other), (LATER, later)):
            version = published(state[month].load_id, path, drop_unknown=True)
            assert version.trips < state[month].trips
            states.append(states[-1] | {month: version})

        def step() -> None:
            assert build_otherwise(settings, "--vars", "drop_unknown_passengers: true") == ""

        return readers.watch(states, step)

    with reading(cratedb, settings.cratedb_schema) as readers:
        return {
            "first load": publish(first, MONTH),
            "same bytes": publish(first, MONTH),
            "same bytes, forced": publish(first, MONTH, force=True),
            "other bytes": publish(other, MONTH),
            "another month": publish(later, LATER),
            "edited rules": edit_the_rules(),
        }


STEPS = ["first load", "same bytes", "same bytes, forced", "other bytes", "another month", "edited rules"]


@pytest.mark.parametrize("step", STEPS)
def test_readers_see_a_publication_in_one_step(seen: dict[str, list[Seen]], step: str) -> None:
    for reader in seen[step]:
        assert not reader.violations, (reader.reader, len(reader.violations), reader.violations[:5])
        assert reader.meanwhile >= AROUND


def test_the_check_sees_what_the_stock_table_materialization_does(
    request: pytest.FixtureRequest, cratedb: CrateServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    shutil.copytree(PROJECT_ROOT / "dbt_project", project / "dbt_project")
    for name in ("dbt_project.yml", "profiles.yml"):
        shutil.copy(PROJECT_ROOT / name, project)
    model = project / "dbt_project/models/marts/trip_data.sql"
    text, replaced = re.subn(r"\{\{ config\(.*?\) }}", "{{ config(materialized='table') }}", model.read_text())
    assert replaced == 1
    model.write_text(text)
    monkeypatch.setenv("DBT_TARGET_PATH", str(tmp_path / "target"))
    first, other = tmp_path / "first.csv", tmp_path / "other.csv"
    write_sample(first, MONTH, rows=20_000, broken=0)
    write_sample(other, MONTH, rows=19_000, broken=0, seed=7)

    with own_warehouse(request, "cratedb") as settings:

        def publish(path: Path) -> State:
            load_id = load(settings, path, MONTH)
            models = ("--select", "+trip_data", "--exclude-resource-type", "test")
            assert build_otherwise(settings, *models, project=project) == ""
            return {MONTH: published(load_id, path)}

        before = publish(first)
        after = {MONTH: published(id_of(other, MONTH), other)}
        with reading(cratedb, settings.cratedb_schema) as readers:
            seen = readers.watch([before, after], lambda: publish(other))

    for reader in seen:
        assert reader.violations, reader.reader
