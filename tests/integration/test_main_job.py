"""The main job on both targets: a month's file becomes trip_data, and every figure agrees with a second count."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from prefect_flows.cli import app
from prefect_flows.errors import FileRefused, SourceError, TransformError
from prefect_flows.fetch import fetch
from prefect_flows.flows import yellow_taxi
from prefect_flows.land import land
from prefect_flows.report.facts import Report, RowCounts
from prefect_flows.sample import HEADER, SampleFacts, write_sample
from prefect_flows.settings import Settings
from prefect_flows.warehouses import open_warehouse
from tests.conftest import CRATEDB, own_warehouse

pytestmark = pytest.mark.usefixtures("flow_settings")


@pytest.fixture(scope="module", params=[pytest.param("duckdb", marks=pytest.mark.xdist_group("main job")), CRATEDB])
def settings(request: pytest.FixtureRequest, flow_settings: None) -> Iterator[Settings]:
    """A warehouse that the tests of this module share: each looks at a month of its own."""
    with own_warehouse(request, request.param) as settings:
        yield settings


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> SampleFacts:
    return write_sample(tmp_path_factory.mktemp("sample") / "yellow_tripdata_2021-02.csv.gz", "2021-02", rows=20_000)


@pytest.fixture(scope="module")
def published(settings: Settings, sample: SampleFacts) -> Report:
    """The sample month, published by the flow."""
    return yellow_taxi(str(sample.path))


def rows_of(report: Report) -> RowCounts:
    """Where the rows of a report's only month went."""
    (month,) = report.months
    assert month.rows
    return month.rows


def load_of(report: Report) -> str:
    (month,) = report.months
    assert month.source
    return month.source.load_id


def one_row(settings: Settings, query: str) -> dict[str, float]:
    with open_warehouse(settings) as warehouse:
        return warehouse.frame(query).iloc[0].to_dict()


def assert_same_as_pandas(settings: Settings, source: Path, load_id: str) -> None:
    """Every row and every column of the file, against pandas' own reading and filtering of it."""
    of_load = {"load_id": load_id}
    with open_warehouse(settings) as warehouse:
        rejects = warehouse.frame("select line_no from {raw}.rejected_rows where _load_id = :load_id", of_load)
        actual = warehouse.frame("select * from {schema}.trip_data where load_id = :load_id", of_load)
    broken = set(rejects["line_no"])
    actual = actual.sort_values("source_row").reset_index(drop=True)
    file = pd.read_csv(
        source,
        dtype={"store_and_fwd_flag": "object"},
        skiprows=lambda index: index + 1 in broken,
        encoding_errors="replace",
    )
    expected = file[file["passenger_count"] != 0].reset_index(drop=True)
    assert len(actual) == len(expected)
    for column in expected.columns:
        got, want = actual[column.lower()], expected[column]
        if column.endswith("_datetime"):
            moments = pd.to_datetime(got, unit="ms" if pd.api.types.is_numeric_dtype(got) else None)
            assert (moments.astype("datetime64[s]") == pd.to_datetime(want).astype("datetime64[s]")).all(), column
        elif column == "store_and_fwd_flag":
            assert (got.fillna("") == want.fillna("")).all(), column
        else:
            np.testing.assert_array_equal(got.astype("float64"), want.astype("float64"), err_msg=column)


def test_head_gives_exactly_what_pandas_keeps(settings: Settings, head: Path) -> None:
    report = yellow_taxi(str(head))

    assert_same_as_pandas(settings, head, load_of(report))
    sums = one_row(
        settings,
        "select count(*) as n, sum(trip_distance) as d, sum(fare_amount) as f, sum(total_amount) as t,"
        " sum(passenger_count) as p from {schema}.trip_data where file_month = '2021-01'",
    )
    assert (sums["n"], sums["p"]) == (22_302, 34_811)
    assert [round(sums[name], 2) for name in "dft"] == [72_825.91, 274_850.90, 393_538.30]
    assert (rows_of(report).zero_removed, report.tests_that("fail", "error")) == (489, [])


def test_month_with_unknown_passengers_is_exactly_what_pandas_keeps(
    settings: Settings, published: Report, sample: SampleFacts
) -> None:
    assert sample.unknown_passengers > 1_000
    assert_same_as_pandas(settings, sample.path, load_of(published))
    sums = one_row(
        settings,
        "select sum(fare_amount) as f, sum(total_amount) as t from {schema}.trip_data where file_month = '2021-02'",
    )
    assert (round(sums["f"], 2), round(sums["t"], 2)) == (sample.fare_amount, sample.total_amount)


def test_summary_artifacts_and_ledger_agree_with_the_file(
    settings: Settings, published: Report, sample: SampleFacts, prefect_server: str
) -> None:
    expected = [
        sample.rows,
        sample.rows - sample.broken,
        sample.broken,
        0,
        sample.zero_passengers,
        sample.unknown_passengers,
        sample.trips,
    ]
    rows = rows_of(published)
    assert [
        rows.read, rows.landed, rows.rejected, rows.values_rejected, rows.zero_removed, rows.unknown_kept, rows.trips
    ] == expected  # fmt: skip

    with open_warehouse(settings) as warehouse:
        (load,) = warehouse.loads("2021-02")
        assert warehouse.count(load.load_id) == (load.rows_landed, load.rows_rejected)
    assert (load.status, load.rows_read, load.rows_landed, load.rows_rejected) == ("staged", *expected[:3])

    figures = newest_artifact(prefect_server, "yellow-taxi-2021-02")
    assert all(f" | {rows:,} |" in figures for rows in expected)
    tests = newest_artifact(prefect_server, "yellow-taxi-tests-2021-02")
    assert tests.count('"status": "pass"') == len(published.tests_that("pass")) > 20
    assert "/latest.html" not in newest_artifact(prefect_server, "yellow-taxi-report-2021-02")


@pytest.mark.thorough
def test_same_file_again_loads_nothing(settings: Settings, published: Report, sample: SampleFacts) -> None:
    again = yellow_taxi(str(sample.path))
    assert again.months[0].already_landed
    assert (load_of(again), rows_of(again).trips) == (load_of(published), sample.trips)


def newest_artifact(prefect_server: str, key: str) -> str:
    wanted = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC", "limit": 1}
    (artifact,) = httpx.post(f"{prefect_server}/artifacts/filter", json=wanted, trust_env=False).json()
    return str(artifact["data"])


@pytest.mark.thorough
def test_value_that_does_not_cast_is_rejected_with_its_reason(settings: Settings, tmp_path: Path) -> None:
    path = with_first_row(tmp_path / "yellow_tripdata_2021-03.csv", {"passenger_count": "abc", "fare_amount": "NaN"})

    report = yellow_taxi(str(path))

    rows = rows_of(report)
    assert rows.values_rejected == 1
    assert rows.trips + rows.zero_removed + 1 == rows.landed == 2_000
    with open_warehouse(settings) as warehouse:
        rejects = warehouse.frame(
            "select source_row, kind, reason from {schema}.trip_rejects where file_month = '2021-03'"
        )
    assert rejects.to_dict("records") == [
        {"source_row": 2, "kind": "wrong value", "reason": "passenger_count: abc; fare_amount: NaN"}
    ]


def with_first_row(path: Path, changes: dict[str, str]) -> Path:
    """A sample of 2,000 sound rows, some fields of the first one changed."""
    write_sample(path, path.stem.removeprefix("yellow_tripdata_"), rows=2_000, broken=0)
    header, first, rest = path.read_text().split("\n", 2)
    fields = dict(zip(header.split(","), first.split(","), strict=True)) | changes
    path.write_text("\n".join([header, ",".join(fields.values()), rest]))
    return path


@pytest.mark.thorough
def test_failed_gate_leaves_trip_data_until_the_file_is_corrected(
    settings: Settings, published: Report, tmp_path: Path
) -> None:
    everything = "select count(*) as n, count(distinct file_month) as m, sum(source_row) as s from {schema}.trip_data"
    before = one_row(settings, everything)
    poisoned = with_first_row(tmp_path / "yellow_tripdata_2021-04.csv", {"VendorID": "55"})

    with pytest.raises(TransformError) as failure:
        yellow_taxi(str(poisoned))

    assert str(failure.value) == (
        "the test stg_yellow_trips_vendorid_in_dictionary on column vendorid of stg_yellow_trips"
        " failed with 1 failing row."
    )
    assert one_row(settings, everything) == before

    # Its corrected file takes the month's place, and the warehouse is sound again for the other tests.
    corrected = write_sample(poisoned, "2021-04", rows=1_000, broken=0, seed=7)
    assert rows_of(yellow_taxi(str(poisoned))).trips == corrected.trips
    with open_warehouse(settings) as warehouse:
        assert [load.status for load in warehouse.loads("2021-04")] == ["superseded", "staged"]


@pytest.mark.thorough
def test_rollback_brings_the_load_before_back(settings: Settings, tmp_path: Path) -> None:
    path, trips = tmp_path / "yellow_tripdata_2021-07.csv", []
    with open_warehouse(settings) as warehouse:
        for seed in (1, 2):
            trips.append(write_sample(path, "2021-07", rows=1_000, broken=0, seed=seed).trips)
            land(warehouse, fetch(str(path), tmp_path), "2021-07", max_reject_share=0, keep_loads=1)

    done = CliRunner().invoke(app, ["rollback", "--month", "2021-07"])

    assert done.exit_code == 0, done.output
    found = one_row(settings, "select count(*) as n from {schema}.trip_data where file_month = '2021-07'")
    assert found["n"] == trips[0] != trips[1]


REFUSED = {
    "an HTML page": (b"<!DOCTYPE html><html><body>Not found</body></html>\n", "is an HTML page"),
    "an empty file": (b"", "is empty"),
    "a truncated gzip": (None, "ends too early"),
    "a header only": (b"HEADER\n", "holds no trips"),
    "other columns": (b"a,b,c\n1,2,3\n", "none of the columns"),
    "too many broken rows": (b"HEADER\n1,2,3\n", "holds no trips"),
}


@pytest.mark.thorough
@pytest.mark.parametrize("what", REFUSED)
def test_refused_file_leaves_no_rows_and_says_why(
    settings: Settings, sample: SampleFacts, tmp_path: Path, what: str
) -> None:
    content, reason = REFUSED[what]
    packed = sample.path.read_bytes()
    path = tmp_path / "yellow_tripdata_2021-05.csv"
    path.write_bytes(packed[: len(packed) // 2] if content is None else content.replace(b"HEADER", HEADER.encode()))

    with pytest.raises(FileRefused, match=reason):
        yellow_taxi(str(path))

    with open_warehouse(settings) as warehouse:
        loads = warehouse.loads("2021-05")
        assert all(load.status == "failed" for load in loads)
        rows = warehouse.frame("select count(*) as n from {raw}.yellow_trips where _file_month = '2021-05'")
    assert rows["n"].item() == 0


def test_missing_file_is_one_sentence(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^There is no file .*: check the path given as --source\.$"):
        yellow_taxi(str(tmp_path / "yellow_tripdata_2021-06.csv"))
