"""A real CrateDB for the tests: one that is named, one started here from an installation, or one in Docker.

`crate_server` and `find_server` look in this order: `TEST_CRATEDB_URL` (with `TEST_CRATEDB_PG_PORT`),
`CRATEDB_HOME` (a folder with `bin/crate`), Docker. They give the server and a line that names it, or None and
the reason. A setting that names a server or an installation which does not work raises: a mistake is not
an absence. The server that `CRATEDB_URL` or `CRATEDB_HOST` names is never used.

`LocalCrate` and `LocalCluster` are throwaway servers for tests that kill or misconfigure one, or that need
TLS and passwords. Their data, logs and certificates are in a folder of their own under the system's temporary
folder. Process and folder are gone when the context ends, when Python ends, and even when Python is killed.
"""

import atexit
import json
import os
import pwd
import random
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

import httpx

DOCKER_IMAGE = "crate:6.4.3"
DEFAULT_HEAP = "1g"
START_TIMEOUT = 90.0  # seconds; a start takes about four

_LOG4J2 = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d{ISO8601}][%-5p][%c{1.}] %marker%m%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
"""

# Reads the server's process id whenever it changes (an empty line: none runs). End of input means that the
# Python that started the server is gone without having cleaned up.
_WATCHDOG = """
while read -r line; do pid=$line; done
[ -z "$pid" ] || { kill -9 "$pid"; sleep 1; }
rm -rf "$1"
"""


# --- a server to talk to


@dataclass(frozen=True)
class CrateServer:
    """Where a CrateDB is and how to log in to it; nothing here starts or ends it."""

    host: str
    http_port: int
    pg_port: int
    user: str = "crate"
    password: str = field(default="", repr=False)
    version: str = ""
    origin: str = "CRATEDB_HOME"  # or TEST_CRATEDB_URL, docker
    tls: bool = False
    ca_file: Path | None = None  # PEM; None: the authorities that the machine trusts

    @property
    def address(self) -> str:
        """`host:port` of the HTTP port, without the login."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.http_port}"

    @property
    def url(self) -> str:
        """The server as `crate://user:password@host:port`, with `?ssl=true` where it speaks TLS."""
        login = quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")
        return f"crate://{login}@{self.address}" + ("?ssl=true" if self.tls else "")

    def environment(self, schema: str, raw_schema: str) -> dict[str, str]:
        """The project's settings that make it use this server and these two schemas.

        `CRATEDB_URL` is among them, because one from a `.env` file would decide over the single settings.
        """
        environment = {
            "TAXI_TARGET": "cratedb",
            "CRATEDB_URL": self.url,
            "CRATEDB_HOST": self.host,
            "CRATEDB_HTTP_PORT": str(self.http_port),
            "CRATEDB_PG_PORT": str(self.pg_port),
            "CRATEDB_USER": self.user,
            "CRATEDB_PASSWORD": self.password,
            "CRATEDB_SSLMODE": "require" if self.tls else "prefer",
            "CRATEDB_SCHEMA": schema,
            "TAXI_RAW_SCHEMA": raw_schema,
        }
        if self.ca_file:
            environment |= {"CRATEDB_SSLMODE": "verify-full", "CRATEDB_SSLROOTCERT": str(self.ca_file)}
        return environment

    def sql(self, stmt: str, args: Sequence[Any] | None = None, timeout: float = 120.0) -> list[list[Any]]:
        """Run one statement over HTTP and return its rows; over TLS the server's certificate is verified.

        Raises:
            RuntimeError: the server refused the statement or the login; holds the server's message.
            httpx.TransportError: no answer, or a certificate that is not trusted.
        """
        response = httpx.post(
            f"{'https' if self.tls else 'http'}://{self.address}/_sql",
            json={"stmt": stmt} if args is None else {"stmt": stmt, "args": list(args)},
            auth=(self.user, self.password),
            timeout=timeout,
            verify=ssl.create_default_context(cafile=self.ca_file) if self.tls else True,
            trust_env=self.origin == "TEST_CRATEDB_URL",  # a proxy cannot reach this machine's loopback
        )
        try:
            answer = response.json()
        except ValueError:
            raise RuntimeError(f"HTTP status {response.status_code}: {response.text.strip()}") from None
        if "rows" not in answer:
            error = answer.get("error") or answer
            raise RuntimeError(str(error.get("message", error) if isinstance(error, dict) else error))
        rows: list[list[Any]] = answer["rows"]
        return rows

    def drop_schemas(self, *names: str) -> None:
        """Drop every view and then every table in the schemas `names`; one that does not exist is fine."""
        kinds = {"VIEW": "VIEW", "BASE TABLE": "TABLE", "FOREIGN": "FOREIGN TABLE"}
        query = "SELECT table_type, table_schema, table_name FROM information_schema.tables"
        found = self.sql(f"{query} WHERE table_schema = ANY(?)", [list(names)])
        for kind, schema, name in sorted(found, key=lambda row: list(kinds).index(row[0])):
            self.sql(f"DROP {kinds[kind]} IF EXISTS {_quoted(schema)}.{_quoted(name)}")


def _quoted(identifier: str) -> str:
    return '"' + identifier.replace('"', '""') + '"'


# --- throwaway servers from an installation


class LocalCrate:
    """One CrateDB node on loopback, started from an installation, with its data in a temporary folder.

    As a context manager it starts on entry; on exit process and folder are gone (`close`).
    """

    def __init__(
        self,
        home: str | Path | None = None,
        *,
        heap: str = DEFAULT_HEAP,
        settings: Mapping[str, Any] | None = None,
        login: tuple[str, str] | None = None,
        tls: bool = False,
    ) -> None:
        """Prepare the node; it does not run yet.

        Args:
            home: the installation; `CRATEDB_HOME` where none is given.
            heap: the Java heap, as in `256m`. It and `settings` may be changed between two starts.
            settings: CrateDB settings by their flat names, beside or instead of those set here; None removes.
            login: a user and its password, created at the first start. It may read, write and create tables,
                and must give the password on both ports; the superuser `crate` is trusted on loopback.
            tls: speak HTTPS, and offer TLS on the PostgreSQL port (to require it there, set `ssl: on` in
                `auth.host_based.config`); the certificate is for localhost and 127.0.0.1, by `ca_file`.
        """
        self.home = _installation(home)
        self.heap = heap
        self.settings = dict(settings or {})
        self.login = login
        self.tls = tls
        self.http_port, self.pg_port, self.transport_port = _free_ports(3)
        self._account = _unprivileged_account()
        self._version = ""
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="cratedb-test-"))
        atexit.register(self.close)

        self.conf = self.folder / "conf"
        self.data = self.folder / "data"
        self.log_file = self.folder / "server.log"
        for folder in (self.conf, self.data, self.folder / "logs"):
            folder.mkdir()
        self._defaults: dict[str, Any] = {
            "cluster.name": f"test-{secrets.token_hex(4)}",
            "node.name": "node-0",
            "network.host": "127.0.0.1",
            "http.port": self.http_port,
            "psql.port": self.pg_port,
            "transport.tcp.port": self.transport_port,
            "discovery.type": "single-node",
            "path.data": str(self.data),
            "path.logs": str(self.folder / "logs"),
            "udc.enabled": False,
            # A nearly full disk of the machine that runs the tests is not what they are about.
            "cluster.routing.allocation.disk.threshold_enabled": False,
            "auth.host_based.enabled": True,
            "auth.host_based.config": {
                "0": {"user": "crate", "address": "_local_", "method": "trust"},
                "99": {"method": "password"},
            },
        }
        if tls:
            keystore_password = secrets.token_hex(16)
            _write_certificates(self.conf, keystore_password)
            self._defaults |= {
                "ssl.http.enabled": True,
                "ssl.psql.enabled": True,
                "ssl.keystore_filepath": str(self.conf / "keystore.p12"),
                "ssl.keystore_password": keystore_password,
                "ssl.keystore_key_password": keystore_password,
            }

    @property
    def superuser(self) -> CrateServer:
        """The server as `crate` sees it."""
        return CrateServer(
            host="localhost" if self.tls else "127.0.0.1",
            http_port=self.http_port,
            pg_port=self.pg_port,
            version=self._version,
            tls=self.tls,
            ca_file=self.ca_file,
        )

    @property
    def server(self) -> CrateServer:
        """The server as the user of `login` sees it, or as `crate` does where there is none."""
        user, password = self.login or ("crate", "")
        return replace(self.superuser, user=user, password=password)

    @property
    def ca_file(self) -> Path | None:
        """The authority that signed the server's certificate (PEM); None without TLS."""
        return self.conf / "ca.pem" if self.tls else None

    @property
    def wrong_ca_file(self) -> Path | None:
        """An authority of the same name that did not sign it (PEM); None without TLS."""
        return self.conf / "wrong_ca.pem" if self.tls else None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def start(self, wait: bool = True) -> Self:
        """Start the server on its data and ports; unless `wait` is false, return when it is ready.

        Raises:
            RuntimeError: it runs already, or it does not start; holds the end of its log.
        """
        if self.pid:
            raise RuntimeError("This CrateDB runs already.")
        self.kill()  # forget a process that ended by itself
        self._write_configuration()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CRATE")}
        environment |= {
            "CRATE_HEAP_SIZE": self.heap,
            "CRATE_DISABLE_GC_LOGGING": "1",
            "CRATE_HEAP_DUMP_PATH": str(self.folder),
            "HOME": str(self.folder),
        }
        account: dict[str, Any] = {}
        if self._account:
            account = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": []}
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            # Its own session: a Ctrl-C at the terminal is for the tests, which then end the server.
            self._process = subprocess.Popen(
                [self.home / "bin" / "crate", f"-Cpath.conf={self.conf}"],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **account,
            )
        self._tell_watchdog(str(self._process.pid))
        if wait:
            self.wait_until_ready()
        return self

    def wait_until_ready(self, timeout: float = START_TIMEOUT) -> None:
        """Wait until the server answers, has a master and has started every primary shard; create `login`.

        Raises:
            RuntimeError: the server ended, or is not ready in time and is killed; holds the log's end.
        """
        deadline = time.monotonic() + timeout
        last: object = "no answer"
        ask = self.superuser.sql
        while self.pid and time.monotonic() < deadline:
            try:
                [[name]] = ask("SELECT name FROM sys.cluster", timeout=10)
                [[health, why]] = ask("SELECT health, description FROM sys.cluster_health", timeout=10)
                # CrateDB is only YELLOW while it has not yet read from disk which tables there are.
                healthy = health != "RED" and "not recovered" not in why and "no master" not in why
                if healthy and name == self._configuration["cluster.name"]:
                    self._version = _version_of(self.superuser)
                    self._create_login()
                    return
                last = f"cluster {name} is {health}: {why}"
            except (httpx.TransportError, RuntimeError) as error:
                last = error
            time.sleep(0.1)
        if self.pid:
            what = f"was not ready after {timeout:g} seconds ({last})"
        else:
            what = f"ended with status {self._process.returncode if self._process else 'unknown'}"
        self.kill()
        raise RuntimeError(f"CrateDB {what}. The end of its log:\n{self.log_tail()}")

    def kill(self) -> None:
        """End the server at once (SIGKILL); its data stays. Fine when it does not run."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._tell_watchdog("")

    def stop(self, timeout: float = 30.0) -> None:
        """End the server in an orderly way (SIGTERM), after `timeout` seconds by force; its data stays."""
        if self._process:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout)
            self.kill()

    def restart(self) -> None:
        """Stop the server, if it runs, and start it on the same data and ports; return when it is ready."""
        self.stop()
        self.start()

    def close(self) -> None:
        """End the server at once and remove its folder. Cannot be undone; may be repeated."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        atexit.unregister(self.close)

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that the server has written since its latest start."""
        with self.log_file.open("rb") as log:
            log.seek(self._log_start)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    def __enter__(self) -> Self:
        """Start the server."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        """End the server and remove its folder."""
        self.close()

    @property
    def _configuration(self) -> dict[str, Any]:
        given = self._defaults | self.settings
        return {name: value for name, value in given.items() if value is not None}

    def _write_configuration(self) -> None:
        # JSON is YAML too. Not as arguments: bin/crate lets the shell evaluate those once more, and every
        # user of the machine can read them.
        (self.conf / "crate.yml").write_text(json.dumps(self._configuration, indent=1))
        (self.conf / "log4j2.properties").write_text(_LOG4J2)
        if self._account:
            for path in (self.folder, *self.folder.iterdir(), *self.conf.iterdir()):
                os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _create_login(self) -> None:
        if not self.login:
            return
        user, password = self.login
        if not self.superuser.sql("SELECT 1 FROM sys.users WHERE name = ?", [user]):
            # As an argument, the password is not in sys.jobs_log.
            self.superuser.sql(f"CREATE USER {_quoted(user)} WITH (password = ?)", [password])
            self.superuser.sql(f"GRANT DQL, DML, DDL TO {_quoted(user)}")

    def _tell_watchdog(self, line: str) -> None:
        if not self._watchdog:
            self._watchdog = subprocess.Popen(
                ["/bin/sh", "-c", _WATCHDOG, "watchdog", self.folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        assert self._watchdog.stdin
        with suppress(BrokenPipeError):
            self._watchdog.stdin.write(f"{line}\n".encode())
            self._watchdog.stdin.flush()


class LocalCluster:
    """Several nodes on loopback that form one cluster: `nodes`, each a `LocalCrate` to be killed and started.

    As a context manager it starts on entry; on exit every process and folder is gone.
    """

    def __init__(
        self,
        size: int = 3,
        home: str | Path | None = None,
        *,
        heap: str = "512m",
        settings: Mapping[str, Any] | None = None,
        login: tuple[str, str] | None = None,
    ) -> None:
        """Prepare `size` nodes; `heap`, `settings` and `login` go to each, as in `LocalCrate`."""
        self.nodes = [LocalCrate(home, heap=heap, login=login) for _ in range(size)]
        names = [f"node-{number}" for number in range(size)]
        cluster = {
            "cluster.name": f"test-{secrets.token_hex(4)}",
            "cluster.initial_master_nodes": names,
            "discovery.type": "zen",
            "discovery.seed_hosts": [f"127.0.0.1:{node.transport_port}" for node in self.nodes],
        }
        for node, name in zip(self.nodes, names, strict=True):
            node.settings = {**cluster, "node.name": name, **(settings or {})}

    @property
    def server(self) -> CrateServer:
        """The first node that runs, as the user of `login` (or `crate`) sees it."""
        return self._running()[0].server

    def start(self) -> Self:
        """Start every node that does not run; return when all are ready and have joined."""
        for node in self.nodes:
            if not node.pid:
                node.start(wait=False)
        for node in self.nodes:
            node.wait_until_ready()
        self.wait_for_nodes(len(self.nodes))
        return self

    def wait_for_nodes(self, count: int, timeout: float = 60.0) -> None:
        """Wait until the first node that runs sees exactly `count` nodes; without a majority it sees none go.

        Raises:
            RuntimeError: it does not in time.
        """
        self._wait_for("SELECT count(*) FROM sys.nodes", count, timeout)

    def wait_until_green(self, timeout: float = 60.0) -> None:
        """Wait until every shard and every replica has started: only then is a node safe to lose.

        Raises:
            RuntimeError: they have not in time.
        """
        self._wait_for("SELECT health FROM sys.cluster_health", "GREEN", timeout)

    def _wait_for(self, query: str, expected: object, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        seen: object = None
        while time.monotonic() < deadline:
            try:
                [[seen]] = self._running()[0].superuser.sql(query, timeout=10)
                if seen == expected:
                    return
            except (httpx.TransportError, RuntimeError) as error:
                seen = error
            time.sleep(0.2)
        raise RuntimeError(f"The cluster says {seen!r} after {timeout:g} s, not {expected!r}: {query}")

    def close(self) -> None:
        """End every node at once and remove its folder."""
        for node in self.nodes:
            node.close()

    def __enter__(self) -> Self:
        """Start the cluster."""
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        """End every node and remove its folder."""
        self.close()

    def _running(self) -> list[LocalCrate]:
        running = [node for node in self.nodes if node.pid]
        if not running:
            raise RuntimeError("No node of this cluster runs.")
        return running


def _installation(home: str | Path | None) -> Path:
    named = home or os.environ.get("CRATEDB_HOME")
    if not named:
        raise RuntimeError("CRATEDB_HOME is not set: it names the folder of an installed CrateDB.")
    path = Path(named).expanduser().resolve()
    if not (path / "bin" / "crate").is_file():
        raise RuntimeError(f"CRATEDB_HOME is {path}, but there is no bin/crate in that folder.")
    return path


def _unprivileged_account() -> pwd.struct_passwd | None:
    """The user to run CrateDB as where the tests run as root, which CrateDB refuses; else None."""
    if os.geteuid() != 0:
        return None
    for name in ("crate", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    raise RuntimeError("CrateDB does not run as root, and there is no user crate or nobody to run it as.")


_ports_given: set[int] = set()


def _free_ports(count: int) -> list[int]:
    """Loopback ports that nobody listens on, below those that systems give to outgoing connections.

    An outgoing connection could otherwise take a killed server's port before the server is started again.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _ports_given:
            _ports_given.add(port)
            ports.append(port)
    return ports


def _write_certificates(folder: Path, password: str) -> None:
    """Write ca.pem, wrong_ca.pem and keystore.p12 (the server's key and certificate) into `folder`."""
    from datetime import UTC, datetime, timedelta
    from ipaddress import ip_address

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import pkcs12
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)

    def name(common_name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])

    def usage(**used: bool) -> x509.KeyUsage:
        names = (
            "digital_signature content_commitment key_encipherment data_encipherment key_agreement "
            "key_cert_sign crl_sign encipher_only decipher_only"
        )
        return x509.KeyUsage(**(dict.fromkeys(names.split(), False) | used))

    def builder(
        subject: str, key: ec.EllipticCurvePrivateKey, issuer_key: ec.EllipticCurvePrivateKey
    ) -> x509.CertificateBuilder:
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("test CA"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=30))
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(issuer, critical=False)
        )

    def authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            builder("test CA", key, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        return key, certificate

    ca_key, ca = authority()
    _, wrong_ca = authority()
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        builder("localhost", key, ca_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    encryption = serialization.BestAvailableEncryption(password.encode())
    keystore = pkcs12.serialize_key_and_certificates(b"server", key, certificate, [ca], encryption)
    (folder / "keystore.p12").write_bytes(keystore)
    (folder / "ca.pem").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "wrong_ca.pem").write_bytes(wrong_ca.public_bytes(serialization.Encoding.PEM))


# --- the server for a test run


@contextmanager
def crate_server() -> Iterator[tuple[CrateServer | None, str]]:
    """`find_server` for a session fixture: what was started for it has ended when the context ends."""
    with ExitStack() as started:
        yield find_server(started)


def find_server(started: ExitStack | None = None) -> tuple[CrateServer | None, str]:
    """A CrateDB that tests may write to, and a line that names it; or None, and a sentence with the reason.

    What is started for it ends with `started`, or with Python where none is given.

    Raises:
        RuntimeError: `TEST_CRATEDB_URL` or `CRATEDB_HOME` is set and does not lead to a CrateDB that works.
    """
    if started is None:
        started = ExitStack()
        atexit.register(started.close)
    if os.environ.get("TEST_CRATEDB_URL"):
        server = _named_server()
    elif os.environ.get("CRATEDB_HOME"):
        server = started.enter_context(LocalCrate()).server
    else:
        container, reason = _docker_server(started)
        if container is None:
            return None, f"There is no CrateDB: TEST_CRATEDB_URL and CRATEDB_HOME are not set, and {reason}."
        server = container
    return server, f"CrateDB {server.version} from {server.origin}"


def _named_server() -> CrateServer:
    url = _parsed("TEST_CRATEDB_URL")
    protected = []
    if os.environ.get("CRATEDB_URL"):
        production = _parsed("CRATEDB_URL")
        protected.append((production.hostname, production.port))
    if os.environ.get("CRATEDB_HOST"):
        protected.append((os.environ["CRATEDB_HOST"], os.environ.get("CRATEDB_HTTP_PORT")))
    if _place(url.hostname, url.port) in [_place(*place) for place in protected]:
        raise RuntimeError(
            "TEST_CRATEDB_URL names the server of CRATEDB_URL or CRATEDB_HOST, to which tests never write."
        )
    server = CrateServer(
        host=url.hostname or "",
        http_port=url.port or 4200,
        pg_port=int(os.environ.get("TEST_CRATEDB_PG_PORT") or 5432),
        user=unquote(url.username or "crate"),
        password=unquote(url.password or ""),
        origin="TEST_CRATEDB_URL",
        tls=parse_qs(url.query).get("ssl", [""])[0].lower() in ("true", "1"),
    )
    return _with_version(server, timeout=10)


def _parsed(setting: str) -> Any:
    url = urlsplit(os.environ[setting])
    if url.scheme not in ("crate", "cratedb") or not url.hostname:
        raise RuntimeError(f"{setting} must look like crate://user:password@host:4200?ssl=true")
    return url


def _place(host: str | None, port: str | int | None) -> tuple[str, int]:
    name = (host or "").lower()
    return "localhost" if name in ("127.0.0.1", "::1") else name, int(port or 4200)


def _docker_server(started: ExitStack) -> tuple[CrateServer | None, str]:
    """A CrateDB in a new container, or None and why Docker cannot give one (half a sentence)."""
    try:
        import docker
        from testcontainers.core.container import DockerContainer
    except ImportError:
        return None, "the package testcontainers is not installed"
    try:
        docker.from_env(timeout=5).ping()
    except Exception as error:  # the client raises those of its transport too
        return None, f"no Docker daemon answers ({type(error).__name__})"
    command = (
        "crate -Cdiscovery.type=single-node -Cudc.enabled=false -Cauth.host_based.enabled=false "
        "-Ccluster.routing.allocation.disk.threshold_enabled=false"
    )
    try:
        container = DockerContainer(DOCKER_IMAGE).with_exposed_ports(4200, 5432)
        container = container.with_env("CRATE_HEAP_SIZE", DEFAULT_HEAP).with_command(command)
        started.enter_context(container)
    except Exception as error:  # no such image here, and no registry
        return None, f"Docker does not start {DOCKER_IMAGE} ({type(error).__name__}: {error})"
    server = CrateServer(
        host=container.get_container_host_ip(),
        http_port=int(container.get_exposed_port(4200)),
        pg_port=int(container.get_exposed_port(5432)),
        origin="docker",
    )
    return _with_version(server, timeout=START_TIMEOUT), ""


def _with_version(server: CrateServer, timeout: float) -> CrateServer:
    """The server with its version, once it answers; after `timeout` seconds a RuntimeError with the cause."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return replace(server, version=_version_of(server))
        except (httpx.TransportError, RuntimeError) as error:
            if time.monotonic() > deadline:
                where = f"{server.address} ({server.origin})"
                raise RuntimeError(f"CrateDB at {where} does not answer: {error}") from error
        time.sleep(0.5)


def _version_of(server: CrateServer) -> str:
    return str(server.sql("SELECT version['number'] FROM sys.nodes LIMIT 1", timeout=10)[0][0])
