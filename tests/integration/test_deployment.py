"""`prefect deploy` and `prefect deployment run` with a real server, work pool and worker."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import open_warehouse
from tests.conftest import CRATEDB
from tests.integration.conftest import BIN, PROJECT, run_command

pytestmark = pytest.mark.parametrize(
    "target", ["duckdb", pytest.param("cratedb", marks=[*CRATEDB.marks, pytest.mark.slow])]
)


@pytest.fixture
def worker(settings: Settings, prefect_environment: None, tmp_path: Path) -> Iterator[None]:
    """A process work pool with the project's deployments, and a worker that sees the test's warehouse."""
    pool = run_command("prefect", "work-pool", "create", "--type", "process", "taxi-elt", "--overwrite")
    assert pool.code == 0, pool.err
    deployed = run_command("prefect", "--no-prompt", "deploy", "--all")
    assert "successfully created" in deployed.out, deployed.out + deployed.err
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "prefect", "worker", "start", "--pool", "taxi-elt"], cwd=PROJECT, stdout=log, stderr=log
        )
        yield
        process.terminate()
        process.wait(30)


@pytest.mark.usefixtures("worker")
def test_deployment_run_loads_a_month(settings: Settings, prefect_server: str, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "yellow_tripdata_2021-02.csv.gz", "2021-02", rows=3_000)

    good = run_command("prefect", "deployment", "run", "yellow-taxi/adhoc", "-p", f"source={sample.path}", "--watch")
    assert good.code == 0, good.out + good.err
    with open_warehouse(settings) as warehouse:
        assert warehouse.frame("select count(*) as n from {schema}.trip_data")["n"].item() == sample.trips

    missing = tmp_path / "yellow_tripdata_2021-03.csv"
    bad = run_command("prefect", "deployment", "run", "yellow-taxi/adhoc", "-p", f"source={missing}", "--watch")
    assert bad.code != 0
    runs = {run["name"]: run["state"] for run in flow_runs(prefect_server)}
    assert runs["yellow-taxi 2021-02"]["type"] == "COMPLETED"
    assert runs["yellow-taxi 2021-03"]["type"] == "FAILED"
    assert f"There is no file {missing}" in runs["yellow-taxi 2021-03"]["message"]


def flow_runs(prefect_server: str) -> list[dict]:
    newest = {"sort": "START_TIME_DESC", "limit": 2}
    return httpx.post(f"{prefect_server}/flow_runs/filter", json=newest, trust_env=False).json()
