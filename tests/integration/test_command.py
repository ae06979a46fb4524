"""`taxi-elt` in a process of its own: what it prints, its exit codes, and no traceback for a user's mistake."""

import signal
import subprocess
from pathlib import Path

import pytest

from prefect_flows.sample import write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import open_warehouse
from tests.conftest import TARGETS_AT_LENGTH
from tests.integration.conftest import BIN, PROJECT, Run
from tests.unit import stub_http


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


SIGNALS = [
    pytest.param("download", signal.SIGINT, id="Ctrl-C in the download", marks=pytest.mark.slow),
    pytest.param("download", signal.SIGTERM, id="SIGTERM in the download", marks=pytest.mark.slow),
    pytest.param("dbt", signal.SIGINT, id="Ctrl-C in dbt", marks=pytest.mark.slow),
    pytest.param("dbt", signal.SIGTERM, id="SIGTERM in dbt"),
]


@TARGETS_AT_LENGTH
@pytest.mark.parametrize(("step", "which"), SIGNALS)
def test_signal_stops_the_run_and_all_that_it_started(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, which: signal.Signals
) -> None:
    """Without a Prefect server of its own, as on a first day: the one that is started for the command ends with it."""
    for name in ("PREFECT_HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    sample = write_sample(tmp_path / "yellow_tripdata_2021-02.csv", "2021-02", rows=20_000)
    stalls = stub_http.Answer(200, b"VendorID,", announced=10_000_000, stalls=True)
    with stub_http.serve(lambda asked: stalls) as stub:
        source, sign = (stub.url(), "Beginning flow run") if step == "download" else (sample.path, "model stg_")
        run = subprocess.Popen(
            [BIN / "taxi-elt", "run", "--source", source], cwd=PROJECT, stderr=subprocess.PIPE, text=True
        )
        assert run.stderr
        seen = next(line for line in run.stderr if sign in line)
        while step == "download" and not stub.requests:
            assert run.poll() is None, seen
        run.send_signal(which)
        # what it has left behind would keep the pipe open
        _, rest = run.communicate(timeout=30)

    assert run.returncode == 128 + which, rest
    assert "taxi-elt: Stopped. What is published stays; the same command does what is missing.\n" in rest
    assert "Traceback" not in rest
    assert list((tmp_path / "TMPDIR").iterdir()) == []
    with open_warehouse(settings) as warehouse:
        assert [load.status for load in warehouse.loads()] == (["staged"] if step == "dbt" else [])
