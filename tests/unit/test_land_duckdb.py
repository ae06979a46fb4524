"""Landing in DuckDB: what the raw tables and the ledger hold after each way that a load can go."""

import gzip
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from prefect_flows import land as landing
from prefect_flows.errors import FileRefused, TaxiError, Unavailable, WarehouseError
from prefect_flows.fetch import SourceFile, fetch
from prefect_flows.land import Landed, land, load_id_of
from prefect_flows.read import Reject
from prefect_flows.read_csv import CsvReader
from prefect_flows.settings import Settings, load_settings
from prefect_flows.warehouses import Load, LoadWriter, now, open_warehouse
from prefect_flows.warehouses.duck import DuckWarehouse

MONTH = "2021-01"
HEADER = (
    "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,store_and_fwd_flag,"
    "PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,improvement_surcharge,"
    "total_amount,Tip Jar"
)
ROW = "1,2021-01-01 00:30:10,2021-01-01 00:36:12,1,2.10,1,N,142,43,2,8,3,0.5,0,0,0.3,11.8,"
BROKEN = '1,"2021-01-01'


def rows_of(letter: str, number: int) -> list[str]:
    return [ROW + f"{letter}{place}" for place in range(number)]


A, B, C = rows_of("a", 4), rows_of("b", 5), rows_of("c", 6)


@pytest.fixture
def duckdb_settings(tmp_path: Path) -> Settings:
    return load_settings(target="duckdb", duckdb_path=str(tmp_path / "new folder" / "warehouse.duckdb"))


@pytest.fixture
def warehouse(duckdb_settings: Settings) -> Iterator[DuckWarehouse]:
    with DuckWarehouse(duckdb_settings) as connected:
        yield connected


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., SourceFile]:
    """Writes and fetches a month's file of the given lines; `pack` makes other bytes of them."""

    def written(lines: list[str], pack: Callable[[bytes], bytes] = bytes, header: str = HEADER) -> SourceFile:
        path = tmp_path / "yellow_tripdata_2021-01.csv"
        path.write_bytes(pack("\n".join([header, *lines, ""]).encode()))
        return fetch(str(path), tmp_path)

    return written


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "open_month", partial(CsvReader, block_bytes=256))


def put(warehouse: DuckWarehouse, file: SourceFile, month: str = MONTH, **options: Any) -> Landed:
    return land(warehouse, file, month, **{"max_reject_share": 0.01, "keep_loads": 1} | options)


def ledger(warehouse: DuckWarehouse) -> dict[str, str]:
    """The status of each load by the letter that its rows were made with, or "empty"."""
    letters = {
        load_id: jar[0]
        for load_id, jar in warehouse.frame(
            "select _load_id, min(json_extract_string(_extra, '$.tip jar')) as jar from {raw}.yellow_trips group by 1"
        ).itertuples(index=False)
    }
    return {letters.get(load.load_id, f"empty {n}"): load.status for n, load in enumerate(warehouse.loads(), 1)}


def staged(warehouse: DuckWarehouse, month: str = MONTH) -> Load:
    [load] = [load for load in warehouse.loads(month) if load.status == "staged"]
    return load


def refusal(kind: type[TaxiError], call: Callable[[], object]) -> str:
    with pytest.raises(kind) as error:
        call()
    sentence = str(error.value)
    assert type(error.value) is kind
    assert sentence.endswith((".", "!")) and "\n" not in sentence
    return sentence


# --- a load that goes well


def test_every_line_is_in_the_warehouse_as_text_under_its_load(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    landed = put(warehouse, file([ROW + "x", "", ROW + "x"]))
    trips = warehouse.frame("select * from {raw}.yellow_trips order by _source_row").to_dict("records")
    values = dict(zip([name.lower() for name in HEADER.split(",")], ROW.split(","), strict=True))
    extra = values.pop("tip jar")
    for row, line in zip(trips, (2, 4), strict=True):
        assert {name: row[name] for name in values} == values
        assert (row["_load_id"], row["_file_month"], row["_source_row"]) == (landed.load.load_id, MONTH, line)
        assert row["_extra"] == f'{{"tip jar": "{extra}x"}}'
        assert row["airport_fee"] is None or row["airport_fee"] != row["airport_fee"]


@pytest.mark.usefixtures("small_blocks")
def test_rejected_lines_are_in_the_warehouse_with_number_reason_and_text(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    landed = put(warehouse, file([*A, BROKEN, *A, "1,2\0"]), max_reject_share=1)
    rejects = warehouse.frame("select * from {raw}.rejected_rows order by line_no").to_dict("records")
    under = {"_load_id": landed.load.load_id, "_file_month": MONTH}
    assert rejects == [
        under | {"line_no": 6, "reason": "it holds a quote that is stray or never closed", "line_text": BROKEN},
        under | {"line_no": 11, "reason": "it holds a NUL byte", "line_text": "1,2\\x00"},
    ]


@pytest.mark.usefixtures("small_blocks")
def test_the_ledger_tells_the_facts_of_a_load(warehouse: DuckWarehouse, file: Callable[..., SourceFile]) -> None:
    before, source = now(), file([*C, "", BROKEN])
    landed = put(warehouse, source, max_reject_share=0.5)
    [load] = warehouse.loads()
    assert load == landed.load and not landed.was_there
    assert load == Load(
        load_id=f"2021-01-{source.sha256[:12]}",
        file_month=MONTH,
        source_url=str(source.path),
        sha256=source.sha256,
        bytes=source.path.stat().st_size,
        header=HEADER,
        unknown_columns="tip jar",
        rows_read=7,
        rows_landed=6,
        rows_rejected=1,
        started_at=load.started_at,
        finished_at=load.finished_at,
        status="staged",
        error=None,
    )
    assert load.finished_at is not None
    assert before <= load.started_at <= load.finished_at <= now() + timedelta(milliseconds=1)
    assert warehouse.count(load.load_id) == (6, 1)


@pytest.mark.usefixtures("small_blocks")
def test_progress_tells_the_rows_read_so_far(warehouse: DuckWarehouse, file: Callable[..., SourceFile]) -> None:
    told: list[tuple[int, float]] = []
    put(warehouse, file([*C, BROKEN]), max_reject_share=1, on_rows=lambda *how_far: told.append(how_far))
    assert len(told) > 2
    assert told == sorted(told) and told[-1] == (7, 1.0)
    assert 0 < told[0][1] < 1


def test_a_load_is_named_after_its_month_and_its_bytes() -> None:
    assert load_id_of(MONTH, "0123456789abcdef" * 4) == "2021-01-0123456789ab"


def test_what_has_landed_is_there_when_the_file_is_opened_again(
    duckdb_settings: Settings, file: Callable[..., SourceFile]
) -> None:
    with open_warehouse(duckdb_settings) as first:
        load = put(first, file(A)).load
    with open_warehouse(duckdb_settings) as second:
        assert second.loads() == [load]
        assert second.count(load.load_id) == (4, 0)


# --- the same month again


class Watched(DuckWarehouse):
    """Counts the loads that are written."""

    written = 0

    @contextmanager
    def write(self, load: Load) -> Iterator[LoadWriter]:
        self.written += 1
        with super().write(load) as writer:
            yield writer


def test_the_same_bytes_again_change_nothing(duckdb_settings: Settings, file: Callable[..., SourceFile]) -> None:
    with Watched(duckdb_settings) as warehouse:
        first = put(warehouse, file(A))
        again = put(warehouse, file(A))
        assert again == Landed(first.load, was_there=True)
        assert (warehouse.written, warehouse.loads()) == (1, [first.load])


def test_force_lands_the_same_bytes_anew_and_only_once(
    duckdb_settings: Settings, file: Callable[..., SourceFile]
) -> None:
    with Watched(duckdb_settings) as warehouse:
        first = put(warehouse, file(A))
        again = put(warehouse, file(A), force=True)
        assert (warehouse.written, again.was_there) == (2, False)
        assert again.load.started_at >= first.load.started_at
        assert [load.status for load in warehouse.loads()] == ["superseded", "staged"]
        assert staged(warehouse) == again.load
        assert warehouse.count(again.load.load_id) == (4, 0)


def test_a_staged_load_that_has_lost_rows_is_landed_anew(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    put(warehouse, file([*A, BROKEN]), max_reject_share=1)
    for table in ("yellow_trips where _source_row = 2", "rejected_rows"):
        warehouse.frame(f"delete from {{raw}}.{table}")
        again = put(warehouse, file([*A, BROKEN]), max_reject_share=1)
        assert not again.was_there
        assert warehouse.count(again.load.load_id) == (4, 1)


@pytest.mark.parametrize(
    ("keep", "left"),
    [
        (0, {"empty 1": "superseded", "empty 2": "superseded", "c": "staged"}),
        (1, {"empty 1": "superseded", "b": "superseded", "c": "staged"}),
        (2, {"a": "superseded", "b": "superseded", "c": "staged"}),
        (3, {"a": "superseded", "b": "superseded", "c": "staged"}),
        (9, {"a": "superseded", "b": "superseded", "c": "staged"}),
    ],
)
def test_other_bytes_supersede_and_the_last_loads_keep_their_rows(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile], keep: int, left: dict[str, str]
) -> None:
    for lines in (A, B, C):
        put(warehouse, file(lines), keep_loads=keep)
    assert ledger(warehouse) == left


def test_a_dropped_load_keeps_its_ledger_row_and_loses_its_rejects_too(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    load = put(warehouse, file([*A, BROKEN]), max_reject_share=1, keep_loads=0).load
    put(warehouse, file(B), keep_loads=0)
    assert warehouse.loads()[0] == load.with_(status="superseded")
    assert warehouse.count(load.load_id) == (0, 0)


def test_a_superseded_load_that_comes_back_is_staged_from_its_rows(
    duckdb_settings: Settings, file: Callable[..., SourceFile]
) -> None:
    with Watched(duckdb_settings) as warehouse:
        first, _, again = (put(warehouse, file(lines)) for lines in (A, B, A))
        assert (again.was_there, again.load, warehouse.written) == (True, first.load, 2)
        assert ledger(warehouse) == {"a": "staged", "b": "superseded"}


def test_a_dropped_load_that_comes_back_is_landed_anew(
    duckdb_settings: Settings, file: Callable[..., SourceFile]
) -> None:
    with Watched(duckdb_settings) as warehouse:
        for lines in (A, B, A):
            landed = put(warehouse, file(lines), keep_loads=0)
        assert (landed.was_there, warehouse.written) == (False, 3)
        assert sorted(ledger(warehouse).items()) == [("a", "staged"), ("empty 1", "superseded")]
        assert warehouse.count(landed.load.load_id) == (4, 0)


def test_the_load_that_was_staged_last_is_the_one_kept(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    for lines in (A, B, A, C):
        put(warehouse, file(lines))
    assert {"a": "superseded", "c": "staged"}.items() <= ledger(warehouse).items()


def test_months_do_not_touch_each_other(warehouse: DuckWarehouse, file: Callable[..., SourceFile]) -> None:
    january = [put(warehouse, file(lines)).load for lines in (A, B)]
    february = [put(warehouse, file(lines), "2021-02", keep_loads=0).load for lines in (A, B)]
    assert len({load.load_id for load in january + february}) == 4
    assert staged(warehouse) == january[1]
    assert staged(warehouse, "2021-02") == february[1]
    assert [warehouse.count(load.load_id) for load in january + february] == [(4, 0), (5, 0), (0, 0), (5, 0)]
    assert [load.file_month for load in warehouse.loads()] == [MONTH, MONTH, "2021-02", "2021-02"]
    assert warehouse.loads("2021-02") == [february[0].with_(status="superseded"), february[1]]


# --- loads that break


def a_batch(file: SourceFile) -> pa.RecordBatch:
    with CsvReader(file.path) as reader:
        return next(iter(reader)).batch


def test_a_load_that_broke_off_is_removed_and_done_again(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    source = file([*A, BROKEN])
    load = put(warehouse, source, max_reject_share=1).load
    warehouse.save(load.with_(status="loading", rows_read=0, rows_landed=0, rows_rejected=0, finished_at=None))
    with warehouse.write(load) as writer:
        writer.rows(a_batch(source).slice(0, 3))
        writer.rejects([Reject(99, "left behind", "text")])
    assert warehouse.count(load.load_id) == (3, 1)
    again = put(warehouse, source, max_reject_share=1)
    assert not again.was_there
    assert warehouse.loads() == [again.load]
    assert (again.load.status, warehouse.count(load.load_id)) == ("staged", (4, 1))
    assert set(warehouse.frame("select line_no from {raw}.rejected_rows")["line_no"]) == {6}


@pytest.mark.usefixtures("small_blocks")
def test_a_truncated_file_is_refused_and_leaves_no_rows(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    before = put(warehouse, file(A)).load
    damaged = file(rows_of("b", 500), lambda content: gzip.compress(content)[:-8])
    told: list[int] = []
    sentence = refusal(FileRefused, lambda: put(warehouse, damaged, on_rows=lambda rows, share: told.append(rows)))
    assert "ends too early" in sentence and told[-1] > 400
    kept, failed = warehouse.loads()
    assert kept == before
    assert (failed.load_id, failed.status, failed.error) == (load_id_of(MONTH, damaged.sha256), "failed", sentence)
    assert failed.finished_at is not None
    assert (warehouse.count(before.load_id), warehouse.count(failed.load_id)) == ((4, 0), (0, 0))


def test_a_file_with_too_many_broken_lines_is_refused_and_told_by_the_ledger(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    before = put(warehouse, file(A)).load
    sentence = refusal(FileRefused, lambda: put(warehouse, file([*rows_of("b", 3), BROKEN]), max_reject_share=0.2))
    assert "1 of 4 rows" in sentence and "25.00%" in sentence and "20.00%" in sentence
    assert "TAXI_MAX_REJECT_SHARE" in sentence
    kept, failed = warehouse.loads()
    assert failed.load_id in sentence
    assert (kept, failed.status, failed.error) == (before, "failed", sentence)


def test_the_allowed_share_itself_is_not_too_many(warehouse: DuckWarehouse, file: Callable[..., SourceFile]) -> None:
    put(warehouse, file([*rows_of("b", 3), BROKEN]), max_reject_share=0.25)
    assert staged(warehouse).rows_rejected == 1


def test_a_refused_file_is_landed_once_more_is_allowed(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    source = file([*rows_of("b", 3), BROKEN])
    refusal(FileRefused, lambda: put(warehouse, source))
    load = put(warehouse, source, max_reject_share=1).load
    assert (warehouse.loads(), load.error) == ([load], None)
    assert warehouse.count(load.load_id) == (3, 1)


def test_the_rows_of_a_failed_load_go_with_the_next_good_one(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    refusal(FileRefused, lambda: put(warehouse, file([*A, BROKEN])))
    assert ledger(warehouse) == {"a": "failed"}
    put(warehouse, file(B))
    assert ledger(warehouse) == {"empty 1": "failed", "b": "staged"}


@pytest.mark.parametrize("lines", [[], ["", " "], [BROKEN, BROKEN]], ids=["header only", "blank lines", "all broken"])
def test_a_file_without_a_trip_is_refused(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile], lines: list[str]
) -> None:
    before = put(warehouse, file(A)).load
    assert "holds no trips" in refusal(FileRefused, lambda: put(warehouse, file(lines), max_reject_share=1))
    assert staged(warehouse) == before
    assert [load.status for load in warehouse.loads()] == ["staged", "failed"]


def test_a_file_with_another_header_is_refused_and_the_ledger_says_why(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    before = put(warehouse, file(A)).load
    assert "HTML" in refusal(FileRefused, lambda: put(warehouse, file([], header="<html>")))
    assert staged(warehouse) == before
    (refused,) = (load for load in warehouse.loads() if load.status == "failed")
    assert (refused.rows_landed, "HTML" in str(refused.error)) == (0, True)


def test_a_forced_reload_that_is_refused_leaves_the_month_staged(
    warehouse: DuckWarehouse, file: Callable[..., SourceFile]
) -> None:
    source = file([*A, BROKEN])
    load = put(warehouse, source, max_reject_share=1).load
    refusal(FileRefused, lambda: put(warehouse, source, force=True, max_reject_share=0))
    assert staged(warehouse).load_id == load.load_id


@pytest.mark.parametrize("missing", [(1, 0), (0, 1), (-1, 0)], ids=["a row", "a rejected line", "a row too many"])
def test_a_warehouse_that_holds_another_number_of_rows_is_an_error(
    warehouse: DuckWarehouse,
    file: Callable[..., SourceFile],
    monkeypatch: pytest.MonkeyPatch,
    missing: tuple[int, int],
) -> None:
    before = put(warehouse, file(A)).load
    count = warehouse.count
    monkeypatch.setattr(
        warehouse, "count", lambda load_id: tuple(n - m for n, m in zip(count(load_id), missing, strict=True))
    )
    sentence = refusal(WarehouseError, lambda: put(warehouse, file([*B, BROKEN]), max_reject_share=1))
    assert f"holds {5 - missing[0]} rows and {1 - missing[1]} rejected lines" in sentence
    assert "5 and 1 were sent" in sentence
    assert [(load.status, load.error) for load in warehouse.loads()] == [("staged", None), ("failed", sentence)]
    assert staged(warehouse) == before


class Breaking(DuckWarehouse):
    """Takes some batches of a load and then breaks with `error`."""

    batches, error = 2, BaseException()

    def insert(self, table: str, load: Load, batch: pa.Table | pa.RecordBatch) -> None:
        self.batches -= 1
        if self.batches < 0:
            raise self.error
        super().insert(table, load, batch)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize(
    ("error", "status"),
    [(Unavailable("Gone."), "failed"), (WarehouseError("Full."), "failed"), (KeyboardInterrupt(), "loading")],
)
def test_a_load_that_breaks_in_the_middle_leaves_no_rows_and_heals(
    duckdb_settings: Settings, file: Callable[..., SourceFile], error: BaseException, status: str
) -> None:
    with Breaking(duckdb_settings) as warehouse:
        before = put(warehouse, file(A)).load
        warehouse.batches, warehouse.error = 1, error
        with pytest.raises(type(error)):
            put(warehouse, file(C))
        assert warehouse.batches < 0
        kept, broken = warehouse.loads()
        assert (kept, broken.status) == (before, status)
        assert warehouse.count(broken.load_id) == (0, 0)
        warehouse.batches = 99
        put(warehouse, file(C))
        assert ledger(warehouse) == {"a": "superseded", "c": "staged"}


# --- the DuckDB file


def test_a_file_held_by_another_process_is_told_with_its_number(
    duckdb_settings: Settings, file: Callable[..., SourceFile]
) -> None:
    with DuckWarehouse(duckdb_settings) as warehouse:
        put(warehouse, file(A))
    hold = (
        f"import duckdb; c = duckdb.connect({str(duckdb_settings.duckdb_path)!r}); print('held', flush=True); input()"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", hold], **pipes) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        sentence = refusal(WarehouseError, DuckWarehouse(duckdb_settings).__enter__)
        holder.communicate("\n")
    assert f"is in use by process {holder.pid} (" in sentence and "close it there and run again" in sentence
    assert str(duckdb_settings.duckdb_path) in sentence
    with DuckWarehouse(duckdb_settings) as warehouse:
        assert staged(warehouse).rows_landed == 4


def test_a_file_that_is_no_duckdb_database_is_named(duckdb_settings: Settings) -> None:
    duckdb_settings.duckdb_path.parent.mkdir()
    duckdb_settings.duckdb_path.write_text("not a database, but a text that is long enough to look like one" * 99)
    sentence = refusal(WarehouseError, DuckWarehouse(duckdb_settings).__enter__)
    assert str(duckdb_settings.duckdb_path) in sentence


def test_a_folder_that_cannot_be_made_is_named(duckdb_settings: Settings) -> None:
    duckdb_settings.duckdb_path.parent.write_text("a file in the place of the folder")
    assert "correct DUCKDB_PATH" in refusal(WarehouseError, DuckWarehouse(duckdb_settings).__enter__)


def test_tables_of_an_earlier_catalogue_get_the_columns_they_lack(
    duckdb_settings: Settings, file: Callable[..., SourceFile]
) -> None:
    with DuckWarehouse(duckdb_settings) as warehouse:
        load = put(warehouse, file(A)).load
        warehouse.frame("alter table {raw}.yellow_trips drop column cbd_congestion_fee")
        warehouse.frame("alter table {raw}.loads drop column error")
    with DuckWarehouse(duckdb_settings) as warehouse:
        assert warehouse.frame("select cbd_congestion_fee from {raw}.yellow_trips")["cbd_congestion_fee"].isna().all()
        assert warehouse.loads() == [load]
        put(warehouse, file(B))


def test_a_statement_that_duckdb_refuses_is_told_in_a_sentence(warehouse: DuckWarehouse) -> None:
    sentence = refusal(WarehouseError, lambda: warehouse.frame("select * from no_such_table"))
    assert "no_such_table" in sentence


def test_a_query_takes_its_parameters_by_name(warehouse: DuckWarehouse) -> None:
    frame = warehouse.frame("select :one || :two as both", {"one": "a", "two": "'; drop table x"})
    assert frame["both"].tolist() == ["a'; drop table x"]


def test_the_raw_schema_is_the_settings(duckdb_settings: Settings, file: Callable[..., SourceFile]) -> None:
    with DuckWarehouse(duckdb_settings.model_copy(update={"raw_schema": "raw_two"})) as warehouse:
        put(warehouse, file(A))
        assert warehouse.frame("select count(*) as n from raw_two.yellow_trips")["n"].tolist() == [4]
