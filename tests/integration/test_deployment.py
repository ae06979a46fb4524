"""The deployments as they are operated: a real server, work pool and worker; states, artifacts, events, tables.

CrateDB's password is in a Secret block only, and the address that months are fetched from has credentials in it.
"""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest
from pydantic import SecretStr

from prefect_flows.sample import SampleFacts, write_sample
from prefect_flows.settings import Settings, load_settings
from prefect_flows.tlc import due_months
from prefect_flows.warehouses import open_warehouse
from tests.conftest import own_warehouse
from tests.cratedb_server import LocalCrate
from tests.integration.conftest import BIN, PROJECT, run_command
from tests.unit import stub_http

pytestmark = pytest.mark.timeout(600)

# The password of CrateDB, and of whoever serves the files; nothing else looks like it.
CANARY = "kanari-5e1f-never-shown"

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
DEPLOYMENTS = {"yellow-taxi/monthly", "yellow-taxi/adhoc", "yellow-taxi-backfill/range", "yellow-taxi-quality/daily"}


@dataclass
class Api:
    """The Prefect server, as its users' programs speak to it."""

    url: str

    def ask(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        method = method or ("GET" if body is None else "POST")
        for wait in (0.5, 1, 2, 4, 8, 0):
            answer = httpx.request(method, self.url + path, json=body, trust_env=False, timeout=60)
            # its SQLite is busy with another writer: what it says so to asks again, as Prefect's own clients do
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            time.sleep(wait)
        assert answer.is_success, f"{path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def deployment(self, name: str) -> dict[str, Any]:
        return self.ask(f"/deployments/name/{name}")

    def start(self, name: str, **parameters: Any) -> str:
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return self.ask(f"/deployments/{self.deployment(name)['id']}/create_flow_run", body)["id"]

    def run(self, run: str) -> dict[str, Any]:
        return self.ask(f"/flow_runs/{run}")

    def wait(self, run: str, until: Callable[[], Any], seconds: float = 240) -> Any:
        """What `until` gives as soon as it gives anything."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := until():
                return found
            time.sleep(0.2)
        raise AssertionError(f"not within {seconds} s; {self.run(run)['state']}\n" + "\n".join(self.logs(run)))

    def ended(self, run: str, seconds: float = 240) -> dict[str, Any]:
        self.wait(run, lambda: self.run(run)["state"]["type"] in ENDED, seconds)
        return self.run(run)

    def task_runs(self, run: str) -> list[dict[str, Any]]:
        return self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})

    def tasks(self, run: str) -> dict[str, str]:
        return {task["name"]: (task["state"] or {}).get("type", "") for task in self.task_runs(run)}

    def tries(self, run: str) -> dict[str, int]:
        """How often each task was begun."""
        return {task["name"]: task["run_count"] for task in self.task_runs(run)}

    def is_in(self, run: str, task: str) -> None:
        self.wait(run, lambda: self.tasks(run).get(task) == "RUNNING")

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact["data"] for artifact in found}

    def make_block(self, kind: str, name: str, **data: Any) -> str:
        """A block of that type, as `<block type>/<name>`."""
        block_type = self.ask(f"/block_types/slug/{kind}")["id"]
        (schema, *_) = self.ask("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [block_type]}}})
        document = {"name": name, "data": data, "block_type_id": block_type, "block_schema_id": schema["id"]}
        self.ask("/block_documents/", document)
        return f"{kind}/{name}"

    def logs(self, run: str) -> list[str]:
        found = self.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "sort": "TIMESTAMP_ASC"})
        return [log["message"] for log in found]

    def events(self, count: int, *runs: str) -> list[dict[str, Any]]:
        """This project's events of these runs; they come in a moment after the runs have ended."""
        wanted = {"event": {"prefix": ["taxi."]}, "related": {"id": [f"prefect.flow-run.{run}" for run in runs]}}

        def come() -> list[dict[str, Any]] | None:
            found = self.ask("/events/filter", {"filter": wanted})["events"]
            return sorted(found, key=lambda event: event["occurred"]) if len(found) >= count else None

        return self.wait(runs[0], come, 30)


@dataclass
class Worker:
    """The worker of the pool; the warehouse is that of this process's environment."""

    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [BIN / "prefect", "worker", "start", "--pool", "taxi-elt"], cwd=PROJECT, stdout=log, stderr=log
            )

    def kill(self) -> None:
        assert self.process
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.process.kill()
        self.process.wait()


@dataclass
class Operated:
    """A warehouse, the deployments over it, a worker, and the place that months are published at."""

    settings: Settings
    server: LocalCrate | None
    api: Api
    worker: Worker
    tlc: stub_http.Stub
    folder: Path
    # of each month what the TLC's stand-in answers; 404 for all others
    answers: dict[str, stub_http.Answer] = field(default_factory=dict)

    def answer(self, asked: stub_http.Request) -> stub_http.Answer:
        (month,) = re.findall(r"\d{4}-\d{2}", asked.path)
        return self.answers.get(month, stub_http.Answer(404))

    def file(self, month: str, rows: int = 3_000, **kinds: Any) -> SampleFacts:
        return write_sample(self.folder / f"yellow_tripdata_{month}.csv", month, rows=rows, **kinds)

    def trips(self) -> dict[str, int]:
        with open_warehouse(self.settings) as warehouse:
            found = warehouse.frame("select file_month, count(*) as n from {schema}.trip_data group by file_month")
        return dict(zip(found["file_month"], found["n"], strict=True))

    def loads(self, month: str) -> list[str]:
        with open_warehouse(self.settings) as warehouse:
            return [load.status for load in warehouse.loads(month)]


@contextmanager
def warehouse_behind_a_password(
    request: pytest.FixtureRequest, target: str
) -> Iterator[tuple[Settings, LocalCrate | None]]:
    """A warehouse whose settings are in this process's environment, and so in the worker's, except the password; and
    its server, where it has one."""
    if target == "duckdb":
        with own_warehouse(request, target) as settings:
            yield settings, None
        return
    home = request.getfixturevalue("cratedb_home")
    with LocalCrate(home, login=("taxi", CANARY)) as local, pytest.MonkeyPatch.context() as patch:
        for name, value in local.server.environment("operated", "operated_raw").items():
            if name not in ("CRATEDB_URL", "CRATEDB_PASSWORD"):
                patch.setenv(name, value)
        yield load_settings().model_copy(update={"cratedb_password": SecretStr(CANARY)}), local


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("duckdb", marks=pytest.mark.xdist_group("deployment")),
        pytest.param("cratedb", marks=[pytest.mark.cratedb, pytest.mark.xdist_group("deployment"), pytest.mark.slow]),
    ],
)
def operated(
    request: pytest.FixtureRequest, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operated]:
    folder = tmp_path_factory.mktemp("operated")
    with (
        warehouse_behind_a_password(request, request.param) as (settings, server),
        stub_http.serve(lambda asked: stub_http.Answer(404)) as tlc,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PREFECT_API_URL", prefect_server)
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        patch.setenv("CRATEDB_PASSWORD_BLOCK", "cratedb-password")
        patch.setenv("TAXI_REPORT_DIR", str(folder / "reports"))
        login, token = f"reader:{CANARY}", f"?token={CANARY}"
        patch.setenv("TAXI_SOURCE_TEMPLATE", tlc.url(f"/yellow_tripdata_{{month}}.csv{token}", login))
        pool = run_command("prefect", "work-pool", "create", "--type", "process", "taxi-elt", "--overwrite")
        assert pool.code == 0, pool.err
        deploy()
        worker = Worker(folder / "worker.log")
        operated = Operated(settings, server, Api(prefect_server), worker, tlc, folder)
        tlc.respond = operated.answer
        with suppress(AssertionError):  # the other target's tests have made it
            operated.api.make_block("secret", "cratedb-password", value=CANARY)
        worker.start()
        try:
            yield operated
        finally:
            worker.stop()


def deploy() -> None:
    deployed = run_command("prefect", "--no-prompt", "deploy", "--all")
    assert deployed.out.count("successfully created") == len(DEPLOYMENTS), deployed.out + deployed.err


def deployed(api: Api) -> dict[str, tuple[str, bool, list[bool], list[str]]]:
    """Of each deployment its id, whether it is paused, which of its schedules are on, and its tags."""
    names = {flow["id"]: flow["name"] for flow in api.ask("/flows/filter", {})}
    return {
        f"{names[made['flow_id']]}/{made['name']}": (
            made["id"], made["paused"], [schedule["active"] for schedule in made["schedules"]], made["tags"]
        )
        for made in api.ask("/deployments/filter", {})
    }  # fmt: skip


def test_deploying_again_changes_nothing_and_no_schedule_is_on(operated: Operated) -> None:
    before = deployed(operated.api)
    assert set(before) == DEPLOYMENTS
    assert [active for _, _, schedules, _ in before.values() for active in schedules] == [False, False]

    deploy()

    assert deployed(operated.api) == before
    properties = operated.api.deployment("yellow-taxi/adhoc")["parameter_openapi_schema"]["properties"]
    assert all(given["description"] for given in properties.values())


WRONG = {
    "no such month": ("yellow-taxi/adhoc", {"month": "2021-13"}),
    "before the first": ("yellow-taxi/monthly", {"month": "2008-12"}),
    "SQL for a month": ("yellow-taxi-backfill/range", {"from_month": "'; DROP TABLE", "to_month": "2021-02"}),
    "a range without its end": ("yellow-taxi-backfill/range", {"from_month": "2021-01"}),
    "a share of 7": ("yellow-taxi/adhoc", {"month": "2021-01", "max_reject_share": 7}),
    "another database": ("yellow-taxi-quality/daily", {"target": "postgres"}),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_parameters_are_refused_before_there_is_a_run(operated: Operated, what: str) -> None:
    deployment, parameters = WRONG[what]
    before = operated.api.ask("/flow_runs/count", {})
    with pytest.raises(AssertionError, match="Validation failed"):
        operated.api.start(deployment, **parameters)
    assert operated.api.ask("/flow_runs/count", {}) == before


def test_two_runs_of_one_month_at_once_end_with_one_load(operated: Operated) -> None:
    api, sample = operated.api, operated.file("2021-02")

    runs = [api.start("yellow-taxi/adhoc", source=str(sample.path)) for _ in range(2)]
    states = [api.ended(run)["state"]["type"] for run in runs]

    assert states == ["COMPLETED", "COMPLETED"]
    assert operated.trips() == {"2021-02": sample.trips}
    assert operated.loads("2021-02") == ["staged"]
    events = api.events(2, *runs)
    assert [event["event"] for event in events] == ["taxi.load.completed", "taxi.month.published"]
    assert {event["resource"]["prefect.resource.id"] for event in events} == {"taxi-elt.month.2021-02"}
    loaded, published = events
    assert loaded["payload"]["rows_landed"] == sample.rows - sample.broken
    assert (published["payload"]["rows"], published["payload"]["state"]) == (sample.trips, "published")
    assert published["payload"]["load_id"] == loaded["payload"]["load_id"]

    second, first = sorted(runs, key=lambda run: run in str(loaded["related"]))
    waited = [line for line in api.logs(second) if line.startswith("Waiting for yellow-taxi-")]
    assert any(f"held by the run 'yellow-taxi 2021-02' ({first})" in line for line in waited), waited
    run = api.run(first)
    assert (run["name"], set(run["tags"])) == (
        "yellow-taxi 2021-02", {"yellow-taxi", "2021-02", operated.settings.target}
    )  # fmt: skip
    assert {f"download {run['name'][-7:]}", "load 2021-02", "dbt build", "model trip_data"} <= set(api.tasks(first))
    artifacts = api.artifacts(first)
    assert artifacts["yellow-taxi-load-2021-02"] == 100
    assert f" | {sample.trips:,} |" in artifacts["yellow-taxi-2021-02"]
    assert "2021-02" in artifacts["yellow-taxi-report-2021-02"]
    assert {test["status"] for test in json.loads(artifacts["yellow-taxi-tests-2021-02"])} <= {"pass", "warn"}


def test_the_monthly_run_takes_what_is_missing_and_is_content_with_what_is_not_published(operated: Operated) -> None:
    older, newest = due_months()
    sample = operated.file(older)
    operated.answers[older] = stub_http.Answer(200, sample.path.read_bytes())

    first = operated.api.ended(operated.api.start("yellow-taxi/monthly"))
    second = run_command("prefect", "deployment", "run", "yellow-taxi/monthly", "--watch")

    assert (first["name"], first["state"]["type"]) == (f"yellow-taxi {older}", "COMPLETED")
    assert operated.trips()[older] == sample.trips
    assert second.code == 0, second.out
    assert "finished successfully in 'Not published yet'" in second.out
    (run,) = [run for run in operated.api.ask("/flow_runs/filter", {}) if run["name"] == f"yellow-taxi {newest}"]
    assert f"{newest} is not published yet" in run["state"]["message"]
    assert "FAILED" not in operated.api.tasks(run["id"]).values()
    assert operated.loads(newest) == []


@pytest.mark.slow
def test_a_range_goes_on_past_a_month_and_quality_tells_of_what_is_wrong(operated: Operated) -> None:
    api = operated.api
    samples = {month: operated.file(month, rows=1_500) for month in ("2020-11", "2020-12")}
    samples["2020-12"].path.write_text("<html>\n")
    arguments = ["-p", "from_month=2020-11", "-p", "to_month=2020-12"]
    template = f"source_template={operated.folder}/yellow_tripdata_{{month}}.csv"

    answer = run_command(
        "prefect", "deployment", "run", "yellow-taxi-backfill/range", *arguments, "-p", template, "--watch"
    )

    assert answer.code == 1, answer.out
    (run,) = [run for run in api.ask("/flow_runs/filter", {}) if run["name"] == "yellow-taxi 2020-11 to 2020-12"]
    assert "1 of 2 months failed. 2020-12: yellow_tripdata_2020-12.csv is an HTML page" in run["state"]["message"]
    lines = {line["month"]: line["state"] for line in json.loads(api.artifacts(run["id"])["yellow-taxi-backfill"])}
    assert lines == {"2020-11": "landed", "2020-12": "failed"}
    assert api.tries(run["id"])["load 2020-12"] == 1  # the file would be no better the next time
    assert operated.trips()["2020-11"] == samples["2020-11"].trips

    good = api.start("yellow-taxi-quality/daily")
    assert api.ended(good)["state"]["type"] == "COMPLETED", api.logs(good)
    tests = json.loads(api.artifacts(good)["yellow-taxi-tests-quality"])
    assert {"pass"} <= {test["status"] for test in tests} <= {"pass", "warn"}

    if operated.settings.target == "cratedb":
        return
    with stub_http.serve(lambda asked: stub_http.Answer(200)) as people:
        block = api.make_block("webhook", "people", method="GET", url=people.url("/told"), allow_private_urls=True)
        made = run_command("taxi-elt", "automations", "--notify", block)
        assert made.code == 0, made.err
        with duckdb.connect(str(operated.settings.duckdb_path)) as connection:
            connection.execute(
                "update trip_data set passenger_count = 0 where file_month = '2020-11' and source_row = 2"
            )
        bad = api.start("yellow-taxi-quality/daily")
        state = api.ended(bad)["state"]
        assert state["type"] == "FAILED"
        assert "the test assert_no_zero_passenger_trips failed with 1 failing row" in state["message"]
        assert api.tries(bad)["dbt test"] == 1
        (event,) = api.events(1, bad)
        assert event["event"] == "taxi.quality.failed"
        assert event["resource"]["prefect.resource.id"] == "taxi-elt.data"
        assert "assert_no_zero_passenger_trips" in [test["test"] for test in event["payload"]["tests"]]
        api.wait(bad, lambda: people.requests, 60)


def test_automations_made_twice_are_two(operated: Operated) -> None:
    for _ in range(2):
        made = run_command("taxi-elt", "automations")
        assert made.code == 0, made.err
    found = operated.api.ask("/automations/filter", {})
    assert sorted(automation["name"] for automation in found) == [
        "taxi-elt: end runs without a heartbeat", "taxi-elt: tell of failed tests"
    ]  # fmt: skip
    assert made.out.count("updated") == 2


STALLS = stub_http.Answer(200, b"VendorID,", announced=10_000_000, stalls=True)


def test_a_cancelled_run_stops_and_leaves_nothing(operated: Operated) -> None:
    operated.answers["2021-04"] = STALLS
    run = operated.api.start("yellow-taxi/adhoc", month="2021-04")
    operated.api.is_in(run, "download 2021-04")

    cancel(operated, run)

    assert operated.loads("2021-04") == []


@pytest.mark.slow
def test_a_run_cancelled_in_dbt_publishes_whole_months_or_none_and_the_next_one_the_rest(operated: Operated) -> None:
    sample = operated.file("2021-06", rows=20_000)
    run = operated.api.start("yellow-taxi/adhoc", source=str(sample.path))
    operated.api.is_in(run, "dbt build")

    cancel(operated, run)

    assert operated.trips().get("2021-06", sample.trips) == sample.trips
    again = operated.api.ended(operated.api.start("yellow-taxi/adhoc", source=str(sample.path)))
    assert again["state"]["type"] == "COMPLETED"
    assert operated.trips()["2021-06"] == sample.trips
    assert operated.loads("2021-06") == ["staged"]


@pytest.mark.slow
def test_a_cancelled_backfill_stops_all_its_months(operated: Operated) -> None:
    operated.answers |= {"2021-07": STALLS, "2021-08": STALLS}
    run = operated.api.start("yellow-taxi-backfill/range", from_month="2021-07", to_month="2021-09")
    for month in ("2021-07", "2021-08"):
        operated.api.is_in(run, f"download {month}")

    cancel(operated, run)

    assert [operated.loads(month) for month in ("2021-07", "2021-08", "2021-09")] == [[], [], []]


def cancel(operated: Operated, run: str) -> None:
    """As the button in the UI does. Its process has 30 s, and is then killed by the worker."""
    operated.api.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    process = process_of(run)
    assert operated.api.ended(run, 60)["state"]["type"] == "CANCELLED"
    assert not Path(f"/proc/{process}").exists()


def process_of(run: str) -> int:
    """The process of a run, by the variable that its worker gave it."""
    for environment in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            if f"PREFECT__FLOW_RUN_ID={run}".encode() in environment.read_bytes():
                return int(environment.parent.name)
    raise AssertionError(f"no process of {run}")


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_leaves_the_month_to_the_next_run(operated: Operated) -> None:
    """The killed run's slot is free when its lease of a minute is over."""
    assert run_command("taxi-elt", "automations").code == 0
    api, sample = operated.api, operated.file("2021-05")
    operated.answers["2021-05"] = STALLS
    killed = api.start("yellow-taxi/adhoc", month="2021-05")
    api.is_in(killed, "download 2021-05")
    operated.answers["2021-05"] = stub_http.Answer(200, sample.path.read_bytes())

    operated.worker.kill()
    os.kill(process_of(killed), signal.SIGKILL)
    operated.worker.start()
    in_line = api.start("yellow-taxi/adhoc", month="2021-05")

    assert api.ended(in_line)["state"]["type"] == "COMPLETED", api.logs(in_line)
    assert any(killed in line for line in api.logs(in_line) if line.startswith("Waiting for"))
    # Nobody is there to tell what became of it: the automation is for that.
    api.wait(killed, lambda: api.run(killed)["state"]["type"] == "CRASHED", 180)
    assert operated.trips()["2021-05"] == sample.trips
    assert operated.loads("2021-05") == ["staged"]


@pytest.mark.slow
def test_a_server_that_is_busy_is_asked_again_and_only_that_step_is_repeated(operated: Operated) -> None:
    api, sample = operated.api, operated.file("2021-10")
    busy = [stub_http.Answer(503), stub_http.Answer(429)]
    whole = stub_http.Answer(200, sample.path.read_bytes())
    operated.tlc.respond = lambda asked: busy.pop() if busy else whole
    try:
        run = api.start("yellow-taxi/adhoc", month="2021-10")
        assert api.ended(run)["state"]["type"] == "COMPLETED", api.logs(run)
    finally:
        operated.tlc.respond = operated.answer
    tries = api.tries(run)
    assert tries["download 2021-10"] == 3
    assert {count for task, count in tries.items() if task != "download 2021-10"} == {1}
    assert operated.trips()["2021-10"] == sample.trips


@pytest.mark.slow
@pytest.mark.parametrize(("month", "step"), [("2022-01", "load 2022-01"), ("2022-02", "dbt build")])
def test_a_server_that_restarts_is_waited_for(operated: Operated, month: str, step: str) -> None:
    if not operated.server:
        pytest.skip("DuckDB has no server")
    api, sample = operated.api, operated.file(month, rows=200_000)
    run = api.start("yellow-taxi/adhoc", source=str(sample.path))
    api.is_in(run, step)

    operated.server.kill()
    operated.server.start()

    assert api.ended(run, 400)["state"]["type"] == "COMPLETED", api.logs(run)
    tries = api.tries(run)
    assert tries[step] > 1
    assert operated.trips()[month] == sample.trips
    assert operated.loads(month) == ["staged"]


@pytest.mark.slow
def test_a_file_that_is_not_there_is_asked_for_once(operated: Operated) -> None:
    run = operated.api.start("yellow-taxi/adhoc", month="2021-11")
    state = operated.api.ended(run)["state"]
    assert state["type"] == "FAILED"
    assert "There is no file at" in state["message"]
    assert operated.api.tries(run)["download 2021-11"] == 1


@pytest.mark.slow
def test_the_deployments_are_served_without_a_worker(operated: Operated) -> None:
    """And a worker has them again afterwards, as they were."""
    api, sample, log = operated.api, operated.file("2021-12"), operated.folder / "serve.log"
    before = deployed(api)
    operated.worker.stop()
    with log.open("wb") as output:
        serving = subprocess.Popen([BIN / "taxi-elt", "serve"], cwd=PROJECT, stdout=output, stderr=output)
    try:
        run = api.start("yellow-taxi/adhoc", source=str(sample.path))
        assert api.ended(run)["state"]["type"] == "COMPLETED", log.read_text()
        assert operated.trips()["2021-12"] == sample.trips
        assert deployed(api) == before
    finally:
        serving.terminate()
        serving.wait(60)
        deploy()
        operated.worker.start()
    assert deployed(api) == before


def test_no_secret_is_in_anything_that_is_kept(operated: Operated, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Prefect's database and logs, dbt's target folder and logs, the reports, the ledger: after all the runs above."""
    run = operated.api.start("yellow-taxi/adhoc", month="2020-01")
    state = operated.api.ended(run)["state"]
    assert state["type"] == "FAILED" and "There is no file at http://127.0.0.1:" in state["message"]

    kept = [path for path in tmp_path_factory.getbasetemp().rglob("*") if path.is_file()]
    kept += [*(PROJECT / "logs").glob("*.log*")]
    names = {path.name for path in kept}
    assert {"prefect.db", "worker.log", "manifest.json", "dbt.log", "latest.html"} <= names
    assert [path for path in kept if CANARY.encode() in path.read_bytes()] == []
    with open_warehouse(operated.settings) as warehouse:
        ledger = warehouse.frame("select * from {raw}.loads")
    assert len(ledger) and CANARY not in ledger.to_csv()
