"""The throwaway CrateDB servers of `cratedb_server` do what the other tests rely on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests import cratedb_server
from tests.cratedb_server import CrateServer, LocalCluster, LocalCrate, crate_server, find_server

pytestmark = [pytest.mark.cratedb, pytest.mark.thorough]  # of the tests' own servers

LOGIN = ("taxi's", 'pa"ss/w:ö@rd?')
SETTINGS = (
    "TEST_CRATEDB_URL",
    "TEST_CRATEDB_PG_PORT",
    "CRATEDB_HOME",
    "CRATEDB_URL",
    "CRATEDB_HOST",
    "CRATEDB_HTTP_PORT",
)


@pytest.fixture(scope="module")
def plain(cratedb_home: str) -> Iterator[LocalCrate]:
    """One node without TLS or passwords."""
    with LocalCrate(cratedb_home, heap="512m") as crate:
        yield crate


@pytest.fixture(scope="module")
def secured(cratedb_home: str) -> Iterator[LocalCrate]:
    """One node with TLS, and a user with a password."""
    with LocalCrate(cratedb_home, heap="512m", tls=True, login=LOGIN) as crate:
        yield crate


@pytest.fixture
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names no CrateDB at all."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)


def pg(server: CrateServer, **options: Any) -> list[tuple]:
    """What `SELECT` of the user's name and a number gives on the PostgreSQL port."""
    login = {"host": server.host, "port": server.pg_port, "user": server.user, "password": server.password}
    with psycopg.connect(**{**login, "dbname": "doc", "connect_timeout": 10, **options}) as connection:
        return connection.execute("SELECT current_user, 1 + 1").fetchall()


def test_both_ports_answer(plain: LocalCrate) -> None:
    """A failure means that a test may talk to nothing, or to another server than it thinks."""
    [[over_http]] = plain.server.sql("SELECT version['number'] FROM sys.nodes")
    assert over_http == plain.server.version
    assert pg(plain.server) == [("crate", 2)]


def test_an_error_holds_what_the_server_says(plain: LocalCrate) -> None:
    """A failure means that a refused statement passes for one that ran."""
    with pytest.raises(RuntimeError, match="Relation 'nowhere' unknown"):
        plain.server.sql("SELECT * FROM nowhere")


def test_the_process_is_not_root_and_takes_no_settings_from_our_environment(
    cratedb_home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure means that the machine's settings, not the test's, decide what is tested."""
    monkeypatch.setenv("CRATE_JAVA_OPTS", "-Xmx64m -no-such-option")
    with LocalCrate(cratedb_home, heap="300m", settings={"node.attr.zone": "$HOME `id`"}) as crate:
        [[heap, attributes]] = crate.server.sql("SELECT heap['max'], attributes FROM sys.nodes")
        assert heap == 300 * 1024**2
        assert attributes == {"zone": "$HOME `id`"}
        assert crate.data.stat().st_uid != 0


def test_data_outlives_kill_and_restart(plain: LocalCrate) -> None:
    """A failure means that tests of a killed server test an empty one."""
    server = plain.server
    server.sql("CREATE TABLE survivors.t (a INT) CLUSTERED INTO 2 SHARDS WITH (number_of_replicas = 0)")
    server.sql("INSERT INTO survivors.t (a) SELECT * FROM generate_series(1, 1000)")
    before = plain.pid
    plain.kill()
    assert plain.pid is None
    with pytest.raises(httpx.ConnectError):
        server.sql("SELECT 1")
    plain.start()
    assert plain.pid not in (before, None)
    assert plain.server == server
    assert server.sql("SELECT count(*) FROM survivors.t") == [[1000]]
    plain.restart()
    assert server.sql("SELECT count(*) FROM survivors.t") == [[1000]]
    server.drop_schemas("survivors")


def test_drop_schemas_leaves_nothing_in_them_and_all_in_others(plain: LocalCrate) -> None:
    """A failure means that tests see each other's tables, or destroy them."""
    server = plain.server
    for schema in ("gone_a", "Gone-B'", "stays"):
        server.sql(f'CREATE TABLE "{schema}"."Odd-name" (a INT, b TEXT) PARTITIONED BY (b)')
        server.sql(f"""INSERT INTO "{schema}"."Odd-name" (a, b) VALUES (1, 'x'), (2, 'y')""")
        server.sql(f'CREATE VIEW "{schema}".v AS SELECT * FROM "{schema}"."Odd-name"')
        server.sql(f'CREATE VIEW "{schema}".a_view_of_a_view AS SELECT * FROM "{schema}".v')
    server.drop_schemas("gone_a", "Gone-B'", "never_existed")
    left = server.sql(
        "SELECT table_schema, table_name FROM information_schema.tables"
        " WHERE table_schema NOT IN ('sys', 'blob', 'information_schema', 'pg_catalog') ORDER BY 2"
    )
    assert left == [["stays", "Odd-name"], ["stays", "a_view_of_a_view"], ["stays", "v"]]
    server.drop_schemas("stays")


def test_https_is_trusted_only_with_the_right_authority(secured: LocalCrate) -> None:
    """A failure means that a test of a wrong certificate on the HTTP port proves nothing."""
    assert secured.server.sql("SELECT current_user") == [[LOGIN[0]]]
    for host in ("127.0.0.1", "localhost"):
        assert replace(secured.server, host=host).sql("SELECT 1") == [[1]]
    for untrusted in (secured.wrong_ca_file, None):
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            replace(secured.server, ca_file=untrusted).sql("SELECT 1")
    with pytest.raises(httpx.TransportError):
        replace(secured.server, tls=False).sql("SELECT 1")


def test_postgresql_tls_is_trusted_only_with_the_right_authority(secured: LocalCrate) -> None:
    """A failure means the same for the PostgreSQL port."""
    verify = {"sslmode": "verify-full", "sslrootcert": str(secured.ca_file)}
    assert pg(secured.server, **verify) == [(LOGIN[0], 2)]
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        pg(secured.server, **{**verify, "sslrootcert": str(secured.wrong_ca_file)})
    with pytest.raises(psycopg.OperationalError, match="does not match host name"):
        pg(secured.server, **{**verify, "host": "elsewhere.test", "hostaddr": "127.0.0.1"})


@pytest.mark.parametrize("password", ["wrong", ""])
def test_a_wrong_password_is_refused_on_both_ports(secured: LocalCrate, password: str) -> None:
    """A failure means that a test of a wrong password proves nothing."""
    stranger = replace(secured.server, password=password)
    # Without a password, CrateDB's answer over HTTP is that no rule lets the user in.
    with pytest.raises(RuntimeError, match=r"status 401: .*(authentication failed|No valid auth)"):
        stranger.sql("SELECT 1")
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no password supplied"):
        pg(stranger, sslmode="require")


def test_the_login_is_no_superuser_and_its_password_is_not_in_the_job_log(secured: LocalCrate) -> None:
    """A failure means that tests of privileges and of leaked secrets prove nothing."""
    secured.server.sql("CREATE TABLE own.t (a INT)")
    secured.server.drop_schemas("own")
    with pytest.raises(RuntimeError, match="Missing 'AL' privilege"):
        secured.server.sql("CREATE USER another")
    logged = secured.superuser.sql("SELECT stmt FROM sys.jobs_log")
    assert any("CREATE USER" in stmt for [stmt] in logged)
    assert not any(LOGIN[1] in stmt for [stmt] in logged)
    assert LOGIN[1] not in repr(secured.server)


def test_the_environment_names_the_server_and_nothing_else(secured: LocalCrate, plain: LocalCrate) -> None:
    """A failure means that the project may write to another server than the test's."""
    environment = secured.server.environment("s", "r")
    assert environment["CRATEDB_URL"] == (
        f"crate://taxi%27s:pa%22ss%2Fw%3A%C3%B6%40rd%3F@localhost:{secured.http_port}?ssl=true"
    )
    assert (environment["CRATEDB_SCHEMA"], environment["TAXI_RAW_SCHEMA"]) == ("s", "r")
    assert environment["CRATEDB_SSLMODE"] == "verify-full"
    assert environment["CRATEDB_SSLROOTCERT"] == str(secured.ca_file)
    assert plain.server.environment("s", "r") == {
        "TAXI_TARGET": "cratedb",
        "CRATEDB_URL": f"crate://crate@127.0.0.1:{plain.http_port}",
        "CRATEDB_HOST": "127.0.0.1",
        "CRATEDB_HTTP_PORT": str(plain.http_port),
        "CRATEDB_PG_PORT": str(plain.pg_port),
        "CRATEDB_USER": "crate",
        "CRATEDB_PASSWORD": "",
        "CRATEDB_SSLMODE": "prefer",
        "CRATEDB_SCHEMA": "s",
        "TAXI_RAW_SCHEMA": "r",
    }


def test_three_nodes_go_on_without_one_and_take_it_back(cratedb_home: str) -> None:
    """A failure means that tests of a lost node test something else."""
    with LocalCluster(3, cratedb_home, heap="256m", login=LOGIN) as cluster:
        folders = [node.folder for node in cluster.nodes]
        cluster.server.sql("CREATE TABLE t (a INT) CLUSTERED INTO 3 SHARDS WITH (number_of_replicas = 1)")
        cluster.server.sql("INSERT INTO t (a) SELECT * FROM generate_series(1, 100)")
        cluster.server.sql("REFRESH TABLE t")
        cluster.wait_until_green()
        first, second, third = cluster.nodes
        first.kill()
        cluster.wait_for_nodes(2)
        assert cluster.server == second.server
        assert cluster.server.sql("SELECT count(*) FROM t") == [[100]]
        first.start()
        cluster.wait_for_nodes(3)
        assert first.server.sql("SELECT count(*) FROM t") == [[100]]
        assert {node.server.sql("SELECT current_user")[0][0] for node in (first, second, third)} == {LOGIN[0]}
    assert not any(folder.exists() for folder in folders)


def test_a_start_that_fails_shows_the_log_and_leaves_nothing(cratedb_home: str) -> None:
    """A failure means that a server which does not start cannot be understood, or leaves rubbish."""
    crate = LocalCrate(cratedb_home, settings={"no.such.setting": 1})
    with pytest.raises(RuntimeError, match=r"(?s)ended with status \d+.*no\.such\.setting"), crate:
        pytest.fail("it started")
    assert crate.pid is None
    assert not crate.folder.exists()


def test_a_server_on_a_taken_port_does_not_pass_for_ours(cratedb_home: str, plain: LocalCrate) -> None:
    """A failure means that tests may write to a server that somebody else started."""
    second = LocalCrate(cratedb_home, settings={"http.port": plain.http_port})
    second.http_port = plain.http_port
    with pytest.raises(RuntimeError, match=r"(?s)ended with status.*Address already in use"), second:
        pytest.fail("it started")
    assert plain.server.sql("SELECT 1") == [[1]]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, None])
def test_a_server_ends_with_the_python_that_started_it(cratedb_home: str, how: signal.Signals | None) -> None:
    """A failure means that interrupted test runs leave servers and folders behind."""
    script = (
        "import sys, time; from tests.cratedb_server import LocalCrate;"
        "crate = LocalCrate(heap='256m').start(wait=False);"
        "print(crate.pid, crate.folder, flush=True); time.sleep(60 if len(sys.argv) > 1 else 1)"
    )
    path = os.pathsep.join([str(Path(cratedb_server.__file__).parents[1]), *filter(None, sys.path)])
    with subprocess.Popen(
        [sys.executable, "-c", script, *(["wait"] if how else [])],
        env={**os.environ, "CRATEDB_HOME": cratedb_home, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as python:
        assert python.stdout
        pid, folder = python.stdout.readline().split()
        assert _runs(int(pid))
        if how:
            python.send_signal(how)
        python.wait(30)
    deadline = time.monotonic() + 10
    while (_runs(int(pid)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _runs(int(pid))
    assert not Path(folder).exists()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # gone meanwhile, or no Linux
        return not Path("/proc/self").exists()
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_an_installation_is_found_and_its_server_ends_with_the_context(
    cratedb_home: str, no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure means that a test run leaves its server behind."""
    monkeypatch.setenv("CRATEDB_HOME", cratedb_home)
    with crate_server() as (server, line):
        assert server
        assert line == f"CrateDB {server.version} from CRATEDB_HOME"
        assert server.sql("SELECT 1") == [[1]]
    with pytest.raises(httpx.ConnectError):
        server.sql("SELECT 1")


def test_a_named_server_wins(plain: LocalCrate, no_settings: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure means that the tests run on another server than the one that was named."""
    monkeypatch.setenv("TEST_CRATEDB_URL", plain.server.url)
    monkeypatch.setenv("TEST_CRATEDB_PG_PORT", str(plain.pg_port))
    monkeypatch.setenv("CRATEDB_HOME", "/never/looked/at")
    server, line = find_server()
    assert server == replace(plain.server, origin="TEST_CRATEDB_URL")
    assert line == f"CrateDB {plain.server.version} from TEST_CRATEDB_URL"


@pytest.mark.parametrize(
    "production",
    [
        {"CRATEDB_URL": "crate://someone:secret@localhost:14001?ssl=true"},
        {"CRATEDB_HOST": "127.0.0.1", "CRATEDB_HTTP_PORT": "14001"},
    ],
)
def test_the_server_of_production_is_never_used(
    production: dict[str, str], no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure means that tests may write to the server that the project's data is on."""
    for name, value in production.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TEST_CRATEDB_URL", "crate://LOCALHOST:14001")
    with pytest.raises(RuntimeError, match="to which tests never write"):
        find_server()


def test_a_setting_that_leads_nowhere_is_an_error(
    no_settings: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A failure means that a mistyped setting skips the tests, and the run is green."""
    monkeypatch.setenv("CRATEDB_HOME", str(tmp_path))
    with pytest.raises(RuntimeError, match="there is no bin/crate in that folder"):
        find_server()
    monkeypatch.setenv("TEST_CRATEDB_URL", "localhost:4200")
    with pytest.raises(RuntimeError, match="TEST_CRATEDB_URL must look like crate://"):
        find_server()


def test_without_any_setting_there_is_no_server_but_a_reason(
    no_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure means that skipped tests do not say why, or run on a server nobody offered."""
    monkeypatch.setenv("CRATEDB_URL", "crate://someone@production.test:4200")
    monkeypatch.setattr(cratedb_server, "_docker_server", lambda started: (None, "no Docker here"))
    server, line = find_server()
    assert server is None
    assert line == "There is no CrateDB: TEST_CRATEDB_URL and CRATEDB_HOME are not set, and no Docker here."
