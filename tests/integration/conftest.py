"""A real Prefect server for the tests that run flows, and the way to run one as its user does."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import prefect.context
import pytest
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from prefect_flows.settings import Settings
from prefect_flows.transform import failures, run_dbt
from prefect_flows.warehouses import Warehouse

PROJECT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Answer:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The sentence that the command ended with."""
        return next((line for line in reversed(self.err.splitlines()) if line.startswith("taxi-elt: ")), "")

    def figure(self, label: str) -> int:
        """A figure of the printed summary."""
        found = re.search(rf"^\s*{re.escape(label)}\s+([\d,]+)$", self.out, re.MULTILINE)
        assert found, f"no {label!r} in:\n{self.out}\n{self.err}"
        return int(found[1].replace(",", ""))


Run = Callable[..., Answer]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server on a free port of this machine, its data in a temporary folder; gives its API's URL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("prefect")
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    log = home / "server.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            [BIN / "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(server, url, log)
        yield url
    finally:
        # The command's own children as well: it leaves its server behind when it is ended while busy.
        for end in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                os.killpg(server.pid, end)
                server.wait(15)


def _wait_for(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    for _ in range(240):
        try:
            if httpx.get(f"{url}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.5)
        assert server.poll() is None, log.read_text()
    raise AssertionError(f"the Prefect server did not answer:\n{log.read_text()}")


@pytest.fixture(scope="session", autouse=True)
def _own_dbt_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Two test processes that share dbt's folder would disturb each other. Flows say themselves what dbt logs; nobody
    reads the log of a test's own dbt, and it takes a sixth of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DBT_LOG_LEVEL_FILE", "none")
        patch.setenv("DBT_TARGET_PATH", str(tmp_path_factory.mktemp("dbt")))
        yield


@pytest.fixture(scope="module")
def flow_settings(prefect_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lets flows run in this process against the test's Prefect server.

    Temporary settings are a context variable, which the threads of prefect-dbt do not see: they get the global ones.
    """
    home = tmp_path_factory.mktemp("prefect")
    with (
        temporary_settings({PREFECT_API_URL: prefect_server, PREFECT_HOME: home}),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(prefect.context, "GLOBAL_SETTINGS_CONTEXT", prefect.context.get_settings_context())
        yield


@pytest.fixture
def prefect_environment(prefect_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", prefect_server)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("DO_NOT_TRACK", "1")


def run_command(name: str, *arguments: object, timeout: float = 240) -> Answer:
    """Run a command of this environment from the checkout's root."""
    done = subprocess.run(
        [BIN / name, *map(str, arguments)], cwd=PROJECT, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def taxi_elt(prefect_environment: None) -> Run:
    """Runs `taxi-elt`."""
    return partial(run_command, "taxi-elt")


@pytest.fixture
def dbt(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `dbt` from the checkout's root on the test's target, with no Prefect server to be found."""
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    return lambda *arguments: run_command("dbt", *arguments, "--target", settings.target)


def build(settings: Settings) -> str:
    """One dbt build in this process, without Prefect; gives what failed, empty where nothing did."""
    from dbt.cli.main import dbtRunner

    return failures(run_dbt(dbtRunner().invoke, settings))


def records(warehouse: Warehouse, query: str) -> list[dict[str, Any]]:
    """The rows that a query gives; NULL is None, and a trip's time a time, which CrateDB gives as milliseconds."""
    frame = warehouse.frame(query)
    for name in frame.columns[frame.columns.str.endswith("_datetime")]:
        frame[name] = pd.to_datetime(frame[name], unit="ms" if pd.api.types.is_numeric_dtype(frame[name]) else None)
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
