"""A verified file becomes a staged load: raw rows, rejected rows and a row of the ledger, counted on both sides.

A load is named after its month and its bytes, so landing the same file twice is landing it once. The month's load
before stays the staged one until the new one is whole; a load that broke off is removed and done again.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from prefect_flows.errors import FileRefused, LoadTaken, TaxiError, UsageError, WarehouseError
from prefect_flows.fetch import SourceFile, without_credentials
from prefect_flows.read import Reader, open_month
from prefect_flows.warehouses import Load, Warehouse, now

OnRows = Callable[[int, float], None]


@dataclass(frozen=True)
class Landed:
    """A staged load, and whether this call did the work or found it done."""

    load: Load
    was_there: bool


def load_id_of(month: str, sha256: str) -> str:
    """The id of a file's load: `2021-01-0123456789ab`."""
    return f"{month}-{sha256[:12]}"


def land(
    warehouse: Warehouse,
    file: SourceFile,
    month: str,
    *,
    max_reject_share: float,
    keep_loads: int,
    force: bool = False,
    on_rows: OnRows | None = None,
) -> Landed:
    """Land a file as the month's staged load.

    Args:
        warehouse: connected.
        file: the month's file.
        month: `YYYY-MM`.
        max_reject_share: the share of rejected lines, 0 to 1, above which the file is refused.
        keep_loads: how many superseded loads of the month keep their rows.
        force: land it even where it is already staged.
        on_rows: told the number of data rows read so far, and the share of the file that they are.

    Raises:
        FileRefused: the file is damaged, empty, or has too many broken rows. The ledger says so; what was staged
            before stays.
        WarehouseError, Unavailable: the warehouse did not keep what it was sent.
        LoadTaken: another run lands the same file; what it does is left alone.
    """
    loads = warehouse.loads(month)
    for load in loads:
        if load.status == "loading" and warehouse.is_being_written(load):
            raise WarehouseError(
                f"{month} is being loaded by another run since {load.started_at:%Y-%m-%d %H:%M} UTC: "
                "wait until it has ended, then run again."
            )
    if not force:
        for load in reversed(loads):
            if load.sha256 == file.sha256 and load.status in ("staged", "superseded") and _is_whole(warehouse, load):
                if load.status == "superseded":
                    warehouse.stage(load.with_(finished_at=now()))
                return Landed(load.with_(status="staged"), was_there=True)
    load_id = _free_id(loads, month, file)
    before = next((load for load in loads if load.load_id == load_id), None)
    load = _load_file(warehouse, file, month, load_id, before, max_reject_share=max_reject_share, on_rows=on_rows)
    warehouse.stage(load)
    _forget_old(warehouse, month, keep_loads)
    return Landed(load.with_(status="staged"), was_there=False)


def landed_from(warehouse: Warehouse, url: str, month: str) -> Landed | None:
    """The month's staged load, where it came from this URL; what to do about it needs no download."""
    for load in warehouse.loads(month):
        if load.status == "staged" and load.source_url == without_credentials(url) and _is_whole(warehouse, load):
            return Landed(load, was_there=True)
    return None


def roll_back(warehouse: Warehouse, month: str) -> Load:
    """Stage the month's load before the staged one again.

    Raises:
        UsageError: none is kept whole.
    """
    loads = [load for load in warehouse.loads(month) if load.status == "superseded" and _is_whole(warehouse, load)]
    if not loads:
        raise UsageError(
            f"There is no earlier load of {month} to go back to: TAXI_KEEP_LOADS says how many are kept; "
            "load its file instead."
        )
    load = max(loads, key=_staged_at).with_(finished_at=now())
    warehouse.stage(load)
    return load.with_(status="staged")


def _free_id(loads: list[Load], month: str, file: SourceFile) -> str:
    """The load's id; with `-2` behind it where the same bytes are staged, which stay until the new ones are whole."""
    load_id = load_id_of(month, file.sha256)
    is_staged = any(load.load_id == load_id and load.status == "staged" for load in loads)
    return f"{load_id}-2" if is_staged else load_id


def _load_file(
    warehouse: Warehouse,
    file: SourceFile,
    month: str,
    load_id: str,
    before: Load | None,
    *,
    max_reject_share: float,
    on_rows: OnRows | None,
) -> Load:
    load = Load(
        load_id=load_id,
        file_month=month,
        source_url=file.source_url,
        sha256=file.sha256,
        bytes=file.bytes,
        header="",
        unknown_columns="",
        rows_read=0,
        rows_landed=0,
        rows_rejected=0,
        started_at=now(),
        finished_at=None,
        status="loading",
    )
    has_begun = False
    try:
        with open_month(file.path) as reader:
            load = load.with_(header=reader.header, unknown_columns=",".join(reader.binding.unknown))
            warehouse.begin(load, before)
            has_begun = True
            load = _copy(warehouse, reader, load, on_rows)
        _check(warehouse, load, file.path.name, max_reject_share)
    except LoadTaken:
        raise
    except TaxiError as error:
        if has_begun:
            warehouse.assert_own(load)
        warehouse.save(load.with_(status="failed", finished_at=now(), error=str(error)))
        raise
    return load.with_(finished_at=now())


def _copy(warehouse: Warehouse, reader: Reader, load: Load, on_rows: OnRows | None) -> Load:
    landed = rejected = 0
    with warehouse.write(load) as writer:
        for chunk in reader:
            if chunk.batch.num_rows:
                writer.rows(chunk.batch)
            if chunk.rejects:
                writer.rejects(chunk.rejects)
            landed += chunk.batch.num_rows
            rejected += len(chunk.rejects)
            if on_rows:
                on_rows(landed + rejected, reader.share)
    return load.with_(rows_read=landed + rejected, rows_landed=landed, rows_rejected=rejected)


def _check(warehouse: Warehouse, load: Load, name: str, max_reject_share: float) -> None:
    if not load.rows_landed:
        raise FileRefused(f"{name} holds no trips: download it again, or check that it is the month you mean.")
    kept = warehouse.count(load.load_id)
    if kept != (load.rows_landed, load.rows_rejected):
        raise WarehouseError(
            f"The warehouse holds {kept[0]:,} rows and {kept[1]:,} rejected lines of {name}, but {load.rows_landed:,} "
            f"and {load.rows_rejected:,} were sent: run again; the month keeps its published version."
        )
    share = load.rows_rejected / load.rows_read
    if share > max_reject_share:
        raise FileRefused(
            f"{load.rows_rejected:,} of {load.rows_read:,} rows of {name} are broken ({share:.2%}, more than the "
            f"allowed {max_reject_share:.2%}): see rejected_rows of load {load.load_id}, or raise "
            "TAXI_MAX_REJECT_SHARE."
        )


def _is_whole(warehouse: Warehouse, load: Load) -> bool:
    return warehouse.count(load.load_id) == (load.rows_landed, load.rows_rejected)


def _forget_old(warehouse: Warehouse, month: str, keep_loads: int) -> None:
    loads = warehouse.loads(month)
    superseded = sorted((load for load in loads if load.status == "superseded"), key=_staged_at)
    failed = [load for load in loads if load.status == "failed"]
    for load in failed + superseded[: max(len(superseded) - keep_loads, 0)]:
        warehouse.discard(load.load_id)


def _staged_at(load: Load) -> datetime:
    return load.finished_at or load.started_at
