"""What landing needs of a warehouse, as one small protocol, and the two that keep it: CrateDB and DuckDB.

The raw schema has the same tables on both: `yellow_trips` (the files' rows, every column TEXT), `rejected_rows` (the
lines that are no rows), `loads` (the ledger, one row a load) and `taxi_zones` (the TLC's lookup, empty until it is
loaded).
"""

import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, Self

import pandas as pd
import pyarrow as pa

from prefect_flows.read import Reject
from prefect_flows.settings import Settings

Status = Literal["loading", "staged", "superseded", "failed"]

# What CrateDB says while it starts, or while a shard does: the same statement goes through later.
CRATEDB_STARTS = re.compile(
    r"cluster state not recovered|no master|operations only allowed when shard state|shard \S+ is not available"
    r"|primary shard is not active|Service ?Unavailable",
    re.IGNORECASE,
)


def now() -> datetime:
    """The time in UTC, to the millisecond (what CrateDB keeps), without a zone."""
    moment = datetime.now(UTC).replace(tzinfo=None)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


@dataclass(frozen=True)
class Load:
    """A row of `raw.loads`: one file, landed or tried.

    `source_url` holds no credentials, `bytes` is the size of the file as fetched, `header` its first line,
    `unknown_columns` the names that the catalogue does not know (a comma between them); rows are data lines, blank
    ones left out; times are UTC; `error` says why a failed load failed.
    """

    load_id: str
    file_month: str
    source_url: str
    sha256: str
    bytes: int
    header: str
    unknown_columns: str
    rows_read: int
    rows_landed: int
    rows_rejected: int
    started_at: datetime
    finished_at: datetime | None
    status: Status
    error: str | None = None

    def with_(self, **changes: Any) -> "Load":
        """The same load with some fields changed."""
        return replace(self, **changes)


class LoadWriter(Protocol):
    """Takes the parts of one load. Rows count as kept only when the writer's context was left without an error."""

    def rows(self, batch: pa.RecordBatch) -> None:
        """Append a batch of `read.SCHEMA`."""

    def rejects(self, rejects: list[Reject]) -> None:
        """Append rejected lines."""


class Warehouse(Protocol):
    """Where months land. Every method raises `WarehouseError`, or `Unavailable` where a later try may go through."""

    def __enter__(self) -> Self:
        """Connect, and create or widen the raw tables where they are not as the catalogue has them."""

    def __exit__(self, *error: object) -> None:
        """Close the connection."""

    def loads(self, month: str | None = None) -> list[Load]:
        """The ledger, oldest first, of one month or of all."""

    def begin(self, load: Load, before: Load | None) -> None:
        """Write the row of a load that begins, where the ledger still has what it had `before`.

        Raises:
            LoadTaken: another run was faster.
        """

    def assert_own(self, load: Load) -> None:
        """Raise `LoadTaken` where another run has begun the load anew."""

    def save(self, load: Load) -> None:
        """Write a load's ledger row, or write it anew."""

    def is_being_written(self, load: Load) -> bool:
        """Whether a load that the ledger calls `loading` has another run at it, and is not what a dead one left."""

    def stage(self, load: Load) -> None:
        """In one step: this load is the month's staged one, and the one before it is superseded."""

    def write(self, load: Load) -> AbstractContextManager[LoadWriter]:
        """Open a load for its rows, from nothing: whatever an earlier try left behind is removed first."""

    def count(self, load_id: str) -> tuple[int, int]:
        """Rows and rejected lines that the warehouse holds of a load."""

    def discard(self, load_id: str) -> None:
        """Remove a load's rows and rejected lines; its ledger row stays."""

    def append(self, table: str, columns: Mapping[str, str], rows: Sequence[tuple[Any, ...]]) -> None:
        """Add rows to a small table in the models' schema, which is made where it is not there.

        `columns` maps each name to its type in SQL, `rows` have a value for each of them.
        """

    def replace_zones(self, zones: list[tuple[str, ...]]) -> None:
        """In one step, or not at all: these rows of `tlc.ZONE_COLUMNS` are the lookup of zones."""

    def frame(self, sql: str, parameters: Mapping[str, Any] | None = None) -> pd.DataFrame:
        """Read a query's answer back. `{raw}` and `{schema}` in it become the schemas; parameters are `:name`."""


def open_warehouse(settings: Settings) -> Warehouse:
    """The warehouse that the settings name, not yet connected: use it as a context manager."""
    if settings.target == "cratedb":
        from prefect_flows.warehouses.crate import CrateWarehouse

        return CrateWarehouse(settings)
    from prefect_flows.warehouses.duck import DuckWarehouse

    return DuckWarehouse(settings)
