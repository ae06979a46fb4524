"""Many months in one command: side by side, past the ones that fail, and without the ones that are there already."""

import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from prefect_flows import flows
from prefect_flows.report.months import MonthsFailed
from prefect_flows.sample import SampleFacts, write_sample
from prefect_flows.settings import Settings
from prefect_flows.tlc import months_between
from prefect_flows.warehouses import open_warehouse
from tests.conftest import CRATEDB, TARGETS_AT_LENGTH
from tests.integration.conftest import Answer, Run
from tests.unit import stub_http

FIRST, LAST = "2020-11", "2021-03"


@pytest.fixture
def months(tmp_path: Path) -> dict[str, SampleFacts]:
    """Small files of `FIRST` to `LAST`."""
    return {month: write_month(tmp_path, month, rows=1_200) for month in months_between(FIRST, LAST)}


def write_month(folder: Path, month: str, rows: int, seed: int = 2021) -> SampleFacts:
    return write_sample(folder / f"yellow_tripdata_{month}.csv", month, rows=rows, seed=seed)


@pytest.fixture
def backfill(taxi_elt: Run, tmp_path: Path) -> Callable[..., Answer]:
    def run(*options: object, first: str = FIRST, last: str = LAST, template: str | None = None) -> Answer:
        template = template or f"{tmp_path}/yellow_tripdata_{{month}}.csv"
        return taxi_elt("backfill", "--from", first, "--to", last, "--source-template", template, *options)

    return run


def lines(answer: Answer) -> dict[str, list[str]]:
    """The printed table: for each month its state, its counts and its reason."""
    rows = [line.split() for line in answer.out.splitlines()]
    return {row[0]: row[1:] for row in rows if row and row[0][:2] == "20"}


def trips(settings: Settings) -> dict[str, int]:
    with open_warehouse(settings) as warehouse:
        found = warehouse.frame("select file_month, count(*) as n from {schema}.trip_data group by file_month")
    return dict(zip(found["file_month"], found["n"], strict=True))


@TARGETS_AT_LENGTH
def test_months_that_fail_are_listed_and_do_not_stop_the_others(
    settings: Settings, backfill: Callable[..., Answer], taxi_elt: Run, months: dict[str, SampleFacts]
) -> None:
    months["2020-12"].path.write_text("<html>\n")
    months["2021-02"].path.unlink()

    answer = backfill("--parallel", 3)

    assert answer.code == 1
    assert "2 of 5 months failed" in answer.error
    assert "2020-12: yellow_tripdata_2020-12.csv is an HTML page" in answer.error
    assert "2021-02: There is no file" in answer.error
    assert "Traceback" not in answer.err
    landed = {month: facts for month, facts in months.items() if month not in ("2020-12", "2021-02")}
    assert {month: line[0] for month, line in lines(answer).items()} == {
        month: "landed" if month in landed else "failed" for month in months
    }
    assert trips(settings) == {month: facts.trips for month, facts in landed.items()}

    status = taxi_elt("status")
    assert status.code == 0
    # A file that is not there makes no load, so the ledger does not know 2021-02.
    assert {month: line[0] for month, line in lines(status).items()} == {
        "2020-12": "failed", **dict.fromkeys(landed, "published")
    }  # fmt: skip
    assert "is an HTML page" in " ".join(lines(status)["2020-12"])
    assert lines(status)["2021-01"][1:3] == ["1,195", "5"]

    for month in ("2020-12", "2021-02"):
        months[month] = write_month(months[month].path.parent, month, rows=1_200)
    again = backfill()
    assert again.code == 0, again.err
    assert {month: " ".join(line[:2]) for month, line in lines(again).items() if month in landed} == dict.fromkeys(
        landed, "already there"
    )
    assert trips(settings) == {month: facts.trips for month, facts in months.items()}
    assert {line[0] for line in lines(taxi_elt("status")).values()} == {"published"}


@pytest.fixture
def land_months(flow_settings: None, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, str]]:
    """Runs the flow in this process without its dbt part, which the test above has; gives each month's state."""
    monkeypatch.setattr(flows, "dbt_build", lambda settings, months: [])

    def run(template: str, **parameters: object) -> dict[str, str]:
        try:
            done = flows.yellow_taxi_backfill(FIRST, LAST, source_template=template, **parameters)
        except MonthsFailed as error:
            done = error.months
        return {line.month: line.state for line in done}

    return run


@TARGETS_AT_LENGTH
def test_a_changed_file_is_loaded_and_force_loads_all(
    settings: Settings, land_months: Callable[..., dict[str, str]], months: dict[str, SampleFacts], tmp_path: Path
) -> None:
    template = f"{tmp_path}/yellow_tripdata_{{month}}.csv"
    assert set(land_months(template).values()) == {"landed"}
    write_month(tmp_path, LAST, rows=1_000, seed=7)

    assert land_months(template) == {month: "landed" if month == LAST else "already there" for month in months}
    assert set(land_months(template, force=True).values()) == {"landed"}
    with open_warehouse(settings) as warehouse:
        staged = {load.file_month: load.rows_read for load in warehouse.loads() if load.status == "staged"}
    assert staged == {month: 1_000 if month == LAST else 1_200 for month in months}


@TARGETS_AT_LENGTH
def test_what_came_from_a_url_is_not_downloaded_again(
    settings: Settings, land_months: Callable[..., dict[str, str]], months: dict[str, SampleFacts]
) -> None:
    def respond(request: stub_http.Request) -> stub_http.Answer:
        month = request.path[-11:-4]
        return stub_http.Answer(200, months[month].path.read_bytes()) if month != LAST else stub_http.Answer(404)

    with stub_http.serve(respond) as stub:
        template = stub.url("/yellow_tripdata_{month}.csv")
        first = land_months(template)
        assert (first, len(stub.requests)) == (dict.fromkeys(months, "landed") | {LAST: "failed"}, 5)
        second = land_months(template)
        assert (second, len(stub.requests)) == (dict.fromkeys(months, "already there") | {LAST: "failed"}, 6)


@pytest.mark.parametrize("target", ["duckdb"])
def test_a_month_alone_is_looked_for_where_the_template_says(
    settings: Settings, taxi_elt: Run, months: dict[str, SampleFacts], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sample = months["2021-01"]
    broken = pa_csv.ParseOptions(invalid_row_handler=lambda row: "skip")
    sound = sample.path.read_bytes().decode(errors="ignore").encode()
    (tmp_path / "sound.csv").write_bytes(sound)
    pq.write_table(pa_csv.read_csv(tmp_path / "sound.csv", parse_options=broken), tmp_path / "month.parquet")
    parquet = (tmp_path / "month.parquet").read_bytes()

    with stub_http.serve(stub_http.a_file(parquet)) as stub:
        monkeypatch.setenv("TAXI_SOURCE_TEMPLATE", stub.url("/trip-data/yellow_tripdata_{month}.parquet"))
        answer = taxi_elt("run", "--month", "2021-01")
        assert answer.code == 0, answer.err
        assert [request.path for request in stub.requests] == ["/trip-data/yellow_tripdata_2021-01.parquet"]
    assert answer.figure("Rows in trip_data") == trips(settings)["2021-01"] > 1_000


WRONG_USE = {
    "no such month": (["--from", "2021-13", "--to", "2021-12"], "YYYY-MM"),
    "the last before the first": (["--from", "2021-02", "--to", "2021-01"], "the earlier one first"),
    "no {month} in the template": (
        ["--from", "2021-01", "--to", "2021-01", "--source-template", "trips.csv"],
        "TAXI_SOURCE_TEMPLATE",
    ),
    "no month at once": (["--from", "2021-01", "--to", "2021-01", "--parallel", "0"], "TAXI_PARALLEL_MONTHS"),
}


@pytest.mark.parametrize("what", WRONG_USE)
def test_wrong_use_starts_nothing_and_exits_with_2(taxi_elt: Run, what: str) -> None:
    options, named = WRONG_USE[what]
    answer = taxi_elt("backfill", *options)
    assert answer.code == 2
    assert named in answer.error
    assert "Beginning flow run" not in answer.err


def test_status_of_an_empty_warehouse_says_so(taxi_elt: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DUCKDB_PATH", str(tmp_path / "warehouse.duckdb"))
    answer = taxi_elt("status")
    assert (answer.code, answer.out) == (0, f"No month is loaded yet in {tmp_path / 'warehouse.duckdb'}.\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("target", [CRATEDB])
def test_two_years_land_in_one_backfill(
    settings: Settings,
    taxi_elt: Run,
    target: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """24 months of 100,000 rows."""
    months = {month: write_month(tmp_path, month, rows=100_000) for month in months_between("2020-01", "2021-12")}
    started = time.monotonic()
    template = f"{tmp_path}/yellow_tripdata_{{month}}.csv"
    answer = taxi_elt("backfill", "--from", "2020-01", "--to", "2021-12", "--source-template", template, timeout=1500)
    assert answer.code == 0, answer.err
    with capsys.disabled():
        print(f"\n{target}: 24 months of 100,000 rows in {time.monotonic() - started:.0f} s")
    assert trips(settings) == {month: facts.trips for month, facts in months.items()}
