"""`taxi-elt` in a process of its own: what it prints, its exit codes, and no traceback for a user's mistake."""

from pathlib import Path

import pytest

from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import open_warehouse
from tests.conftest import TARGETS_AT_LENGTH
from tests.integration.conftest import Run


@TARGETS_AT_LENGTH
def test_run_prints_the_summary(settings: Settings, taxi_elt: Run, tmp_path: Path) -> None:
    sample = write_sample(tmp_path / "yellow_tripdata_2021-02.csv", "2021-02", rows=3_000)

    answer = taxi_elt("run", "--source", sample.path)

    assert answer.code == 0, answer.err
    assert {label: answer.figure(label) for label in ("Rows in the file", "rejected: broken rows")} == {
        "Rows in the file": 3_000,
        "rejected: broken rows": 5,
    }
    assert answer.figure("Rows in trip_data") == sample.trips
    assert settings.warehouse in answer.out
    assert "Traceback" not in answer.err


def test_failed_test_ends_with_exit_code_1_and_one_sentence(
    taxi_elt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUCKDB_PATH", str(tmp_path / "warehouse.duckdb"))
    path = tmp_path / "yellow_tripdata_2021-02.csv"
    write_sample(path, "2021-02", rows=3_000, broken=0)
    header, first, rest = path.read_text().split("\n", 2)
    path.write_text("\n".join([header, "55" + first[1:], rest]))

    answer = taxi_elt("run", "--source", path)

    assert answer.code == 1
    assert "stg_yellow_trips_vendorid_in_dictionary" in answer.error
    assert "Traceback" not in answer.err


WRONG_USE = {
    "unknown target": (["--target", "postgres"], "TAXI_TARGET"),
    "no such month": (["--month", "2021-13"], "YYYY-MM"),
    "SQL for a month": (["--month", "'; DROP TABLE"], "YYYY-MM"),
    "month not told": ([], "--month"),
    "reject share": (["--max-reject-share", "7"], "TAXI_MAX_REJECT_SHARE"),
}


@pytest.mark.parametrize("what", WRONG_USE)
def test_wrong_use_starts_nothing_and_exits_with_2(taxi_elt: Run, tmp_path: Path, what: str) -> None:
    options, named = WRONG_USE[what]
    answer = taxi_elt("run", "--source", tmp_path / "trips.csv", *options)
    assert answer.code == 2
    assert named in answer.error
    assert "Traceback" not in answer.err
    assert "Beginning flow run" not in answer.err


def test_missing_option_is_wrong_use(taxi_elt: Run) -> None:
    answer = taxi_elt("run")
    assert answer.code == 2
    assert "--source" in answer.err


def test_missing_file_exits_with_1_and_one_sentence(
    taxi_elt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DUCKDB_PATH", str(tmp_path / "warehouse.duckdb"))
    answer = taxi_elt("run", "--source", tmp_path / "yellow_tripdata_2021-01.csv")
    assert answer.code == 1
    assert answer.error.startswith("taxi-elt: There is no file ")
    assert "Traceback" not in answer.err


@TARGETS_AT_LENGTH
def test_zones_are_loaded_and_a_damaged_lookup_leaves_them(settings: Settings, taxi_elt: Run, tmp_path: Path) -> None:
    path = tmp_path / "taxi_zone_lookup.csv"
    zones = ["1,EWR,Newark Airport,EWR", "2,Queens,Jamaica Bay,Boro Zone"]
    path.write_text("\n".join(["LocationID,Borough,Zone,service_zone", *zones, ""]))
    answer = taxi_elt("zones", "--source", path)
    assert answer.code == 0, answer.err
    assert answer.out == f"2 zones in {settings.raw_schema}.taxi_zones of {settings.warehouse}\n"

    path.write_text("<html>Not found</html>")
    answer = taxi_elt("zones", "--source", path)
    assert answer.code == 1 and "is not the lookup of zones" in answer.error

    with open_warehouse(settings) as warehouse:
        found = warehouse.frame("select * from {raw}.taxi_zones order by locationid")
    assert [",".join(zone) for zone in found.itertuples(index=False)] == zones
