"""A month that lands and is published while its client or its server is killed, or beside another run of it.

A `Tap` stands between the command and CrateDB, reads both protocols, names each statement that writes, and strikes at
the one it is told to. The command is a process of its own: it lands a file, then runs dbt once. After each strike the
same command runs again, with nothing done by hand, and everything it leaves must be what a run without a strike leaves.
"""

import hashlib
import json
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import pytest

from prefect_flows.fetch import fetch
from prefect_flows.land import land
from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings, load_settings
from prefect_flows.transform import failures, run_dbt
from prefect_flows.warehouses import open_warehouse
from tests.cratedb_server import CrateServer, LocalCluster, LocalCrate

pytestmark = pytest.mark.cratedb

MONTH, OTHER_MONTH = "2021-02", "2021-03"
SCHEMA, RAW = "crash_main", "crash_raw"
SECONDS = 120  # for one command


# --- the command, in a process of its own


def command(environment: dict[str, str], file: str | None, months: Sequence[str], output: str, tests: bool) -> None:
    """Land the file as the month, if there is one, and run dbt; the exit code and the last line say what failed.

    The forty data tests write nothing and take most of the time: without them dbt runs on an analyst's target, whose
    models may be published ungated.
    """
    os.environ.update(environment)
    log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    Settings.model_config["env_file"] = None
    from dbt.cli.main import dbtRunner

    settings = load_settings()
    if file:
        with open_warehouse(settings) as warehouse:
            source = fetch(file, Path(file).parent)
            land(warehouse, source, months[0], max_reject_share=0.01, keep_loads=1)

    def invoke(arguments: list[str]) -> Any:
        if not tests:
            arguments = ["dev" if text == "cratedb" else text for text in arguments]
            arguments += ["--exclude-resource-type", "test"]
        return dbtRunner().invoke([*arguments, "--no-write-json"])

    said = failures(run_dbt(invoke, settings, months))
    print(said)
    sys.stdout.flush()
    sys.exit(bool(said))


# Importing dbt takes longer than running it: it is imported once, and each command is forked off.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["dbt.cli.main", "dbt.adapters.cratedb", __name__])


@dataclass
class Command:
    """A command that runs."""

    process: Any
    output: Path

    def wait(self) -> int:
        self.process.join(SECONDS)
        assert self.process.exitcode is not None, f"still runs after {SECONDS} s:\n{self.said}"
        return int(self.process.exitcode)

    def signal(self, which: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.kill(self.process.pid, which)

    @property
    def said(self) -> str:
        return self.output.read_text() if self.output.exists() else ""


# --- the tap


_SESSION = re.compile(r"\s*set\s+session\s[^;]*;\s*", re.IGNORECASE)
_WRITES = re.compile(r"\s*(insert|update|delete|refresh|create|alter|kill|drop|optimize)\b", re.IGNORECASE)


def label(sql: str) -> str:
    """A statement's name, the same in every run: what it does to which table; empty where it writes nothing."""
    bare = sql[found.end() :] if (found := _SESSION.match(sql)) else sql
    bare = " ".join(bare.replace('"', "").lower().split())
    if not (verb := _WRITES.match(bare)):
        table = re.match(r"select \*, _seq_no.* from \w+\.(publications) where model = '(\w+)'", bare)
        return f"select {table[1]} {table[2]}" if table else ""
    table = re.search(r"\b(?:into|update|from|table|exists|view) (?:\w+\.)+(\w+)", bare)
    words = [verb[1], table[1] if table else ""]
    if words[1] == "publications":
        words += re.findall(r"(?<=model = ')\w+|(?<=values \(')\w+|(?<=\bstate = ')\w+", bare)
    elif verb[1] == "insert":
        words.append("first row" if " values (" in bare else "rows")
    return " ".join(filter(None, words))


def writes(name: str) -> bool:
    return bool(name) and not name.startswith("select")


When = Literal["before", "running", "answered"]


@dataclass
class Strike:
    """What happens at one statement.

    `at` is its label and how often it came, as in `delete trip_data #2`. `when` is `before` it is passed on, as soon
    as it is passed on (`running`), or when the server has `answered` and the client has not heard of it. `breaks`
    says that the connection ends there; otherwise all goes on when `what` comes back.
    """

    at: str
    when: When
    what: Callable[[], None]
    breaks: bool = True
    struck: threading.Event = field(default_factory=threading.Event)


class Tap:
    """Two ports that lead to the server's two, and what is said over them."""

    def __init__(self, server: CrateServer) -> None:
        if server.tls:
            pytest.skip("a server that speaks TLS cannot be listened to")
        self._server = server
        self._lock = threading.Lock()
        self._strike: Strike | None = None
        self._rewrite: tuple[str, str] | None = None
        self._seen: Counter[str] = Counter()
        self.written: list[str] = []
        self._listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
        for listener, port, kind in zip(
            self._listeners, (server.http_port, server.pg_port), (_Http, _Postgres), strict=True
        ):
            threading.Thread(target=self._serve, args=(listener, port, kind), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for listener in self._listeners:
            listener.close()

    @property
    def server(self) -> CrateServer:
        """The server, as one that speaks through the tap sees it."""
        http_port, pg_port = (listener.getsockname()[1] for listener in self._listeners)
        return replace(self._server, host="127.0.0.1", http_port=http_port, pg_port=pg_port)

    def set(self, strike: Strike | None = None, rewrite: tuple[str, str] | None = None) -> None:
        """Listen anew; with `rewrite`, put one text for another in the statements that are passed on."""
        with self._lock:
            self._strike, self._rewrite = strike, rewrite
            self._seen.clear()
            self.written = []

    def heard(self, sql: str) -> Strike | None:
        """Note a statement; gives the strike that is meant for it."""
        name = label(sql)
        if not name:
            return None
        with self._lock:
            self._seen[name] += 1
            numbered = f"{name} #{self._seen[name]}"
            if writes(name):
                self.written.append(numbered)
            if self._strike and self._strike.at == numbered and not self._strike.struck.is_set():
                return self._strike
        return None

    def passed_on(self, message: bytes) -> bytes:
        if self._rewrite:
            old, new = (text.encode() for text in self._rewrite)
            if old in message:
                body = message[5:].replace(old, new)
                return message[:1] + (len(body) + 4).to_bytes(4, "big") + body
        return message

    def _serve(self, listener: socket.socket, port: int, kind: "type[_Connection]") -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection((self._server.host, port))
            except OSError:
                client.close()
                continue
            connection = kind(self, client, server)
            for end in (client, server):
                # Without it, every statement waits for the delayed acknowledgement of the one before.
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pump in (connection.up, connection.down):
                threading.Thread(target=pump, daemon=True).start()


class _Connection:
    """One connection through the tap; `up` and `down` are a thread each."""

    def __init__(self, tap: Tap, client: socket.socket, server: socket.socket) -> None:
        self.tap, self.client, self.server = tap, client, server
        self.due: Strike | None = None
        self.striking = threading.Lock()

    def up(self) -> None:
        with suppress(OSError), self.client.makefile("rb") as stream:
            for message, sql in self.messages(stream):
                strike = self.tap.heard(sql) if sql else None
                if strike and strike.when == "before" and self._strikes(strike):
                    break
                if strike and strike.when == "answered":
                    self.due = strike
                self.server.sendall(self.tap.passed_on(message) if sql else message)
                if strike and strike.when == "running" and self._strikes(strike):
                    break
        self._end()

    def down(self) -> None:
        with suppress(OSError), self.server.makefile("rb") as stream:
            for message, is_last in self.answers(stream):
                if self.due and is_last:
                    due, self.due = self.due, None
                    if self._strikes(due):
                        break
                self.client.sendall(message)
        self._end()

    def _strikes(self, strike: Strike) -> bool:
        with self.striking:
            strike.struck.set()
            strike.what()
        return strike.breaks

    def _end(self) -> None:
        with self.striking:
            for end in (self.client, self.server):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def messages(self, stream: Any) -> Iterator[tuple[bytes, str]]:
        """What the client sends: whole messages, each with the SQL that is in it."""
        raise NotImplementedError

    def answers(self, stream: Any) -> Iterator[tuple[bytes, bool]]:
        """What the server sends, and whether an answer is complete with it."""
        raise NotImplementedError


class _Http(_Connection):
    def messages(self, stream: Any) -> Iterator[tuple[bytes, str]]:
        while head := self._head(stream):
            length = re.search(rb"(?im)^content-length: *(\d+)", head)
            body = stream.read(int(length[1])) if length else b""
            yield head + body, json.loads(body)["stmt"] if b"/_sql" in head.split(b"\r\n")[0] and body else ""

    @staticmethod
    def _head(stream: Any) -> bytes:
        lines = []
        while (line := stream.readline()) not in (b"\r\n", b""):
            lines.append(line)
        return b"".join([*lines, line]) if lines else b""

    def answers(self, stream: Any) -> Iterator[tuple[bytes, bool]]:
        # CrateDB begins to answer when the statement is done.
        while data := stream.read1(65536):
            yield data, True


class _Postgres(_Connection):
    def messages(self, stream: Any) -> Iterator[tuple[bytes, str]]:
        # The first message has no type; TLS is not asked for.
        yield self._sized(stream, b""), ""
        while kind := stream.read(1):
            message = self._sized(stream, kind)
            texts = message[5:].split(b"\0")
            yield message, (texts[0] if kind == b"Q" else texts[1] if kind == b"P" else b"").decode()

    def answers(self, stream: Any) -> Iterator[tuple[bytes, bool]]:
        while kind := stream.read(1):
            # ReadyForQuery: a message may hold several statements, each with an answer of its own.
            yield self._sized(stream, kind), kind == b"Z"

    @staticmethod
    def _sized(stream: Any, kind: bytes) -> bytes:
        size = stream.read(4)
        return kind + size + stream.read(int.from_bytes(size, "big") - 4)


# --- a place to run commands in, and what they leave there


@dataclass
class Place:
    """A server, a tap before it, and the folder of the test."""

    server: CrateServer
    tap: Tap
    folder: Path
    local: LocalCrate | None = None
    more: dict[str, str] = field(default_factory=dict)  # settings of the commands
    started: int = 0

    def start(
        self,
        file: Path | None,
        months: Sequence[str] = (MONTH,),
        *,
        tapped: bool = False,
        tests: bool = False,
    ) -> Command:
        """Start the command; through the tap, or straight to the server."""
        self.started += 1
        server = self.tap.server if tapped else self.server
        environment = (
            server.environment(SCHEMA, RAW)
            | self.more
            | {
                "CRATEDB_SSLMODE": "disable",
                "TAXI_DEV_SCHEMA": SCHEMA,
                # Whatever is read from the environment makes dbt parse everything anew, which takes seconds; two that
                # run at once must not share one.
                "DBT_TARGET_PATH": str(self.folder / ("tapped" if tapped else "straight")),
            }
        )
        output = self.folder / f"{self.started}.log"
        process = _PROCESSES.Process(
            target=command, args=(environment, file and str(file), months, str(output), tests), daemon=True
        )
        process.start()
        return Command(process, output)

    def run(self, file: Path | None, months: Sequence[str] = (MONTH,), *, tapped: bool = False) -> None:
        """Run the command to its good end."""
        ran = self.start(file, months, tapped=tapped)
        assert ran.wait() == 0, ran.said

    def clear(self) -> None:
        self.server.drop_schemas(SCHEMA, f"{SCHEMA}_test_failures", RAW)
        self.tap.set()

    def struck(self, file: Path, at: str, when: When, who: Literal["client", "server"]) -> None:
        """Run the command through the tap, and kill the one or the other at a statement; the server runs again
        afterwards."""
        running: list[Command] = []
        started = threading.Event()

        def kill() -> None:
            assert started.wait(10)
            if who == "client":
                running[0].signal(signal.SIGKILL)
            else:
                assert self.local
                self.local.kill()

        strike = Strike(at, when, kill)
        self.tap.set(strike)
        running.append(self.start(file, tapped=True))
        started.set()
        code = running[0].wait()
        assert strike.struck.is_set(), f"no statement {at!r}: {self.tap.written}\n{running[0].said}"
        assert code == (-signal.SIGKILL if who == "client" else 1), running[0].said
        if who == "server":
            assert self.local
            self.local.start()

    @contextmanager
    def paused(
        self, file: Path, at: str, when: When = "answered", months: Sequence[str] = (MONTH,)
    ) -> Iterator[Command]:
        """Run the command through the tap up to a statement, and from there to its end after the block."""
        running: list[Command] = []
        started, resumed = threading.Event(), threading.Event()

        def pause() -> None:
            assert started.wait(10)
            running[0].signal(signal.SIGSTOP)
            # What is not passed on now must not be passed on before the block has ended.
            assert resumed.wait(SECONDS)

        strike = Strike(at, when, pause, breaks=False)
        self.tap.set(strike)
        running.append(self.start(file, months, tapped=True))
        started.set()
        try:
            assert strike.struck.wait(SECONDS), f"no statement {at!r}: {self.tap.written}\n{running[0].said}"
            yield running[0]
        finally:
            resumed.set()
            running[0].signal(signal.SIGCONT)
            running[0].process.join(SECONDS)

    def readers_see(self) -> dict[str, int]:
        """The rows in `trip_data`, by load."""
        try:
            return dict(self.server.sql(f"SELECT load_id, count(*) FROM {SCHEMA}.trip_data GROUP BY 1 ORDER BY 1"))
        except RuntimeError as error:
            assert "unknown" in str(error)
            return {}

    def holder(self) -> str:
        """The run that writes the month."""
        [[run]] = self.server.sql(f"SELECT taken_by FROM {SCHEMA}.publications WHERE model = 'trip_data'")
        return str(run)

    def picture(self) -> dict[str, Any]:
        """All that a run leaves, as far as it does not differ from run to run."""
        sql = self.server.sql
        seen = {name: self._digest(*name.split(".")) for name in _HASHED}
        # What was written but not shown is shown now: it must not be there either.
        for name in _HASHED:
            sql(f"REFRESH TABLE {name}")
        refreshed = {name: self._digest(*name.split(".")) for name in _HASHED}
        assert seen == refreshed, "there are rows that nobody has refreshed yet"
        builds = sql(f"SELECT file_month, build_id FROM {SCHEMA}.trip_data GROUP BY 1, 2 ORDER BY 1")
        assert builds == sql(f"SELECT part, build_id FROM {SCHEMA}.publications WHERE model = 'trip_data' ORDER BY 1")
        return {
            "rows": seen,
            "tables": sql(
                "SELECT table_schema, table_name, table_type FROM information_schema.tables"
                " WHERE table_schema IN (?, ?) ORDER BY 1, 2",
                [SCHEMA, RAW],
            ),
            "partitions": sql(
                'SELECT table_schema, table_name, "values", number_of_shards, number_of_replicas'
                " FROM information_schema.table_partitions WHERE table_schema IN (?, ?) ORDER BY 1, 2, partition_ident",
                [SCHEMA, RAW],
            ),
            "publications": sql(
                "SELECT model, part, file_month, load_id, row_count, state, taken_by, next_load_id, next_rules,"
                f" next_build_id, next_rows, refused_load_id, failed_tests FROM {SCHEMA}.publications ORDER BY 1, 2"
            ),
            "loads": sql(
                "SELECT load_id, file_month, sha256, rows_read, rows_landed, rows_rejected, status, error"
                f" FROM {RAW}.loads ORDER BY started_at"
            ),
            "statements": sql(
                "SELECT stmt FROM sys.jobs WHERE stmt NOT LIKE '%sys.jobs%' AND (stmt LIKE ? OR stmt LIKE ?)",
                [f"%{SCHEMA}%", f"%{RAW}%"],
            ),
        }

    def _digest(self, schema: str, table: str) -> tuple[int, str]:
        """How many rows there are, and a hash over all of them but `build_id`."""
        names = [
            name
            for [name] in self.server.sql(
                "SELECT column_name FROM information_schema.columns WHERE table_schema = ? AND table_name = ?"
                " AND column_name != 'build_id' ORDER BY 1",
                [schema, table],
            )
        ]
        rows = self.server.sql(f"SELECT {', '.join(names)} FROM {schema}.{table} LIMIT 100000")
        texts = sorted(json.dumps(row) for row in rows)
        return len(texts), hashlib.sha256("\n".join(texts).encode()).hexdigest()


_HASHED = [
    f"{SCHEMA}.trip_data",
    f"{SCHEMA}.stg_wrong_values",
    f"{RAW}.yellow_trips",
    f"{RAW}.rejected_rows",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A first and a second version of the month's file and another month's, each with a value that does not cast; a
    version of which every value casts."""
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for name, month, seed in (
        ("first", MONTH, 1),
        ("second", MONTH, 2),
        ("other", OTHER_MONTH, 3),
        ("sound", MONTH, 4),
    ):
        path = folder / name / f"yellow_tripdata_{month}.csv"
        write_sample(path, month, rows=1_200 + seed, broken=3, seed=seed)
        made[name] = path
        if name == "sound":
            continue
        lines = path.read_bytes().split(b"\n")
        fields = lines[2].split(b",")
        fields[4] = b"far"
        lines[2] = b",".join(fields)
        path.write_bytes(b"\n".join(lines))
    return made


@pytest.fixture(scope="module")
def any_server(cratedb: CrateServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The server of all tests: nothing here kills it."""
    with Tap(cratedb) as tap:
        place = Place(cratedb, tap, tmp_path_factory.mktemp("client"))
        yield place
        place.clear()


@pytest.fixture(scope="module")
def own_server(cratedb_home: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """A server that may be killed."""
    with LocalCrate(cratedb_home, heap="512m") as local, Tap(local.server) as tap:
        yield Place(local.server, tap, tmp_path_factory.mktemp("server"), local)


# --- part 1: struck, then run again


Scenario = Literal["new", "replaced"]


@dataclass(frozen=True)
class Clean:
    """What a run without a strike writes, in order, and what it leaves."""

    written: list[str]
    picture: dict[str, Any]


def prepare(place: Place, files: dict[str, Path], scenario: Scenario) -> None:
    """A month that nobody has seen yet, or one of which the first version is published."""
    place.clear()
    if scenario == "replaced":
        place.run(files["first"])


_clean: dict[str, Clean] = {}


def clean(place: Place, files: dict[str, Path], scenario: Scenario) -> Clean:
    if scenario not in _clean:
        prepare(place, files, scenario)
        place.tap.set()
        place.run(files["second"], tapped=True)
        _clean[scenario] = Clean(place.tap.written, place.picture())
        print(f"\n{scenario}: {len(place.tap.written)} statements write: {', '.join(place.tap.written)}")
    return _clean[scenario]


def is_set_right_after(
    place: Place, files: dict[str, Path], scenario: Scenario, at: str, when: When, who: Literal["client", "server"]
) -> None:
    """Kill client or server at a statement, run the command again, and compare."""
    expected = clean(place, files, scenario)
    prepare(place, files, scenario)
    before = place.readers_see()
    place.struck(files["second"], at, when, who)
    seen = place.readers_see()
    print(f"\n{scenario}, {who} killed, {at} {when}: readers see {seen}")
    if who == "client":
        assert seen in ([before, {}] if scenario == "new" else [before]) or len(seen) == 1, seen
        assert sum(seen.values()) in (sum(before.values()), expected.picture["rows"][f"{SCHEMA}.trip_data"][0])
    place.run(files["second"])
    assert place.picture() == expected.picture


@pytest.mark.parametrize(
    ("scenario", "at"),
    [
        pytest.param("new", "insert yellow_trips rows #1", marks=pytest.mark.slow),
        pytest.param("new", "insert trip_data rows #1", marks=pytest.mark.thorough),
        ("replaced", "update publications swapping trip_data #1"),
        pytest.param("replaced", "delete trip_data #1", marks=pytest.mark.slow),
        pytest.param("replaced", "refresh trip_data #1", marks=pytest.mark.slow),
    ],
)
def test_client_killed(any_server: Place, files: dict[str, Path], scenario: Scenario, at: str) -> None:
    """A failure means that a run which was killed leaves a month doubled, torn or stuck."""
    is_set_right_after(any_server, files, scenario, at, "answered", "client")


def test_run_of_another_month_heals_what_a_dead_one_left(any_server: Place, files: dict[str, Path]) -> None:
    """A failure means that rows of a dead run wait, unseen, to double the month at the next refresh of its table."""
    prepare(any_server, files, "replaced")
    before = any_server.readers_see()
    any_server.struck(files["second"], "insert trip_data rows #1", "answered", "client")
    assert any_server.readers_see() == before
    any_server.run(files["other"], (OTHER_MONTH,))
    state = f"SELECT state, taken_by FROM {SCHEMA}.publications WHERE model = 'trip_data' AND part = ?"
    assert any_server.server.sql(state, [MONTH]) == [["untested", None]]
    any_server.picture()
    [[load]] = any_server.server.sql(
        f"SELECT load_id FROM {SCHEMA}.trip_data WHERE file_month = '{MONTH}' GROUP BY load_id"
    )
    assert before == {load: any_server.readers_see()[load]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "at", "when"),
    [
        ("replaced", "insert trip_data rows #1", "answered"),
        ("replaced", "delete trip_data #1", "running"),
    ],
)
def test_server_killed(own_server: Place, files: dict[str, Path], scenario: Scenario, at: str, when: When) -> None:
    """A failure means that a server which was killed leaves a month doubled, torn or stuck."""
    is_set_right_after(own_server, files, scenario, at, when, "server")


def sweep(
    place: Place,
    files: dict[str, Path],
    scenario: Scenario,
    cuts: Sequence[tuple[str, When]],
    who: Literal["client", "server"],
) -> None:
    wrong = {}
    for at, when in cuts:
        try:
            is_set_right_after(place, files, scenario, at, when, who)
        except (AssertionError, RuntimeError) as error:
            wrong[f"{at} {when}"] = str(error)
            print(f"  WRONG: {error}")
    print(f"\n{scenario}, {who} killed: {len(cuts)} strikes, {len(wrong)} wrong")
    assert not wrong, "\n\n".join(f"{cut}: {what}" for cut, what in wrong.items())


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", ["new", "replaced"])
def test_client_killed_at_every_statement(any_server: Place, files: dict[str, Path], scenario: Scenario) -> None:
    """A failure means the same, at the statements that it lists."""
    written = clean(any_server, files, scenario).written
    sweep(any_server, files, scenario, [(at, "answered") for at in written], "client")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("scenario", ["new", "replaced"])
def test_server_killed_at_many_statements(own_server: Place, files: dict[str, Path], scenario: Scenario) -> None:
    """A failure means the same; what tables and views are made of is left to the client's sweep."""
    written = [at for at in clean(own_server, files, scenario).written if re.match("insert|update|delete", at)]
    cuts: list[tuple[str, When]] = [(at, "answered") for at in written if "loads" not in at]
    cuts += [(at, "running") for at in written if re.match(r"(insert|delete) (trip_data|yellow_trips)", at)]
    sweep(own_server, files, scenario, cuts, "server")


@pytest.mark.slow
def test_insert_that_outlives_its_client(any_server: Place, files: dict[str, Path]) -> None:
    """A failure means that the rows of a dead run come in behind the clean-up."""
    expected = clean(any_server, files, "replaced")
    prepare(any_server, files, "replaced")
    slow = (
        ") as trips where load_id",
        ") as trips where (select count(*) from generate_series(1, 200000000)) > 0 and load_id",
    )
    running: list[Command] = []
    strike = Strike("insert trip_data rows #1", "running", lambda: running[0].signal(signal.SIGKILL))
    any_server.tap.set(strike, slow)
    running.append(any_server.start(files["second"], tapped=True))
    assert running[0].wait() == -signal.SIGKILL
    jobs = "SELECT count(*) FROM sys.jobs WHERE stmt LIKE '%generate_series(1, 2000%' AND stmt NOT LIKE '%sys.jobs%'"
    assert any_server.server.sql(jobs) == [[1]]
    any_server.run(files["second"])
    assert any_server.server.sql(jobs) == [[0]]
    assert any_server.picture() == expected.picture


# --- part 2: two at once


@pytest.mark.thorough
@pytest.mark.parametrize(
    "at",
    [
        pytest.param("insert trip_data rows #1", marks=pytest.mark.slow),
        "update publications swapping trip_data #1",
        pytest.param("delete trip_data #1", marks=pytest.mark.slow),
    ],
)
def test_month_that_another_run_publishes_is_left_to_it(any_server: Place, files: dict[str, Path], at: str) -> None:
    """A failure means that two runs write one month, or that the second does not say what it waits for."""
    expected = clean(any_server, files, "replaced")
    prepare(any_server, files, "replaced")
    with any_server.paused(files["second"], at) as first:
        holder = any_server.holder()
        second = any_server.start(files["second"])
        assert second.wait() == 1
        assert f"{MONTH} by run {holder} is being published" in " ".join(second.said.split())
    assert first.wait() == 0, first.said
    assert any_server.picture() == expected.picture


@pytest.mark.slow
def test_run_that_looked_before_another_published_leaves_the_month_to_it(
    any_server: Place, files: dict[str, Path]
) -> None:
    """A failure means that two runs which look at the same moment both write the month."""
    expected = clean(any_server, files, "replaced")
    prepare(any_server, files, "replaced")
    with any_server.paused(files["second"], "select publications trip_data #1") as first:
        any_server.run(files["second"])
    assert first.wait() == 1
    assert f"{MONTH} by run that has just ended" in " ".join(first.said.split())
    assert any_server.picture() == expected.picture


@pytest.mark.slow
def test_plain_dbt_build_beside_a_run(any_server: Place, files: dict[str, Path]) -> None:
    """A failure means that an analyst's `dbt build` disturbs a flow's."""
    expected = clean(any_server, files, "replaced")
    prepare(any_server, files, "replaced")
    with any_server.paused(files["second"], "insert trip_data rows #1") as first:
        second = any_server.start(None, (), tests=True)
        assert second.wait() == 1
        assert f"by run {any_server.holder()}" in " ".join(second.said.split())
    assert first.wait() == 0, first.said
    assert any_server.picture() == expected.picture


@pytest.mark.slow
def test_run_whose_client_is_gone_without_a_word_holds_its_month(any_server: Place, files: dict[str, Path]) -> None:
    """A failure means that a client which cannot be told from a slow one is taken for dead, or holds on for ever."""
    expected = clean(any_server, files, "replaced")
    prepare(any_server, files, "replaced")
    ended = threading.Event()
    running: list[Command] = []

    def kill_and_stay() -> None:
        running[0].signal(signal.SIGKILL)
        ended.wait(SECONDS)

    strike = Strike("insert trip_data rows #1", "answered", kill_and_stay)
    any_server.tap.set(strike)
    running.append(any_server.start(files["second"], tapped=True))
    running[0].wait()
    second = any_server.start(files["second"])
    assert second.wait() == 1
    assert f"by run {any_server.holder()}" in " ".join(second.said.split())
    ended.set()
    any_server.run(files["second"])
    assert any_server.picture() == expected.picture


@pytest.mark.slow
def test_load_that_was_superseded_meanwhile_is_not_published(any_server: Place, files: dict[str, Path]) -> None:
    """A failure means that a run which has looked before another run publishes what is no longer there."""
    prepare(any_server, files, "replaced")
    with any_server.paused(files["sound"], "select publications trip_data #1", "before") as first:
        any_server.run(files["second"])
        published = any_server.readers_see()
    assert any_server.readers_see() == published, first.said
    any_server.run(files["second"])
    assert any_server.readers_see() == published
    any_server.picture()


@pytest.mark.slow
def test_load_that_is_staged_meanwhile_waits_for_the_next_run(
    any_server: Place, files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure means that a run publishes what was not there yet for its gate to judge, by whatever clock."""
    prepare(any_server, files, "new")
    for name, value in any_server.server.environment(SCHEMA, RAW).items():
        monkeypatch.setenv(name, value)
    months = (MONTH, OTHER_MONTH)
    with (
        any_server.paused(files["first"], "create stg_wrong_values #1", months=months) as first,
        open_warehouse(load_settings()) as warehouse,
    ):
        source = fetch(str(files["other"]), files["other"])
        other = land(warehouse, source, OTHER_MONTH, max_reject_share=0.01, keep_loads=1).load
        warehouse.save(replace(other, status="staged", finished_at=datetime(2020, 1, 1)))
    assert first.wait() == 0, first.said
    assert len(any_server.readers_see()) == 1
    any_server.run(None, months)
    assert other.load_id in any_server.readers_see()
    assert len(any_server.readers_see()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("at", ["insert yellow_trips first row #1", "insert yellow_trips rows #1", "update loads #2"])
def test_file_that_another_run_lands(any_server: Place, files: dict[str, Path], at: str) -> None:
    """A failure means that two runs spoil each other's load."""
    expected = clean(any_server, files, "new")
    prepare(any_server, files, "new")
    with any_server.paused(files["second"], at) as first:
        second = any_server.start(files["second"])
        second.wait()
    codes = first.wait(), second.wait()
    print(f"\n{at}: {codes}\n{first.said[-300:]}\n{second.said[-300:]}")
    assert 0 in codes
    assert any_server.picture()["rows"] == expected.picture["rows"]


@pytest.mark.slow
def test_same_file_twice_at_once(any_server: Place, files: dict[str, Path]) -> None:
    expected = clean(any_server, files, "new")
    prepare(any_server, files, "new")
    both = [any_server.start(files["second"], tapped=tapped) for tapped in (True, False)]
    codes = [one.wait() for one in both]
    print(f"\n{codes}\n" + "\n".join(one.said[-300:] for one in both))
    assert 0 in codes
    assert any_server.picture()["rows"] == expected.picture["rows"]


@pytest.mark.slow
def test_two_files_of_a_month_at_once(any_server: Place, files: dict[str, Path]) -> None:
    prepare(any_server, files, "new")
    both = [any_server.start(files[name], tapped=name == "first") for name in ("first", "second")]
    codes = [one.wait() for one in both]
    print(f"\n{codes}\n" + "\n".join(one.said[-300:] for one in both))
    assert 0 in codes
    picture = any_server.picture()
    staged = [load[0] for load in picture["loads"] if load[6] == "staged"]
    assert list(any_server.readers_see()) == staged
    assert len(staged) == 1


def test_two_months_at_once(any_server: Place, files: dict[str, Path]) -> None:
    any_server.clear()
    any_server.run(files["first"])
    any_server.run(files["other"], (OTHER_MONTH,))
    expected = any_server.picture()
    any_server.clear()
    both = [
        any_server.start(files["first"], tapped=True),
        any_server.start(files["other"], (OTHER_MONTH,)),
    ]
    assert [one.wait() for one in both] == [0, 0], [one.said[-600:] for one in both]
    found = any_server.picture()
    assert found["rows"] == expected["rows"]
    assert found["partitions"] == expected["partitions"]
    assert found["publications"] == expected["publications"]


# --- part 3: beside a cluster that is at work


@contextmanager
def copy_that_starts(cluster: LocalCluster, table: str) -> Iterator[None]:
    """A copy of the table starts on the second node, which is stopped in the middle of it until the block ends."""
    whole, stopped = cluster.nodes
    ask = whole.superuser.sql
    schema, name = table.split(".")

    def has_a_copy_that_starts() -> bool:
        query = "SELECT current_state FROM sys.allocations WHERE table_schema = ? AND table_name = ?"
        return ["INITIALIZING"] in ask(query, [schema, name])

    for _ in range(20):
        ask(f"ALTER TABLE {table} SET (number_of_replicas = 0)")
        alter = f"ALTER TABLE {table} SET (number_of_replicas = 1)"
        threading.Thread(target=ask, args=(alter,), daemon=True).start()
        deadline = time.monotonic() + 2
        while not has_a_copy_that_starts() and time.monotonic() < deadline:
            pass
        assert stopped.pid
        os.kill(stopped.pid, signal.SIGSTOP)
        try:
            time.sleep(0.5)  # it may have said that it is done, just before
            if has_a_copy_that_starts():
                yield
                return
        finally:
            os.kill(stopped.pid, signal.SIGCONT)
    raise AssertionError(f"no copy of {table} was caught starting")


@pytest.fixture
def two_nodes(cratedb_home: str, tmp_path: Path) -> Iterator[tuple[LocalCluster, Place]]:
    """Two nodes, of which the first leads and holds all shards."""
    settings = {
        "cluster.initial_master_nodes": ["node-0"],
        "cluster.routing.rebalance.enable": "none",
        "cluster.fault_detection.follower_check.timeout": "120s",
    }
    cluster = LocalCluster(2, cratedb_home, settings=settings)
    whole, other = cluster.nodes
    other.settings["node.master"] = False
    with cluster, Tap(whole.server) as tap:
        whole.superuser.sql("SET GLOBAL \"cluster.routing.allocation.exclude._name\" = 'node-1'")
        yield cluster, Place(whole.server, tap, tmp_path, more={"CRATEDB_REPLICAS": "0"})


@pytest.mark.slow
@pytest.mark.parametrize("starts", [True, False], ids=["starts in time", "does not start"])
def test_publication_waits_for_a_copy_that_starts(
    two_nodes: tuple[LocalCluster, Place], files: dict[str, Path], starts: bool
) -> None:
    """A failure means that the swap runs while a copy of the month starts, which then shows a part of it."""
    cluster, place = two_nodes
    place.run(files["first"])
    before = place.readers_see()
    place.server.sql('RESET GLOBAL "cluster.routing.allocation.exclude._name"')
    copy = copy_that_starts(cluster, f"{SCHEMA}.trip_data")
    started = threading.Event()

    def start_a_copy() -> None:
        copy.__enter__()
        started.set()

    place.tap.set(Strike("update publications publishing trip_data #1", "answered", start_a_copy, breaks=False))
    running = place.start(files["second"], tapped=True)
    assert started.wait(SECONDS), running.said
    try:
        if starts:
            time.sleep(5)
            assert running.process.is_alive(), running.said
        else:
            assert running.wait() == 1
            sentence = f"Shards of trip_data are starting or moving, so {MONTH} is not published"
            assert sentence in " ".join(running.said.split())
        assert not [at for at in place.tap.written if re.match("(insert|delete|refresh) trip_data", at)]
        assert place.readers_see() == before
    finally:
        copy.__exit__(None, None, None)
    if not starts:
        cluster.wait_until_green()
        running = place.start(files["second"])
    assert running.wait() == 0, running.said
    assert len(place.readers_see()) == 1
    assert place.readers_see() != before
