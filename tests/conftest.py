"""What all tests share: where the data is, a warehouse of each target for one test, and the line about CrateDB."""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefect_flows.settings import Settings, load_settings
from tests.cratedb_server import CrateServer, crate_server

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"
HEAD = SHARED_DATA / "yellow_tripdata_2021-01.head.csv.gz"

CRATEDB = pytest.param("cratedb", marks=[pytest.mark.cratedb, pytest.mark.xdist_group("cratedb")])
TARGETS = pytest.mark.parametrize("target", ["duckdb", CRATEDB])
# What `make test` leaves to `make test-cratedb`, to stay below ten minutes: the same code has run on DuckDB, and the
# models on CrateDB in other tests.
CRATEDB_AT_LENGTH = pytest.param("cratedb", marks=[*CRATEDB.marks, pytest.mark.thorough])
TARGETS_AT_LENGTH = pytest.mark.parametrize("target", ["duckdb", CRATEDB_AT_LENGTH])

_SETTING_PREFIXES = ("TAXI_", "CRATEDB_", "DUCKDB_")
_line = pytest.StashKey[str]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--require-cratedb", action="store_true", help="fail where there is no CrateDB to test against")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("cratedb"):
            item.add_marker(pytest.mark.xdist_group("cratedb"))


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test sees the settings, and so the servers, of the person who runs it, nor writes into their reports."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(Settings.model_config, "env_file", None)
        for name in list(os.environ):
            if name.startswith(_SETTING_PREFIXES) and name != "CRATEDB_HOME":
                patch.delenv(name)
        patch.setenv("TAXI_REPORT_DIR", str(tmp_path_factory.mktemp("reports")))
        yield


@pytest.fixture(scope="session")
def cratedb(request: pytest.FixtureRequest) -> Iterator[CrateServer]:
    with crate_server() as (server, line):
        request.config.stash[_line] = line
        if server is None:
            if request.config.getoption("--require-cratedb"):
                pytest.fail(line, pytrace=False)
            pytest.skip(line)
        yield server


@pytest.fixture(scope="session")
def cratedb_home() -> str:
    """The installation to start servers from; what needs servers of its own is skipped without one."""
    named = os.environ.get("CRATEDB_HOME")
    if not named:
        pytest.skip("CRATEDB_HOME is not set: there is no CrateDB installation to start servers from.")
    return named


@pytest.fixture
def settings(request: pytest.FixtureRequest, target: str) -> Iterator[Settings]:
    """Settings of the test's `target`, for a warehouse of its own, in this process's environment."""
    with own_warehouse(request, target) as settings:
        yield settings


# Of warehouses that are gone. They are used again: dbt parses the whole project anew for a name that it does not know.
_free_names: list[str] = []


@contextmanager
def own_warehouse(request: pytest.FixtureRequest, target: str) -> Iterator[Settings]:
    """A warehouse that nothing else uses, gone afterwards."""
    name = _free_names.pop() if _free_names else uuid.uuid4().hex[:12]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAXI_TARGET", target)
        if target == "duckdb":
            folder = Path(request.getfixturevalue("tmp_path_factory").getbasetemp()) / f"warehouse-{name}"
            folder.mkdir()
            patch.setenv("DUCKDB_PATH", str(folder / "warehouse.duckdb"))
            yield load_settings()
            from dbt.adapters.duckdb.connections import DuckDBConnectionManager

            # dbt keeps the file open, and would go on in it
            DuckDBConnectionManager.close_all_connections()
            shutil.rmtree(folder)
        else:
            server: CrateServer = request.getfixturevalue("cratedb")
            schema, raw_schema = f"test_{name}", f"raw_{name}"
            for setting, value in server.environment(schema, raw_schema).items():
                patch.setenv(setting, value)
            yield load_settings()
            server.drop_schemas(schema, f"{schema}_test_failures", raw_schema)
    _free_names.append(name)


@pytest.fixture(scope="session")
def head() -> Path:
    """The first 22,791 rows of the published file of 2021-01."""
    if not HEAD.exists():
        pytest.skip("the head of the published 2021-01 file is not beside the checkout (../shared/data)")
    return HEAD


# --- one line that says whether the CrateDB tests ran


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["cratedb"] = session.config.stash.get(_line, "")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    line = getattr(node, "workeroutput", {}).get("cratedb")
    if line:
        node.config.stash[_line] = line  # type: ignore[attr-defined]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    def count(outcome: str, mark: str = "cratedb", reason: str = "") -> int:
        reports = terminalreporter.stats.get(outcome, [])
        return sum(mark in getattr(report, "keywords", {}) and reason in str(report.longrepr) for report in reports)

    if unseen := count("skipped", "browser", "no chromium"):
        line = f"Browser tests: {unseen} SKIPPED. There is no chromium on this machine: apt-get install chromium."
        terminalreporter.line(line, yellow=True, bold=True)
    ran, skipped = count("passed") + count("failed"), count("skipped")
    line = config.stash.get(_line, "")
    if ran and not skipped:
        terminalreporter.line(
            f"CrateDB tests: {ran} ran against {line or 'servers of their own'}", green=True, bold=True
        )
    elif skipped:
        terminalreporter.line(f"CrateDB tests: {ran} ran, {skipped} SKIPPED. {line}", yellow=True, bold=True)
