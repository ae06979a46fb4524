"""Landing on both targets, without the flow: what is staged, superseded, cleaned up and counted."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from prefect_flows.errors import LoadTaken, WarehouseError
from prefect_flows.fetch import SourceFile, fetch
from prefect_flows.land import Landed, land
from prefect_flows.read_csv import CsvReader
from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import Warehouse, crate, duck, open_warehouse
from tests.conftest import CRATEDB, TARGETS
from tests.cratedb_server import CrateServer

CRATEDB_ONLY = pytest.mark.parametrize("target", [CRATEDB])
MONTH = "2021-02"


def file(folder: Path, seed: int) -> SourceFile:
    path = folder / str(seed) / f"yellow_tripdata_{MONTH}.csv"
    write_sample(path, MONTH, rows=1_500, broken=3, seed=seed)
    return fetch(str(path), folder)


def put(warehouse: Warehouse, source: SourceFile, *, force: bool = False) -> Landed:
    return land(warehouse, source, MONTH, max_reject_share=0.01, keep_loads=1, force=force)


def rows(warehouse: Warehouse, table: str) -> int:
    return int(warehouse.frame(f"select count(*) as n from {{raw}}.{table}")["n"].item())


@TARGETS
def test_loads_supersede_each_other_and_come_back(settings: Settings, tmp_path: Path) -> None:
    first, second, third = (file(tmp_path, seed) for seed in (1, 2, 3))
    with open_warehouse(settings) as warehouse:
        for source, was_there in ((first, False), (second, False), (first, True), (third, False)):
            landed = put(warehouse, source)
            assert landed.was_there == was_there
            assert warehouse.count(landed.load.load_id) == (1_497, 3)
        status = {load.sha256: load.status for load in warehouse.loads(MONTH)}
        assert status == {first.sha256: "superseded", second.sha256: "superseded", third.sha256: "staged"}
        # One superseded load keeps its rows: the one that was staged last.
        assert (rows(warehouse, "yellow_trips"), rows(warehouse, "rejected_rows")) == (2 * 1_497, 2 * 3)
        assert put(warehouse, first).was_there


@TARGETS
def test_forced_load_replaces_the_staged_one(settings: Settings, tmp_path: Path) -> None:
    source = file(tmp_path, 1)
    with open_warehouse(settings) as warehouse:
        first, again = put(warehouse, source), put(warehouse, source, force=True)
        assert not again.was_there
        assert {load.load_id: load.status for load in warehouse.loads()} == {
            first.load.load_id: "superseded",
            again.load.load_id: "staged",
        }


@TARGETS
def test_rows_of_a_load_that_was_killed_are_removed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = file(tmp_path, 1)
    with open_warehouse(settings) as warehouse:
        load = put(warehouse, source).load.with_(status="loading")
        warehouse.discard(load.load_id)
        warehouse.save(load)
        with (
            pytest.raises(KeyboardInterrupt),
            monkeypatch.context() as killed,
            warehouse.write(load) as writer,
            CsvReader(source.path) as reader,
        ):
            # Neither refreshed nor committed nor cleaned up: what a killed process leaves behind.
            writer.rows(next(iter(reader)).batch)
            killed.setattr(type(warehouse), "discard", lambda *_: None)
            raise KeyboardInterrupt
        assert not put(warehouse, source).was_there
        assert warehouse.count(load.load_id) == (1_497, 3)


@TARGETS
def test_raw_tables_get_the_columns_that_the_catalogue_has_got(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_with(settings, file(tmp_path, 1))
    for module, name in ((crate, "raw_tables"), (duck, "_TABLES")):
        monkeypatch.setattr(module, name, widened(getattr(module, name)))
    with open_warehouse(settings) as warehouse:
        assert warehouse.frame("select count(fee_of_2031) as n from {raw}.yellow_trips")["n"].item() == 0
        assert rows(warehouse, "yellow_trips") == 1_497


def put_with(settings: Settings, source: SourceFile) -> None:
    with open_warehouse(settings) as warehouse:
        put(warehouse, source)


def widened(tables: Any) -> Any:
    """The raw tables of either warehouse with one more column in `yellow_trips`."""
    if isinstance(tables, dict):
        return tables | {"yellow_trips": tables["yellow_trips"] | {"fee_of_2031": "TEXT"}}

    def with_fee(schema: str) -> sa.MetaData:
        metadata = tables(schema)
        metadata.tables[f"{schema}.yellow_trips"].append_column(sa.Column("fee_of_2031", sa.String, crate_index=False))
        return metadata

    return with_fee


@CRATEDB_ONLY
def test_insert_of_a_dead_load_is_ended_before_the_clean_up(
    target: str, settings: Settings, cratedb: CrateServer
) -> None:
    trips, load_id = f"{settings.raw_schema}.yellow_trips", "2021-02-0123456789ab"
    with open_warehouse(settings) as warehouse, ThreadPoolExecutor(1) as pool:
        endless = pool.submit(
            cratedb.sql,
            f"INSERT INTO {trips} (_load_id, _file_month, _source_row)"
            f" (SELECT '{load_id}', '2021-02', * FROM GENERATE_SERIES(1, 200000000))",
        )
        for _ in range(100):
            cratedb.sql(f"REFRESH TABLE {trips}")
            if warehouse.count(load_id)[0]:
                break
            time.sleep(0.1)
        assert warehouse.count(load_id)[0] > 0
        warehouse.discard(load_id)
        assert endless.exception(timeout=30) is not None
        cratedb.sql(f"REFRESH TABLE {trips}")
        assert warehouse.count(load_id) == (0, 0)


@TARGETS
def test_statement_that_the_warehouse_refuses_is_one_sentence(settings: Settings) -> None:
    with open_warehouse(settings) as warehouse, pytest.raises(WarehouseError, match="refused a statement"):
        warehouse.frame("select no_such_column from {raw}.loads")


@CRATEDB_ONLY
def test_month_that_another_run_loads_is_left_to_it(
    target: str, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crate, "SECONDS_BETWEEN_SIGNS", 1.0)
    source = file(tmp_path, 1)
    with open_warehouse(settings) as first, open_warehouse(settings) as second, ThreadPoolExecutor(1) as pool:
        load = put(first, source).load.with_(status="loading", finished_at=None)

        def write_slowly() -> None:
            with first.write(load) as writer, CsvReader(source.path) as reader:
                batch = next(iter(reader)).batch
                for row in range(40):
                    time.sleep(0.2)
                    writer.rows(batch.slice(row, 1))

        first.save(load)
        slow = pool.submit(write_slowly)
        with pytest.raises(WarehouseError, match=f"^{MONTH} is being loaded by another run since .* UTC: wait"):
            put(second, source)
        slow.result()
        assert first.count(load.load_id)[0] == 40
        # A run that is gone shows no sign, and what it left is done again.
        assert not put(second, source).was_there
        assert second.count(load.load_id) == (1_497, 3)


@CRATEDB_ONLY
@pytest.mark.parametrize("fails", [False, True])
def test_run_that_was_taken_for_dead_writes_nothing_more(
    target: str, settings: Settings, cratedb: CrateServer, tmp_path: Path, fails: bool
) -> None:
    source = file(tmp_path, 1)
    with open_warehouse(settings) as first, open_warehouse(settings) as second:
        load = put(first, source).load.with_(status="loading", finished_at=None)
        first.discard(load.load_id)
        first.save(load)
        with pytest.raises(LoadTaken), first.write(load) as writer, CsvReader(source.path) as reader:
            batch = next(iter(reader)).batch
            writer.rows(batch.slice(0, 1))
            # Silent for too long: another run does it, and is done before this one goes on.
            assert not put(second, source).was_there
            writer.rows(batch.slice(1))
            # One that fails then, for whatever reason, removes nothing either.
            if fails:
                raise RuntimeError
        for name in ("yellow_trips", "rejected_rows"):
            cratedb.sql(f"REFRESH TABLE {settings.raw_schema}.{name}")
        assert second.count(load.load_id) == (1_497, 3)
        assert [load.status for load in second.loads(MONTH)] == ["staged"]


@CRATEDB_ONLY
def test_of_two_runs_that_begin_a_load_at_once_one_has_it(target: str, settings: Settings, tmp_path: Path) -> None:
    """A failure means that two runs end each other's statements, and none of them lands the month."""
    source = file(tmp_path, 1)
    with open_warehouse(settings) as first, open_warehouse(settings) as second:
        load = put(first, source).load.with_(load_id=f"{MONTH}-other", status="loading", finished_at=None)
        again = load.with_(started_at=load.started_at + timedelta(seconds=1))
        for before in (None, load):
            first.begin(load if before is None else again, before)
            with pytest.raises(LoadTaken):
                second.begin(again.with_(rows_read=7), before)
        assert again in second.loads(MONTH)


@CRATEDB_ONLY
def test_of_two_loads_that_are_staged_at_once_one_stays(target: str, settings: Settings, tmp_path: Path) -> None:
    """A failure means that readers of the ledger find two valid files of a month, and the next run is refused."""
    with open_warehouse(settings) as first, open_warehouse(settings) as second, ThreadPoolExecutor(2) as pool:
        loads = [put(first, file(tmp_path, seed)).load for seed in (1, 2)]
        for _ in range(10):
            for load in loads:
                first.save(load.with_(status="superseded"))
            list(pool.map(lambda one, load: one.stage(load.with_(status="superseded")), (first, second), loads))
            assert sorted(load.status for load in first.loads(MONTH)) == ["staged", "superseded"]
