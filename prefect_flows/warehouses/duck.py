"""Months in an embedded DuckDB file: one transaction a load, so that a broken one leaves nothing behind."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

import duckdb
import pandas as pd
import pyarrow as pa

from prefect_flows.errors import WarehouseError
from prefect_flows.read import SCHEMA, Reject
from prefect_flows.settings import Settings
from prefect_flows.tlc import ZONE_COLUMNS
from prefect_flows.warehouses import Load, LoadWriter

# DuckDB takes what the machine has, up to 80 %; this is enough for a month, and the rest stays free.
MEMORY_LIMIT = "128MB"
# Connections of one process share the file, but cannot change its tables at once.
_SET_UP = threading.Lock()

_LEDGER = {
    "load_id": "TEXT PRIMARY KEY", "file_month": "TEXT", "source_url": "TEXT", "sha256": "TEXT", "bytes": "BIGINT",
    "header": "TEXT", "unknown_columns": "TEXT", "rows_read": "BIGINT", "rows_landed": "BIGINT",
    "rows_rejected": "BIGINT", "started_at": "TIMESTAMP", "finished_at": "TIMESTAMP", "status": "TEXT", "error": "TEXT",
}  # fmt: skip
_TRIPS = {"_load_id": "TEXT", "_file_month": "TEXT"} | {
    field.name: "BIGINT" if pa.types.is_integer(field.type) else "TEXT" for field in SCHEMA
}
_REJECTS = {"_load_id": "TEXT", "_file_month": "TEXT", "line_no": "BIGINT", "reason": "TEXT", "line_text": "TEXT"}
_ZONES = dict.fromkeys(ZONE_COLUMNS, "TEXT")
_TABLES = {"yellow_trips": _TRIPS, "rejected_rows": _REJECTS, "loads": _LEDGER, "taxi_zones": _ZONES}


class DuckWarehouse:
    """The `duckdb` target; see `Warehouse`."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.duckdb_path
        self._raw = settings.raw_schema

    def __enter__(self) -> Self:
        with _SET_UP, _in_words(str(self._path)):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = duckdb.connect(str(self._path))
            self._connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._raw}")
            for table, columns in _TABLES.items():
                spelled = ", ".join(f"{name} {kind}" for name, kind in columns.items())
                self._connection.execute(f"CREATE TABLE IF NOT EXISTS {self._raw}.{table} ({spelled})")
                for name, kind in columns.items():
                    self._connection.execute(
                        f"ALTER TABLE {self._raw}.{table} ADD COLUMN IF NOT EXISTS {name} {kind.split()[0]}"
                    )
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()

    def loads(self, month: str | None = None) -> list[Load]:
        query = f"SELECT {', '.join(_LEDGER)} FROM {self._raw}.loads WHERE file_month = coalesce(?, file_month)"
        rows = self._execute(query + " ORDER BY started_at, load_id", [month]).fetchall()
        return [Load(**dict(zip(_LEDGER, row, strict=True))) for row in rows]

    def begin(self, load: Load, before: Load | None) -> None:
        self.save(load)  # another process could not have opened the file

    def assert_own(self, load: Load) -> None:
        pass

    def save(self, load: Load) -> None:
        marks = ", ".join("?" * len(_LEDGER))
        values = [getattr(load, name) for name in _LEDGER]
        self._execute(f"INSERT OR REPLACE INTO {self._raw}.loads ({', '.join(_LEDGER)}) VALUES ({marks})", values)

    def is_being_written(self, load: Load) -> bool:
        return False  # another process could not have opened the file

    def stage(self, load: Load) -> None:
        with self._transaction():
            self._execute(
                f"UPDATE {self._raw}.loads SET status = 'superseded' WHERE file_month = ? AND status = 'staged'",
                [load.file_month],
            )
            self.save(load.with_(status="staged"))

    @contextmanager
    def write(self, load: Load) -> Iterator[LoadWriter]:
        with self._transaction():
            self._delete(load.load_id)
            yield _DuckWriter(self, load)

    def count(self, load_id: str) -> tuple[int, int]:
        def one(table: str) -> int:
            query = f"SELECT count(*) FROM {self._raw}.{table} WHERE _load_id = ?"
            return int(self._execute(query, [load_id]).fetchall()[0][0])

        return one("yellow_trips"), one("rejected_rows")

    def discard(self, load_id: str) -> None:
        with self._transaction():
            self._delete(load_id)

    def append(self, table: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
        spelled = ", ".join(f"{column} {kind}" for column, kind in columns.items())
        insert = f"INSERT INTO main.{table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
        with self._transaction(), _in_words(str(self._path)):
            self._connection.execute(f"CREATE TABLE IF NOT EXISTS main.{table} ({spelled})")
            if rows:
                self._connection.executemany(insert, rows)

    def replace_zones(self, zones: list[tuple[str, ...]]) -> None:
        with self._transaction():
            self._execute(f"DELETE FROM {self._raw}.taxi_zones")
            marks = ", ".join("?" * len(ZONE_COLUMNS))
            with _in_words(str(self._path)):
                self._connection.executemany(f"INSERT INTO {self._raw}.taxi_zones VALUES ({marks})", zones)

    def frame(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
        # DuckDB spells a named parameter $name.
        query = re.sub(r"(?<![:\w']):([a-z]\w*)", r"$\1", sql.format(raw=self._raw, schema="main"))
        return self._execute(query, parameters).df()

    def insert(self, table: str, load: Load, batch: pa.Table | pa.RecordBatch) -> None:
        """Append a batch to a raw table, under the load's id and month."""
        # DuckDB finds the variable by its name. A registered view would keep each batch until the transaction ends.
        rows = pa.table(batch)  # noqa: F841
        names = ", ".join(batch.schema.names)
        insert = f"INSERT INTO {self._raw}.{table} (_load_id, _file_month, {names}) SELECT ?, ?, {names} FROM rows"
        with _in_words(str(self._path)):
            self._connection.execute(insert, [load.load_id, load.file_month])

    def _delete(self, load_id: str) -> None:
        for table in ("yellow_trips", "rejected_rows"):
            self._execute(f"DELETE FROM {self._raw}.{table} WHERE _load_id = ?", [load_id])

    def _execute(self, query: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        with _in_words(str(self._path)):
            return self._connection.execute(query, parameters)

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._execute("BEGIN")
        try:
            yield
            self._execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise


class _DuckWriter:
    def __init__(self, warehouse: DuckWarehouse, load: Load) -> None:
        self._warehouse = warehouse
        self._load = load

    def rows(self, batch: pa.RecordBatch) -> None:
        self._warehouse.insert("yellow_trips", self._load, batch)

    def rejects(self, rejects: list[Reject]) -> None:
        columns = {"line_no": [r.line for r in rejects], "reason": [r.reason for r in rejects]}
        self._warehouse.insert(
            "rejected_rows", self._load, pa.table(columns | {"line_text": [r.text for r in rejects]})
        )


@contextmanager
def _in_words(path: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # DuckDB wraps what a signal's handler raises, and the signal would be lost.
        if isinstance(error.__cause__, BaseException) and not isinstance(error.__cause__, Exception):
            raise error.__cause__ from None
        raise
    except OSError as error:
        raise WarehouseError(f"The folder of {path} cannot be made ({error.strerror}): correct DUCKDB_PATH.") from None
    except duckdb.IOException as error:
        if holder := re.search(r"Conflicting lock is held in (.+?) \(PID (\d+)\)", str(error)):
            raise WarehouseError(
                f"{path} is in use by process {holder[2]} ({holder[1]}): close it there and run again."
            ) from None
        raise WarehouseError(
            f"DuckDB cannot use {path} ({_first_line(error)}): check DUCKDB_PATH and the free space on its disk."
        ) from None
    except duckdb.Error as error:
        raise WarehouseError(
            f"DuckDB refused a statement on {path} ({_first_line(error)}): check that the file is this project's."
        ) from None


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0]
