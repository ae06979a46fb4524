"""The deployments as they are operated: a real server, work pool and worker; states, artifacts, events, tables."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pytest

from prefect_flows.sample import SampleFacts, write_sample
from prefect_flows.settings import Settings
from prefect_flows.tlc import due_months
from prefect_flows.warehouses import open_warehouse
from tests.conftest import CRATEDB, own_warehouse
from tests.integration.conftest import BIN, PROJECT, run_command
from tests.unit import stub_http

pytestmark = pytest.mark.timeout(600)

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}
DEPLOYMENTS = {"yellow-taxi/monthly", "yellow-taxi/adhoc", "yellow-taxi-backfill/range", "yellow-taxi-quality/daily"}


@dataclass
class Api:
    """The Prefect server, as its users' programs speak to it."""

    url: str

    def ask(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        method = method or ("GET" if body is None else "POST")
        answer = httpx.request(method, self.url + path, json=body, trust_env=False, timeout=60)
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

    def tasks(self, run: str) -> dict[str, str]:
        found = self.ask("/task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "limit": 200})
        return {task["name"]: task["state"]["type"] for task in found}

    def is_in(self, run: str, task: str) -> None:
        self.wait(run, lambda: self.tasks(run).get(task) == "RUNNING")

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.ask("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact["data"] for artifact in found}

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
            self.process.wait(30)
        self.process.kill()


@dataclass
class Operated:
    """A warehouse, the deployments over it, a worker, and the place that months are published at."""

    settings: Settings
    api: Api
    worker: Worker
    tlc: stub_http.Stub
    folder: Path
    # of each month what the TLC's stand-in answers; 404 for all others
    answers: dict[str, stub_http.Answer] = field(default_factory=dict)

    def file(self, month: str, rows: int = 3_000, **kinds: Any) -> SampleFacts:
        return write_sample(self.folder / f"yellow_tripdata_{month}.csv", month, rows=rows, **kinds)

    def trips(self) -> dict[str, int]:
        with open_warehouse(self.settings) as warehouse:
            found = warehouse.frame("select file_month, count(*) as n from {schema}.trip_data group by file_month")
        return dict(zip(found["file_month"], found["n"], strict=True))

    def loads(self, month: str) -> list[str]:
        with open_warehouse(self.settings) as warehouse:
            return [load.status for load in warehouse.loads(month)]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("duckdb", marks=pytest.mark.xdist_group("deployment")),
        pytest.param("cratedb", marks=[*CRATEDB.marks, pytest.mark.slow]),
    ],
)
def operated(
    request: pytest.FixtureRequest, prefect_server: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Operated]:
    folder = tmp_path_factory.mktemp("operated")
    with (
        own_warehouse(request, request.param) as settings,
        stub_http.serve(lambda asked: stub_http.Answer(404)) as tlc,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PREFECT_API_URL", prefect_server)
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        patch.setenv("DO_NOT_TRACK", "1")
        patch.setenv("TAXI_REPORT_DIR", str(folder / "reports"))
        patch.setenv("TAXI_SOURCE_TEMPLATE", tlc.url("/yellow_tripdata_{month}.csv"))
        pool = run_command("prefect", "work-pool", "create", "--type", "process", "taxi-elt", "--overwrite")
        assert pool.code == 0, pool.err
        deploy()
        worker = Worker(folder / "worker.log")
        operated = Operated(settings, Api(prefect_server), worker, tlc, folder)
        tlc.respond = lambda asked: operated.answers.get(asked.path[-11:-4], stub_http.Answer(404))
        worker.start()
        try:
            yield operated
        finally:
            worker.stop()


def deploy() -> None:
    deployed = run_command("prefect", "--no-prompt", "deploy", "--all")
    assert deployed.out.count("successfully created") == len(DEPLOYMENTS), deployed.out + deployed.err


def test_deploying_again_changes_nothing_and_no_schedule_is_on(operated: Operated) -> None:
    def deployments() -> dict[str, Any]:
        found = operated.api.ask("/deployments/filter", {})
        names = {flow["id"]: flow["name"] for flow in operated.api.ask("/flows/filter", {})}
        return {f"{names[d['flow_id']]}/{d['name']}": (d["id"], d["schedules"][:1], d["tags"]) for d in found}

    before = deployments()
    assert set(before) == DEPLOYMENTS
    assert [schedule["active"] for _, schedules, _ in before.values() for schedule in schedules] == [False, False]

    deploy()

    assert {name: (i, len(s), t) for name, (i, s, t) in deployments().items()} == {
        name: (i, len(s), t) for name, (i, s, t) in before.items()
    }
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
    assert waited and f"held by the run 'yellow-taxi 2021-02' ({first})" in waited[0]
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
    assert operated.trips()["2020-11"] == samples["2020-11"].trips

    good = api.start("yellow-taxi-quality/daily")
    assert api.ended(good)["state"]["type"] == "COMPLETED", api.logs(good)
    tests = json.loads(api.artifacts(good)["yellow-taxi-tests-quality"])
    assert {"pass"} <= {test["status"] for test in tests} <= {"pass", "warn"}

    if operated.settings.target == "cratedb":
        return
    with stub_http.serve(lambda asked: stub_http.Answer(200)) as people:
        block = httpx_block(api, people.url("/told"))
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
        (event,) = api.events(1, bad)
        assert event["event"] == "taxi.quality.failed"
        assert event["resource"]["prefect.resource.id"] == "taxi-elt.data"
        assert "assert_no_zero_passenger_trips" in [test["test"] for test in event["payload"]["tests"]]
        api.wait(bad, lambda: people.requests, 60)


def httpx_block(api: Api, url: str) -> str:
    """A webhook block of that URL, as `<block type>/<name>`."""
    kind = api.ask("/block_types/slug/webhook")
    (schema, *_) = api.ask("/block_schemas/filter", {"block_schemas": {"block_type_id": {"any_": [kind["id"]]}}})
    document = {
        "name": "people", "data": {"method": "GET", "url": url, "allow_private_urls": True},
        "block_type_id": kind["id"], "block_schema_id": schema["id"],
    }  # fmt: skip
    api.ask("/block_documents/", document)
    return "webhook/people"


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


@pytest.mark.slow
def test_a_cancelled_run_stops_and_leaves_nothing(operated: Operated) -> None:
    operated.answers["2021-04"] = STALLS
    run = operated.api.start("yellow-taxi/adhoc", month="2021-04")
    operated.api.is_in(run, "download 2021-04")

    cancel(operated, run)

    assert operated.loads("2021-04") == []


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
    assert api.run(killed)["state"]["type"] == "RUNNING"  # nobody is there to tell: the automation is for that
    assert operated.trips()["2021-05"] == sample.trips
    assert operated.loads("2021-05") == ["staged"]
