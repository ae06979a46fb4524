"""Months as lines of a table: where each stands in the warehouse, or what a backfill did with it.

Comes in: the ledger and `trip_data`, or the outcome of each month's landing. Goes out: `MonthLine`s, and a table of
them for a terminal or an artifact.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from io import StringIO
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from prefect_flows.errors import TaxiError
from prefect_flows.land import Landed
from prefect_flows.warehouses import Load, Warehouse


@dataclass(frozen=True)
class MonthLine:
    """A month: its `state` in a word, its landed and rejected rows, when (UTC) it got there, and why it failed."""

    month: str
    state: str
    rows: int | None
    rejected: int | None
    when: datetime | None
    why: str = ""


@dataclass(frozen=True)
class Published:
    """What readers see of a month: whose build and load it is, its rows, `published` or `suspect`."""

    month: str
    load_id: str
    build_id: str
    rows: int
    state: str


class MonthsFailed(TaxiError):
    """Some months of a backfill failed; `months` are the lines of all."""

    def __init__(self, months: Sequence[MonthLine], also: str = "") -> None:
        self.months = list(months)
        failed = [f"{line.month}: {line.why}" for line in months if line.state == "failed"]
        parts = [f"{len(failed)} of {len(self.months)} months failed. " + " ".join(failed)] if failed else []
        super().__init__(" ".join([*parts, also]).strip())


def of_landing(month: str, outcome: Landed | Exception) -> MonthLine:
    """What a backfill did with a month."""
    if isinstance(outcome, Landed):
        load = outcome.load
        state = "already there" if outcome.was_there else "landed"
        return MonthLine(month, state, load.rows_landed, load.rows_rejected, load.finished_at)
    why = str(outcome) if isinstance(outcome, TaxiError) else f"{type(outcome).__name__}: {outcome}"
    return MonthLine(month, "failed", None, None, None, why)


def of_warehouse(warehouse: Warehouse) -> list[MonthLine]:
    """Every month of the ledger, in order.

    Its state is that of its publication (`published`, `suspect`, `refused`, …), or `staged` where dbt has not got to
    the staged load yet, or `loading` or `failed` where nothing is staged.

    Raises:
        WarehouseError, Unavailable: the warehouse does not answer.
    """
    publications = _publications(warehouse)
    loads = sorted(warehouse.loads(), key=lambda load: load.file_month)
    return [
        _line(month, list(of_month), publications.get(month))
        for month, of_month in groupby(loads, lambda load: load.file_month)
    ]


def published_since(warehouse: Warehouse, months: Sequence[str], moment: datetime) -> list[Published]:
    """Which of these months readers see another version of since a moment (UTC), by this machine's clock."""
    if not _has_publications(warehouse):
        return []
    rows = warehouse.frame(
        "select file_month, load_id, build_id, row_count, state from {schema}.publications where model = 'trip_data'"
        " and state in ('published', 'suspect', 'untested') and published_at >= cast(:moment as timestamp)"
        " order by file_month",
        {"moment": f"{moment:%Y-%m-%d %H:%M:%S}"},  # dbt records whole seconds
    )
    return [
        Published(row["file_month"], row["load_id"], row["build_id"], int(row["row_count"]), row["state"])
        for row in rows.to_dict("records")
        if row["file_month"] in months
    ]


def _has_publications(warehouse: Warehouse) -> bool:
    found = warehouse.frame(
        "select count(*) as n from information_schema.tables"
        " where table_schema = '{schema}' and table_name = 'publications'"
    )
    return bool(found["n"].item())


def _publications(warehouse: Warehouse) -> dict[str, Any]:
    if not _has_publications(warehouse):
        return {}
    rows = warehouse.frame(
        "select file_month, load_id, state, refused_load_id, failed_tests from {schema}.publications"
        " where model = 'trip_data'"
    )
    return {str(row.file_month): row for row in rows.itertuples()}


def _line(month: str, loads: Sequence[Load], publication: Any) -> MonthLine:
    def newest(status: str) -> Load | None:
        return next((load for load in reversed(loads) if load.status == status), None)

    staged, failed, loading = newest("staged"), newest("failed"), newest("loading")
    # A failure is told until a load after it succeeds.
    why = failed.error or "" if failed and (not staged or failed.started_at > staged.started_at) else ""
    if not staged:
        load = loading or failed or loads[-1]
        return MonthLine(month, load.status, None, None, load.finished_at or load.started_at, why)
    state = "staged"
    if publication and staged.load_id in (publication.load_id, publication.refused_load_id):
        state = publication.state
        if isinstance(publication.failed_tests, str):
            why = f"failed {publication.failed_tests}"
    return MonthLine(month, state, staged.rows_landed, staged.rows_rejected, staged.finished_at, why)


def as_text(lines: Sequence[MonthLine]) -> str:
    """The months as a table for a terminal; each in one line where standard output is none."""
    table = Table("month", "state", box=None, header_style=None)
    for name in ("rows", "rejected"):
        table.add_column(name, justify="right")
    table.add_column("when (UTC)")
    table.add_column("why", overflow="fold")
    for line in lines:
        counts = ["" if count is None else f"{count:,}" for count in (line.rows, line.rejected)]
        when = f"{line.when:%Y-%m-%d %H:%M}" if line.when else ""
        table.add_row(line.month, line.state, *counts, when, line.why)
    text = StringIO()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    Console(file=text, width=width, markup=False, highlight=False).print(table)
    return "\n".join(row.rstrip() for row in text.getvalue().splitlines())


def as_table(lines: Sequence[MonthLine]) -> list[dict[str, str | int | None]]:
    """The months as the rows of a table artifact, failures first."""
    return [
        asdict(line) | {"when": f"{line.when:%Y-%m-%d %H:%M}" if line.when else ""}
        for line in sorted(lines, key=lambda line: (line.state != "failed", line.month))
    ]
