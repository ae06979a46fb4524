"""Months in CrateDB: a load is a partition of `raw.yellow_trips`, dropped whole when it is broken.

Tables, ledger and reading back go through sqlalchemy-cratedb. The rows themselves go as columns of text in
`INSERT … (SELECT … FROM UNNEST(…))` over plain HTTP, two requests in flight: the fastest way that was measured, and
one whose every answer is read. CrateDB has no transactions: nothing counts until the caller has compared the counts
and staged the load.
"""

import re
import ssl
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Self

import httpx
import orjson
import pandas as pd
import pyarrow as pa
import sqlalchemy as sa
from crate.client.exceptions import ConnectionError as CrateUnreachable

from prefect_flows.errors import LoadTaken, TaxiError, Unavailable, WarehouseError
from prefect_flows.read import SCHEMA, Reject
from prefect_flows.settings import Settings
from prefect_flows.tlc import ZONE_COLUMNS
from prefect_flows.warehouses import CRATEDB_STARTS, Load, LoadWriter

IN_FLIGHT = 2
# CrateDB takes 216 MB for an UNNEST of 20,000 rows; two of them on a heap of 1 GB pass half of it, and it falls back to
# tiny chunks, each of which looks all views up anew: 300,000 rows took minutes instead of 18 s.
ROWS_A_REQUEST = 5_000
SECONDS_TO_END = 30
SECONDS_BETWEEN_SIGNS = 2.0
TIMEOUT = httpx.Timeout(connect=10, read=300, write=60, pool=300)


def raw_tables(schema: str) -> sa.MetaData:
    """The raw schema's tables as SQLAlchemy has them.

    One shard a partition, and no replica while a load is written: a cluster spreads over the months, and a node
    takes at most 1,000 shards.
    """
    metadata = sa.MetaData(schema=schema)

    def text(name: str, *, searched: bool = False, columnstore: bool = True) -> sa.Column[str]:
        return sa.Column(name, sa.String, crate_index=searched, crate_columnstore=columnstore)

    sa.Table(
        "yellow_trips",
        metadata,
        text("_load_id", searched=True),
        text("_file_month", searched=True),
        *(
            sa.Column(field.name, sa.BigInteger)
            if pa.types.is_integer(field.type)
            # The column store takes no text over 32,766 bytes, and `_extra` has no such limit.
            else text(field.name, columnstore=field.name != "_extra")
            for field in SCHEMA
        ),
        crate_partitioned_by='"_load_id"',
        crate_number_of_shards=1,
        crate_number_of_replicas="'0'",
        crate_refresh_interval=0,
    )
    sa.Table(
        "rejected_rows",
        metadata,
        text("_load_id", searched=True),
        text("_file_month", searched=True),
        sa.Column("line_no", sa.BigInteger),
        text("reason", searched=True),
        text("line_text", columnstore=False),
        crate_number_of_shards=1,
    )
    sa.Table(
        "loads",
        metadata,
        sa.Column("load_id", sa.String, primary_key=True),
        *(text(name, searched=True) for name in ("file_month", "source_url", "sha256")),
        sa.Column("bytes", sa.BigInteger),
        *(text(name, columnstore=False) for name in ("header", "unknown_columns")),
        *(sa.Column(name, sa.BigInteger) for name in ("rows_read", "rows_landed", "rows_rejected")),
        *(sa.Column(name, sa.DateTime) for name in ("started_at", "finished_at")),
        text("status", searched=True),
        text("error", columnstore=False),
        crate_number_of_shards=1,
    )
    sa.Table(
        "taxi_zones",
        metadata,
        sa.Column(ZONE_COLUMNS[0], sa.String, primary_key=True),
        *(text(name, searched=True) for name in ZONE_COLUMNS[1:]),
        crate_number_of_shards=1,
        crate_refresh_interval=0,
    )
    return metadata


# What CrateDB counts up with every change of a row.
_VERSION: list[sa.ColumnElement[int]] = [sa.literal_column("_seq_no"), sa.literal_column("_primary_term")]

# Logins that a server has accepted, or was not there to judge. One that starts knows its users only when it has read
# its cluster state, and refuses them until then (seen on 6.4.3): that passes, unlike a wrong password.
_MAY_BE_RIGHT: set[tuple[str, str, str]] = set()


class CrateWarehouse:
    """The `cratedb` target; see `Warehouse`."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._metadata = raw_tables(settings.raw_schema)
        self._trips, self._rejects, self._loads = (
            self._metadata.tables[f"{settings.raw_schema}.{name}"]
            for name in ("yellow_trips", "rejected_rows", "loads")
        )
        self._zones = self._metadata.tables[f"{settings.raw_schema}.taxi_zones"]
        host = f"[{settings.cratedb_host}]" if ":" in settings.cratedb_host else settings.cratedb_host
        self._url = f"{'https' if settings.https else 'http'}://{host}:{settings.cratedb_http_port}"

    @property
    def _login(self) -> tuple[str, str, str]:
        return self._url, self._settings.cratedb_user, self._settings.cratedb_password.get_secret_value()

    def __enter__(self) -> Self:
        settings, (_, _, password) = self._settings, self._login
        rootcert = str(settings.cratedb_sslrootcert) if settings.cratedb_sslrootcert else None
        tls = {"verify_ssl_cert": settings.verifies_tls, "ca_cert": rootcert} if settings.https else {}
        login = {"username": settings.cratedb_user, "password": password or None}
        # Without a timeout the client waits for ever, as it did when a server lost a statement.
        arguments = {"servers": [self._url], "timeout": TIMEOUT.read, **login, **tls}
        self._engine = sa.create_engine("crate://", connect_args=arguments)
        self._http = httpx.Client(
            base_url=self._url,
            auth=(settings.cratedb_user, password),
            verify=_tls_context(settings, rootcert),
            timeout=TIMEOUT,
        )
        with self._in_words():
            for table in self._metadata.tables.values():
                with self._engine.connect() as connection:
                    # Two runs may start at once: each finds the table there, or makes it.
                    connection.execute(sa.schema.CreateTable(table, if_not_exists=True))
                self._widen(table)
        _MAY_BE_RIGHT.add(self._login)
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()
        self._engine.dispose()

    def loads(self, month: str | None = None) -> list[Load]:
        query = sa.select(self._loads).order_by(self._loads.c.started_at, self._loads.c.load_id)
        if month:
            query = query.where(self._loads.c.file_month == month)
        with self._in_words(), self._engine.connect() as connection:
            return [Load(**row._mapping) for row in connection.execute(query)]

    def begin(self, load: Load, before: Load | None) -> None:
        values, changes = self._values(load)
        is_this = self._loads.c.load_id == load.load_id
        with self._in_words(), self._engine.connect() as connection:
            if before is None:
                try:
                    connection.execute(self._loads.insert().values(values))
                except sa.exc.DBAPIError as error:
                    raise _taken(load) if "DuplicateKey" in str(error) else error from None
            else:
                there = connection.execute(sa.select(self._loads, *_VERSION).where(is_this)).mappings().one()
                if Load(**{name: there[name] for name in values}) != before:
                    raise _taken(load)
                update = self._loads.update().where(is_this, *(column == there[column.name] for column in _VERSION))
                if not connection.execute(update.values(changes)).rowcount:
                    raise _taken(load)
            self._refresh(connection, self._loads)

    def save(self, load: Load) -> None:
        values, changes = self._values(load)
        with self._in_words(), self._engine.connect() as connection:
            update = self._loads.update().where(self._loads.c.load_id == load.load_id)
            if not connection.execute(update.values(changes)).rowcount:
                connection.execute(self._loads.insert().values(values))
            self._refresh(connection, self._loads)

    def _values(self, load: Load) -> tuple[dict[str, Any], dict[str, Any]]:
        """A load's row, and what of it may be changed."""
        values = {column.name: getattr(load, column.name) for column in self._loads.columns}
        return values, {name: value for name, value in values.items() if name != "load_id"}

    def is_being_written(self, load: Load) -> bool:
        """A writer tells its progress in the ledger, every `SECONDS_BETWEEN_SIGNS`."""
        until = time.monotonic() + 3 * SECONDS_BETWEEN_SIGNS
        while time.monotonic() < until:
            time.sleep(SECONDS_BETWEEN_SIGNS / 2)
            now_there = next((there for there in self.loads(load.file_month) if there.load_id == load.load_id), None)
            if now_there != load:
                return bool(now_there and now_there.status == "loading")
        return False

    def stage(self, load: Load) -> None:
        self.save(load)
        replicas = self._settings.cratedb_replicas
        with self._in_words(), self._engine.connect() as connection:
            connection.exec_driver_sql(
                f"ALTER TABLE {self._trips} PARTITION (_load_id = '{load.load_id}')"
                f" SET (number_of_replicas = '{replicas}')"
            )
        self._make_the_staged_one(load)
        # Two runs that stage at the same moment do not see each other's row: whoever looks last leaves the later load.
        while len(staged := [there for there in self.loads(load.file_month) if there.status == "staged"]) > 1:
            self._make_the_staged_one(max(staged, key=lambda there: (there.finished_at, there.load_id)))

    def _make_the_staged_one(self, load: Load) -> None:
        is_this, status = self._loads.c.load_id == load.load_id, self._loads.c.status
        with self._in_words(), self._engine.connect() as connection:
            # One statement for both, so that no reader of the ledger finds the month with two loads or with none.
            connection.execute(
                self._loads.update()
                .where(self._loads.c.file_month == load.file_month, sa.or_(status == "staged", is_this))
                .values(status=sa.case((is_this, "staged"), else_="superseded"))
            )
            self._refresh(connection, self._loads)

    @contextmanager
    def write(self, load: Load) -> Iterator[LoadWriter]:
        self.discard(load.load_id)
        writer = _CrateWriter(self, load, self._trips, self._rejects, self._loads)
        try:
            yield writer
            writer.finish()
        except LoadTaken:
            writer.close()
            raise
        except BaseException as error:
            writer.close()
            try:
                # As a rollback would, unless the rows are another run's by now.
                self.assert_own(load)
                self.discard(load.load_id)
            except LoadTaken:
                if isinstance(error, Exception):  # and not a signal
                    raise
            except TaxiError:
                pass  # where the server is gone, the next try of the load does it
            raise
        writer.close()
        with self._in_words(), self._engine.connect() as connection:
            self._refresh(connection, self._trips)
            self._refresh(connection, self._rejects)

    def count(self, load_id: str) -> tuple[int, int]:
        def one(connection: sa.Connection, table: sa.Table) -> int:
            query = sa.select(sa.func.count()).select_from(table).where(table.c._load_id == load_id)
            return connection.execute(query).scalar_one()

        with self._in_words(), self._engine.connect() as connection:
            return one(connection, self._trips), one(connection, self._rejects)

    def discard(self, load_id: str) -> None:
        with self._in_words(), self._engine.connect() as connection:
            self._end_statements(connection, load_id)
            # Deleting a whole partition drops it, and with it the rows that were never refreshed.
            connection.execute(self._trips.delete().where(self._trips.c._load_id == load_id))
            # Rejected lines share a table: a DELETE finds what is refreshed, and shows once it is refreshed itself.
            self._refresh(connection, self._rejects)
            connection.execute(self._rejects.delete().where(self._rejects.c._load_id == load_id))
            self._refresh(connection, self._rejects)

    def append(self, table: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
        name = f"{self._settings.cratedb_schema}.{table}"
        spelled = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        with self._in_words(), self._engine.connect() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE IF NOT EXISTS {name} ({spelled}) CLUSTERED INTO 1 SHARDS"
                f" WITH (number_of_replicas = '{self._settings.cratedb_replicas}')"
            )
            if rows:
                kept = self.post(
                    f"INSERT INTO {name} ({', '.join(columns)}) (SELECT * FROM UNNEST({_marks(list(columns))}))",
                    [list(values) for values in zip(*rows, strict=True)],
                )
                _assert_kept(kept, len(rows), name)
            connection.exec_driver_sql(f"REFRESH TABLE {name}")

    def replace_zones(self, zones: list[tuple[str, ...]]) -> None:
        # Readers see what is written when it is refreshed, and that is once, at the end.
        key, *others = ZONE_COLUMNS
        kept = self.post(
            f"INSERT INTO {self._zones} ({', '.join(ZONE_COLUMNS)}) (SELECT * FROM UNNEST({_marks(ZONE_COLUMNS)}))"
            f" ON CONFLICT ({key}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in others)}",
            [list(column) for column in zip(*zones, strict=True)],
        )
        if kept != len(zones):
            raise WarehouseError(
                f"CrateDB kept {kept:,} of {len(zones):,} zones: check the server's log and the free space on its "
                "disk, then run again."
            )
        self.post(f"DELETE FROM {self._zones} WHERE {key} != ALL(?)", [[zone[0] for zone in zones]])
        with self._in_words(), self._engine.connect() as connection:
            self._refresh(connection, self._zones)

    def frame(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
        settings = self._settings
        query = sa.text(sql.format(raw=settings.raw_schema, schema=settings.cratedb_schema))
        with self._in_words(), self._engine.connect() as connection:
            return pd.read_sql_query(query, connection, params=dict(parameters or {}))

    def post(self, statement: str, arguments: list[Any]) -> int:
        """Send one statement with its arguments over HTTP; gives back the number of rows that it wrote.

        Raises:
            Unavailable: no answer came, so whether it was carried out is not known.
            WarehouseError: CrateDB refused it.
        """
        body = orjson.dumps({"stmt": statement, "args": arguments})
        try:
            response = self._http.post("/_sql", content=body, headers={"Content-Type": "application/json"})
            answer = orjson.loads(response.content)
        except (httpx.TransportError, orjson.JSONDecodeError) as error:
            _MAY_BE_RIGHT.add(self._login)
            raise Unavailable(
                f"CrateDB at {self._url} broke off while rows were sent ({type(error).__name__}): "
                "run again, nothing was published."
            ) from None
        if response.is_success:
            return int(answer["rowcount"])
        raise self._refused(str(answer.get("error", {}).get("message", response.reason_phrase)), response.status_code)

    def assert_own(self, load: Load) -> None:
        query = sa.select(self._loads.c.started_at).where(self._loads.c.load_id == load.load_id)
        with self._in_words(), self._engine.connect() as connection:
            if connection.execute(query).scalar_one_or_none() != load.started_at:
                raise _taken(load)

    def _end_statements(self, connection: sa.Connection, load_id: str) -> None:
        """End the inserts of a load whose client is gone: they run on without it, and would write behind a clean-up."""
        running = sa.text("SELECT id FROM sys.jobs WHERE stmt LIKE :insert")
        for _ in range(SECONDS_TO_END):
            found = connection.execute(running, {"insert": f"INSERT INTO {self._trips} %'{load_id}'%"})
            jobs: Sequence[str] = found.scalars().all()
            if not jobs:
                return
            for job in jobs:
                connection.execute(sa.text("KILL :job"), {"job": job})
            time.sleep(1)
        raise Unavailable(f"CrateDB still runs the inserts of an earlier try of load {load_id}: run again in a minute.")

    def _widen(self, table: sa.Table) -> None:
        """Add the columns that the catalogue has got since the table was made."""
        there = {column["name"] for column in sa.inspect(self._engine).get_columns(table.name, schema=table.schema)}
        for column in table.columns:
            if column.name not in there:
                ddl = str(sa.schema.CreateColumn(column).compile(dialect=self._engine.dialect))
                with self._engine.connect() as connection:
                    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {ddl}")

    @staticmethod
    def _refresh(connection: sa.Connection, table: sa.Table) -> None:
        connection.exec_driver_sql(f"REFRESH TABLE {table}")

    @contextmanager
    def _in_words(self) -> Iterator[None]:
        try:
            yield
        except TaxiError:
            raise
        except (sa.exc.DBAPIError, pd.errors.DatabaseError, CrateUnreachable) as error:
            refused = error.__cause__ if isinstance(error, pd.errors.DatabaseError) else error
            cause = refused.orig if isinstance(refused, sa.exc.DBAPIError) else refused
            message = str(getattr(cause, "message", cause)).splitlines()[0]
            if isinstance(cause, CrateUnreachable):
                if "CERTIFICATE_VERIFY_FAILED" in message:
                    raise WarehouseError(
                        f"The certificate of CrateDB at {self._url} is not trusted: "
                        "set CRATEDB_SSLROOTCERT to its authority's file."
                    ) from None
                _MAY_BE_RIGHT.add(self._login)
                raise Unavailable(
                    f"CrateDB at {self._url} does not answer: start it (docker compose --profile cratedb up -d), "
                    "or correct CRATEDB_HOST, CRATEDB_HTTP_PORT and CRATEDB_SSLMODE."
                ) from None
            raise self._refused(message) from None

    def _refused(self, message: str, status: int = 0) -> TaxiError:
        if status in (401, 403) or re.search(r"\b401\b|authentication failed|trust authentication", message):
            if self._login in _MAY_BE_RIGHT:
                return Unavailable(
                    f"CrateDB at {self._url} refuses the user or the password, as it does while it starts: where it "
                    "goes on, correct CRATEDB_USER and CRATEDB_PASSWORD."
                )
            return WarehouseError(
                "CrateDB refuses the user or the password: correct CRATEDB_USER and CRATEDB_PASSWORD."
            )
        if CRATEDB_STARTS.search(message):
            return Unavailable(f"CrateDB at {self._url} has not started yet ({message}): run again in a minute.")
        if "MissingPrivilege" in message:
            return WarehouseError(f"CrateDB says {message!r}: grant the user what docs/operations.md lists.")
        return WarehouseError(f"CrateDB refused a statement: {message}.")


class _CrateWriter:
    """Sends batches, `IN_FLIGHT` at a time, and reads every answer."""

    def __init__(
        self, warehouse: CrateWarehouse, load: Load, trips: sa.Table, rejects: sa.Table, loads: sa.Table
    ) -> None:
        self._warehouse = warehouse
        self._trips, self._rejects = str(trips), str(rejects)
        self._pool = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="insert")
        self._sent: deque[Future[None]] = deque()
        self._has_partition = False
        self._load, self._rows, self._told = load, 0, time.monotonic()
        # Literals, so that the load's statements can be told in sys.jobs.
        self._constants = f"'{load.load_id}', '{load.file_month}'"
        # Asked by the server as it writes: a run that was taken for dead may come back right before a request.
        self._is_own = (
            f"(SELECT started_at FROM {loads} WHERE load_id = '{load.load_id}')"
            f" = '{load.started_at.isoformat()}'::TIMESTAMP"
        )

    def rows(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        if time.monotonic() - self._told > SECONDS_BETWEEN_SIGNS:
            self._told = time.monotonic()
            self._warehouse.assert_own(self._load)
            self._warehouse.save(self._load.with_(rows_landed=self._rows))
        if not self._has_partition:
            # The partition is made by a single VALUES: CrateDB suspends an `INSERT … SELECT` that has to make one for
            # as long as the node's last statement took, up to 10 s.
            self._make_partition(batch.slice(0, 1))
            self._has_partition = True
            batch = batch.slice(1)
        for first in range(0, batch.num_rows, ROWS_A_REQUEST):
            # Some more wait in line, so that the server never waits for the reader.
            while len(self._sent) >= 2 * IN_FLIGHT:
                self._sent.popleft().result()
            self._sent.append(self._pool.submit(self._insert, self._trips, batch.slice(first, ROWS_A_REQUEST)))

    def rejects(self, rejects: list[Reject]) -> None:
        columns = {"line_no": [r.line for r in rejects], "reason": [r.reason for r in rejects]}
        self._insert(self._rejects, pa.RecordBatch.from_pydict(columns | {"line_text": [r.text for r in rejects]}))

    def finish(self) -> None:
        while self._sent:
            self._sent.popleft().result()
        self._warehouse.assert_own(self._load)

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)

    def _make_partition(self, row: pa.RecordBatch) -> None:
        self._warehouse.assert_own(self._load)
        (values,) = row.to_pylist()
        present = [name for name, value in values.items() if value is not None]
        self._send(
            self._trips,
            present,
            f"VALUES ({self._constants}, {_marks(present)})",
            [values[name] for name in present],
            1,
        )

    def _insert(self, table: str, batch: pa.RecordBatch) -> None:
        if not batch.num_rows:
            return
        # A column that is absent from the file need not travel: what is not named stays NULL.
        present = [name for name in batch.schema.names if batch[name].null_count < batch.num_rows]
        columns = [batch[name].to_pylist() for name in present]
        self._send(
            table,
            present,
            f"(SELECT {self._constants}, * FROM UNNEST({_marks(present)}) WHERE {self._is_own})",
            columns,
            batch.num_rows,
        )

    def _send(self, table: str, names: list[str], rows: str, arguments: list[Any], count: int) -> None:
        kept = self._warehouse.post(
            f"INSERT INTO {table} (_load_id, _file_month, {', '.join(names)}) {rows}", arguments
        )
        if kept != count:
            self._warehouse.assert_own(self._load)
        _assert_kept(kept, count, table)


def _taken(load: Load) -> LoadTaken:
    return LoadTaken(
        f"Another run has begun to load {load.file_month} from the same file: wait until it has ended, then run again."
    )


def _assert_kept(kept: int, sent: int, table: str) -> None:
    if kept != sent:
        raise WarehouseError(
            f"CrateDB kept {kept:,} of {sent:,} rows sent to {table}: check the server's log and "
            "the free space on its disk, then run again."
        )


def _marks(names: Sequence[str]) -> str:
    return ", ".join("?" * len(names))


def _tls_context(settings: Settings, rootcert: str | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=rootcert)
    if settings.cratedb_sslmode != "verify-full":
        context.check_hostname = False
    if not settings.verifies_tls:
        context.verify_mode = ssl.CERT_NONE
    return context
